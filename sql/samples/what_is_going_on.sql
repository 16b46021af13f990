-- What is going on?

select queue, is_paused, breaker, due_count, oldest_due_since, later_count, waiting_count, in_flight_count
from pgsched.queue_stats
order by due_count desc, queue;
