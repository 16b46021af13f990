-- What have external systems not been told?

select p.queue, p.status, p.given_up_at is not null as is_given_up, count(*), min(p.created_at) as since, max(p.last_error) as last_error
from pgsched.status_pushes as p
group by p.queue, p.status, is_given_up
order by since;
