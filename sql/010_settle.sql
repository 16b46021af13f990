-- 010 settle
--
-- What a worker says about its pushes, many at once.  Each settlement names
-- (task_id, attempt, delivery_count): if the task was given to somebody else
-- meanwhile, it changes nothing.
--
--   ACCEPTED      the external system has it
--   DEFERRED      it could not be delivered; again later, same key, not counted
--   RELEASED      never sent; again at once
--   RETRY         failed, counted, a new execution
--   RETRY_SAME    failed, counted, but perhaps under way all the same: same key
--   RETRY_LAPSED  unanswered, counted, a new execution; the old one may yet succeed
--   REFUSED       failed for good
--
-- A result that came with the answer is not settled here: it is a report,
-- and fenced by its attempt alone.
--
-- Rows that somebody else has locked are not waited for: their ids come back
-- as LOCKED, and the worker says it again.
--
-- Adds   settlement, judge_settlement(), settle_tasks(), accept_tasks(), return_tasks(),
--        expire_deadlines()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(10, 'settle');

create type pgsched.settlement as (
  task_id        uuid,
  attempt        integer,
  delivery_count integer,
  outcome        text,
  delay          interval,
  error_msg      text,
  response_time  interval
);

comment on type pgsched.settlement is
  'How one push ended.';

-- What a settlement comes to, given the task as it is now: 'APPLY', or why
-- not.  The rows of this function are those of docs/state_machine.md.  A
-- PENDING task with a worker was taken from it, and its push may have arrived
-- all the same; the worker that gave one back itself has no more to say.
create function pgsched.judge_settlement(
  p_settlement     pgsched.settlement,
  p_status         text,
  p_attempt        integer,
  p_delivery_count integer,
  p_worker_id      uuid,
  p_is_locked      boolean
)
  returns text
  language sql
  immutable
  return case
    when p_status is null then 'FINISHED'
    when not p_is_locked then 'LOCKED'
    when p_settlement.outcome = 'ACCEPTED' and p_status in ('DISPATCHED', 'RUNNING') then 'KNOWN'
    when (p_attempt, p_delivery_count) is distinct from (p_settlement.attempt, p_settlement.delivery_count) then 'STALE'
    when p_status = 'SCHEDULED' then 'APPLY'
    when p_settlement.outcome = 'ACCEPTED' and p_status = 'PENDING' and p_worker_id is not null then 'APPLY'
    else 'STALE'
  end;

comment on function pgsched.judge_settlement(pgsched.settlement, text, integer, integer, uuid, boolean) is
  'APPLY, KNOWN (nothing to do), FINISHED (nothing to do), STALE (refused) or LOCKED (say it again).';

create function pgsched.settle_tasks(p_settlements jsonb)
  returns table (task_id uuid, result text)
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
  v_all     pgsched.settlement[];
  v_apply   pgsched.settlement[];
  v_stale   pgsched.settlement[];
  v_waiting uuid[];
  v_ended   uuid[];
  v_ids     uuid[];
