-- 006 schedule
--
-- The write side: every function here runs in the caller's transaction, so a
-- task exists if and only if the caller's own rows do.  None takes a lock
-- that another enqueue or a settle waits for.  A new trace is a plain random
-- UUID: nothing is sorted by it.
--
--   schedule_immediate()   now
--   schedule_delayed()     after a while
--   schedule_at()          at a time
--   schedule_loop()        round after round
--   trigger_loop_once()    one round
--   schedule_many()        a list, now or later
--
-- Adds   the above, check_payload(), hold_key(), await_tasks(), enqueue_task(), new_task,
--        refuse_unreadable(), refuse_task(), hold_keys()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(6, 'schedule');

create function pgsched.check_payload(p_field text, p_payload jsonb)
  returns void
  language plpgsql
  immutable
as $$
begin
  if jsonb_typeof(p_payload) <> 'object' then
    raise exception sqlstate 'PS422' using
      message = format('%s must be a JSON object, not %s', p_field, jsonb_typeof(p_payload));
  elsif octet_length(p_payload::text) > 262144 then
    raise exception sqlstate 'PS422' using
      message = format('%s has %s bytes, more than the 262144 (256 KiB) allowed', p_field, octet_length(p_payload::text)),
      hint = 'Store the data elsewhere and pass a reference to it.';
  end if;
end;
$$;

comment on function pgsched.check_payload(text, jsonb) is
  'PS422 when a payload is not an object or is larger than 256 KiB.';

-- A hit takes no lock: `do nothing`, then read in the next statement, whose
-- snapshot is new.
create function pgsched.hold_key(
  p_definition_id uuid,
  p_key           text,
  p_task_id       uuid,
  p_input_params  jsonb
)
  returns uuid
  language plpgsql
as $$
declare
  v_now  timestamptz := pgsched.now();
  v_hash bytea := sha256(convert_to(p_input_params::text, 'UTF8'));
  v_held pgsched.idempotency_keys;
begin
  if length(p_key) not between 1 and 255 then
    raise exception sqlstate 'PS422' using
      message = format('p_idempotency_key must have 1 to 255 characters, not %s', length(p_key));
  end if;

  loop
    insert into pgsched.idempotency_keys (definition_id, key, task_id, input_hash, expires_at)
    values (p_definition_id, p_key, p_task_id, v_hash, v_now + interval '24 hours')
    on conflict do nothing;

    if found then
      return p_task_id;
    end if;

    select k.*
    into v_held
    from pgsched.idempotency_keys as k
    where k.definition_id = p_definition_id
      and k.key = p_key;

    if found and (v_held.expires_at > v_now or pgsched.is_unfinished(v_held.task_id)) then
      if v_held.input_hash <> v_hash then
        raise exception sqlstate 'PS409' using
          message = format('p_idempotency_key %L was used for task %s with other input_params', p_key, v_held.task_id),
          hint = 'Use a new key for a new task.';
      end if;

      return v_held.task_id;
    end if;

    delete from pgsched.idempotency_keys as k
    where k.definition_id = p_definition_id
      and k.key = p_key
      and k.expires_at <= v_now;
  end loop;
end;
$$;

comment on function pgsched.hold_key(uuid, text, uuid, jsonb) is
  'The task an idempotency key stands for: p_task_id when the key is new, else the first one.';

create function pgsched.is_unfinished(p_task_id uuid)
  returns boolean
  language sql
  stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
begin atomic
  select exists (select from pgsched.scheduled_tasks as t where t.id = p_task_id)
    or exists (select from pgsched.scheduled_tasks as t where t.loop_id = p_task_id);
end;

comment on function pgsched.is_unfinished(uuid) is
  'Whether a task, or a round of the loop it began, is unfinished.';

-- Locks nothing: a dependency may end meanwhile, and nobody has seen the edge
-- then.  resolve_dependencies() finds it.
create function pgsched.await_tasks(
  p_subject               text,
  p_task_id               uuid,
  p_depends_on            uuid[],
  p_on_dependency_failure text
)
  returns integer
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_since  timestamptz := pgsched.earliest_end(p_depends_on);
  v_count  integer;
  v_id     uuid;
  v_status text;
