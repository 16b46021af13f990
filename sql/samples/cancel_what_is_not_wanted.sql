-- How do I cancel many tasks?

select * from pgsched.cancel_tasks(p_definition => :'definition', p_status => 'PENDING', p_is_preview => true);

select * from pgsched.cancel_tasks(p_definition => :'definition', p_status => 'PENDING', p_reason => 'not wanted any more');