begin
  if jsonb_typeof(p_settlements) is distinct from 'array' then
    raise exception sqlstate 'PS422' using message = 'p_settlements must be a JSON array of settlements';
  end if;

  begin
    v_all := array(
      select row(
        s.task_id, s.attempt, s.delivery_count, s.outcome, s.delay, left(s.error_msg, 8192), s.response_time
      )::pgsched.settlement
      from jsonb_populate_recordset(null::pgsched.settlement, p_settlements) as s
    );
  exception
    when data_exception then
      raise exception sqlstate 'PS422' using message = format('p_settlements: %s', sqlerrm);
  end;

  if exists (
    select
    from unnest(v_all) as s
    where s.outcome is null
      or s.outcome not in ('ACCEPTED', 'DEFERRED', 'RELEASED', 'RETRY', 'RETRY_SAME', 'RETRY_LAPSED', 'REFUSED')
  ) then
    raise exception sqlstate 'PS422' using
      message = 'outcome must be ACCEPTED, DEFERRED, RELEASED, RETRY, RETRY_SAME, RETRY_LAPSED or REFUSED';
  end if;

  -- Said twice, it counts once.
  v_all := array(
    select distinct on (s.task_id, s.attempt, s.delivery_count) s
    from unnest(v_all) as s
  );

  v_ids := array(
    select t.id
    from pgsched.scheduled_tasks as t
    where t.id = any (array(select s.task_id from unnest(v_all) as s))
    for update skip locked
  );

  with judged as materialized (
    select
      s as settlement,
      pgsched.judge_settlement(s, t.status, t.attempt, t.delivery_count, t.worker_id, s.task_id = any (v_ids)) as verdict
    from unnest(v_all) as s
    left join lateral (
      select h.status, h.attempt, h.delivery_count, h.worker_id
      from pgsched.scheduled_tasks as h
      where h.id = s.task_id
      limit 1
    ) as t
      on true
  )
  select
    array_agg(j.settlement) filter (where j.verdict = 'APPLY'),
    array_agg(j.settlement) filter (where j.verdict = 'STALE'),
    array_agg((j.settlement).task_id) filter (where j.verdict = 'LOCKED'),
    array_agg((j.settlement).task_id) filter (where j.verdict = 'FINISHED' and (j.settlement).outcome = 'ACCEPTED')
  into v_apply, v_stale, v_waiting, v_ended
  from judged as j;

  insert into pgsched.task_events (at, task_id, event, attempt, delivery_count, message, response_time)
  select v_now, s.task_id, s.outcome, s.attempt, s.delivery_count, s.error_msg, s.response_time
  from unnest(v_apply) as s
  where s.outcome in ('DEFERRED', 'RELEASED', 'REFUSED');

  if v_ended is not null then
    v_waiting := v_waiting || pgsched.tell_of_cancelled(v_ended, v_now);
  end if;

  perform pgsched.accept_tasks(v_apply, v_now);
  perform pgsched.return_tasks(v_apply, v_now);
  perform pgsched.fail_attempts(
    array(
      select row(
        s.task_id, s.error_msg, s.outcome <> 'RETRY_SAME', s.outcome = 'RETRY_LAPSED', null, null, null,
        s.response_time
      )::pgsched.failed_attempt
      from unnest(v_apply) as s
      where s.outcome in ('RETRY', 'RETRY_SAME', 'RETRY_LAPSED')
    ),
    v_now
  );
  perform pgsched.finish_tasks(
    array(
      select row(s.task_id, 'FAILED', s.error_msg, null, null, null, null)::pgsched.task_end
      from unnest(v_apply) as s
      where s.outcome = 'REFUSED'
    ),
    v_now
  );

  insert into pgsched.task_events (at, task_id, event, attempt, delivery_count, message)
  select v_now, s.task_id, 'SETTLE_REFUSED', s.attempt, s.delivery_count,
    format('%s came too late: the task was given to another worker, or moved on', s.outcome)
  from unnest(v_stale) as s;

  return query
    select s.task_id, 'STALE' from unnest(v_stale) as s
    union all
    select w.id, 'LOCKED' from unnest(v_waiting) as w (id);
end;
$$;

comment on function pgsched.settle_tasks(jsonb) is
  'Tell how pushes ended: [{"task_id", "attempt", "delivery_count", "outcome", "delay", "error_msg", "response_time"}, …].  Returns only what could not be applied: STALE (for good) or LOCKED (say it again).';

