-- Who schedules what?

select t.created_by, t.definition_name, count(*), max(t.created_at) as latest
from pgsched.tasks as t
where t.id >= pgsched.uuid7(pgsched.now() - interval '1 hour')
  and (t.finished_at is null or t.finished_at > pgsched.now() - interval '1 hour')
group by t.created_by, t.definition_name
order by count(*) desc;
