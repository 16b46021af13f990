-- 013 schedule_control
--
-- What people do to schedules.  Deploy scripts write them by name, where the
-- same again changes nothing; operators change, pause, resume, trigger and
-- delete them.  A plain update of pgsched.schedules does as well: the triggers
-- of 004 see to the rest.
--
--   schedule_cron()      create, or replace the one of that name
--   schedule_every()     the same, at an interval
--   reschedule()         change its time, and nothing else
--   pause_schedule()     resume_schedule()
--   trigger_schedule()   run it now, besides its time
--   delete_schedule()
--
-- Adds   the above, check_cron(), check_schedule(), put_schedule(), find_schedule(),
--        find_own_schedule(), lock_schedule(), log_schedule_act(), own schedules of definitions
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(13, 'schedule_control');

-- The shape is checked here; the worker that computes the first instant
-- knows the rest, and says in error_msg what it could not read.
create function pgsched.check_cron(
  p_cron_expression  text,
  p_timezone         text,
  p_expression_field text default 'p_cron_expression',
  p_timezone_field   text default 'p_timezone'
)
  returns void
  language plpgsql
  stable
as $$
begin
  if p_cron_expression is null
    or p_cron_expression !~ '^\s*(@[A-Za-z]+|([0-9A-Za-z*?,/#-]+\s+){4,5}[0-9A-Za-z*?,/#-]+)\s*$'
  then
    raise exception sqlstate 'PS422' using
      message = format('%s must have five fields, six with seconds first, or be @hourly or its like, not %L', p_expression_field, p_cron_expression);
  end if;

  if p_timezone is null then
    raise exception sqlstate 'PS422' using
      message = format('%s must be an IANA zone such as Europe/Paris, not null', p_timezone_field);
  end if;

  perform pgsched.now() at time zone p_timezone;
exception
  when invalid_parameter_value then
    raise exception sqlstate 'PS422' using
      message = format('%s must be an IANA zone such as Europe/Paris, not %L', p_timezone_field, p_timezone);
end;
$$;

comment on function pgsched.check_cron(text, text, text, text) is
  'PS422 when a cron expression has the wrong shape or a zone is unknown.';

create function pgsched.check_every(p_every interval)
  returns void
  language plpgsql
  immutable
as $$
begin
  if p_every is null or p_every not between interval '1 second' and interval '366 days' then
    raise exception sqlstate 'PS422' using
      message = format('p_every must be from 1 second to 366 days, not %s', coalesce(p_every::text, 'null'));
  elsif extract(year from p_every) <> 0 or extract(month from p_every) <> 0 then
    raise exception sqlstate 'PS422' using
      message = format('p_every must have no months or years, which differ in length, not %s', p_every),
      hint = 'Use a cron expression, as 0 0 1 * * for the first of each month.';
  end if;
end;
$$;

comment on function pgsched.check_every(interval) is
  'PS422 when an interval is no good for a schedule.';

create function pgsched.check_schedule(p_schedule pgsched.schedules)
  returns void
  language plpgsql
  stable
as $$
declare
  v_problem text := case
    when p_schedule.name = '' then 'p_name must not be empty'
    when p_schedule.overlap_policy not in ('skip', 'queue_one', 'allow')
    then format('p_overlap_policy must be skip, queue_one or allow, not %L', p_schedule.overlap_policy)
    when p_schedule.misfire_policy not in ('latest', 'all', 'none')
    then format('p_misfire_policy must be latest, all or none, not %L', p_schedule.misfire_policy)
    when p_schedule.misfire_grace not between interval '1 second' and interval '366 days'
    then format('p_misfire_grace must be from 1 second to 366 days, not %s', p_schedule.misfire_grace)
    when p_schedule.jitter not between interval '0' and interval '24 hours'
    then format('p_jitter must be from 0 to 24 hours, not %s', p_schedule.jitter)
    when p_schedule.starts_at not between '0001-01-03 00:00+00' and '9999-12-29 00:00+00'
    then format('p_starts_at must be within the years 1 to 9999, not %s', p_schedule.starts_at)
    when p_schedule.ends_at not between '0001-01-03 00:00+00' and '9999-12-29 00:00+00'
    then format('p_ends_at must be within the years 1 to 9999, not %s', p_schedule.ends_at)
    when p_schedule.starts_at > p_schedule.ends_at
    then format('p_ends_at %s must not be before p_starts_at %s', p_schedule.ends_at, p_schedule.starts_at)
    when p_schedule.max_runs < 1 then format('p_max_runs must be at least 1, not %s', p_schedule.max_runs)
  end;
