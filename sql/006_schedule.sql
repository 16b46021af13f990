-- 006 schedule
--
-- The write side: every function here runs in the caller's transaction, so a
-- task exists if and only if the caller's own rows do.  None takes a lock
-- that another enqueue or a settle waits for.
--
--   schedule_immediate()   now
--   schedule_delayed()     after a while
--   schedule_at()          at a time
--   schedule_loop()        round after round
--   trigger_loop_once()    one round
--
-- Adds   the above, check_payload(), hold_key(), await_tasks(), enqueue_task()
-- Locks  nothing
-- Undo   drop the above

begin;

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
        (select i.status from pgsched.task_instances as i where i.id = d.id)
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
  v_id     uuid := pgsched.uuid7();
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
    coalesce(p_trace_id, pgsched.uuid7()),
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

commit;
