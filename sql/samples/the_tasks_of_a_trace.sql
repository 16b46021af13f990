-- What belongs to this trace?

select t.id, t.definition_name, t.status, t.round_index, t.scheduled_time, t.finished_at, t.error_msg
from pgsched.tasks as t
where t.trace_id = :'trace'
  and (t.finished_at is null or t.finished_at > pgsched.now() - interval '2 days')
order by t.id;
