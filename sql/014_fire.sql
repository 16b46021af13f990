-- 014 fire
--
-- Let schedules fire.  Any worker may tick: it reads what is due without a
-- lock, computes in its own time which instants that means and when the next
-- one is, and hands all of it back together with the state it started from.
-- Only who still finds that state advances the schedule, and the ledger takes
-- each instant once: so of workers that tick at the same time one fires, and no
-- leader is needed.
--
-- Adds   due_fire, end_pauses(), due_schedules(), plan_fires(), enter_fires(), make_runs(), advance_schedules(),
--        end_schedules(), fold_newest(), fold_fires(), fire_schedules(), due_gaps(), close_gap(),
--        recompute_schedules()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(14, 'fire');

create type pgsched.due_fire as (
  schedule_id    uuid,
  scheduled_time timestamptz,
  outcome        text,
  reason         text,
  task_id        uuid,
  folded_until   timestamptz,
  folded_count   bigint,
  depends_on_id  uuid
);

comment on type pgsched.due_fire is
  'What is to become of one instant, or of a row of instants that did not run.';

-- A row that no update can touch must not keep the others from firing.
create function pgsched.end_pauses(p_now timestamptz)
  returns void
  language plpgsql
as $$
declare
  v_id uuid;
begin
  for v_id in
    select p.id
    from pgsched.schedules as p
    where not p.is_active
      and p.paused_until <= p_now
    for update skip locked
  loop
    begin
      update pgsched.schedules as s
      set is_active = true, paused_until = null
      where s.id = v_id;
    exception
      when others then
        raise warning 'the pause of schedule % cannot be ended: %', v_id, sqlerrm;
    end;
  end loop;
end;
$$;

comment on function pgsched.end_pauses(timestamptz) is
  'Resume the schedules whose pause is over.';

-- Whoever works off many of them goes on behind the last one: at the front lie
-- the dead index entries of those it has fired.
create function pgsched.due_schedules(
  p_limit      integer     default 1000,
  p_after_time timestamptz default null,
  p_after_id   uuid        default null
)
  returns table (
    schedule_id    uuid,
    name           text,
    cron_expr      text,
    every          interval,
    timezone       text,
    anchor         timestamptz,
    counts_from    timestamptz,
    ends_at        timestamptz,
    misfire_policy text,
    misfire_grace  interval,
    jitter         interval,
    next_run_at    timestamptz,
    revision       bigint,
    as_of          timestamptz
  )
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now        timestamptz := pgsched.now();
  v_after_time timestamptz := coalesce(p_after_time, '-infinity');
  v_after_id   uuid := coalesce(p_after_id, '00000000-0000-0000-0000-000000000000');
begin
  perform pgsched.end_pauses(v_now);

  return query
    select
      s.id, s.name, s.cron_expr, s.every, s.timezone, coalesce(s.starts_at, s.changed_at),
      greatest(s.counts_from, s.starts_at - interval '1 microsecond'), s.ends_at, s.misfire_policy, s.misfire_grace,
      pgsched.jitter_of(s.id, s.jitter), s.next_run_at, s.revision, v_now
    from pgsched.schedules as s
    where s.is_active
      and coalesce(s.next_run_at, '-infinity') <= v_now
      and (coalesce(s.next_run_at, '-infinity'), s.id) > (v_after_time, v_after_id)
    order by coalesce(s.next_run_at, '-infinity'), s.id
    limit p_limit;
end;
$$;

comment on function pgsched.due_schedules(integer, timestamptz, uuid) is
  'The schedules that are due, or want their next instant computed (next_run_at is null): the first one after counts_from, of cron_expr in timezone or of anchor plus multiples of every.  p_after_time and p_after_id are the next_run_at and the id of the last one seen.  Ends the pauses that are over.';

