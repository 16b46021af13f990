-- 012 control
--
-- What people do to single tasks: cancel one, try a failed one again, stop a
-- loop, and the housekeeping.  Each waits at most 5 seconds for a row that
-- another session has locked.
--
-- Adds   lock_task(), refuse_stranger_to_task(), refuse_unless_recorded(), cancel_locked(), cancel_task(), bring_back(), retry_task(), stop_loop(), maintain()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(12, 'control');

create function pgsched.lock_task(p_task_id uuid)
  returns boolean
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
  set lock_timeout = '5s'
as $$
begin
  perform from pgsched.scheduled_tasks as t
  where t.id = p_task_id
  for update;

  return found;
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('task %s is locked by another session', p_task_id),
      hint = 'Try again; pg_locks and pg_stat_activity tell who holds it.';
end;
$$;

comment on function pgsched.lock_task(uuid) is
  'Lock an unfinished task, waiting up to 5 seconds; false when there is none.';

create function pgsched.refuse_stranger_to_task(p_task_id uuid)
  returns void
  language plpgsql
  stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_created_by text := coalesce(
    (select t.created_by from pgsched.scheduled_tasks as t where t.id = p_task_id),
    (
      select i.created_by
      from pgsched.task_instances as i
      where i.id = p_task_id
        and i.finished_at >= pgsched.earliest_end(array[p_task_id])
    )
  );
begin
  if not pgsched.may_change(v_created_by) then
    perform pgsched.refuse_stranger(format('task %s', p_task_id), v_created_by);
  end if;
end;
$$;

comment on function pgsched.refuse_stranger_to_task(uuid) is
  'Raise insufficient_privilege about a task that is another''s; not when there is no such task.';

create function pgsched.refuse_unless_recorded(p_task_id uuid, p_verb text)
  returns void
  language plpgsql
  stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_status text;
begin
  select i.status
  into v_status
  from pgsched.task_instances as i
  where i.id = p_task_id
    and i.finished_at >= pgsched.earliest_end(array[p_task_id]);

  if not found then
    raise exception sqlstate 'PS404' using message = format('task %s does not exist', p_task_id);
  end if;

  raise exception sqlstate 'PS409' using
    message = format('task %s is %s already and cannot be %s', p_task_id, v_status, p_verb);
end;
$$;

comment on function pgsched.refuse_unless_recorded(uuid, text) is
  'Raise PS409 for a task of the record, PS404 for one that does not exist.';

