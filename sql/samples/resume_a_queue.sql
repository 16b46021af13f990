-- How do I let it go on?

select pgsched.resume_queue(:'queue');