begin
  if v_problem is not null then
    raise exception sqlstate 'PS422' using message = v_problem;
  end if;

  perform pgsched.check_payload('p_input_params', p_schedule.input_params);
  perform pgsched.check_payload('p_schedule_config', p_schedule.schedule_config);
  perform pgsched.check_payload('p_input_params with the defaults of the definition', d.input_params || p_schedule.input_params)
  from pgsched.task_definitions as d
  where d.id = p_schedule.definition_id;

  if p_schedule.queue is not null then
    perform pgsched.check_queue(p_schedule.queue);
  end if;
end;
$$;

comment on function pgsched.check_schedule(pgsched.schedules) is
  'PS422 or PS404 when anything but the time of a schedule is no good.';

-- Changes nothing that is the same, and never ends a pause.
create function pgsched.put_schedule(p_schedule pgsched.schedules)
  returns uuid
  language plpgsql
as $$
declare
  v_id uuid;
begin
  perform pgsched.check_schedule(p_schedule);

  insert into pgsched.schedules as s (
    definition_id, name, cron_expr, every, timezone, overlap_policy, misfire_policy, misfire_grace, jitter,
    starts_at, ends_at, max_runs, input_params, schedule_config, queue, priority, trace_id
  )
  values (
    p_schedule.definition_id, p_schedule.name, p_schedule.cron_expr, p_schedule.every, p_schedule.timezone,
    p_schedule.overlap_policy, p_schedule.misfire_policy, p_schedule.misfire_grace, p_schedule.jitter,
    p_schedule.starts_at, p_schedule.ends_at, p_schedule.max_runs, p_schedule.input_params,
    p_schedule.schedule_config, p_schedule.queue, p_schedule.priority, p_schedule.trace_id
  )
  on conflict (name) do update
  set
    definition_id   = excluded.definition_id,
    cron_expr       = excluded.cron_expr,
    every           = excluded.every,
    timezone        = excluded.timezone,
    overlap_policy  = excluded.overlap_policy,
    misfire_policy  = excluded.misfire_policy,
    misfire_grace   = excluded.misfire_grace,
    jitter          = excluded.jitter,
    starts_at       = excluded.starts_at,
    ends_at         = excluded.ends_at,
    max_runs        = excluded.max_runs,
    input_params    = excluded.input_params,
    schedule_config = excluded.schedule_config,
    queue           = excluded.queue,
    priority        = excluded.priority,
    trace_id        = excluded.trace_id,
    is_own          = s.is_own and s.definition_id = excluded.definition_id
  where pgsched.may_change(s.created_by)
  returning s.id into v_id;

  if v_id is null then
    perform pgsched.refuse_stranger(format('schedule %L', s.name), s.created_by)
    from pgsched.schedules as s
    where s.name = p_schedule.name;
  end if;

  return v_id;
end;
$$;

comment on function pgsched.put_schedule(pgsched.schedules) is
  'Create a schedule, or replace the one of that name; schedule_cron() and schedule_every() end here.';

