-- 017 limits
--
-- What keeps a claim from taking what is due: the limits of a queue, and the
-- circuit breaker of the external system it leads to.  Neither writes a task
-- row; the claim reads them, and a queue without limits pays nothing.
--
-- A limited queue is claimed by one session at a time.  It counts in the
-- statement after the one that took the right to: in the same statement it
-- would count with a snapshot from before, and exceed the limit.  Whoever
-- does not get the right passes the queue over, for it is being claimed.
--
-- The rate is a token bucket.  For ten seconds after a pause, or after the
-- breaker has closed, every queue has one that begins with a single token, and
-- whose rate begins at 20 a second and doubles each second: what has piled up
-- does not come down all at once on a system that has just got up.
--
-- A breaker is opened by the worker that has seen a system fail several times
-- in a row, for all workers.  Once open_until has passed, one task at a time
-- is claimed as a probe; the worker that holds it closes the breaker, or keeps
-- it open for twice as long.
--
-- Adds   token_bucket(), claim_limited(), find_due_within_limits(), next_tokens_at(),
--        wake_for_freed_slots(), begin_probes(), next_probe_at(), open_breaker(), close_breaker()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(17, 'limits');

-- Limits -----------------------------------------------------------------

-- A time in the future is of a clock that was set back, and counts for nothing;
-- but the claims of a moment do not all know the same time.
create function pgsched.token_bucket(
  p_queue    text,
  p_now      timestamptz,
  out rate   double precision,
  out burst  double precision,
  out tokens double precision
)
  language sql
  stable
begin atomic
  select
    b.rate,
    b.burst,
    least(
      b.burst,
      case
        when r.refreshed_at >= coalesce(b.ramp_since, '-infinity')
          then r.tokens + b.rate * greatest(extract(epoch from p_now - r.refreshed_at)::double precision, 0)
        when b.ramp_since is not null
          then 1 + b.rate * greatest(extract(epoch from p_now - b.ramp_since)::double precision, 0)
        else b.burst
      end
    )
  from (
    select
      l.ramp_since,
      least(l.rate_per_second, l.ramp) as rate,
      least(coalesce(l.burst, ceil(l.rate_per_second / 10)), ceil(l.ramp / 10)) as burst
    from (
      select
        q.rate_per_second,
        q.burst,
        w.ramp_since,
        20 * power(2, extract(epoch from greatest(p_now, w.ramp_since) - w.ramp_since)::double precision) as ramp
      from pgsched.queues as q
      join pgsched.external_systems as s
        on s.name = q.external_system
      cross join lateral (
        select greatest(q.resumed_at, s.closed_at) as latest
      ) as u
      cross join lateral (
        select case
          when u.latest > p_now - pgsched.ramp_term() and u.latest <= p_now + pgsched.ramp_term() then u.latest
        end as ramp_since
      ) as w
      where q.name = p_queue
    ) as l
  ) as b
  left join pgsched.queue_rates as r
    on r.queue = p_queue
    and r.refreshed_at <= p_now + pgsched.ramp_term();
end;

comment on function pgsched.token_bucket(text, timestamptz) is
  'The rate of a queue in tasks per second, the burst, and how many tasks it allows now; nulls when its rate is not limited.';

