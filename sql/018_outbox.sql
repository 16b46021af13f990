-- 018 outbox
--
-- Telling the external systems what pgsched itself has decided about a task:
-- that it will be run again, has FAILED, was CANCELLED, or, for those who want
-- to know, is SCHEDULED.  The message is written in the transaction that makes
-- the change, and sent by a worker afterwards: at least once, and for each
-- task in the order of the changes.
--
-- Order: only the oldest message of a task may be claimed, and the next one
-- when that is settled.  What overtook it needs no telling: a message is
-- dropped when it is not what the task is any more, unless it is just being
-- sent, and then its sender settles it.
--
-- Who never heard of a task hears nothing of its changes, and who reported an
-- end is not told of it.  When every task succeeds nothing is written here.
--
-- Adds   tell_statuses(), tell_of_cancelled(), drop_stale_pushes(), lock_due_pushes(),
--        claim_status_pushes(), status_push_result, settle_status_pushes(), clean_status_pushes(),
--        move_status_pushes(), two triggers
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(18, 'outbox');

-- Write ------------------------------------------------------------------

-- Called with the tasks locked, so that the numbers are in the order of the
-- changes.  An end is told before the task is moved, and being SCHEDULED
-- before it is delivered.
create function pgsched.tell_statuses(p_news pgsched.status_news[], p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
begin
  insert into pgsched.status_pushes (
    task_id, queue, definition_id, trace_id, scheduled_time, status, attempt, error_msg, created_at, due_at
  )
  select
    t.id, t.queue, t.definition_id, t.trace_id, t.scheduled_time, n.status, t.attempt,
    case when n.status <> 'SCHEDULED' then coalesce(n.error_msg, t.error_msg) end,
    p_now, p_now
  from unnest(p_news) as n
  join pgsched.scheduled_tasks as t
    on t.id = n.task_id
  join pgsched.queues as q
    on q.name = t.queue
  join pgsched.external_systems as s
    on s.name = q.external_system
  where t.id = any (array(select x.task_id from unnest(p_news) as x))
    and (t.delivery_count > 0 or n.status = 'SCHEDULED')
    and n.status = any (coalesce(
      s.push_statuses,
      case s.completion when 'callback' then array['PENDING', 'FAILED', 'CANCELLED'] else '{}' end
    ));

  if found then
    perform pgsched.wake();
  end if;
end;
$$;

comment on function pgsched.tell_statuses(pgsched.status_news[], timestamptz) is
  'Write what the external systems are to be told of unfinished, locked tasks, if they have heard of them and want to know.';

-- A push was under way while its task was cancelled, and has been accepted
-- after the executor was told.  No push takes a day.  A task that another
-- session has locked is being retried: to tell of its end now would be to tell
-- of it after the retry.
create function pgsched.tell_of_cancelled(p_task_ids uuid[], p_now timestamptz)
  returns uuid[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_cancelled uuid[];
  v_ids       uuid[];
begin
  -- By their ids, which the planner must not take for the lesser choice.
  v_cancelled := array(
    select r.id
    from (
      select i.id, i.status, i.finished_at
      from pgsched.task_instances as i
      where i.id = any (p_task_ids)
        and i.finished_at > p_now - interval '1 day'
      offset 0
    ) as r
    where r.status = 'CANCELLED'
  );
  v_ids := array(
    select i.id
    from pgsched.task_instances as i
    where i.id = any (v_cancelled)
      and i.finished_at > p_now - interval '1 day'
    for key share skip locked
  );

  insert into pgsched.status_pushes (
    task_id, queue, definition_id, trace_id, scheduled_time, status, attempt, error_msg, created_at, due_at
  )
  select
    i.id, i.queue, i.definition_id, i.trace_id, i.scheduled_time, i.status, i.attempt, i.error_msg, p_now, p_now
  from (
    select r.*
    from pgsched.task_instances as r
    where r.id = any (v_ids)
      and r.finished_at > p_now - interval '1 day'
    offset 0
  ) as i
  join pgsched.queues as q
    on q.name = i.queue
  join pgsched.external_systems as s
    on s.name = q.external_system
  where i.status = any (s.push_statuses) or (s.push_statuses is null and s.completion = 'callback');

  if found then
    perform pgsched.wake();
  end if;

  return array(select u.id from unnest(v_cancelled) as u (id) where u.id <> all (v_ids));
end;
$$;

comment on function pgsched.tell_of_cancelled(uuid[], timestamptz) is
  'Tell the external systems again of those of these tasks that the record has as CANCELLED.  Returns those of them that another session has locked.';

-- Send -------------------------------------------------------------------

-- What is being sent is left to its sender.  Of two messages that say the same
-- the later is enough.
create function pgsched.drop_stale_pushes(p_task_ids uuid[], p_now timestamptz)
  returns integer
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_count integer;
begin
  delete from pgsched.status_pushes as p
  where p.sequence = any (array(
    select c.sequence
    from pgsched.status_pushes as c
    left join lateral (
      select t.status, t.attempt
      from pgsched.scheduled_tasks as t
      where t.id = c.task_id
      union all
      select i.status, i.attempt
      from pgsched.task_instances as i
      where i.id = c.task_id
      limit 1
    ) as s
      on true
    where c.task_id = any (p_task_ids)
      and c.given_up_at is null
      and (c.worker_id is null or c.due_at <= p_now)
      and (
        (s.status, s.attempt) is distinct from (c.status, c.attempt)
        or (
          select l.sequence
          from pgsched.status_pushes as l
          where l.task_id = c.task_id
            and l.sequence + 0 > c.sequence  -- by the index of the task
            and l.given_up_at is null
            and (l.status, l.attempt) = (c.status, c.attempt)
          limit 1
        ) is not null
      )
    for update of c skip locked
  ));

  get diagnostics v_count = row_count;

  return v_count;
end;
$$;

comment on function pgsched.drop_stale_pushes(uuid[], timestamptz) is
  'Delete the messages about these tasks that are not true any more; how many.';

-- Looks only at so many due messages as may be taken, and drops the stale
-- ones among them before it takes any; when all were stale it looks further.
create function pgsched.lock_due_pushes(p_queues text[], p_limit integer, p_now timestamptz)
  returns bigint[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_tasks     uuid[];
  v_dropped   integer;
  v_sequences bigint[] := '{}';
begin
  for v_look in 1..20 loop
    v_tasks := array(
      select due.task_id
      from unnest(p_queues) as q (name)
      cross join lateral (
        select p.task_id
        from pgsched.status_pushes as p
        where p.queue = q.name
          and p.due_at <= p_now
          and (
            select e.sequence
            from pgsched.status_pushes as e
            where e.task_id = p.task_id
              and e.sequence < p.sequence
              and e.given_up_at is null
              and e.worker_id is not null
              and e.due_at > p_now
            limit 1
          ) is null
        order by p.due_at, p.sequence
        limit p_limit
        for update skip locked
      ) as due
      limit p_limit
    );

    exit when cardinality(v_tasks) = 0;

    v_dropped := pgsched.drop_stale_pushes(v_tasks, p_now);

    v_sequences := array(
      select p.sequence
      from pgsched.status_pushes as p
      where p.task_id = any (v_tasks)
        and p.due_at <= p_now
        and (
          select e.sequence
          from pgsched.status_pushes as e
          where e.task_id = p.task_id
            and e.sequence < p.sequence
            and e.given_up_at is null
          limit 1
        ) is null
      order by p.sequence
      limit p_limit
      for update skip locked
    );

    exit when cardinality(v_sequences) > 0 or v_dropped = 0;
  end loop;

  return v_sequences;
end;
$$;

comment on function pgsched.lock_due_pushes(text[], integer, timestamptz) is
  'Lock up to p_limit due messages of these queues, of each task only the oldest, and drop stale ones on the way; their numbers.';

-- A breaker that could have been probed for a minute has no task to be probed
-- with, and may stay open for as long.  The messages do not wait for that.
create function pgsched.claim_status_pushes(
  p_worker_id uuid,
  p_limit     integer default 50,
  p_queues    text[]  default null
)
  returns table (
    sequence        bigint,
    push_count      integer,
    external_system text,
    queue           text,
    hold_seconds    double precision,
    task_id         uuid,
    status          text,
    attempt         integer,
    error_msg       text,
    created_at      timestamptz,
    scheduled_time  timestamptz,
    definition_id   uuid,
    definition_name text,
    trace_id        uuid
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
  v_now       timestamptz := pgsched.now();
  v_system    record;
  v_sequences bigint[];
begin
  if p_limit is null or p_limit not between 1 and 1000 then
    raise exception sqlstate 'PS422' using
      message = format('p_limit must be from 1 to 1000, not %s', coalesce(p_limit::text, 'null'));
  end if;

  for v_system in
    select
      x.name,
      interval '30 seconds' + x.request_timeout as hold,
      array_agg(q.name order by q.name) as queues
    from pgsched.external_systems as x
    join pgsched.queues as q
      on q.external_system = x.name
    where (x.open_until is null or greatest(x.open_until, x.probe_until) <= v_now - interval '1 minute')
      and (p_queues is null or q.name = any (p_queues))
      and (
        select p.sequence
        from pgsched.status_pushes as p
        where p.queue = q.name
          and p.due_at <= v_now
        limit 1
      ) is not null
    group by x.name
    order by x.name
  loop
    v_sequences := pgsched.lock_due_pushes(v_system.queues, p_limit, v_now);

    return query
      with claimed as (
        update pgsched.status_pushes as p
        set
          worker_id  = p_worker_id,
          push_count = p.push_count + 1,
          due_at     = v_now + v_system.hold
        where p.sequence = any (v_sequences)
        returning p.*
      )
      select
        c.sequence, c.push_count, v_system.name, c.queue, extract(epoch from v_system.hold)::double precision,
        c.task_id, c.status, c.attempt, c.error_msg, c.created_at, c.scheduled_time, c.definition_id, d.name,
        c.trace_id
      from claimed as c
      left join pgsched.task_definitions as d
        on d.id = c.definition_id
      order by c.sequence;
  end loop;
end;
$$;

comment on function pgsched.claim_status_pushes(uuid, integer, text[]) is
  'Lease to a worker what the external systems of p_queues (null: all) are to be told, up to p_limit messages for each, and none while its breaker is open, unless no task has been there for a minute to probe it with.  A paused queue still gives its messages.';

create type pgsched.status_push_result as (
  sequence   bigint,
  push_count integer,
  outcome    text,
  delay      interval,
  error_msg  text
);

comment on type pgsched.status_push_result is
  'What became of one message.';

-- A message that somebody else has locked is passed over: its lease ends, and
-- it is sent again.
create function pgsched.settle_status_pushes(p_results jsonb)
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
  v_results pgsched.status_push_result[];
  v_ids     bigint[];
begin
  if jsonb_typeof(p_results) is distinct from 'array' then
    raise exception sqlstate 'PS422' using message = 'p_results must be a JSON array of results';
  end if;

  begin
    v_results := array(
      select r
      from jsonb_populate_recordset(null::pgsched.status_push_result, p_results) as r
    );
  exception
    when data_exception then
      raise exception sqlstate 'PS422' using message = format('p_results: %s', sqlerrm);
  end;

  if exists (
    select
    from unnest(v_results) as r
    where r.outcome is null
      or r.outcome not in ('ACKNOWLEDGED', 'DEFERRED', 'RELEASED', 'GIVEN_UP')
  ) then
    raise exception sqlstate 'PS422' using
      message = 'outcome must be ACKNOWLEDGED, DEFERRED, RELEASED or GIVEN_UP';
  end if;

  v_ids := array(
    select p.sequence
    from pgsched.status_pushes as p
    join unnest(v_results) as r
      on r.sequence = p.sequence
      and r.push_count = p.push_count
    where p.sequence = any (array(select x.sequence from unnest(v_results) as x))
      and p.worker_id is not null
    for update of p skip locked
  );

  delete from pgsched.status_pushes as p
  using unnest(v_results) as r
  where p.sequence = any (v_ids)
    and r.sequence = p.sequence
    and r.push_count = p.push_count
    and r.outcome = 'ACKNOWLEDGED';

  with judged as (
    select
      o.sequence,
      r.delay,
      r.error_msg,
      r.outcome = 'GIVEN_UP' or (r.outcome = 'DEFERRED' and o.created_at + s.delivery_timeout <= v_now) as is_over
    from pgsched.status_pushes as o
    join unnest(v_results) as r
      on r.sequence = o.sequence
      and r.push_count = o.push_count
    join pgsched.queues as q
      on q.name = o.queue
    join pgsched.external_systems as s
      on s.name = q.external_system
    where o.sequence = any (v_ids)
      and r.outcome <> 'ACKNOWLEDGED'
  )
  update pgsched.status_pushes as p
  set
    worker_id   = null,
    due_at      = case when not j.is_over then v_now + coalesce(greatest(j.delay, interval '0'), interval '0') end,
    last_error  = coalesce(left(j.error_msg, 2048), p.last_error),
    given_up_at = case when j.is_over then v_now end
  from judged as j
  where p.sequence = any (v_ids)
    and p.sequence = j.sequence;

  return cardinality(v_ids);
end;
$$;

comment on function pgsched.settle_status_pushes(jsonb) is
  'Tell what became of messages: [{"sequence", "push_count", "outcome", "delay", "error_msg"}, …], outcome being ACKNOWLEDGED, DEFERRED (again after delay; given up once it is older than the delivery_timeout), RELEASED (never sent) or GIVEN_UP.  Returns how many of them the worker still held.';

-- Keep -------------------------------------------------------------------

create function pgsched.clean_status_pushes(p_limit integer, p_now timestamptz)
  returns integer
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_deleted  integer;
  v_given_up integer;
begin
  delete from pgsched.status_pushes as p
  where p.sequence = any (array(
    select o.sequence
    from pgsched.status_pushes as o
    where o.given_up_at <= p_now - interval '30 days'
    order by o.given_up_at
    limit p_limit
    for update skip locked
  ));

  get diagnostics v_deleted = row_count;

  update pgsched.status_pushes as p
  set
    given_up_at = p_now,
    due_at      = null,
    worker_id   = null,
    last_error  = coalesce(p.last_error, 'no worker has sent it')
  where p.sequence = any (array(
    select late.sequence
    from pgsched.queues as q
    join pgsched.external_systems as s
      on s.name = q.external_system
    cross join lateral (
      select o.sequence
      from pgsched.status_pushes as o
      where o.queue = q.name
        and o.due_at <= p_now - greatest(s.delivery_timeout, interval '1 day')
      order by o.due_at
      limit p_limit
      for update skip locked
    ) as late
    limit p_limit
  ));

  get diagnostics v_given_up = row_count;

  return v_deleted + v_given_up;
end;
$$;

comment on function pgsched.clean_status_pushes(integer, timestamptz) is
  'Delete messages that were given up 30 days ago, and give up those that nobody has sent for a day, and the delivery_timeout of their external system; how many.';

create function pgsched.move_status_pushes()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'UPDATE' then
    update pgsched.status_pushes as p
    set queue = new.name
    where p.queue = old.name;
  else
    update pgsched.status_pushes as p
    set given_up_at = pgsched.now(), due_at = null, worker_id = null, last_error = 'its queue was deleted'
    where p.queue = old.name
      and p.given_up_at is null;
  end if;

  return null;
end;
$$;

comment on function pgsched.move_status_pushes() is
  'Messages follow their queue when that is renamed, and are given up when it is deleted.';

create trigger queues_after_update_status_pushes
  after update of name on pgsched.queues
  for each row when (old.name <> new.name) execute function pgsched.move_status_pushes();

create trigger queues_after_delete_status_pushes
  after delete on pgsched.queues
  for each row execute function pgsched.move_status_pushes();

revoke execute on all routines in schema pgsched from public;

commit;
