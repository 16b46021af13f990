-- How do I keep the record for a week only?

select pgsched.set_retention('task_instances', interval '7 days');
select pgsched.set_retention('task_events', interval '7 days');
select pgsched.maintain();