create function pgsched.schedule_cron(
  p_definition      text,
  p_cron_expression text,
  p_input_params    jsonb       default null,
  p_timezone        text        default 'UTC',
  p_name            text        default null,
  p_priority        integer     default null,
  p_queue           text        default null,
  p_schedule_config jsonb       default null,
  p_overlap_policy  text        default 'skip',
  p_misfire_policy  text        default 'latest',
  p_misfire_grace   interval    default '60 seconds',
  p_jitter          interval    default '0 seconds',
  p_starts_at       timestamptz default null,
  p_ends_at         timestamptz default null,
  p_max_runs        bigint      default null,
  p_trace_id        uuid        default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_definition pgsched.task_definitions := pgsched.find_definition(p_definition);
  v_schedule   pgsched.schedules;
begin
  perform pgsched.check_cron(p_cron_expression, p_timezone);
  perform pgsched.check_priority(p_priority);

  v_schedule.definition_id   := v_definition.id;
  v_schedule.name            := coalesce(p_name, v_definition.name);
  v_schedule.cron_expr       := p_cron_expression;
  v_schedule.timezone        := p_timezone;
  v_schedule.input_params    := coalesce(p_input_params, '{}');
  v_schedule.schedule_config := coalesce(p_schedule_config, '{}');
  v_schedule.priority        := p_priority;
  v_schedule.queue           := p_queue;
  v_schedule.overlap_policy  := coalesce(p_overlap_policy, 'skip');
  v_schedule.misfire_policy  := coalesce(p_misfire_policy, 'latest');
  v_schedule.misfire_grace   := coalesce(p_misfire_grace, '60 seconds');
  v_schedule.jitter          := coalesce(p_jitter, '0 seconds');
  v_schedule.starts_at       := p_starts_at;
  v_schedule.ends_at         := p_ends_at;
  v_schedule.max_runs        := p_max_runs;
  v_schedule.trace_id        := p_trace_id;

  return pgsched.put_schedule(v_schedule);
end;
$$;

comment on function pgsched.schedule_cron(text, text, jsonb, text, text, integer, text, jsonb, text, text, interval, interval, timestamptz, timestamptz, bigint, uuid) is
  'Create a schedule, or replace the one of that name (default: the definition''s).  The same again changes nothing, and a pause is kept.  Returns the schedule''s id.';

create function pgsched.schedule_every(
  p_definition      text,
  p_every           interval,
  p_input_params    jsonb       default null,
  p_name            text        default null,
  p_priority        integer     default null,
  p_queue           text        default null,
  p_schedule_config jsonb       default null,
  p_overlap_policy  text        default 'skip',
  p_misfire_policy  text        default 'latest',
  p_misfire_grace   interval    default '60 seconds',
  p_jitter          interval    default '0 seconds',
  p_starts_at       timestamptz default null,
  p_ends_at         timestamptz default null,
  p_max_runs        bigint      default null,
  p_trace_id        uuid        default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_definition pgsched.task_definitions := pgsched.find_definition(p_definition);
  v_schedule   pgsched.schedules;
begin
  perform pgsched.check_every(p_every);
  perform pgsched.check_priority(p_priority);

  v_schedule.definition_id   := v_definition.id;
  v_schedule.name            := coalesce(p_name, v_definition.name);
  v_schedule.every           := p_every;
  v_schedule.timezone        := 'UTC';
  v_schedule.input_params    := coalesce(p_input_params, '{}');
  v_schedule.schedule_config := coalesce(p_schedule_config, '{}');
  v_schedule.priority        := p_priority;
  v_schedule.queue           := p_queue;
  v_schedule.overlap_policy  := coalesce(p_overlap_policy, 'skip');
  v_schedule.misfire_policy  := coalesce(p_misfire_policy, 'latest');
  v_schedule.misfire_grace   := coalesce(p_misfire_grace, '60 seconds');
  v_schedule.jitter          := coalesce(p_jitter, '0 seconds');
  v_schedule.starts_at       := p_starts_at;
  v_schedule.ends_at         := p_ends_at;
  v_schedule.max_runs        := p_max_runs;
  v_schedule.trace_id        := p_trace_id;

  return pgsched.put_schedule(v_schedule);
end;
$$;

comment on function pgsched.schedule_every(text, interval, jsonb, text, integer, text, jsonb, text, text, interval, interval, timestamptz, timestamptz, bigint, uuid) is
  'Create a schedule at an interval of elapsed time, or replace the one of that name (default: the definition''s).  Counts from p_starts_at, which is its first instant, else from now.  Returns the schedule''s id.';

-- Existing ones ----------------------------------------------------------

create function pgsched.find_schedule(p_schedule text)
  returns pgsched.schedules
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule pgsched.schedules;
begin
  select s.*
  into v_schedule
  from pgsched.schedules as s
  where s.name = p_schedule;

  if not found and p_schedule ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' then
    select s.*
    into v_schedule
    from pgsched.schedules as s
    where s.id = p_schedule::uuid;
  end if;

  if v_schedule.id is null then
    raise exception sqlstate 'PS404' using
      message = format('p_schedule: no schedule has the name or id %L', p_schedule),
      hint = 'select name, id from pgsched.schedules lists them.';
  end if;

  return v_schedule;
end;
$$;

comment on function pgsched.find_schedule(text) is
  'The schedule of that name or id, or PS404.';

create function pgsched.find_own_schedule(p_schedule text)
  returns pgsched.schedules
  language plpgsql
  stable
as $$
declare
  v_schedule pgsched.schedules := pgsched.find_schedule(p_schedule);
begin
  if not pgsched.may_change(v_schedule.created_by) then
    perform pgsched.refuse_stranger(format('schedule %L', v_schedule.name), v_schedule.created_by);
  end if;

  return v_schedule;
end;
$$;

comment on function pgsched.find_own_schedule(text) is
  'The schedule of that name or id, or PS404; insufficient_privilege when it is another''s.';

create function pgsched.lock_schedule(p_schedule text)
  returns pgsched.schedules
  language plpgsql
  set lock_timeout = '5s'
as $$
declare
  v_schedule pgsched.schedules := pgsched.find_own_schedule(p_schedule);
begin
  select s.*
  into v_schedule
  from pgsched.schedules as s
  where s.id = v_schedule.id
  for update;

  if not found then
    raise exception sqlstate 'PS404' using message = format('p_schedule: schedule %L was deleted just now', p_schedule);
  end if;

  return v_schedule;
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('schedule %L is locked by another session', p_schedule),
      hint = 'Try again; pg_locks and pg_stat_activity tell who holds it.';
end;
$$;

comment on function pgsched.lock_schedule(text) is
  'Lock a schedule of one''s own, waiting up to 5 seconds; the schedule as it is now.';

create function pgsched.log_schedule_act(p_schedule pgsched.schedules, p_change text, p_values jsonb)
  returns void
  language sql
begin atomic
  insert into pgsched.schedule_changes (schedule_id, name, change, new_values)
  values (p_schedule.id, p_schedule.name, p_change, p_values);
end;

comment on function pgsched.log_schedule_act(pgsched.schedules, text, jsonb) is
  'Record who did something with a schedule that leaves the schedule itself as it is.';

create function pgsched.reschedule(
  p_schedule        text,
  p_cron_expression text     default null,
  p_every           interval default null,
  p_timezone        text     default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule pgsched.schedules := pgsched.lock_schedule(p_schedule);
  v_cron     text := case when p_every is null then coalesce(p_cron_expression, v_schedule.cron_expr) end;
  v_every    interval := case when p_cron_expression is null then coalesce(p_every, v_schedule.every) end;
  v_timezone text := coalesce(p_timezone, v_schedule.timezone);
begin
  if p_cron_expression is not null and p_every is not null then
    raise exception sqlstate 'PS422' using message = 'give one of p_cron_expression and p_every, and not both';
  elsif coalesce(p_cron_expression, p_every::text, p_timezone) is null then
    raise exception sqlstate 'PS422' using message = 'give p_cron_expression, p_every or p_timezone: there is nothing to change';
  elsif v_cron is null and p_timezone is not null then
    raise exception sqlstate 'PS422' using message = 'p_timezone is not for a schedule with `every`, which is elapsed time';
  elsif v_cron is not null then
    perform pgsched.check_cron(v_cron, v_timezone);
  else
    perform pgsched.check_every(v_every);
  end if;

  update pgsched.schedules as s
  set cron_expr = v_cron, every = v_every, timezone = v_timezone
  where s.id = v_schedule.id;
end;
$$;

comment on function pgsched.reschedule(text, text, interval, text) is
  'Change the time of a schedule at once, and nothing else; what is null stays as it is.';

create function pgsched.pause_schedule(
  p_schedule text,
  p_note     text        default null,
  p_until    timestamptz default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now      timestamptz := pgsched.now();
  v_schedule pgsched.schedules := pgsched.lock_schedule(p_schedule);
begin
  if p_until <= v_now or p_until > '9999-12-29 00:00+00' then
    raise exception sqlstate 'PS422' using
      message = format('p_until must be in the future, and within the year 9999, not %s', p_until);
  end if;

  update pgsched.schedules as s
  set
    is_active    = false,
    paused_at    = coalesce(s.paused_at, v_now),
    paused_until = p_until,
    pause_note   = p_note
  where s.id = v_schedule.id;
end;
$$;

comment on function pgsched.pause_schedule(text, text, timestamptz) is
  'Stop a schedule from firing, until somebody resumes it or until p_until; its tasks go on.  What falls into the pause is not missed.';

create function pgsched.resume_schedule(p_schedule text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule pgsched.schedules := pgsched.lock_schedule(p_schedule);
begin
  if v_schedule.run_count >= v_schedule.max_runs and v_schedule.paused_at is null then
    raise exception sqlstate 'PS409' using
      message = format('schedule %L has made all of its %s runs', v_schedule.name, v_schedule.max_runs),
      hint = 'Give it a larger max_runs to let it go on.';
  end if;

  update pgsched.schedules as s
  set is_active = true, paused_until = null
  where s.id = v_schedule.id
    and not s.is_active;
end;
$$;

comment on function pgsched.resume_schedule(text) is
  'Let a schedule fire again, from now on.';

create function pgsched.trigger_schedule(
  p_schedule        text,
  p_input_params    jsonb default null,
  p_idempotency_key text  default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule pgsched.schedules := pgsched.find_own_schedule(p_schedule);
  v_id       uuid;
begin
  perform pgsched.check_payload('p_input_params', p_input_params);
  v_id := pgsched.enqueue_task(
    pgsched.find_definition(v_schedule.definition_id::text), 'CRON', pgsched.now(),
    v_schedule.input_params || coalesce(p_input_params, '{}'), v_schedule.trace_id, v_schedule.priority,
    v_schedule.queue, v_schedule.schedule_config, p_idempotency_key, v_schedule.id
  );

  -- A key that was used before makes no new task.
  if not exists (
    select
    from pgsched.schedule_changes as c
    where c.schedule_id = v_schedule.id
      and c.change = 'TRIGGERED'
      and c.new_values = jsonb_build_object('task_id', v_id)
  ) then
    perform pgsched.log_schedule_act(v_schedule, 'TRIGGERED', jsonb_build_object('task_id', v_id));
  end if;

  return v_id;
end;
$$;

comment on function pgsched.trigger_schedule(text, jsonb, text) is
  'Run a schedule now, also while it is paused; neither skips nor is skipped, and is no fire of the ledger.  Returns the task''s id.';

create function pgsched.delete_schedule(p_schedule text)
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
  v_schedule pgsched.schedules := pgsched.lock_schedule(p_schedule);
  v_ids      uuid[];
begin
  v_ids := array(
    select t.id
    from pgsched.scheduled_tasks as t
    where t.schedule_id = v_schedule.id
      and t.status = 'PENDING'
    for update skip locked
  );

  perform pgsched.record_events(v_ids, 'CANCELLED', 'its schedule was deleted', v_now);
  perform pgsched.finish_tasks(
    array(
      select row(c.id, 'CANCELLED', 'its schedule was deleted by ' || session_user, null, null, null, null)::pgsched.task_end
      from unnest(v_ids) as c (id)
    ),
    v_now
  );

  delete from pgsched.schedules as s
  where s.id = v_schedule.id;

  return cardinality(v_ids);
end;
$$;

comment on function pgsched.delete_schedule(text) is
  'Delete a schedule and cancel its tasks that wait; those under way go on, and the ledger stays.  Returns how many were cancelled.';

-- A definition's own schedule --------------------------------------------

-- Temporary definitions may share a name, schedules may not.
create function pgsched.own_schedule_name(p_definition pgsched.task_definitions)
  returns text
  language sql
  immutable
  return p_definition.name || case when p_definition.is_temporary then ' ' || p_definition.id else '' end;

comment on function pgsched.own_schedule_name(pgsched.task_definitions) is
  'The name of the schedule that the cron_expr of a definition is.';

-- Takes the time from the definition, and leaves what else was set.
create function pgsched.keep_own_schedule()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_name     text := pgsched.own_schedule_name(new);
  v_timezone text := coalesce(new.schedule_config ->> 'timezone', 'UTC');
  v_own      pgsched.schedules;
begin
  select s.*
  into v_own
  from pgsched.schedules as s
  where s.definition_id = new.id
    and (s.is_own or s.name = v_name)
  order by s.is_own desc
  limit 1;

  if new.cron_expr is null then
    if v_own.is_own then
      perform pgsched.delete_schedule(v_own.id::text);
    end if;

    return null;
  end if;

  perform pgsched.check_cron(new.cron_expr, v_timezone, 'p_cron_expr', 'schedule_config.timezone');

  if v_own.id is null then
    insert into pgsched.schedules (definition_id, name, cron_expr, timezone, is_own)
    values (new.id, v_name, new.cron_expr, v_timezone, true);
  else
    update pgsched.schedules as s
    set name = v_name, cron_expr = new.cron_expr, every = null, timezone = v_timezone, is_own = true
    where s.id = v_own.id;
  end if;

  return null;
exception
  when unique_violation then
    raise exception sqlstate 'PS409' using
      message = format('cron_expr: another definition has a schedule of the name %L', v_name),
      hint = 'Delete or rename that schedule in pgsched.schedules, or leave cron_expr out and call schedule_cron() with another p_name.';
end;
$$;

comment on function pgsched.keep_own_schedule() is
  'Make, change or delete the schedule that the cron_expr of a definition is.';

create trigger task_definitions_after_insert_own_schedule
  after insert on pgsched.task_definitions
  for each row
  when (new.cron_expr is not null)
  execute function pgsched.keep_own_schedule();

create trigger task_definitions_after_update_own_schedule
  after update of cron_expr, name, schedule_config on pgsched.task_definitions
  for each row
  when (
    (old.cron_expr, old.name, old.schedule_config ->> 'timezone')
      is distinct from (new.cron_expr, new.name, new.schedule_config ->> 'timezone')
  )
  execute function pgsched.keep_own_schedule();

revoke execute on all routines in schema pgsched from public;

commit;