begin
  if array_position(p_depends_on, null) is not null then
    raise exception sqlstate 'PS422' using message = format('%s must not hold null', p_subject);
  end if;

  with wanted as materialized (
    select
      d.id,
      coalesce(
        (select t.status from pgsched.scheduled_tasks as t where t.id = d.id),
        (select i.status from pgsched.task_instances as i where i.id = d.id and i.finished_at >= v_since)
      ) as status
    from (select distinct u.id from unnest(p_depends_on) as u (id)) as d
  ),
  awaited as (
    insert into pgsched.task_dependencies (task_id, depends_on_id)
    select p_task_id, w.id
    from wanted as w
    where w.status in ('PENDING', 'SCHEDULED', 'DISPATCHED', 'RUNNING')
    returning task_id
  ),
  refused as (
    select w.id, w.status
    from wanted as w
    where w.status is null
      or (w.status in ('FAILED', 'CANCELLED') and p_on_dependency_failure = 'cancel')
    order by w.status nulls first, w.id
    limit 1
  )
  select (select count(*) from awaited as a), r.id, r.status
  into v_count, v_id, v_status
  from (values (true)) as one
  left join refused as r
    on true;

  if v_id is not null and v_status is null then
    raise exception sqlstate 'PS404' using
      message = format('%s: task %s does not exist', p_subject, v_id),
      hint = 'A task of a transaction that has not committed is not there yet for others.';
  elsif v_id is not null then
    raise exception sqlstate 'PS409' using
      message = format('%s: task %s is %s', p_subject, v_id, v_status),
      hint = 'Retry that one first, with pgsched.retry_task().  A definition whose on_dependency_failure is run does not mind.';
  end if;

  return v_count;
end;
$$;

comment on function pgsched.await_tasks(text, uuid, uuid[], text) is
  'Write an edge to each of these tasks that is unfinished.  Returns how many.  PS404, PS409 when one does not exist, or has failed.';

create function pgsched.enqueue_task(
  p_definition      pgsched.task_definitions,
  p_schedule_type   text,
  p_scheduled_time  timestamptz,
  p_input_params    jsonb   default null,
  p_trace_id        uuid    default null,
  p_priority        integer default null,
  p_queue           text    default null,
  p_schedule_config jsonb   default null,
  p_idempotency_key text    default null,
  p_schedule_id     uuid    default null,
  p_depends_on      uuid[]  default null
)
  returns uuid
  language plpgsql
as $$
declare
  v_now    timestamptz := pgsched.now();
  v_id     uuid := pgsched.uuid7(v_now);
  v_held   uuid;
  v_count  integer := 0;
  v_after  uuid[] := nullif(p_depends_on, '{}');
  v_params jsonb := p_definition.input_params || coalesce(p_input_params, '{}');
  v_config jsonb := p_definition.schedule_config || coalesce(p_schedule_config, '{}');
