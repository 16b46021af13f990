-- 015 backfill
--
-- Run a schedule for a range of time that has passed: what was SKIPPED or
-- MISSED there, and what was before the schedule existed.  The database cannot
-- read cron expressions, so this is a request, which a worker fulfils slice by
-- slice; pgsched.schedule_backfills tells how far it is.
--
-- Adds   backfill_schedule(), due_backfills(), unfold_fires(), run_backfill()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(15, 'backfill');

create function pgsched.backfill_schedule(
  p_schedule     text,
  p_from_time    timestamptz,
  p_to_time      timestamptz,
  p_max_instants integer default 1000
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now      timestamptz := pgsched.now();
  v_schedule pgsched.schedules := pgsched.find_own_schedule(p_schedule);
  v_id       uuid;
begin
  if p_from_time is null or p_from_time < '0001-01-03 00:00+00' then
    raise exception sqlstate 'PS422' using
      message = format('p_from_time must be within the years 1 to 9999, not %s', coalesce(p_from_time::text, 'null'));
  elsif p_to_time is null then
    raise exception sqlstate 'PS422' using message = 'p_to_time must not be null';
  elsif p_from_time > p_to_time then
    raise exception sqlstate 'PS422' using message = format('p_from_time %s must not be after p_to_time %s', p_from_time, p_to_time);
  elsif p_to_time > v_now then
    raise exception sqlstate 'PS422' using
      message = format('p_to_time must not be in the future, not %s', p_to_time),
      hint = 'What is yet to come the schedule runs by itself.';
  elsif p_max_instants is null or p_max_instants not between 1 and 100000 then
    raise exception sqlstate 'PS422' using
      message = format('p_max_instants must be from 1 to 100000, not %s', coalesce(p_max_instants::text, 'null'));
  end if;

  insert into pgsched.schedule_backfills (schedule_id, from_time, to_time, max_instants, counts_from)
  values (v_schedule.id, p_from_time, p_to_time, p_max_instants, p_from_time - interval '1 microsecond')
  returning id into v_id;

  perform pgsched.log_schedule_act(
    v_schedule, 'BACKFILLED',
    jsonb_build_object('backfill_id', v_id, 'from', p_from_time, 'to', p_to_time, 'max_instants', p_max_instants)
  );
  perform pgsched.wake();

  return v_id;
exception
  when foreign_key_violation then
    raise exception sqlstate 'PS404' using message = format('p_schedule: schedule %L was deleted just now', p_schedule);
end;
$$;

comment on function pgsched.backfill_schedule(text, timestamptz, timestamptz, integer) is
  'Have the instants from p_from_time to p_to_time run that have not, whatever kept them: at most p_max_instants, or nothing.  They neither skip nor are skipped.  Returns the id of the row of pgsched.schedule_backfills that tells how far it is.';

-- What is due fires first, and what is yet to come the schedule runs by itself:
-- no instant of a backfill is after what its schedule has accounted for.
create function pgsched.due_backfills(p_limit integer default 10)
  returns table (
    backfill_id    uuid,
    cron_expr      text,
    every          interval,
    timezone       text,
    anchor         timestamptz,
    counts_from    timestamptz,
    to_time        timestamptz,
    instant_count  integer,
    max_instants   integer
  )
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := pgsched.now();
begin
  return query
    select
      b.id, s.cron_expr, s.every, s.timezone, coalesce(s.starts_at, s.changed_at), b.counts_from,
      least(
        b.to_time,
        greatest(
          s.counts_from,
          case
            when s.is_active then s.starts_at - interval '1 microsecond'
            else v_now - pgsched.jitter_of(s.id, s.jitter)
          end
        )
      ),
      b.instant_count, b.max_instants
    from pgsched.schedule_backfills as b
    join pgsched.schedules as s
      on s.id = b.schedule_id
    where b.status = 'WAITING'
      and case when s.is_active then s.next_run_at > v_now else coalesce(s.paused_until, 'infinity') > v_now end
      and not exists (select from pgsched.schedule_gaps as g where g.schedule_id = s.id)
    order by b.created_at
    limit p_limit;
end;
$$;

comment on function pgsched.due_backfills(integer) is
  'Backfills that wait for a worker to compute their next instants, after counts_from and up to to_time.';

-- A row that stands for many instants leaves those that now get their own.
create function pgsched.unfold_fires(p_schedule_id uuid, p_instants timestamptz[])
  returns void
  language plpgsql
as $$
declare
  v_first timestamptz := p_instants[1];
  v_last  timestamptz := p_instants[cardinality(p_instants)];
  v_fold  pgsched.schedule_fires;
  v_left  bigint;
begin
  for v_fold in
    select f.*
    from pgsched.schedule_fires as f
    where f.schedule_id = p_schedule_id
      and f.folded_until >= v_first
      and f.scheduled_time <= v_last
  loop
    v_left := v_fold.folded_count - (
      select count(*)
      from unnest(p_instants) as i (at)
      where i.at between v_fold.scheduled_time and v_fold.folded_until
        and (
          i.at = v_fold.scheduled_time
          or not exists (
            select
            from pgsched.schedule_fires as f
            where f.schedule_id = p_schedule_id
              and f.scheduled_time = i.at
          )
        )
    );

    delete from pgsched.schedule_fires as f
    where f.schedule_id = p_schedule_id
      and f.scheduled_time = v_fold.scheduled_time;

    continue when v_left <= 0;

    -- It stands for what has no row of its own, from here on.
    insert into pgsched.schedule_fires (schedule_id, scheduled_time, outcome, reason, folded_until, folded_count)
    values (
      p_schedule_id,
      v_fold.scheduled_time + (v_fold.scheduled_time = any (p_instants))::integer * interval '1 microsecond',
      v_fold.outcome, v_fold.reason, v_fold.folded_until, v_left
    );
  end loop;
end;
$$;

comment on function pgsched.unfold_fires(uuid, timestamptz[]) is
  'Take instants, in their order, out of the rows of the ledger that stand for many.';

create function pgsched.run_backfill(p_step jsonb)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now      timestamptz := pgsched.now();
  v_id       uuid := (p_step ->> 'backfill_id')::uuid;
  v_backfill pgsched.schedule_backfills;
  v_error    text := p_step ->> 'error_msg';
  v_done     boolean := (p_step ->> 'is_done')::boolean;
  v_instants timestamptz[] := array(
    select i.at::timestamptz
    from jsonb_array_elements_text(coalesce(p_step -> 'instants', '[]')) as i (at)
    order by 1
  );
  v_entered  pgsched.due_fire[];
begin
  -- Until this is committed the schedule does not fire.
  perform from pgsched.schedules as s
  where s.id = (
    select b.schedule_id
    from pgsched.schedule_backfills as b
    where b.id = v_id
  )
  for no key update skip locked;

  if not found then
    return 0;
  end if;

  select b.*
  into v_backfill
  from pgsched.schedule_backfills as b
  where b.id = v_id
    and b.status = 'WAITING'
    and b.counts_from = (p_step ->> 'expected')::timestamptz
  for no key update skip locked;

  if not found then
    return 0;
  end if;

  if v_error is null and not exists (
    select
    from pgsched.schedules as s
    join pgsched.task_definitions as d
      on d.id = s.definition_id
    where s.id = v_backfill.schedule_id
      and d.is_active
  ) then
    v_error := 'its definition is not active';
  end if;

  if v_error is not null then
    update pgsched.schedule_backfills as b
    set status = 'REFUSED', error_msg = v_error, finished_at = v_now
    where b.id = v_backfill.id;

    return 0;
  end if;

  perform pgsched.unfold_fires(v_backfill.schedule_id, v_instants);

  with entered as (
    insert into pgsched.schedule_fires as f (schedule_id, scheduled_time, outcome, reason, task_id)
    select v_backfill.schedule_id, i.at, 'RUN', 'backfilled', pgsched.uuid7()
    from unnest(v_instants) as i (at)
    on conflict (schedule_id, scheduled_time) do update
    set outcome = 'RUN', reason = format('backfilled; was %s: %s', f.outcome, f.reason), task_id = excluded.task_id
    where f.outcome <> 'RUN'
    returning f.scheduled_time, f.task_id
  )
  select coalesce(array_agg(row(v_backfill.schedule_id, e.scheduled_time, 'RUN', null, e.task_id, null, 1, null)::pgsched.due_fire), '{}')
  into v_entered
  from entered as e;

  perform pgsched.make_runs(v_entered, v_now);

  update pgsched.schedules as s
  set idle_count = 0
  where s.id = v_backfill.schedule_id
    and s.idle_count > 0
    and exists (
      select
      from unnest(v_entered) as e
      where e.scheduled_time > coalesce(s.last_run_at, '-infinity')
    );

  update pgsched.schedule_backfills as b
  set
    counts_from   = coalesce(v_instants[cardinality(v_instants)], b.counts_from),
    instant_count = b.instant_count + cardinality(v_instants),
    run_count     = b.run_count + cardinality(v_entered),
    status        = case when v_done then 'DONE' else b.status end,
    finished_at   = case when v_done then v_now end
  where b.id = v_backfill.id;

  return cardinality(v_entered);
end;
$$;

comment on function pgsched.run_backfill(jsonb) is
  'One slice of a backfill: {"backfill_id", "expected" (the counts_from it was computed from), "instants": […], "is_done", "error_msg" (refuses it)}.  Returns how many tasks were made.';

revoke execute on all routines in schema pgsched from public;

commit;
