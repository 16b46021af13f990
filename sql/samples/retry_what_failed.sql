-- How do I try again what failed?

select * from pgsched.retry_tasks(p_definition => :'definition', p_error_like => :'error', p_after => pgsched.now() - interval '1 day', p_is_preview => true);

select * from pgsched.retry_tasks(p_definition => :'definition', p_error_like => :'error', p_after => pgsched.now() - interval '1 day');
