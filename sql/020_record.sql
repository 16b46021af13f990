-- 020 record
--
-- What is finished is kept in three tables that are partitioned by time, and
-- forgotten by dropping a partition.  maintain() sees to that: it makes the
-- partitions of the next 30 days and drops those past their age, which
-- pgsched.retention says.  Any worker calls it each minute; pg_cron may, or
-- somebody by hand.
--
-- Each table has a net, its default partition, for the days when nobody did.
-- A day of which the net holds rows gets no partition any more; the net's rows
-- are deleted by age.
--
-- A partition is attached, not created in place: that locks the net and no
-- more.  Whatever needs a lock waits 50 ms for it, and is left to the next
-- call else.
--
-- Adds   retention, set_retention(), partitions(), is_netted(), make_partitions(), drop_partitions(),
--        empty_net(), keep_record(), get_task(), indexes of the nets
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(20, 'record');

create index task_events_default_at_idx
  on pgsched.task_events_default (at);

create index schedule_fires_default_scheduled_time_idx
  on pgsched.schedule_fires_default (scheduled_time);

create table pgsched.retention (
  table_name  text not null,
  time_column text not null,
  span        text not null,
  keep        interval,

  constraint retention_pkey
    primary key (table_name),

  constraint retention_span_is_day_or_month
    check (span in ('day', 'month')),

  constraint retention_keep_is_1_day_to_100_years
    check (keep between interval '1 day' and interval '100 years')
);

comment on table pgsched.retention is
  'How long the tables of the record keep what they hold.  Change it by set_retention().';
comment on column pgsched.retention.table_name is
  'A partitioned table of this schema.';
comment on column pgsched.retention.time_column is
  'Its partition key.';
comment on column pgsched.retention.span is
  'What one partition holds, in UTC: day or month.';
comment on column pgsched.retention.keep is
  'A partition is dropped when all of it is older, 1 day to 100 years.  Null: never.';

insert into pgsched.retention (table_name, time_column, span, keep)
values
  ('task_instances', 'finished_at', 'day', '30 days'),
  ('task_events', 'at', 'day', '30 days'),
  ('schedule_fires', 'scheduled_time', 'month', '90 days');

create function pgsched.set_retention(p_table_name text, p_keep interval)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  update pgsched.retention as r
  set keep = p_keep
  where r.table_name = p_table_name;

  if not found then
    raise exception sqlstate 'PS404' using
      message = format('p_table_name: %L is no table of the record', p_table_name),
      hint = 'Those are: ' || (select string_agg(r.table_name, ', ' order by r.table_name) from pgsched.retention as r);
  end if;
exception
  when check_violation then
    raise exception sqlstate 'PS422' using
      message = format('p_keep must be between 1 day and 100 years, or null for ever, not %s', p_keep);
end;
$$;

comment on function pgsched.set_retention(text, interval) is
  'Set how long a table of the record (task_instances, task_events, schedule_fires) keeps what it holds: 1 day to 100 years, or null for ever.';

-- The bounds are read as they are printed, which the settings make certain.
create function pgsched.partitions(p_table_name text)
  returns table (name text, lower_bound timestamptz, upper_bound timestamptz)
  language sql
  stable
  set timezone = 'UTC'
  set datestyle = 'ISO'
begin atomic
  select c.relname::text, b.bounds[1]::timestamptz, b.bounds[2]::timestamptz
  from pg_inherits as i
  join pg_class as p
    on p.oid = i.inhparent
  join pg_class as c
    on c.oid = i.inhrelid
  cross join lateral (
    select regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''([^'']+)''\) TO \(''([^'']+)''\)') as bounds
  ) as b
  where p.relnamespace = 'pgsched'::regnamespace
    and p.relname = p_table_name
    and b.bounds is not null
  order by 2;
end;

comment on function pgsched.partitions(text) is
  'The partitions of a table of the record but for its net, by time.';

create function pgsched.is_netted(p_kept pgsched.retention, p_from timestamptz, p_to timestamptz)
  returns boolean
  language plpgsql
  stable
as $$
declare
  v_found boolean;
begin
  execute format(
    'select exists (select from pgsched.%I as n where n.%I >= $1 and n.%2$I < $2)',
    p_kept.table_name || '_default', p_kept.time_column
  )
  into v_found
  using p_from, p_to;

  return v_found;
end;
$$;

comment on function pgsched.is_netted(pgsched.retention, timestamptz, timestamptz) is
  'Whether the net of a table holds rows of this time.';

create function pgsched.make_partitions(p_kept pgsched.retention, p_now timestamptz)
  returns integer
  language plpgsql
  set lock_timeout = '50ms'
as $$
declare
  v_span  interval := ('1 ' || p_kept.span)::interval;
  v_count integer := 0;
  v_from  timestamptz;
  v_to    timestamptz;
  v_name  text;
