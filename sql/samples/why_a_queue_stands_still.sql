-- Why does this queue stand still?

select pgsched.explain_queue(:'queue');
