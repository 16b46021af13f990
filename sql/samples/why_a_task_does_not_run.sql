-- Why does this task not run?

select pgsched.explain_task(:'task');
