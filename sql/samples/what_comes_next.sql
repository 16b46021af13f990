-- What comes next?

select at, kind, name, queue, priority
from pgsched.upcoming
limit 20;
