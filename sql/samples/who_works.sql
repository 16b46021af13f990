-- Who works, and what do they hold?

select state, hostname, pid, version, queues, held_count, started_at, lease_expires_at
from pgsched.worker_status;
