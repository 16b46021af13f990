-- 005 wake
--
-- How a worker learns that there is something to do.  NOTIFY takes a lock
-- that all notifying commits of the server share, so it must stay rare: if
-- anybody has notified within the last 10 ms, the next one does not.  What
-- falls through that is found by the worker's second looks and its poll: the
-- notification is a hint, never the truth.
--
-- The mark of the last notification is an unlogged sequence: no row, no WAL,
-- nothing dead, and seen at once by every session.  It takes the real clock,
-- since it measures the server and not the tasks.
--
-- Adds   wake_mark, was_woken(), wake(), wake_on_insert(), two triggers, next_due_in()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(5, 'wake');

create unlogged sequence pgsched.wake_mark;

comment on sequence pgsched.wake_mark is
  'Microseconds since 1970 of the latest notification.';

-- A mark in the future is none: the clock was set back.
create function pgsched.was_woken()
  returns boolean
  language sql
  volatile
  return coalesce(
    date_part('epoch', clock_timestamp()) * 1000000 - pg_sequence_last_value('pgsched.wake_mark') between 0 and 10000,
    false
  );

comment on function pgsched.was_woken() is
  'Whether anybody has notified within the last 10 ms.';

create function pgsched.wake()
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if pgsched.was_woken() then
    return;
  end if;

  perform setval('pgsched.wake_mark', (date_part('epoch', clock_timestamp()) * 1000000)::bigint);
  perform pg_notify('pgsched', '');
end;
$$;

comment on function pgsched.wake() is
  'Tell the workers to look, unless they were told within the last 10 ms.';

-- 60 seconds is the longest a worker sleeps without looking.
create function pgsched.wake_on_insert()
  returns trigger
  language plpgsql
as $$
declare
  v_soon timestamptz;
begin
  -- Under load this is all that an enqueue pays.
  if pgsched.was_woken() then
    return null;
  end if;

  v_soon := pgsched.now() + interval '60 seconds';

  if exists (select from inserted as t where t.execute_after <= v_soon) then
    perform pgsched.wake();
  end if;

  return null;
end;
$$;

comment on function pgsched.wake_on_insert() is
  'Wake the workers when a new task is due before they would look by themselves.';

create trigger scheduled_tasks_after_insert_wake
  after insert on pgsched.scheduled_tasks
  referencing new table as inserted
  for each statement execute function pgsched.wake_on_insert();

create function pgsched.wake_always()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform pgsched.wake();

  return null;
end;
$$;

comment on function pgsched.wake_always() is
  'Wake the workers: a new schedule wants its first instant computed.';

create trigger schedules_after_insert_wake
  after insert on pgsched.schedules
  for each statement execute function pgsched.wake_always();

-- Looks only at what is later than now: a due task that cannot be claimed
-- must not make a worker spin.  What it can be claimed by is a time as well:
-- the next token of its queue, or the next probe of its external system.
create function pgsched.next_due_in(p_queues text[] default null)
  returns interval
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now     timestamptz := pgsched.now();
  v_queues  text[];
  v_limited text[];
  v_next    timestamptz;
  v_tokens  timestamptz;
begin
  select c.queues, c.limited
  into v_queues, v_limited
  from pgsched.claimable_queues(p_queues, v_now) as c;

  select min(due.execute_after)
  into v_next
  from unnest(v_queues) as q (name)
  cross join generate_series(-9, 9) as p (priority)
  cross join lateral (
    select t.execute_after
    from pgsched.scheduled_tasks as t
    where t.queue = q.name
      and t.status = 'PENDING'
      and t.pending_dependencies = 0
      and t.priority = p.priority
      and t.execute_after > v_now
    order by t.execute_after
    limit 1
  ) as due;

  if cardinality(v_limited) > 0 then
    select min(pgsched.next_tokens_at(l.name, v_now))
    into v_tokens
    from unnest(v_limited) as l (name)
    where l.name = any (v_queues);
  end if;

  return least(v_next, v_tokens, pgsched.next_probe_at(p_queues, v_now), (
    select s.next_run_at
    from pgsched.schedules as s
    where s.is_active
      and coalesce(s.next_run_at, '-infinity') > v_now
    order by coalesce(s.next_run_at, '-infinity'), s.id
    limit 1
  )) - v_now;
end;
$$;

comment on function pgsched.next_due_in(text[]) is
  'How long until the next task of these queues (null: of all) or the next schedule is due, or a limited queue has tokens, or a breaker may be probed; null when nothing is planned.';

revoke execute on all routines in schema pgsched from public;

commit;