begin
  if not p_definition.is_active then
    raise exception sqlstate 'PS409' using
      message = format('task definition %L is not active', p_definition.name),
      hint = 'Set is_active in pgsched.task_definitions to schedule it again.';
  elsif p_scheduled_time is null or p_scheduled_time not between '0001-01-03 00:00+00' and '9999-12-29 00:00+00' then
    raise exception sqlstate 'PS422' using
      message = format('p_scheduled_time must be within the years 1 to 9999, not %s', coalesce(p_scheduled_time::text, 'null'));
  end if;

  perform pgsched.check_payload('p_input_params', p_input_params);
  perform pgsched.check_payload('input_params with the defaults of the definition', v_params);
  perform pgsched.check_payload('p_schedule_config', p_schedule_config);
  perform pgsched.check_priority(p_priority);

  if p_queue is not null then
    perform pgsched.check_queue(p_queue);
  end if;

  if p_idempotency_key is not null then
    v_held := pgsched.hold_key(p_definition.id, p_idempotency_key, v_id, coalesce(p_input_params, '{}'));

    if v_held <> v_id then
      return v_held;
    end if;
  end if;

  if v_after is not null then
    v_count := pgsched.await_tasks('p_depends_on', v_id, v_after, p_definition.on_dependency_failure);
  end if;

  insert into pgsched.scheduled_tasks (
    id, queue, priority, schedule_type, scheduled_time, execute_after, pending_dependencies, depends_on,
    on_dependency_failure, max_retries, definition_id, schedule_id, trace_id, loop_id, input_params,
    schedule_config, created_at
  )
  values (
    v_id,
    coalesce(p_queue, p_definition.queue),
    coalesce(p_priority, p_definition.priority),
    p_schedule_type,
    p_scheduled_time,
    greatest(p_scheduled_time, v_now),
    v_count,
    v_after,
    case when v_after is not null then p_definition.on_dependency_failure end,
    p_definition.max_retries,
    p_definition.id,
    p_schedule_id,
    coalesce(p_trace_id, gen_random_uuid()),
    case when p_schedule_type in ('LOOP', 'INTERVAL_LOOP') then v_id end,
    v_params,
    v_config,
    v_now
  );

  return v_id;
end;
$$;

comment on function pgsched.enqueue_task(pgsched.task_definitions, text, timestamptz, jsonb, uuid, integer, text, jsonb, text, uuid, uuid[]) is
  'Write one task; the public functions of this file end here.';

