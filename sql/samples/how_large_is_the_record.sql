-- How large is the record, and how far do its partitions reach?

select
  r.table_name,
  r.keep,
  count(p.name) as partitions,
  min(p.lower_bound) as since,
  max(p.upper_bound) as until,
  pg_size_pretty(sum(pg_total_relation_size(to_regclass('pgsched.' || quote_ident(p.name))))) as size
from pgsched.retention as r
left join lateral pgsched.partitions(r.table_name) as p
  on true
group by r.table_name, r.keep
order by r.table_name;