-- The overlap policy asks for the task of the latest run alone.
create function pgsched.plan_fires(p_ticks jsonb, p_schedule_ids uuid[])
  returns pgsched.due_fire[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_nestloop = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  return array(
    with hot as materialized (
      select t.id, t.pending_dependencies
      from pgsched.scheduled_tasks as t
      where t.id = any (array(
        select s.last_task_id
        from pgsched.schedules as s
        where s.id = any (p_schedule_ids)
      ))
    ),
    room as materialized (
      select
        s.id, s.overlap_policy, coalesce(d.is_active, false) as is_active, h.id as hot_id, s.last_run_at, s.max_runs - s.run_count as left_count,
        case
          when d.is_active is not true then 0
          when s.overlap_policy = 'allow' then 2147483647
          when h.id is null then case s.overlap_policy when 'skip' then 1 else 2 end
          when s.overlap_policy = 'skip' or h.pending_dependencies > 0 then 0
          else 1
        end as run_room
      from pgsched.schedules as s
      left join pgsched.task_definitions as d
        on d.id = s.definition_id
      left join hot as h
        on h.id = s.last_task_id
      where s.id = any (p_schedule_ids)
    ),
    -- Of those that want to run, the n-th.
    wanted as materialized (
      select
        f.*, r.*,
        row_number() over w as n,
        first_value(f.scheduled_time) over w as first_at,
        case when f.outcome = 'RUN' then pgsched.uuid7() end as task_id
      from (
        select distinct on (t.schedule_id) t.schedule_id, t.fires
        from jsonb_to_recordset(p_ticks) as t (schedule_id uuid, fires jsonb)
      ) as t
      join room as r
        on r.id = t.schedule_id
      cross join lateral jsonb_to_recordset(t.fires) as f (
        scheduled_time timestamptz, outcome text, reason text, folded_until timestamptz, folded_count bigint
      )
      window w as (partition by t.schedule_id, f.outcome order by f.scheduled_time)
    ),
    judged as (
      select
        w.*,
        w.outcome = 'RUN' and w.n <= least(w.run_room, w.left_count) as is_run,
        case
          when w.overlap_policy <> 'queue_one' then null
          when w.hot_id is not null then w.hot_id
          when w.n = 2 then lag(w.task_id) over (partition by w.id, w.outcome order by w.scheduled_time)
        end as depends_on_id
      from wanted as w
    )
    select row(
      j.id,
      j.scheduled_time,
      case when j.outcome = 'RUN' and not j.is_run then 'SKIPPED' else j.outcome end,
      case
        when j.outcome <> 'RUN' then j.reason
        when j.is_run then null
        when not j.is_active then 'its definition is not active'
        else format(
          'overlap_policy %s: the run of %s had not ended',
          j.overlap_policy,
          to_char(case when j.hot_id is null then j.first_at else j.last_run_at end at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"')
        )
      end,
      case when j.is_run then j.task_id end,
      j.folded_until,
      coalesce(j.folded_count, 1),
      case when j.is_run then j.depends_on_id end
    )::pgsched.due_fire
    from judged as j
    -- With the last run that max_runs allows the schedule ends.
    where j.left_count is null
      or j.left_count > j.run_room
      or (j.outcome = 'RUN' and j.n <= j.left_count)
      or (j.outcome <> 'RUN' and j.left_count > 0)
  );
end;
$$;

comment on function pgsched.plan_fires(jsonb, uuid[]) is
  'What becomes of the instants of locked schedules, by their overlap policies and max_runs.';

create function pgsched.enter_fires(p_fires pgsched.due_fire[])
  returns pgsched.due_fire[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_nestloop = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_entered pgsched.due_fire[];
begin
  with entered as (
    insert into pgsched.schedule_fires (
      schedule_id, scheduled_time, outcome, reason, task_id, folded_until, folded_count
    )
    select f.schedule_id, f.scheduled_time, f.outcome, f.reason, f.task_id, f.folded_until, f.folded_count
    from unnest(p_fires) as f
    on conflict do nothing
    returning schedule_id, scheduled_time
  )
  select coalesce(array_agg(f), '{}')
  into v_entered
  from entered as e
  join unnest(p_fires) as f
    on f.schedule_id = e.schedule_id
    and f.scheduled_time = e.scheduled_time;

  return v_entered;
end;
$$;

comment on function pgsched.enter_fires(pgsched.due_fire[]) is
  'Write the ledger.  Returns what was new to it: an instant that was in it already does not run again.';

create function pgsched.make_runs(p_fires pgsched.due_fire[], p_now timestamptz)
  returns integer
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_nestloop = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_count integer;
begin
  if exists (select from unnest(p_fires) as f where f.depends_on_id is not null) then
    insert into pgsched.task_dependencies (task_id, depends_on_id)
    select f.task_id, f.depends_on_id
    from unnest(p_fires) as f
    where f.depends_on_id is not null;
  end if;

  insert into pgsched.scheduled_tasks (
    id, queue, priority, schedule_type, scheduled_time, execute_after, pending_dependencies,
    on_dependency_failure, max_retries, definition_id,
    schedule_id, trace_id, input_params, schedule_config, created_by, created_at
  )
  select
    f.task_id, coalesce(s.queue, d.queue), coalesce(s.priority, d.priority), 'CRON', f.scheduled_time, p_now,
    (f.depends_on_id is not null)::integer, case when f.depends_on_id is not null then 'run' end, d.max_retries, d.id, s.id, coalesce(s.trace_id, pgsched.uuid7()),
    d.input_params || s.input_params, d.schedule_config || s.schedule_config, s.created_by, p_now
  from unnest(p_fires) as f
  join pgsched.schedules as s
    on s.id = f.schedule_id
  join pgsched.task_definitions as d
    on d.id = s.definition_id
  where f.task_id is not null
    and s.id = any (array(select x.schedule_id from unnest(p_fires) as x));

  get diagnostics v_count = row_count;

  return v_count;
end;
$$;

comment on function pgsched.make_runs(pgsched.due_fire[], timestamptz) is
  'Make the tasks of the instants that run.  Returns how many.';

create function pgsched.advance_schedules(p_ticks jsonb, p_schedule_ids uuid[], p_entered pgsched.due_fire[])
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_nestloop = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  update pgsched.schedules as s
  set
    next_run_at  = t.next_run_at,
    counts_from  = coalesce(t.counts_from, s.counts_from),
    tz_version   = t.tz_version,
    last_run_at  = coalesce(e.last_run_at, s.last_run_at),
    last_task_id = coalesce(e.last_task_id, s.last_task_id),
    run_count    = s.run_count + coalesce(e.run_count, 0),
    idle_count   = coalesce(e.idle_count, 0) + case when e.last_run_at is null then s.idle_count else 0 end
  from (
    select distinct on (t.schedule_id) t.*
    from jsonb_to_recordset(p_ticks) as t (
      schedule_id uuid, next_run_at timestamptz, counts_from timestamptz, tz_version text
    )
  ) as t
  left join (
    select
      f.schedule_id,
      f.last_run_at,
      (array_agg(f.task_id) filter (where f.scheduled_time = f.last_run_at))[1] as last_task_id,
      count(f.task_id) as run_count,
      sum(f.folded_count) filter (where f.scheduled_time > coalesce(f.last_run_at, '-infinity')) as idle_count
    from (
      select
        x.*,
        max(x.scheduled_time) filter (where x.task_id is not null) over (partition by x.schedule_id) as last_run_at
      from unnest(p_entered) as x
    ) as f
    group by f.schedule_id, f.last_run_at
  ) as e
    on e.schedule_id = t.schedule_id
  where s.id = any (p_schedule_ids)
    and s.id = t.schedule_id;
end;
$$;

comment on function pgsched.advance_schedules(jsonb, uuid[], pgsched.due_fire[]) is
  'Move locked schedules on to their next instants.';

create function pgsched.end_schedules(p_ticks jsonb, p_schedule_ids uuid[], p_now timestamptz)
  returns void
  language sql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
begin atomic
  update pgsched.schedules as s
  set
    is_active   = false,
    next_run_at = null,
    error_msg   = t.error_msg,
    ended_at    = case when t.error_msg is null then p_now end
  from jsonb_to_recordset(p_ticks) as t (schedule_id uuid, is_ended boolean, error_msg text)
  where s.id = any (p_schedule_ids)
    and s.id = t.schedule_id
    and (t.error_msg is not null or t.is_ended or s.run_count >= s.max_runs);
end;

comment on function pgsched.end_schedules(jsonb, uuid[], timestamptz) is
  'Switch off locked schedules that have ended, or cannot be read.';

-- The newest entry joins the one before it, if both say the same.
create function pgsched.fold_newest(p_schedule_id uuid)
  returns boolean
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_newest pgsched.schedule_fires;
  v_before pgsched.schedule_fires;
begin
  select f.*
  into v_newest
  from pgsched.schedule_fires as f
  where f.schedule_id = p_schedule_id
  order by f.scheduled_time desc
  limit 1;

  select f.*
  into v_before
  from pgsched.schedule_fires as f
  where f.schedule_id = p_schedule_id
    and f.scheduled_time < v_newest.scheduled_time
  order by f.scheduled_time desc
  limit 1;

  if v_newest.outcome = 'RUN' or (v_newest.outcome, v_newest.reason) is distinct from (v_before.outcome, v_before.reason) then
    return false;
  end if;

  delete from pgsched.schedule_fires as f
  where f.schedule_id = p_schedule_id
    and f.scheduled_time = v_newest.scheduled_time;

  update pgsched.schedule_fires as f
  set
    folded_until = coalesce(v_newest.folded_until, v_newest.scheduled_time),
    folded_count = f.folded_count + v_newest.folded_count
  where f.schedule_id = p_schedule_id
    and f.scheduled_time = v_before.scheduled_time;

  return true;
end;
$$;

comment on function pgsched.fold_newest(uuid) is
  'Join the newest entry of a schedule with the one before it; false when they differ.';

-- The first 100 keep their rows, the others share one.
create function pgsched.fold_fires(p_schedule_ids uuid[], p_entered pgsched.due_fire[])
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_id   uuid;
  v_rows integer;
begin
  for v_id, v_rows in
    -- What began to count anew with this tick does not join what was before.
    select s.id, least(count(f) - (sum(f.folded_count) = s.idle_count)::integer, s.idle_count - 101)
    from pgsched.schedules as s
    join unnest(p_entered) as f
      on f.schedule_id = s.id
    where s.id = any (p_schedule_ids)
      and s.idle_count > 101
      and f.task_id is null
    group by s.id, s.idle_count
  loop
    for i in 1 .. v_rows loop
      exit when not pgsched.fold_newest(v_id);
    end loop;
  end loop;
end;
$$;

comment on function pgsched.fold_fires(uuid[], pgsched.due_fire[]) is
  'Keep the ledger short where more than 100 instants in a row did not run for the same reason.';

create function pgsched.fire_schedules(p_ticks jsonb)
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
  v_now     timestamptz := pgsched.now();
  v_ids     uuid[];
  v_entered pgsched.due_fire[];
  v_count   integer;
begin
  if jsonb_typeof(p_ticks) is distinct from 'array' then
    raise exception sqlstate 'PS422' using message = 'p_ticks must be a JSON array of ticks';
  end if;

  v_ids := array(
    select s.id
    from pgsched.schedules as s
    join jsonb_to_recordset(p_ticks) as t (schedule_id uuid, expected timestamptz, revision bigint)
      on t.schedule_id = s.id
    where s.id = any (array(
        select x.schedule_id
        from jsonb_to_recordset(p_ticks) as x (schedule_id uuid)
      ))
      and s.is_active
      and s.next_run_at is not distinct from t.expected
      and s.revision = t.revision
    for no key update of s skip locked
  );

  if cardinality(v_ids) = 0 then
    return 0;
  end if;

  v_entered := pgsched.enter_fires(pgsched.plan_fires(p_ticks, v_ids));
  v_count   := pgsched.make_runs(v_entered, v_now);

  perform pgsched.advance_schedules(p_ticks, v_ids, v_entered);
  perform pgsched.end_schedules(p_ticks, v_ids, v_now);
  perform pgsched.fold_fires(v_ids, v_entered);

  return v_count;
end;
$$;

comment on function pgsched.fire_schedules(jsonb) is
  'Fire and advance: [{"schedule_id", "expected" (the next_run_at it was computed from), "revision" (of the schedule as it was read), "fires": [{"scheduled_time", "outcome" (RUN or MISSED), "reason", "folded_until", "folded_count"}], "counts_from" (the latest of these instants), "next_run_at", "tz_version", "is_ended", "error_msg" (switches it off)}, …].  Returns how many tasks were made.';

create function pgsched.due_gaps(p_limit integer default 10)
  returns setof pgsched.schedule_gaps
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select g.*
    from pgsched.schedule_gaps as g
    order by g.id
    limit p_limit;
end;
$$;

comment on function pgsched.due_gaps(integer) is
  'Instants that a worker is to enter into the ledger as MISSED: those of each row after counts_from and up to to_time.';

create function pgsched.close_gap(p_step jsonb)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_gap pgsched.schedule_gaps;
begin
  select g.*
  into v_gap
  from pgsched.schedule_gaps as g
  where g.id = (p_step ->> 'gap_id')::uuid
    and g.counts_from = (p_step ->> 'expected')::timestamptz
  for update skip locked;

  if not found then
    return;
  end if;

  perform pgsched.enter_fires(array(
    select row(v_gap.schedule_id, f.scheduled_time, f.outcome, f.reason, null, f.folded_until, coalesce(f.folded_count, 1), null)::pgsched.due_fire
    from jsonb_to_recordset(p_step -> 'fires') as f (
      scheduled_time timestamptz, outcome text, reason text, folded_until timestamptz, folded_count bigint
    )
  ));

  if (p_step ->> 'is_done')::boolean then
    delete from pgsched.schedule_gaps as g
    where g.id = v_gap.id;
  else
    update pgsched.schedule_gaps as g
    set counts_from = (p_step ->> 'counts_from')::timestamptz
    where g.id = v_gap.id;
  end if;
end;
$$;

comment on function pgsched.close_gap(jsonb) is
  'Enter a slice of a gap into the ledger: {"gap_id", "expected" (the counts_from it was computed from), "fires" (as in fire_schedules()), "counts_from" (the latest of these instants), "is_done"}.';

create function pgsched.recompute_schedules(p_tz_version text, p_limit integer default 1000)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer;
begin
  update pgsched.schedules as s
  set next_run_at = null, revision = s.revision + 1
  where s.id = any (array(
    select o.id
    from pgsched.schedules as o
    where o.is_active
      and o.next_run_at is not null
      and o.cron_expr is not null
      and o.tz_version < p_tz_version
    limit p_limit
    for no key update skip locked
  ));

  get diagnostics v_count = row_count;

  if v_count > 0 then
    perform pgsched.wake();
  end if;

  return v_count;
end;
$$;

comment on function pgsched.recompute_schedules(text, integer) is
  'Have next_run_at computed anew where that was done with an older release of the time zone database.  Returns how many schedules.';

revoke execute on all routines in schema pgsched from public;

commit;
