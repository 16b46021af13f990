-- What happened to this task?

select t.status, t.attempt, t.retry_count, t.created_by, t.created_at, t.started_at, t.finished_at, t.error_msg
from pgsched.get_task(:'task') as t;

select e.at, e.event, e.attempt, e.message, e.response_time, e.created_by
from pgsched.task_events as e
where e.task_id = :'task'
order by e.at, e.id;
