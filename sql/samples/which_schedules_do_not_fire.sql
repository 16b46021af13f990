-- Which schedules do not fire?

select s.name, s.state, s.last_outcome, s.last_reason, s.idle_count, s.error_msg, s.pause_note
from pgsched.schedule_status as s
where s.state in ('PAUSED', 'BROKEN')
  or s.idle_count > 0
order by s.state, s.name;
