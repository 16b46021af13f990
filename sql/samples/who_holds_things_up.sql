-- Which session holds things up?

select
  a.pid, a.usename, a.application_name, a.state,
  pgsched.now() - a.xact_start as in_transaction_for,
  age(a.backend_xmin) as holds_back_xids,
  (select count(*) from pg_stat_activity as w where a.pid = any (pg_blocking_pids(w.pid))) as blocks,
  left(a.query, 60) as query
from pg_stat_activity as a
where a.datname = current_database()
  and a.pid <> pg_backend_pid()
  and a.xact_start < pgsched.now() - interval '1 minute'
order by a.xact_start;
