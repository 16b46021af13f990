-- How do I slow a queue down?

select pgsched.define_queue(:'queue', q.external_system, p_max_in_flight => 10, p_rate_per_second => 5)
from pgsched.queues as q
where q.name = :'queue';
