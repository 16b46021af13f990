-- 009 claim
--
-- Hand due tasks to a worker.  Two workers never hold one task: a claim skips
-- the rows another has locked, and raises delivery_count, which the worker
-- presents again to settle.  One that lost its lease is refused, however late
-- it comes.
--
-- For each queue and priority it is one range scan of the due index that stops
-- at the batch: neither a million future tasks nor a million finished ones are
-- ever looked at.  What a claim leaves behind are dead index entries; while
-- somebody holds an old snapshot they cannot be removed, so the worker passes
-- cursors, the position it last reached, and the scan starts there.  A cursor
-- is a hint: a row that commits late lies behind it, and is found by a claim
-- without cursors, which workers make now and then.
--
-- The settings at the function keep a plan made while the table was empty
-- from being a sequential scan for the rest of the session, and the cost that
-- such a setting stands for from starting the JIT compiler.
--
-- Adds   find_due(), claim_due_tasks(), dispatch_targets()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(9, 'claim');

create function pgsched.find_due(p_queues text[], p_limit integer, p_cursors jsonb, p_now timestamptz)
  returns uuid[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  -- An array, filled once: the planner may run a subquery more than once, and
  -- then LIMIT no longer limits.
  return array(
    select due.id
    from (
      select
        q.name,
        p.priority,
        coalesce((c.position ->> 0)::timestamptz, '-infinity') as after_time,
        coalesce((c.position ->> 1)::uuid, '00000000-0000-0000-0000-000000000000') as after_id
      from unnest(p_queues) with ordinality as q (name, n)
      cross join generate_series(9, -9, -1) as p (priority)
      cross join lateral (
        select coalesce(p_cursors -> q.name -> p.priority::text, p_cursors -> q.name -> '*') as position
      ) as c
      order by q.n, p.priority desc
    ) as slot
    cross join lateral (
      select t.id
      from pgsched.scheduled_tasks as t
      where t.queue = slot.name
        and t.status = 'PENDING'
        and t.pending_dependencies = 0
        and t.priority = slot.priority
        and t.execute_after <= p_now
        and (t.execute_after, t.id) > (slot.after_time, slot.after_id)
      order by t.execute_after, t.id
      limit p_limit
      for update skip locked
    ) as due
    limit p_limit
  );
end;
$$;

comment on function pgsched.find_due(text[], integer, jsonb, timestamptz) is
  'Lock up to p_limit due tasks of these queues, in that order, urgent ones first; their ids.';

create function pgsched.claim_due_tasks(
  p_worker_id uuid,
  p_limit     integer default 100,
  p_queues    text[]  default null,
  p_cursors   jsonb   default null
)
  returns table (
    id              uuid,
    attempt         integer,
    delivery_count  integer,
    sequence        bigint,
    queue           text,
    hold_seconds    double precision,
    priority        smallint,
    execute_after   timestamptz,
    scheduled_time  timestamptz,
    definition_id   uuid,
    definition_name text,
    content         jsonb,
    trace_id        uuid,
    schedule_id     uuid,
    input_params    jsonb,
    schedule_config jsonb,
    round_index     integer,
    retry_count     integer,
    is_probe        boolean
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
  v_now      timestamptz := pgsched.now();
  v_queues   text[];
  v_limited  text[];
  v_systems  text[];
  v_probes   uuid[] := '{}';
  v_ids      uuid[];
  v_hold     interval;
  v_is_told  boolean;
  v_sequence bigint;
  v_count    bigint;
begin
  if p_limit is null or p_limit not between 1 and 10000 then
    raise exception sqlstate 'PS422' using
      message = format('p_limit must be from 1 to 10000, not %s', coalesce(p_limit::text, 'null'));
  elsif not exists (
    select
    from pgsched.workers as w
    where w.id = p_worker_id
      and w.lease_expires_at > v_now
  ) then
    raise exception sqlstate 'PS409' using
      message = format('worker %s has no lease', p_worker_id),
      hint = 'Call pgsched.register_worker() first and pgsched.heartbeat() every few seconds.';
  end if;

  select c.queues, c.limited, c.probes
  into v_queues, v_limited, v_systems
  from pgsched.claimable_queues(p_queues, v_now) as c;

  if cardinality(v_systems) > 0 then
    v_probes := pgsched.begin_probes(p_worker_id, v_systems, p_queues, v_limited, v_now);
  end if;

  if cardinality(v_limited) = 0 then
    v_ids := v_probes || pgsched.find_due(v_queues, p_limit, p_cursors, v_now);
  else
    v_ids := v_probes || pgsched.find_due_within_limits(v_queues, v_limited, p_limit, p_cursors, v_now);
  end if;

  if cardinality(v_ids) = 0 then
    return;
  end if;

  -- The hold outlasts the wait for a free slot, the slowest request of these
  -- queues, and the settle.  One number serves the batch: it only orders what is told about
  -- one task.
  select interval '30 seconds' + max(s.request_timeout), bool_or('SCHEDULED' = any (s.push_statuses))
  into v_hold, v_is_told
  from pgsched.queues as q
  join pgsched.external_systems as s
    on s.name = q.external_system
  where p_queues is null
    or q.name = any (p_queues);

  -- Before the number of the batch is drawn: who ignores the lower number must
  -- not ignore the push itself.
  if v_is_told then
    perform pgsched.tell_statuses(
      array(select row(u.id, 'SCHEDULED', null)::pgsched.status_news from unnest(v_ids) as u (id)),
      v_now
    );
  end if;

  v_sequence := nextval('pgsched.status_sequence');

  return query
    with claimed as (
      update pgsched.scheduled_tasks as t
      set
        status         = 'SCHEDULED',
        worker_id      = p_worker_id,
        delivery_count = t.delivery_count + 1,
        deadline_at    = v_now + v_hold
      from pgsched.task_definitions as d
      where t.id = any (v_ids)
        and d.id = t.definition_id
      returning
        t.id, t.attempt, t.delivery_count, v_sequence, t.queue, extract(epoch from v_hold)::double precision,
        t.priority::smallint, t.execute_after, t.scheduled_time, t.definition_id, d.name, d.content,
        t.trace_id, t.schedule_id, t.input_params, t.schedule_config, t.round_index, t.retry_count,
        t.id = any (v_probes)
    )
    select c.*
    from claimed as c
    order by c.priority desc, c.execute_after, c.id;

  get diagnostics v_count = row_count;

  -- A definition may be deleted while an enqueue of it commits.  A task that
  -- nobody can run must not take a place in every batch.
  if v_count < cardinality(v_ids) then
    perform pgsched.finish_tasks(
      array(
        select row(t.id, 'FAILED', 'its definition does not exist any more', null, null, null, null)::pgsched.task_end
        from pgsched.scheduled_tasks as t
        where t.id = any (v_ids)
          and t.status = 'PENDING'
      ),
      v_now
    );
  end if;
end;
$$;

comment on function pgsched.claim_due_tasks(uuid, integer, text[], jsonb) is
  'Lease up to p_limit due tasks of p_queues (in that order; null: all) to a worker, urgent ones first, and a probe for each external system whose breaker is due for one.  p_cursors: {queue: {priority, or "*" for the others: [execute_after, id]}}, where to start looking.';

create function pgsched.dispatch_targets()
  returns table (
    queue              text,
    external_system    text,
    base_url           text,
    api_key_env        text,
    signing_secret_env text,
    completion         text,
    request_timeout    interval,
    batch_size         integer,
    max_in_flight      integer,
    is_open            boolean,
    is_limited         boolean,
    is_paused          boolean
  )
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
begin atomic
  select
    q.name, s.name, s.base_url, s.api_key_env, s.signing_secret_env, s.completion, s.request_timeout,
    s.batch_size, s.max_in_flight, s.open_until is not null, q.max_in_flight is not null, q.is_paused
  from pgsched.queues as q
  join pgsched.external_systems as s
    on s.name = q.external_system
  order by q.name;
end;

comment on function pgsched.dispatch_targets() is
  'The queues and where each leads.  One that is paused is not claimed, but its external system is still told of changes of status.';

revoke execute on all routines in schema pgsched from public;

commit;
