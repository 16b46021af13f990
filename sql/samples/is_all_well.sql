-- Is all well?

select name, status, seen, advice
from pgsched.health
where status <> 'ok';
