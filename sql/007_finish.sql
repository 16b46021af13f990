-- 007 finish
--
-- The ends of a task, for sets of them.  Everything that finishes one comes
-- here, from settle, report, deadline, lost lease and cancel alike: the task
-- moves from the hot table to the record, the next round of its loop is made
-- in the same statement, and what waited for it may run, or is cancelled as
-- well: level by level, in a loop and not by recursion.
--
-- The callers hold the row locks.
--
-- Adds   task_end, status_news, failed_attempt, record_events(), has_next_round(), finish_tasks(),
--        begin_rounds(), unblock_tasks(), resolve_dependencies(), retry_pause(),
--        fail_attempts(), lose_tasks()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(7, 'finish');

create type pgsched.task_end as (
  task_id     uuid,
  status      text,
  error_msg   text,
  output_ref  text,
  next_input  jsonb,
  stop_loop   boolean,
  is_reported boolean
);

comment on type pgsched.task_end is
  'How one task ends, and whether its executor said so itself.';

create type pgsched.status_news as (
  task_id   uuid,
  status    text,
  error_msg text
);

comment on type pgsched.status_news is
  'What the external system is to be told of one task.';

create type pgsched.failed_attempt as (
  task_id       uuid,
  error_msg     text,
  new_attempt   boolean,
  lapsed        boolean,
  output_ref    text,
  next_input    jsonb,
  stop_loop     boolean,
  response_time interval
);

comment on type pgsched.failed_attempt is
  'One attempt that failed: whether the next try is a new execution, and whether this one ended unanswered.';

create function pgsched.record_events(p_task_ids uuid[], p_event text, p_message text, p_now timestamptz)
  returns void
  language sql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
begin atomic
  insert into pgsched.task_events (at, task_id, event, attempt, delivery_count, message)
  select p_now, t.id, p_event, t.attempt, t.delivery_count, p_message
  from pgsched.scheduled_tasks as t
  where t.id = any (p_task_ids);
end;

comment on function pgsched.record_events(uuid[], text, text, timestamptz) is
  'Note the same event for several unfinished tasks.';

create function pgsched.has_next_round(
  p_config      jsonb,
  p_round_index integer,
  p_end         pgsched.task_end
)
  returns boolean
  language sql
  immutable
  return not coalesce(p_end.stop_loop, false)
    and (
      p_end.status = 'SUCCESS'
      or (p_end.status = 'FAILED' and p_config ->> 'on_failure' = 'continue')
    )
    and p_round_index + 1 < coalesce((p_config ->> 'max_rounds')::numeric, 2147483647);

comment on function pgsched.has_next_round(jsonb, integer, pgsched.task_end) is
  'Whether a round of a loop that ends so is followed by another.';

