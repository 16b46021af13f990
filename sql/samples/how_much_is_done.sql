-- How much is done per minute?

select
  date_trunc('minute', i.finished_at) as minute,
  count(*) filter (where i.status = 'SUCCESS') as done,
  count(*) filter (where i.status = 'FAILED') as failed,
  count(*) filter (where i.status = 'CANCELLED') as cancelled
from pgsched.task_instances as i
where i.finished_at > pgsched.now() - interval '15 minutes'
group by minute
order by minute;