create function pgsched.cancel_locked(p_task_ids uuid[], p_reason text, p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_waiting   uuid[];
  v_schedules uuid[];
begin
  -- Behind a run that waited for another, the next one waits for that other.
  select array_agg(t.id), array_agg(t.schedule_id)
  into v_waiting, v_schedules
  from pgsched.scheduled_tasks as t
  where t.id = any (p_task_ids)
    and t.pending_dependencies > 0
    and t.schedule_id is not null;

  update pgsched.schedules as s
  set last_task_id = (
    select d.depends_on_id
    from pgsched.task_dependencies as d
    where d.task_id = s.last_task_id
    limit 1
  )
  where s.id = any (v_schedules)
    and s.last_task_id = any (v_waiting);

  perform pgsched.record_events(p_task_ids, 'CANCELLED', p_reason, p_now);
  perform pgsched.finish_tasks(
    array(
      select row(c.id, 'CANCELLED', p_reason, null, null, null, null)::pgsched.task_end
      from unnest(p_task_ids) as c (id)
    ),
    p_now
  );
end;
$$;

comment on function pgsched.cancel_locked(uuid[], text, timestamptz) is
  'Cancel unfinished tasks that the caller has locked.';

create function pgsched.cancel_task(p_task_id uuid, p_reason text default null)
  returns text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now    timestamptz := pgsched.now();
  v_reason text := left(coalesce(p_reason, 'cancelled by ' || session_user), 8192);
begin
  perform pgsched.refuse_stranger_to_task(p_task_id);

  if not pgsched.lock_task(p_task_id) then
    perform pgsched.refuse_unless_recorded(p_task_id, 'cancelled');
  end if;

  perform pgsched.cancel_locked(array[p_task_id], v_reason, v_now);

  return 'CANCELLED';
end;
$$;

comment on function pgsched.cancel_task(uuid, text) is
  'Cancel an unfinished task.  An executor that works on it is told, and learns so from the 409 to its next report as well.  Returns its status.';

-- The same id comes back, as a new attempt with a fresh budget.
create function pgsched.bring_back(p_task pgsched.task_instances, p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_count integer := 0;
begin
  if not exists (select from pgsched.task_definitions as d where d.id = p_task.definition_id)
    or not exists (select from pgsched.queues as q where q.name = p_task.queue)
  then
    raise exception sqlstate 'PS409' using
      message = format('task %s cannot be retried: its definition or its queue does not exist any more', p_task.id);
  end if;

  -- What it waited for when it was cancelled.
  delete from pgsched.task_dependencies as d
  where d.task_id = p_task.id;

  -- What the record has forgotten is not waited for: nobody could retry it.
  if p_task.depends_on is not null then
    v_count := pgsched.await_tasks(
      format('task %s cannot be retried', p_task.id),
      p_task.id,
      array(
        select u.id
        from unnest(p_task.depends_on) as u (id)
        where (select t.id from pgsched.scheduled_tasks as t where t.id = u.id) is not null
          or (select i.id from pgsched.task_instances as i where i.id = u.id) is not null
      ),
      p_task.on_dependency_failure
    );
  end if;

  insert into pgsched.scheduled_tasks (
    id, queue, priority, schedule_type, scheduled_time, execute_after, pending_dependencies, depends_on,
    on_dependency_failure, attempt, max_retries, error_msg, definition_id, schedule_id, trace_id, loop_id, next_task_id, round_index, input_params, schedule_config,
    worker_id, delivery_count, created_by, created_at
  )
  values (
    p_task.id, p_task.queue, p_task.priority, p_task.schedule_type, p_task.scheduled_time, p_now,
    v_count, p_task.depends_on, p_task.on_dependency_failure, p_task.attempt + 1, p_task.max_retries, p_task.error_msg, p_task.definition_id, p_task.schedule_id,
    p_task.trace_id, p_task.loop_id, p_task.next_task_id, p_task.round_index, p_task.input_params,
    p_task.schedule_config, p_task.worker_id, p_task.delivery_count, p_task.created_by, p_task.created_at
  );

  perform pgsched.record_events(array[p_task.id], 'OPERATOR_RETRY', 'was ' || p_task.status, p_now);
  perform pgsched.tell_statuses(array[row(p_task.id, 'PENDING', p_task.error_msg)::pgsched.status_news], p_now);

  -- The retry of an old run holds up no later one.
  update pgsched.schedules as s
  set last_task_id = null
  where s.id = p_task.schedule_id
    and s.last_task_id = p_task.id;
end;
$$;

comment on function pgsched.bring_back(pgsched.task_instances, timestamptz) is
  'Make a task that was just taken from the record PENDING again, or raise PS409.';

create function pgsched.retry_task(p_task_id uuid)
  returns text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set lock_timeout = '5s'
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_task pgsched.task_instances;
begin
  -- Twice: it may have ended while it was waited for.
  for v_look in 1..2 loop
    delete from pgsched.task_instances as i
    where i.id = p_task_id
      and i.finished_at >= pgsched.earliest_end(array[p_task_id])
      and i.status <> 'SUCCESS'
    returning i.* into v_task;

    exit when found;

    if pgsched.lock_task(p_task_id) then
      raise exception sqlstate 'PS409' using
        message = format('task %s is not finished; only FAILED and CANCELLED tasks can be retried', p_task_id);
    end if;
  end loop;

  if v_task.id is null then
    perform pgsched.refuse_unless_recorded(p_task_id, 'retried');
  end if;

  perform pgsched.bring_back(v_task, pgsched.now());

  return 'PENDING';
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('task %s is locked by another session', p_task_id),
      hint = 'Try again; pg_locks and pg_stat_activity tell who holds it.';
end;
$$;

comment on function pgsched.retry_task(uuid) is
  'Run a FAILED or CANCELLED task again, as a new attempt with a fresh budget; it waits again for what it depends on.  Returns its status.';

-- Goes by the loop, whichever round was named.  Every look takes a fresh
-- snapshot: the round that was there may end, and the next begin, meanwhile.
create function pgsched.stop_loop(p_task_id uuid)
  returns uuid
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
  v_loop_id uuid;
  v_round   pgsched.scheduled_tasks;
begin
  select coalesce(
    (select t.loop_id from pgsched.scheduled_tasks as t where t.id = p_task_id),
    (
      select i.loop_id
      from pgsched.task_instances as i
      where i.id = p_task_id
        and i.finished_at >= pgsched.earliest_end(array[p_task_id])
    )
  )
  into v_loop_id;

  if v_loop_id is null then
    raise exception sqlstate 'PS404' using message = format('no round of a loop has the id %s', p_task_id);
  end if;

  perform pgsched.refuse_stranger_to_task(p_task_id);

  loop
    select t.*
    into v_round
    from pgsched.scheduled_tasks as t
    where t.loop_id = v_loop_id
      and t.next_task_id is null
    limit 1;

    if not found then
      return null;
    end if;

    exit when pgsched.lock_task(v_round.id);
  end loop;

  select t.*
  into v_round
  from pgsched.scheduled_tasks as t
  where t.id = v_round.id;

  perform pgsched.record_events(array[v_round.id], 'LOOP_STOPPED', null, v_now);

  if v_round.status = 'PENDING' then
    perform pgsched.finish_tasks(
      array[row(v_round.id, 'CANCELLED', 'loop stopped by ' || session_user, null, null, null, null)::pgsched.task_end],
      v_now
    );
  else
    update pgsched.scheduled_tasks as t
    set schedule_config = t.schedule_config || jsonb_build_object('max_rounds', t.round_index + 1)
    where t.id = v_round.id;
  end if;

  return v_round.id;
end;
$$;

comment on function pgsched.stop_loop(uuid) is
  'End the loop that this task is a round of: a waiting round is cancelled, one under way becomes the last.  Returns the id of that round, null when the loop had ended.';

create function pgsched.maintain(p_limit integer default 10000)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now   timestamptz := pgsched.now();
  v_count integer;
begin
  if not pgsched.try_duty('maintain') then
    return 0;
  end if;

  with expired as (
    select k.definition_id, k.key
    from pgsched.idempotency_keys as k
    where k.expires_at <= v_now
      and not pgsched.is_unfinished(k.task_id)
    order by k.expires_at
    limit p_limit
    for update skip locked
  )
  delete from pgsched.idempotency_keys as k
  using expired as e
  where k.definition_id = e.definition_id
    and k.key = e.key;

  get diagnostics v_count = row_count;

  return v_count + pgsched.clean_status_pushes(p_limit, v_now) + pgsched.keep_record(p_limit, v_now);
end;
$$;

comment on function pgsched.maintain(integer) is
  'Housekeeping, at most p_limit rows of each kind: forget idempotency keys that have expired and status pushes that were given up long ago, and give up those that nobody sends; make and drop partitions of the record.  Returns how many rows.';

-- Goes with the transaction, so that it works through a pooler and cannot be
-- left behind.
create function pgsched.try_duty(p_duty text)
  returns boolean
  language sql
begin atomic
  select pg_try_advisory_xact_lock(hashtext('pgsched.' || current_database()), hashtext(p_duty));
end;

comment on function pgsched.try_duty(text) is
  'Take a duty for the rest of this transaction; false when another session has it.';

revoke execute on all routines in schema pgsched from public;

commit;
