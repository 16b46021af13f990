-- Why does this schedule not fire?

select pgsched.explain_schedule(:'schedule');