create function pgsched.accept_tasks(p_settlements pgsched.settlement[], p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_ids uuid[] := array(
    select s.task_id
    from unnest(p_settlements) as s
    where s.outcome = 'ACCEPTED'
  );
begin
  if cardinality(v_ids) = 0 then
    return;
  end if;

  update pgsched.scheduled_tasks as t
  set
    status            = 'DISPATCHED',
    started_at        = coalesce(t.started_at, p_now),
    dispatched_at     = p_now,
    deadline_at       = p_now + d.timeout,
    lost_count        = 0,
    undelivered_since = null
  from pgsched.task_definitions as d
  where t.id = any (v_ids)
    and d.id = t.definition_id;
end;
$$;

comment on function pgsched.accept_tasks(pgsched.settlement[], timestamptz) is
  'Of these settlements, apply those that are ACCEPTED.';

-- Deferred or released: PENDING again.  A deferral has a limit in time, the
-- delivery_timeout of the external system; a release has none.
create function pgsched.return_tasks(p_settlements pgsched.settlement[], p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
  set enable_nestloop = off
as $$
declare
  v_ids uuid[] := array(
    select s.task_id
    from unnest(p_settlements) as s
    where s.outcome in ('DEFERRED', 'RELEASED')
  );
  v_ends pgsched.task_end[];
begin
  if cardinality(v_ids) = 0 then
    return;
  end if;

  v_ends := array(
    select row(
      t.id, 'FAILED',
      format('undeliverable since %s, longer than the delivery_timeout of %s: %s', t.undelivered_since, x.delivery_timeout, s.error_msg),
      null, null, null, null
    )::pgsched.task_end
    from pgsched.scheduled_tasks as t
    join unnest(p_settlements) as s
      on s.task_id = t.id
    join pgsched.queues as q
      on q.name = t.queue
    join pgsched.external_systems as x
      on x.name = q.external_system
    where t.id = any (v_ids)
      and s.outcome = 'DEFERRED'
      and t.undelivered_since + x.delivery_timeout <= p_now
  );

  perform pgsched.finish_tasks(v_ends, p_now);

  update pgsched.scheduled_tasks as t
  set
    status            = 'PENDING',
    execute_after     = p_now + coalesce(greatest(s.delay, interval '0'), interval '0'),
    deadline_at       = null,
    worker_id         = case when s.outcome = 'RELEASED' then t.worker_id end,
    error_msg         = coalesce(s.error_msg, t.error_msg),
    undelivered_since = case when s.outcome = 'DEFERRED' then coalesce(t.undelivered_since, p_now) else t.undelivered_since end
  from unnest(p_settlements) as s
  where t.id = any (v_ids)
    and s.task_id = t.id;

  if exists (
    select
    from unnest(p_settlements) as s
    where s.outcome in ('DEFERRED', 'RELEASED')
      and coalesce(s.delay, interval '0') <= interval '60 seconds'
  ) then
    perform pgsched.wake();
  else
    perform pgsched.wake_for_freed_slots();
  end if;
end;
$$;

comment on function pgsched.return_tasks(pgsched.settlement[], timestamptz) is
  'Of these settlements, apply those that are DEFERRED or RELEASED.';

-- What is past its deadline.  A SCHEDULED task hangs in a worker whose
-- heartbeat may be fine: it is given to another.  For a DISPATCHED or RUNNING
-- one the external system has been silent too long: its attempt has failed.
create function pgsched.expire_deadlines(p_limit integer default 1000)
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
  v_now    timestamptz := pgsched.now();
  v_queues text[] := array(select q.name from pgsched.queues as q);
  v_ids    uuid[];
  v_held   uuid[];
begin
  v_ids := array(
    select late.id
    from unnest(v_queues) as q (name)
    cross join lateral (
      select t.id
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.deadline_at <= v_now
      order by t.deadline_at
      limit p_limit
      for update skip locked
    ) as late
    limit p_limit
  );

  if cardinality(v_ids) = 0 then
    return 0;
  end if;

  v_held := array(
    select t.id
    from pgsched.scheduled_tasks as t
    where t.id = any (v_ids)
      and t.status = 'SCHEDULED'
  );

  perform pgsched.fail_attempts(
    array(
      select row(t.id, format('no report until its deadline at %s', t.deadline_at), true, true, null, null, null, null)::pgsched.failed_attempt
      from pgsched.scheduled_tasks as t
      where t.id = any (v_ids)
        and t.status <> 'SCHEDULED'
    ),
    v_now
  );
  perform pgsched.lose_tasks(v_held, 'its worker did not settle it in time', v_now);

  return cardinality(v_ids);
end;
$$;

comment on function pgsched.expire_deadlines(integer) is
  'Take back what is past its deadline, at most p_limit tasks; how many.';

revoke execute on all routines in schema pgsched from public;

commit;