-- The move, and nothing else, for a task that is no round of a loop and that
-- no other waits for.
create function pgsched.finish_tasks(p_ends pgsched.task_end[], p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
  set enable_nestloop = off
as $$
declare
  v_ends pgsched.task_end[] := p_ends;
  v_ids  uuid[];
  v_next uuid[];
  v_news pgsched.status_news[];
begin
  while cardinality(v_ends) > 0 loop
    v_ids := array(select e.task_id from unnest(v_ends) as e);

    -- What ends well is no news, nor what the executor has said itself.
    v_news := array(
      select row(e.task_id, e.status, e.error_msg)::pgsched.status_news
      from unnest(v_ends) as e
      where e.status <> 'SUCCESS'
        and e.is_reported is not true
    );

    if cardinality(v_news) > 0 then
      perform pgsched.tell_statuses(v_news, p_now);
    end if;

    with gone as (
      delete from pgsched.scheduled_tasks as t
      where t.id = any (v_ids)
      returning t.*
    ),
    recorded as (
      insert into pgsched.task_instances (
        id, status, queue, priority, schedule_type, scheduled_time, execute_after, attempt, retry_count,
        max_retries, error_msg, depends_on, on_dependency_failure, definition_id, schedule_id, trace_id, loop_id,
        next_task_id, round_index, input_params, schedule_config, worker_id, delivery_count, lost_count,
        lapsed_attempt, undelivered_since, started_at, dispatched_at, cancelled_at, progress, output_ref,
        created_by, created_at, finished_at
      )
      select
        g.id, e.status, g.queue, g.priority, g.schedule_type, g.scheduled_time, g.execute_after, g.attempt,
        g.retry_count, g.max_retries, coalesce(e.error_msg, g.error_msg), g.depends_on,
        g.on_dependency_failure, g.definition_id, g.schedule_id, g.trace_id, g.loop_id,
        case
          when g.loop_id is not null
            and g.next_task_id is null
            and pgsched.has_next_round(g.schedule_config, g.round_index, e)
          then pgsched.uuid7()
          else g.next_task_id
        end,
        g.round_index, g.input_params, g.schedule_config, g.worker_id, g.delivery_count, g.lost_count,
        g.lapsed_attempt, g.undelivered_since, g.started_at, g.dispatched_at,
        case when e.status = 'CANCELLED' then p_now end,
        g.progress, coalesce(e.output_ref, g.output_ref), g.created_by, g.created_at, p_now
      from gone as g
      join unnest(v_ends) as e
        on e.task_id = g.id
      returning next_task_id
    )
    select array_agg(r.next_task_id)
    into v_next
    from recorded as r
    where r.next_task_id is not null;

    if v_next is not null then
      perform pgsched.begin_rounds(v_ends, v_next, p_now);
    end if;

    exit when not exists (select from pgsched.task_dependencies as d where d.depends_on_id = any (v_ids));

    v_ends := pgsched.unblock_tasks(v_ids, p_now);
  end loop;

  if v_ids is not null then
    perform pgsched.wake_for_freed_slots();
  end if;
end;
$$;

comment on function pgsched.finish_tasks(pgsched.task_end[], timestamptz) is
  'Move locked tasks to the record, each with its end, tell the external system of it, begin the next rounds of loops, and go on to what waited for them.';

-- Rounds keep their rhythm by counting from nominal times; a late one starts
-- at once, and the next counts from there.  After a failure the pause of a
-- retry is kept at least.  The next round of one that an operator retried is
-- there already, or has ended.
create function pgsched.begin_rounds(p_ends pgsched.task_end[], p_next_ids uuid[], p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_since timestamptz := pgsched.earliest_end(p_next_ids);
begin
  insert into pgsched.scheduled_tasks (
    id, queue, priority, schedule_type, scheduled_time, execute_after, max_retries, definition_id,
    schedule_id, trace_id, loop_id, round_index, input_params, schedule_config, created_by, created_at
  )
  select
    i.next_task_id, i.queue, i.priority, i.schedule_type, n.at, n.at, i.max_retries, i.definition_id,
    i.schedule_id, i.trace_id, i.loop_id, i.round_index + 1,
    coalesce(e.next_input, i.input_params), i.schedule_config, i.created_by, p_now
  from unnest(p_ends) as e
  join pgsched.task_instances as i
    on i.id = e.task_id
  cross join lateral (
    select greatest(
      p_now,
      case i.schedule_config ->> 'interval_from' when 'end' then p_now else i.scheduled_time end
        + coalesce((i.schedule_config ->> 'loop_interval')::double precision, 0) * interval '1 second',
      case i.status when 'FAILED' then p_now + (
        select d.retry_delay
        from pgsched.task_definitions as d
        where d.id = i.definition_id
      ) end
    ) as at
  ) as n
  where i.id = any (array(select x.task_id from unnest(p_ends) as x))
    and i.finished_at = p_now
    and i.next_task_id = any (p_next_ids)
    and (select t.id from pgsched.scheduled_tasks as t where t.id = i.next_task_id) is null
    and (
      select t.id
      from pgsched.task_instances as t
      where t.id = i.next_task_id
        and t.finished_at >= v_since
    ) is null;
end;
$$;

comment on function pgsched.begin_rounds(pgsched.task_end[], uuid[], timestamptz) is
  'Make the rounds that follow those just finished.';

-- A task that a stranger has locked keeps its edge, for resolve_dependencies(),
-- and so does one that a stranger is retrying, and one whose dependency was
-- retried meanwhile: whether that is unfinished and how it ended is read in
-- one snapshot.
create function pgsched.unblock_tasks(p_ended_ids uuid[], p_now timestamptz)
  returns pgsched.task_end[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_nestloop = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_since timestamptz := pgsched.earliest_end(p_ended_ids);
  v_ids   uuid[];
  v_ends  pgsched.task_end[];
  v_free  boolean;
begin
  v_ids := array(
    select t.id
    from pgsched.scheduled_tasks as t
    where t.id = any (array(
      select d.task_id
      from pgsched.task_dependencies as d
      where d.depends_on_id = any (p_ended_ids)
    ))
    for update skip locked
  );

  with ended as materialized (
    select
      e.id,
      coalesce(
        (select i.status from pgsched.task_instances as i where i.id = e.id and i.finished_at >= v_since),
        'not in the record any more'
      ) as status
    from (
      select distinct d.depends_on_id as id
      from pgsched.task_dependencies as d
      where d.depends_on_id = any (p_ended_ids)
    ) as e
    where (select t.id from pgsched.scheduled_tasks as t where t.id = e.id) is null
  ),
  orphaned as materialized (
    select d.task_id, d.depends_on_id
    from pgsched.task_dependencies as d
    where d.depends_on_id = any (p_ended_ids)
      and (select t.id from pgsched.scheduled_tasks as t where t.id = d.task_id) is null
    for update skip locked
  ),
  gone as (
    delete from pgsched.task_dependencies as d
    using ended as e
    where d.depends_on_id = any (p_ended_ids)
      and d.depends_on_id = e.id
      and (
        d.task_id = any (v_ids)
        or (d.task_id, d.depends_on_id) in (select o.task_id, o.depends_on_id from orphaned as o)
      )
    returning d.task_id, e.id, e.status
  ),
  judged as materialized (
    select
      t.id, t.attempt, t.delivery_count, count(*) as count,
      case when t.on_dependency_failure = 'cancel' then
        min(format('task %s, which it depends on, is %s', g.id, g.status)) filter (where g.status <> 'SUCCESS')
      end as error_msg
    from pgsched.scheduled_tasks as t
    join gone as g
      on g.task_id = t.id
    where t.id = any (v_ids)
    group by t.id
  ),
  noted as (
    insert into pgsched.task_events (at, task_id, event, attempt, delivery_count, message)
    select p_now, j.id, 'CANCELLED', j.attempt, j.delivery_count, j.error_msg
    from judged as j
    where j.error_msg is not null
  ),
  freed as (
    update pgsched.scheduled_tasks as t
    set
      pending_dependencies = t.pending_dependencies - j.count,
      execute_after        = greatest(t.execute_after, p_now)
    from judged as j
    where t.id = any (v_ids)
      and t.id = j.id
      and j.error_msg is null
    returning t.pending_dependencies
  )
  select
    array(
      select row(j.id, 'CANCELLED', j.error_msg, null, null, null, null)::pgsched.task_end
      from judged as j
      where j.error_msg is not null
    ),
    (select bool_or(f.pending_dependencies = 0) from freed as f)
  into v_ends, v_free;

  if cardinality(v_ends) > 0 then
    delete from pgsched.task_dependencies as d
    where d.task_id = any (array(select e.task_id from unnest(v_ends) as e));
  end if;

  if v_free then
    perform pgsched.wake();
  end if;

  return v_ends;
end;
$$;

comment on function pgsched.unblock_tasks(uuid[], timestamptz) is
  'Let what waited for these tasks run, or wait for the rest.  Returns the ends of those that are to be cancelled instead, which are locked.';

create function pgsched.resolve_dependencies()
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
  v_now   timestamptz := pgsched.now();
  v_ended uuid[];
begin
  if not pgsched.try_duty('dependencies') then
    return 0;
  end if;

  v_ended := array(
    select distinct d.depends_on_id
    from pgsched.task_dependencies as d
    where (select t.id from pgsched.scheduled_tasks as t where t.id = d.depends_on_id) is null
  );

  if cardinality(v_ended) > 0 then
    perform pgsched.finish_tasks(pgsched.unblock_tasks(v_ended, v_now), v_now);
  end if;

  return cardinality(v_ended);
end;
$$;

comment on function pgsched.resolve_dependencies() is
  'Let run, or cancel, what waits for tasks that ended before the waiting was seen.  Returns how many such tasks there were.';

-- Up to a tenth more than asked, so that what failed together does not come
-- back together.
create function pgsched.retry_pause(p_delay interval, p_backoff text, p_retry_count integer)
  returns interval
  language sql
  volatile
  return least(
    p_delay * case p_backoff when 'exponential' then power(2, least(p_retry_count, 30)) else 1 end,
    interval '24 hours'
  ) * (1 + random() / 10);

comment on function pgsched.retry_pause(interval, text, integer) is
  'How long to wait before the retry that follows p_retry_count earlier ones.';

create function pgsched.fail_attempts(p_failures pgsched.failed_attempt[], p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
  set enable_nestloop = off
as $$
declare
  v_ids  uuid[] := array(select f.task_id from unnest(p_failures) as f);
  v_ends pgsched.task_end[];
  v_soon boolean;
  v_news pgsched.status_news[];
begin
  if cardinality(v_ids) = 0 then
    return;
  end if;

  v_ends := array(
    select row(t.id, 'FAILED', f.error_msg, f.output_ref, f.next_input, f.stop_loop, null)::pgsched.task_end
    from pgsched.scheduled_tasks as t
    join unnest(p_failures) as f
      on f.task_id = t.id
    where t.id = any (v_ids)
      and t.retry_count >= t.max_retries
  );

  perform pgsched.finish_tasks(v_ends, p_now);

  with retried as (
    update pgsched.scheduled_tasks as t
    set
      status            = 'PENDING',
      attempt           = t.attempt + f.new_attempt::integer,
      retry_count       = t.retry_count + 1,
      lapsed_attempt    = case when f.lapsed then coalesce(t.lapsed_attempt, t.attempt) else t.lapsed_attempt end,
      execute_after     = p_now + (
        select pgsched.retry_pause(d.retry_delay, d.retry_backoff, t.retry_count)
        from pgsched.task_definitions as d
        where d.id = t.definition_id
      ),
      error_msg         = f.error_msg,
      worker_id         = null,
      undelivered_since = null,
      started_at        = null,
      dispatched_at     = null,
      deadline_at       = null,
      progress          = null
    from unnest(p_failures) as f
    where t.id = any (v_ids)
      and f.task_id = t.id
    returning t.id, t.attempt, t.delivery_count, t.execute_after, f.error_msg, f.response_time
  ),
  noted as (
    insert into pgsched.task_events (at, task_id, event, attempt, delivery_count, message, response_time)
    select p_now, r.id, 'RETRY', r.attempt, r.delivery_count, r.error_msg, r.response_time
    from retried as r
  )
  select
    bool_or(r.execute_after <= p_now + interval '60 seconds'),
    array_agg(row(r.id, 'PENDING', r.error_msg)::pgsched.status_news)
  into v_soon, v_news
  from retried as r;

  if v_news is not null then
    perform pgsched.tell_statuses(v_news, p_now);
  end if;

  if v_soon then
    perform pgsched.wake();
  else
    perform pgsched.wake_for_freed_slots();
  end if;
end;
$$;

comment on function pgsched.fail_attempts(pgsched.failed_attempt[], timestamptz) is
  'Try locked tasks again while there is budget, else finish them as FAILED.';

-- Ten times in a row is no accident: a task that kills its worker, or hangs
-- it, must not go round for ever.
create function pgsched.lose_tasks(p_task_ids uuid[], p_message text, p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  if cardinality(p_task_ids) = 0 then
    return;
  end if;

  perform pgsched.record_events(p_task_ids, 'LOST', p_message, p_now);
  perform pgsched.finish_tasks(
    array(
      select row(t.id, 'FAILED', format('lost %s times in a row, the last time since %s', t.lost_count + 1, p_message), null, null, null, null)::pgsched.task_end
      from pgsched.scheduled_tasks as t
      where t.id = any (p_task_ids)
        and t.lost_count + 1 >= 10
    ),
    p_now
  );

  update pgsched.scheduled_tasks as t
  set
    status        = 'PENDING',
    execute_after = p_now,
    deadline_at   = null,
    lost_count    = t.lost_count + 1
  where t.id = any (p_task_ids);

  perform pgsched.wake();
end;
$$;

comment on function pgsched.lose_tasks(uuid[], text, timestamptz) is
  'Put back locked SCHEDULED tasks that their worker has lost; the tenth time in a row is the end.';

revoke execute on all routines in schema pgsched from public;

commit;
