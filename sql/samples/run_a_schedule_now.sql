-- How do I run a schedule now?

select pgsched.trigger_schedule(:'schedule');