create function pgsched.schedule_immediate(
  p_definition      text,
  p_input_params    jsonb   default null,
  p_trace_id        uuid    default null,
  p_priority        integer default null,
  p_queue           text    default null,
  p_idempotency_key text    default null,
  p_schedule_config jsonb   default null,
  p_depends_on      uuid[]  default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return pgsched.enqueue_task(
    pgsched.find_definition(p_definition), 'IMMEDIATE', pgsched.now(), p_input_params,
    p_trace_id, p_priority, p_queue, p_schedule_config, p_idempotency_key,
    p_depends_on => p_depends_on
  );
end;
$$;

comment on function pgsched.schedule_immediate(text, jsonb, uuid, integer, text, text, jsonb, uuid[]) is
  'Run a definition as soon as this transaction has committed.  Returns the task''s id.';

create function pgsched.schedule_delayed(
  p_definition      text,
  p_delay           interval,
  p_input_params    jsonb   default null,
  p_trace_id        uuid    default null,
  p_priority        integer default null,
  p_queue           text    default null,
  p_idempotency_key text    default null,
  p_schedule_config jsonb   default null,
  p_depends_on      uuid[]  default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if p_delay is null or p_delay < interval '0' then
    raise exception sqlstate 'PS422' using
      message = format('p_delay must not be negative or null, not %s', coalesce(p_delay::text, 'null')),
      hint = 'Use schedule_immediate() for what is due now.';
  elsif p_delay > interval '1000 years' then
    raise exception sqlstate 'PS422' using message = format('p_delay must not be more than 1000 years, not %s', p_delay);
  end if;

  return pgsched.enqueue_task(
    pgsched.find_definition(p_definition), 'DELAYED', pgsched.now() + p_delay, p_input_params,
    p_trace_id, p_priority, p_queue, p_schedule_config, p_idempotency_key,
    p_depends_on => p_depends_on
  );
end;
$$;

comment on function pgsched.schedule_delayed(text, interval, jsonb, uuid, integer, text, text, jsonb, uuid[]) is
  'Run a definition once, after a delay.  Returns the task''s id.';

create function pgsched.schedule_at(
  p_definition      text,
  p_scheduled_time  timestamptz,
  p_input_params    jsonb   default null,
  p_trace_id        uuid    default null,
  p_priority        integer default null,
  p_queue           text    default null,
  p_idempotency_key text    default null,
  p_schedule_config jsonb   default null,
  p_depends_on      uuid[]  default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return pgsched.enqueue_task(
    pgsched.find_definition(p_definition), 'DELAYED', p_scheduled_time, p_input_params,
    p_trace_id, p_priority, p_queue, p_schedule_config, p_idempotency_key,
    p_depends_on => p_depends_on
  );
end;
$$;

comment on function pgsched.schedule_at(text, timestamptz, jsonb, uuid, integer, text, text, jsonb, uuid[]) is
  'Run a definition once, at a time; one in the past is due now.  Returns the task''s id.';

create function pgsched.schedule_loop(
  p_definition      text,
  p_max_rounds      integer  default null,
  p_loop_interval   interval default null,
  p_input_params    jsonb    default null,
  p_trace_id        uuid     default null,
  p_priority        integer  default null,
  p_queue           text     default null,
  p_idempotency_key text     default null,
  p_schedule_config jsonb    default null,
  p_depends_on      uuid[]   default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_definition pgsched.task_definitions := pgsched.find_definition(p_definition);
  v_config     jsonb := v_definition.loop_config || coalesce(p_schedule_config, '{}')
    || jsonb_strip_nulls(jsonb_build_object(
      'max_rounds', p_max_rounds,
      'loop_interval', extract(epoch from p_loop_interval)
    ));
begin
  perform pgsched.check_loop_config(v_definition.schedule_config || v_config);

  return pgsched.enqueue_task(
    v_definition,
    case when (v_config ->> 'loop_interval')::numeric > 0 then 'INTERVAL_LOOP' else 'LOOP' end,
    pgsched.now(), p_input_params, p_trace_id, p_priority, p_queue, v_config, p_idempotency_key,
    p_depends_on => p_depends_on
  );
end;
$$;

comment on function pgsched.schedule_loop(text, integer, interval, jsonb, uuid, integer, text, text, jsonb, uuid[]) is
  'Run a definition round after round: p_max_rounds times (null: the definition''s, or until stopped), p_loop_interval apart.  schedule_config may say interval_from and on_failure.  Returns the id of the first round.';

create function pgsched.trigger_loop_once(
  p_definition      text,
  p_input_params    jsonb   default null,
  p_trace_id        uuid    default null,
  p_priority        integer default null,
  p_queue           text    default null,
  p_idempotency_key text    default null,
  p_schedule_config jsonb   default null,
  p_depends_on      uuid[]  default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return pgsched.enqueue_task(
    pgsched.find_definition(p_definition), 'LOOP_ONCE', pgsched.now(), p_input_params,
    p_trace_id, p_priority, p_queue, p_schedule_config, p_idempotency_key,
    p_depends_on => p_depends_on
  );
end;
$$;

comment on function pgsched.trigger_loop_once(text, jsonb, uuid, integer, text, text, jsonb, uuid[]) is
  'Run a single round of a loop.  Returns the task''s id.';

-- Many at once -------------------------------------------------------------

create type pgsched.new_task as (
  definition      text,
  input_params    jsonb,
  scheduled_time  timestamptz,
  delay           double precision,
  priority        integer,
  queue           text,
  trace_id        uuid,
  idempotency_key text,
  schedule_config jsonb
);

comment on type pgsched.new_task is
  'One task of the list that schedule_many() is given; delay is in seconds.';

-- Only a list that could not be read pays for this.
create function pgsched.refuse_unreadable(p_tasks jsonb)
  returns void
  language plpgsql
as $$
declare
  v_task  jsonb;
  v_index bigint;
  v_field text;
begin
  for v_task, v_index in
    select e.task, e.n - 1 from jsonb_array_elements(p_tasks) with ordinality as e (task, n) order by e.n
  loop
    if jsonb_typeof(v_task) <> 'object' then
      raise exception sqlstate 'PS422' using
        message = format('tasks[%s] must be a JSON object, not %s', v_index, jsonb_typeof(v_task));
    end if;

    begin
      v_field := null;
      perform jsonb_populate_record(null::pgsched.new_task, v_task);

      continue;
    exception
      when data_exception then
        null;
    end;

    for v_field in select k.name from jsonb_object_keys(v_task) as k (name) loop
      perform jsonb_populate_record(null::pgsched.new_task, jsonb_build_object(v_field, v_task -> v_field));
    end loop;
  end loop;
exception
  when data_exception then
    raise exception sqlstate 'PS422' using message = format('tasks[%s].%s: %s', v_index, v_field, sqlerrm);
end;
$$;

comment on function pgsched.refuse_unreadable(jsonb) is
  'PS422 that names the first field of a list of tasks that cannot be read.';

create function pgsched.refuse_task(
  p_index      bigint,
  p_task       pgsched.new_task,
  p_definition pgsched.task_definitions
)
  returns void
  language plpgsql
  stable
as $$
declare
  v_place text := format('tasks[%s]', p_index);
begin
  if p_definition.id is null then
    raise exception sqlstate 'PS404' using
      message = format('%s.definition: no task definition has the name or id %L', v_place, p_task.definition),
      hint = 'Create it with pgsched.define_task().';
  elsif not p_definition.is_active then
    raise exception sqlstate 'PS409' using
      message = format('%s.definition: task definition %L is not active', v_place, p_definition.name),
      hint = 'Set is_active in pgsched.task_definitions to schedule it again.';
  elsif p_task.delay is not null and p_task.scheduled_time is not null then
    raise exception sqlstate 'PS422' using
      message = format('%s.delay: give one of delay and scheduled_time, and not both', v_place);
  elsif p_task.delay not between 0 and 31104000000 then
    raise exception sqlstate 'PS422' using
      message = format('%s.delay must be from 0 to 31104000000 seconds (1000 years), not %s', v_place, p_task.delay);
  elsif p_task.scheduled_time not between '0001-01-03 00:00+00' and '9999-12-29 00:00+00' then
    raise exception sqlstate 'PS422' using
      message = format('%s.scheduled_time must be within the years 1 to 9999, not %s', v_place, p_task.scheduled_time);
  elsif p_task.priority not between -9 and 9 then
    raise exception sqlstate 'PS422' using
      message = format('%s.priority must be from -9 (background) to 9 (urgent), not %s', v_place, p_task.priority);
  elsif length(p_task.idempotency_key) not between 1 and 255 then
    raise exception sqlstate 'PS422' using
      message = format('%s.idempotency_key must have 1 to 255 characters, not %s', v_place, length(p_task.idempotency_key));
  end if;

  perform pgsched.check_payload(v_place || '.input_params', p_task.input_params);
  perform pgsched.check_payload(v_place || '.schedule_config', p_task.schedule_config);
  perform pgsched.check_payload(
    v_place || '.input_params with the defaults of the definition',
    p_definition.input_params || coalesce(p_task.input_params, '{}')
  );

  raise exception sqlstate 'PS404' using
    message = format('%s.queue: queue %L does not exist', v_place, p_task.queue),
    hint = 'Create it with pgsched.define_queue().';
end;
$$;

comment on function pgsched.refuse_task(bigint, pgsched.new_task, pgsched.task_definitions) is
  'Say what is wrong with one task of a list: PS404, PS409 or PS422.';

-- What hold_key() does, for many.  The order of the keys is the same for all
-- callers, so that two of them never wait for each other in a circle.  Each key
-- is looked up by the primary key, however many others are held: the caller's
-- enable_nestloop does not hold here.
create function pgsched.hold_keys(p_indexes bigint[], p_keys pgsched.idempotency_keys[])
  returns uuid[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_nestloop = on
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now    timestamptz := pgsched.now();
  v_held   uuid[];
  v_reused record;
begin
  loop
    insert into pgsched.idempotency_keys (definition_id, key, task_id, input_hash, expires_at)
    select distinct on (g.definition_id, g.key) g.definition_id, g.key, g.task_id, g.input_hash, g.expires_at
    from unnest(p_indexes, p_keys) as g (i)
    order by g.definition_id, g.key, g.i
    on conflict do nothing;

    delete from pgsched.idempotency_keys as k
    using unnest(p_keys) as g
    where k.definition_id = g.definition_id
      and k.key = g.key
      and k.expires_at <= v_now
      and not pgsched.is_unfinished(k.task_id);

    continue when found;

    v_held := array(
      select k.task_id
      from unnest(p_indexes, p_keys) as g (i)
      left join pgsched.idempotency_keys as k
        on k.definition_id = g.definition_id
        and k.key = g.key
      order by g.i
    );

    -- Null: somebody has deleted it between these statements.
    exit when array_position(v_held, null) is null;
  end loop;

  select g.i, g.key, k.task_id
  into v_reused
  from unnest(p_indexes, p_keys) as g (i)
  join pgsched.idempotency_keys as k
    on k.definition_id = g.definition_id
    and k.key = g.key
  where k.input_hash <> g.input_hash
  order by g.i
  limit 1;

  if found then
    raise exception sqlstate 'PS409' using
      message = format(
        'tasks[%s].idempotency_key %L was used for task %s with other input_params',
        v_reused.i, v_reused.key, v_reused.task_id
      ),
      hint = 'Use a new key for a new task.';
  end if;

  return v_held;
end;
$$;

comment on function pgsched.hold_keys(bigint[], pgsched.idempotency_keys[]) is
  'The tasks that idempotency keys stand for, in the order of p_indexes, which ascend: their own when the key is new, else the first one.';

create function pgsched.schedule_many(p_tasks jsonb)
  returns uuid[]
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off
  set plan_cache_mode = force_generic_plan
  set enable_nestloop = off
as $$
declare
  c_fields      constant text[] := '{definition, input_params, scheduled_time, delay, priority, queue, trace_id, idempotency_key, schedule_config}';
  v_now         timestamptz := pgsched.now();
  v_tasks       pgsched.new_task[];
  v_ids         uuid[];
  v_names       text[];
  v_definitions pgsched.task_definitions[];
  v_bad         bigint;
  v_indexes     bigint[];
  v_keys        pgsched.idempotency_keys[];
  v_held        uuid[];
begin
  if jsonb_typeof(p_tasks) is distinct from 'array' or jsonb_array_length(p_tasks) > 100000 then
    raise exception sqlstate 'PS422' using
      message = 'p_tasks must be a JSON array of at most 100000 tasks',
      hint = 'Send more of them in several calls.';
  end if;

  begin
    select
      array_agg(jsonb_populate_record(null::pgsched.new_task, e.task)),
      min(e.n) filter (where e.task - c_fields <> '{}')
    into v_tasks, v_bad
    from jsonb_array_elements(p_tasks) with ordinality as e (task, n);
  exception
    when data_exception then
      perform pgsched.refuse_unreadable(p_tasks);

      raise;
  end;

  if v_bad is not null then
    raise exception sqlstate 'PS422' using
      message = format(
        'tasks[%s].%s: no task has such a field',
        v_bad - 1,
        (select k.name from jsonb_object_keys((p_tasks -> v_bad::integer - 1) - c_fields) as k (name) limit 1)
      ),
      hint = 'There are ' || array_to_string(c_fields, ', ') || '.';
  end if;

  select array_agg(g.name), array_agg(f.definition)
  into v_names, v_definitions
  from (select distinct t.definition from unnest(v_tasks) as t) as g (name)
  cross join lateral (
    (
      select d as definition
      from pgsched.task_definitions as d
      where d.name = g.name
        and not d.is_temporary
    )
    union all
    (
      select d
      from pgsched.task_definitions as d
      where d.id = case when g.name ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' then g.name::uuid end
    )
    limit 1
  ) as f;

  -- The first that refuse_task() would refuse.  With the defaults laid under
  -- them input_params do not get shorter.
  select t.n
  into v_bad
  from unnest(v_tasks) with ordinality
    as t (definition, input_params, scheduled_time, delay, priority, queue, trace_id, idempotency_key, schedule_config, n)
  left join unnest(v_names, v_definitions) as d (given)
    on d.given = t.definition
  left join pgsched.queues as q
    on q.name = t.queue
  where d.id is null
    or not d.is_active
    or (t.delay is not null and t.scheduled_time is not null)
    or t.delay not between 0 and 31104000000
    or t.scheduled_time not between '0001-01-03 00:00+00' and '9999-12-29 00:00+00'
    or t.priority not between -9 and 9
    or length(t.idempotency_key) not between 1 and 255
    or (t.queue is not null and q.name is null)
    or case
      when jsonb_typeof(t.input_params) <> 'object' then true
      else octet_length((d.input_params || coalesce(t.input_params, '{}'))::text) > 262144
    end
    or jsonb_typeof(t.schedule_config) <> 'object'
    or octet_length(t.schedule_config::text) > 262144
  order by t.n
  limit 1;

  if found then
    perform pgsched.refuse_task(
      v_bad - 1, v_tasks[v_bad], v_definitions[array_position(v_names, v_tasks[v_bad].definition)]
    );
  end if;

  -- Sorted, so that tasks due at the same time run in the order given.
  v_ids := array(select pgsched.uuid7(v_now) as id from generate_series(1, cardinality(v_tasks)) order by id);

  if p_tasks @? '$[*].idempotency_key' then
    select
      array_agg(t.n - 1 order by t.n),
      array_agg(
        row(
          d.id, t.idempotency_key, v_ids[t.n],
          sha256(convert_to(coalesce(t.input_params, '{}')::text, 'UTF8')), v_now + interval '24 hours'
        )::pgsched.idempotency_keys
        order by t.n
      )
    into v_indexes, v_keys
    from unnest(v_tasks) with ordinality
      as t (definition, input_params, scheduled_time, delay, priority, queue, trace_id, idempotency_key, schedule_config, n)
    join unnest(v_names, v_definitions) as d (given)
      on d.given = t.definition
    where t.idempotency_key is not null;
  end if;

  if v_keys is not null then
    v_held := array(
      select coalesce(h.id, i.id)
      from unnest(v_ids) with ordinality as i (id, n)
      left join unnest(v_indexes, pgsched.hold_keys(v_indexes, v_keys)) as h (i, id)
        on h.i = i.n - 1
      order by i.n
    );
  end if;

  -- In the order of the ids, which fills the pages of the primary key.
  insert into pgsched.scheduled_tasks (
    id, queue, priority, schedule_type, scheduled_time, execute_after, max_retries,
    definition_id, trace_id, input_params, schedule_config, created_at
  )
  select
    t.id,
    coalesce(t.queue, d.queue),
    coalesce(t.priority, d.priority),
    case when coalesce(t.scheduled_time, w.time) is null then 'IMMEDIATE' else 'DELAYED' end,
    coalesce(t.scheduled_time, w.time, v_now),
    greatest(t.scheduled_time, w.time, v_now),
    d.max_retries,
    d.id,
    coalesce(t.trace_id, gen_random_uuid()),
    d.input_params || coalesce(t.input_params, '{}'),
    d.schedule_config || coalesce(t.schedule_config, '{}'),
    v_now
  from unnest(v_tasks, v_ids, v_held) as t (
    definition, input_params, scheduled_time, delay, priority, queue, trace_id, idempotency_key, schedule_config, id, held
  )
  join unnest(v_names, v_definitions) as d (given)
    on d.given = t.definition
  cross join lateral (select v_now + make_interval(secs => t.delay)) as w (time)
  where coalesce(t.held, t.id) = t.id
  order by t.id;

  return coalesce(v_held, v_ids);
end;
$$;

comment on function pgsched.schedule_many(jsonb) is
  'Run up to 100,000 tasks, now or later: [{definition, input_params, scheduled_time or delay (seconds), priority, queue, trace_id, idempotency_key, schedule_config}].  All or none; an error names the index and the field.  Returns their ids in the order given.';

revoke execute on all routines in schema pgsched from public;

commit;
