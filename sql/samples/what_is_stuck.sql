-- What is stuck?

select reason, queue, count(*), min(since) as since, (array_agg(id order by since))[1] as first_task
from pgsched.stuck_tasks
group by reason, queue
order by since;