begin
  for v_from, v_to in
    select u.at at time zone 'UTC', (u.at + v_span) at time zone 'UTC'
    from generate_series(
      date_trunc(p_kept.span, p_now at time zone 'UTC'), (p_now at time zone 'UTC') + interval '30 days', v_span
    ) as u (at)
    where not exists (
      select
      from pgsched.partitions(p_kept.table_name) as p
      where p.lower_bound < (u.at + v_span) at time zone 'UTC'
        and p.upper_bound > u.at at time zone 'UTC'
    )
    order by u.at
  loop
    continue when pgsched.is_netted(p_kept, v_from, v_to);

    v_name := p_kept.table_name
      || to_char(v_from at time zone 'UTC', case p_kept.span when 'day' then '_YYYYMMDD' else '_YYYYMM' end);

    execute format('create table pgsched.%I (like pgsched.%I including all)', v_name, p_kept.table_name);
    execute format('comment on table pgsched.%I is %L', v_name, format('A %s of %s, in UTC.', p_kept.span, p_kept.table_name));
    execute format(
      'alter table pgsched.%I attach partition pgsched.%I for values from (%L) to (%L)',
      p_kept.table_name, v_name, v_from, v_to
    );
    v_count := v_count + 1;
  end loop;

  return v_count;
exception
  when lock_not_available then
    return 0;
end;
$$;

comment on function pgsched.make_partitions(pgsched.retention, timestamptz) is
  'Make the partitions of the next 30 days that are missing, all or, where a lock cannot be had, none.  Returns how many.';

create function pgsched.drop_partitions(p_kept pgsched.retention, p_now timestamptz)
  returns integer
  language plpgsql
  set lock_timeout = '50ms'
as $$
declare
  v_count integer := 0;
  v_name  text;
begin
  for v_name in
    select p.name
    from pgsched.partitions(p_kept.table_name) as p
    where p.upper_bound <= p_now - p_kept.keep
    order by p.lower_bound
  loop
    execute format('drop table pgsched.%I', v_name);
    v_count := v_count + 1;
  end loop;

  return v_count;
exception
  when lock_not_available then
    return 0;
end;
$$;

comment on function pgsched.drop_partitions(pgsched.retention, timestamptz) is
  'Drop the partitions of which all is past its age, all or, where a lock cannot be had, none.  Returns how many.';

create function pgsched.empty_net(p_kept pgsched.retention, p_limit integer, p_now timestamptz)
  returns integer
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_count integer;
begin
  execute format(
    'delete from pgsched.%I as n where n.ctid = any (array('
    ' select o.ctid from pgsched.%1$I as o where o.%I < $1 order by o.%2$I limit $2))',
    p_kept.table_name || '_default', p_kept.time_column
  )
  using p_now - p_kept.keep, p_limit;

  get diagnostics v_count = row_count;

  return v_count;
end;
$$;

comment on function pgsched.empty_net(pgsched.retention, integer, timestamptz) is
  'Delete from the net of a table what is past its age.  Returns how many rows.';

-- The rows first: the locks on the tables are held until the transaction ends.
create function pgsched.keep_record(p_limit integer, p_now timestamptz)
  returns integer
  language plpgsql
as $$
declare
  v_kept  pgsched.retention;
  v_count integer := 0;
begin
  for v_kept in select r.* from pgsched.retention as r order by r.table_name loop
    v_count := v_count + pgsched.empty_net(v_kept, p_limit, p_now);
  end loop;

  for v_kept in select r.* from pgsched.retention as r order by r.table_name loop
    perform pgsched.drop_partitions(v_kept, p_now);
    perform pgsched.make_partitions(v_kept, p_now);
  end loop;

  return v_count;
end;
$$;

comment on function pgsched.keep_record(integer, timestamptz) is
  'Make and drop partitions of the record, and empty its nets, as pgsched.retention says.  Returns how many rows.';

-- Most tasks end on the day their id was made: there it looks first.
create function pgsched.get_task(p_task_id uuid)
  returns setof pgsched.tasks
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_made timestamptz := pgsched.uuid7_at(p_task_id);
begin
  if not pg_has_role(session_user, 'pgsched_reader', 'member') then
    perform pgsched.refuse_stranger_to_task(p_task_id);
  end if;

  return query
    select t.*
    from pgsched.tasks as t
    where t.id = p_task_id
      and t.finished_at is null;

  if not found then
    return query
      select t.*
      from pgsched.tasks as t
      where t.id = p_task_id
        and t.finished_at >= pgsched.earliest_end(array[p_task_id])
        and t.finished_at < v_made + interval '1 day';
  end if;

  if not found then
    return query
      select t.*
      from pgsched.tasks as t
      where t.id = p_task_id
        and t.finished_at >= v_made + interval '1 day';
  end if;
end;
$$;

comment on function pgsched.get_task(uuid) is
  'One task, unfinished or finished; no row when there is none.';

do $$
begin
  perform pgsched.keep_record(0, pgsched.now());
end;
$$;

revoke execute on all routines in schema pgsched from public;

commit;
