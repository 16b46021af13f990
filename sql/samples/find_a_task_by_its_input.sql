-- Which task was made for this order?

select t.id, t.status, t.created_at, t.finished_at, t.error_msg
from pgsched.tasks as t
where t.definition_id = (pgsched.find_definition(:'definition')).id
  and t.input_params @> :'input'
  and (t.finished_at is null or t.finished_at > pgsched.now() - interval '2 days')
order by t.id desc
limit 20;
