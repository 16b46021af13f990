-- How long do tasks wait, and how long do they take?

select
  d.name,
  count(*) as tasks,
  percentile_disc(array[0.5, 0.99]) within group (order by i.started_at - greatest(i.execute_after, i.created_at)) as waited_p50_p99,
  percentile_disc(array[0.5, 0.99]) within group (order by i.finished_at - i.started_at) as took_p50_p99
from pgsched.task_instances as i
join pgsched.task_definitions as d
  on d.id = i.definition_id
where i.finished_at > pgsched.now() - interval '15 minutes'
  and i.started_at is not null
  and i.depends_on is null
group by d.name
order by tasks desc;
