-- 013 fire
--
-- Let schedules fire.  Any worker may tick: it reads what is due without a
-- lock, computes the next instants in its own time, and hands them back
-- together with the next_run_at it started from.  Only who still finds that
-- value advances the schedule, and the ledger takes each instant once: so two
-- workers that tick at the same time make one task, and no leader is needed.
--
-- Adds   due_schedules(), fire_schedules()
-- Locks  nothing
-- Undo   drop the above

begin;

call pgsched.begin_migration(13, 'fire');

create function pgsched.due_schedules(p_limit integer default 1000)
  returns table (
    schedule_id uuid,
    name        text,
    cron_expr   text,
    timezone    text,
    next_run_at timestamptz,
    changed_at  timestamptz,
    as_of       timestamptz
  )
  language plpgsql
  stable
as $$
declare
  v_now timestamptz := pgsched.now();
begin
  return query
    (
      select s.id, s.name, s.cron_expr, s.timezone, s.next_run_at, s.changed_at, v_now
      from pgsched.schedules as s
      where s.is_active
        and s.next_run_at is null
      limit p_limit
    )
    union all
    (
      select s.id, s.name, s.cron_expr, s.timezone, s.next_run_at, s.changed_at, v_now
      from pgsched.schedules as s
      where s.is_active
        and s.next_run_at <= v_now
      order by s.next_run_at
      limit p_limit
    );
end;
$$;

comment on function pgsched.due_schedules(integer) is
  'The schedules that are due, or want their first instant computed.';

create function pgsched.fire_schedules(p_ticks jsonb)
  returns integer
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now      timestamptz := pgsched.now();
  v_locked   uuid[];
  v_advanced uuid[];
  v_count    integer;
begin
  if jsonb_typeof(p_ticks) is distinct from 'array' then
    raise exception sqlstate 'PS422' using message = 'p_ticks must be a JSON array of ticks';
  end if;

  v_locked := array(
    select s.id
    from pgsched.schedules as s
    where s.id = any (array(
      select t.schedule_id
      from jsonb_to_recordset(p_ticks) as t (schedule_id uuid)
    ))
    for update skip locked
  );

  with ticks as (
    select t.*
    from jsonb_to_recordset(p_ticks) as t (
      schedule_id uuid, expected timestamptz, next_run_at timestamptz, error_msg text, changed_at timestamptz
    )
  ),
  advanced as (
    update pgsched.schedules as s
    set
      next_run_at = t.next_run_at,
      last_run_at = coalesce(t.expected, s.last_run_at),
      run_count   = s.run_count + (t.expected is not null)::integer,
      is_active   = t.error_msg is null,
      error_msg   = t.error_msg
    from ticks as t
    where s.id = any (v_locked)
      and s.id = t.schedule_id
      and s.is_active
      and s.next_run_at is not distinct from t.expected
      and (t.changed_at is null or s.changed_at = t.changed_at)
    returning s.id
  )
  select coalesce(array_agg(a.id), '{}')
  into v_advanced
  from advanced as a;

  with fires as (
    select
      f.schedule_id, f.expected as scheduled_time, s.input_params, s.schedule_config, s.queue, s.priority, s.created_by,
      s.definition_id, d.is_active, case when d.is_active then pgsched.uuid7() end as task_id
    from jsonb_to_recordset(p_ticks) as f (schedule_id uuid, expected timestamptz)
    join pgsched.schedules as s
      on s.id = f.schedule_id
    join pgsched.task_definitions as d
      on d.id = s.definition_id
    where f.schedule_id = any (v_advanced)
      and f.expected is not null
  ),
  entered as (
    insert into pgsched.schedule_fires (schedule_id, scheduled_time, outcome, reason, task_id)
    select
      f.schedule_id, f.scheduled_time,
      case when f.is_active then 'RUN' else 'SKIPPED' end,
      case when not f.is_active then 'its definition is not active' end,
      f.task_id
    from fires as f
    on conflict do nothing
    returning task_id
  )
  insert into pgsched.scheduled_tasks (
    id, queue, priority, schedule_type, scheduled_time, execute_after, max_retries, definition_id, schedule_id,
    trace_id, input_params, schedule_config, created_by, created_at
  )
  select
    f.task_id, coalesce(f.queue, d.queue), coalesce(f.priority, d.priority), 'CRON', f.scheduled_time, v_now,
    d.max_retries, d.id, f.schedule_id, pgsched.uuid7(), d.input_params || f.input_params,
    d.schedule_config || f.schedule_config, f.created_by, v_now
  from fires as f
  join entered as e
    on e.task_id = f.task_id
  join pgsched.task_definitions as d
    on d.id = f.definition_id;

  get diagnostics v_count = row_count;

  return v_count;
end;
$$;

comment on function pgsched.fire_schedules(jsonb) is
  'Fire and advance: [{"schedule_id", "expected" (the next_run_at it was computed from; null: first time), "changed_at" (of the schedule as it was read), "next_run_at", "error_msg" (switches it off)}, …].  Returns how many tasks were made.';

commit;
