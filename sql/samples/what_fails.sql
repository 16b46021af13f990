-- What fails, and why?

select failed_count, retrying_count, definition_name, fingerprint, first_at, last_at, last_task_id
from pgsched.recent_failures
order by failed_count + retrying_count desc;
