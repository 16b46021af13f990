-- How do I end a loop?

select pgsched.stop_loop(:'task');
