-- How do I stop a queue for a while?

select pgsched.pause_queue(:'queue', :'note');
