-- What became of the instants of this schedule?

select f.scheduled_time, f.outcome, f.reason, f.folded_count, f.task_id
from pgsched.schedule_fires as f
where f.schedule_id = (pgsched.find_schedule(:'schedule')).id
order by f.scheduled_time desc
limit 20;