create function pgsched.claim_limited(p_queue text, p_limit integer, p_now timestamptz)
  returns uuid[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_rate   double precision;
  v_tokens double precision;
  v_max    integer;
  v_room   integer;
  v_ids    uuid[];
begin
  if not pgsched.try_duty('claim ' || p_queue) then
    return '{}';
  end if;

  select b.rate, b.tokens, q.max_in_flight
  into v_rate, v_tokens, v_max
  from pgsched.queues as q
  cross join lateral pgsched.token_bucket(q.name, p_now) as b
  where q.name = p_queue;

  select least(p_limit, floor(v_tokens), v_max - count(*))
  into v_room
  from (
    select
    from pgsched.scheduled_tasks as t
    where t.queue = p_queue
      and t.deadline_at is not null
    limit v_max
  ) as under_way
  where v_max is not null;

  if v_room < 1 then
    return '{}';
  end if;

  v_ids := pgsched.find_due(array[p_queue], v_room, null, p_now);

  if v_rate is not null and cardinality(v_ids) > 0 then
    insert into pgsched.queue_rates as r (queue, tokens, refreshed_at)
    values (p_queue, v_tokens - cardinality(v_ids), p_now)
    on conflict (queue) do update
    set
      tokens       = excluded.tokens,
      refreshed_at = case
        when r.refreshed_at <= p_now + pgsched.ramp_term() then greatest(r.refreshed_at, p_now)
        else p_now
      end;
  end if;

  return v_ids;
end;
$$;

comment on function pgsched.claim_limited(text, integer, timestamptz) is
  'Lock up to p_limit due tasks of a limited queue, and never more than it has room and tokens for; their ids.  The room is taken until the transaction ends.';

-- In the order given, so that neither kind of queue starves the other.
create function pgsched.find_due_within_limits(
  p_queues  text[],
  p_limited text[],
  p_limit   integer,
  p_cursors jsonb,
  p_now     timestamptz
)
  returns uuid[]
  language plpgsql
as $$
declare
  v_ids   uuid[] := '{}';
  v_left  integer := p_limit;
  v_queue text;
begin
  foreach v_queue in array p_queues loop
    exit when v_left < 1;

    if v_queue = any (p_limited) then
      v_ids := v_ids || pgsched.claim_limited(v_queue, v_left, p_now);
    else
      v_ids := v_ids || pgsched.find_due(array[v_queue], v_left, p_cursors, p_now);
    end if;

    v_left := p_limit - cardinality(v_ids);
  end loop;

  return v_ids;
end;
$$;

comment on function pgsched.find_due_within_limits(text[], text[], integer, jsonb, timestamptz) is
  'Lock up to p_limit due tasks of these queues, some of which are limited; their ids.';

-- Not at the very next token: with many a second that would be a claim for
-- each task.  But soon, however large the burst: those of a fortieth of a second.
create function pgsched.next_tokens_at(p_queue text, p_now timestamptz)
  returns timestamptz
  language plpgsql
  stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_bucket record;
  v_wanted double precision;
begin
  select b.rate, b.burst, b.tokens
  into v_bucket
  from pgsched.token_bucket(p_queue, p_now) as b;

  v_wanted := greatest(least(v_bucket.burst / 4, v_bucket.rate / 40), 1);

  if v_bucket.tokens < v_wanted and exists (
    select
    from generate_series(-9, 9) as p (priority)
    cross join lateral (
      select t.id
      from pgsched.scheduled_tasks as t
      where t.queue = p_queue
        and t.status = 'PENDING'
        and t.pending_dependencies = 0
        and t.priority = p.priority
        and t.execute_after <= p_now
      limit 1
    ) as due
  ) then
    return p_now + (v_wanted - v_bucket.tokens) / v_bucket.rate * interval '1 second';
  end if;

  return null;
end;
$$;

comment on function pgsched.next_tokens_at(text, timestamptz) is
  'When a queue that has spent its tokens, and has due tasks, has some again; else null.';

create function pgsched.wake_for_freed_slots()
  returns void
  language plpgsql
as $$
begin
  if exists (select from pgsched.queues as q where q.max_in_flight is not null) then
    perform pgsched.wake();
  end if;
end;
$$;

comment on function pgsched.wake_for_freed_slots() is
  'Wake the workers when a task that has ended may have made room in a queue.';

-- Breaker ----------------------------------------------------------------

create function pgsched.begin_probes(
  p_worker_id uuid,
  p_systems   text[],
  p_queues    text[],
  p_limited   text[],
  p_now       timestamptz
)
  returns uuid[]
  language plpgsql
as $$
declare
  v_system text;
  v_ids    uuid[];
  v_probes uuid[] := '{}';
begin
  for v_system in
    select s.name
    from pgsched.external_systems as s
    where s.name = any (p_systems)
      and s.open_until <= p_now
      and coalesce(s.probe_until, '-infinity') <= p_now
    order by s.name
    for no key update skip locked
  loop
    v_ids := pgsched.find_due_within_limits(
      array(
        select q.name
        from pgsched.queues as q
        where q.external_system = v_system
          and not q.is_paused
          and (p_queues is null or q.name = any (p_queues))
        order by array_position(p_queues, q.name), q.name
      ),
      p_limited, 1, null, p_now
    );

    if cardinality(v_ids) > 0 then
      update pgsched.external_systems as s
      set
        probe_by    = p_worker_id,
        probe_until = p_now + s.request_timeout + interval '30 seconds'
      where s.name = v_system;

      v_probes := v_probes || v_ids;
    end if;
  end loop;

  return v_probes;
end;
$$;

comment on function pgsched.begin_probes(uuid, text[], text[], text[], timestamptz) is
  'Lock one due task for each of these external systems that may be probed; their ids.';

create function pgsched.next_probe_at(p_queues text[], p_now timestamptz)
  returns timestamptz
  language sql
  stable
begin atomic
  select min(greatest(s.open_until, s.probe_until))
  from pgsched.external_systems as s
  where greatest(s.open_until, s.probe_until) > p_now
    and s.open_until is not null
    and exists (
      select
      from pgsched.queues as q
      where q.external_system = s.name
        and not q.is_paused
        and (p_queues is null or q.name = any (p_queues))
    );
end;

comment on function pgsched.next_probe_at(text[], timestamptz) is
  'When the next breaker of these queues (null: of all) may be probed; null when none is open.';

-- Waits for nobody: while a stranger holds the row, the worker goes on
-- failing, and says it again.
create function pgsched.open_breaker(
  p_external_system text,
  p_reason          text default null,
  p_worker_id       uuid default null
)
  returns timestamptz
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now    timestamptz := pgsched.now();
  v_system pgsched.external_systems;
begin
  select s.*
  into v_system
  from pgsched.external_systems as s
  where s.name = p_external_system
  for no key update skip locked;

  if not found then
    if exists (select from pgsched.external_systems as s where s.name = p_external_system) then
      return null;
    end if;

    raise exception sqlstate 'PS404' using
      message = format('external system %L does not exist', p_external_system);
  elsif v_system.open_until is not null and (p_worker_id is null or v_system.probe_by is distinct from p_worker_id) then
    return v_system.open_until;
  end if;

  update pgsched.external_systems as s
  set
    open_until  = v_now
      + least(interval '5 seconds' * power(2, least(s.open_count, 6)), interval '5 minutes') * (1 + random() / 10),
    open_reason = left(coalesce(p_reason, 'opened by ' || session_user), 2048),
    open_count  = s.open_count + 1,
    opened_at   = v_now,
    probe_by    = null,
    probe_until = null
  where s.name = p_external_system
  returning s.open_until into v_system.open_until;

  return v_system.open_until;
end;
$$;

comment on function pgsched.open_breaker(text, text, uuid) is
  'Open the circuit breaker of an external system: nothing is claimed for it but a probe, after 5 s at first and up to 5 min.  One that is open stays as it is, unless its probe has failed (p_worker_id holds that).  Returns until when; null when another session has locked it.';

create function pgsched.close_breaker(p_external_system text, p_worker_id uuid default null)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '5s'
as $$
begin
  update pgsched.external_systems as s
  set
    open_until  = null,
    open_reason = null,
    open_count  = 0,
    closed_at   = pgsched.now(),
    probe_by    = null,
    probe_until = null
  where s.name = p_external_system
    and s.open_until is not null
    and (p_worker_id is null or s.probe_by = p_worker_id);

  if found then
    perform pgsched.wake();

    return true;
  elsif not exists (select from pgsched.external_systems as s where s.name = p_external_system) then
    raise exception sqlstate 'PS404' using
      message = format('external system %L does not exist', p_external_system);
  end if;

  return false;
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('external system %L is locked by another session', p_external_system),
      hint = 'Try again; pg_locks and pg_stat_activity tell who holds it.';
end;
$$;

comment on function pgsched.close_breaker(text, uuid) is
  'Close the circuit breaker of an external system; p_worker_id: only if that worker holds its probe.  The rate of its queues ramps up for ten seconds.  Returns whether it was open.';

revoke execute on all routines in schema pgsched from public;

commit;
