-- 008 workers
--
-- A worker is one row, new with every start of a process.  Its lease covers
-- every task it holds: 30 seconds, renewed by a heartbeat.  A worker that
-- lost its lease has lost its tasks, and knows so by its own clock before
-- anybody takes them.
--
-- Release and heartbeat lock the worker's row, so that only one of them wins.
-- Nobody is released before the one who does it has held a lease unbroken for
-- a full term: after an outage of the database everyone may renew first.
--
-- Adds   workers, lease_term(), register_worker(), heartbeat(), lock_tasks_of(),
--        forget_probes(), release_worker(), release_dead_workers()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(8, 'workers');

create table pgsched.workers (
  id               uuid        not null default pgsched.uuid7(),
  hostname         text        not null,
  pid              integer     not null,
  version          text        not null,
  queues           text[],
  started_at       timestamptz not null default pgsched.now(),
  lease_since      timestamptz not null,
  lease_expires_at timestamptz not null,

  constraint workers_pkey
    primary key (id)
)
with (fillfactor = 50);

comment on table pgsched.workers is
  'The worker processes that are there, or were until just now.';
comment on column pgsched.workers.id is 'UUIDv7, new with every start.';
comment on column pgsched.workers.hostname is 'The machine it runs on.';
comment on column pgsched.workers.pid is 'Its process there.';
comment on column pgsched.workers.version is 'Its version of pgsched.';
comment on column pgsched.workers.queues is 'The queues it claims from; null: all.';
comment on column pgsched.workers.started_at is 'When it registered.';
comment on column pgsched.workers.lease_since is 'Since when its lease is unbroken.';
comment on column pgsched.workers.lease_expires_at is 'Until when what it holds is its own.';

create function pgsched.lease_term()
  returns interval
  language sql
  immutable
  return interval '30 seconds';

comment on function pgsched.lease_term() is
  'How long a heartbeat keeps a worker''s lease.';

create function pgsched.register_worker(
  p_hostname text,
  p_pid      integer,
  p_version  text,
  p_queues   text[] default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := pgsched.now();
  v_id  uuid;
begin
  insert into pgsched.workers (hostname, pid, version, queues, started_at, lease_since, lease_expires_at)
  values (p_hostname, p_pid, p_version, p_queues, v_now, v_now, v_now + pgsched.lease_term())
  returning id into v_id;

  return v_id;
end;
$$;

comment on function pgsched.register_worker(text, integer, text, text[]) is
  'Enter a worker process and give it a lease.  Returns its id.';

create function pgsched.heartbeat(p_worker_id uuid)
  returns interval
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := pgsched.now();
begin
  update pgsched.workers as w
  set
    lease_since      = case when w.lease_expires_at > v_now then w.lease_since else v_now end,
    lease_expires_at = v_now + pgsched.lease_term()
  where w.id = p_worker_id;

  if not found then
    raise exception sqlstate 'PS404' using
      message = format('worker %s is not registered', p_worker_id),
      hint = 'Register again: what it held was given to others.';
  end if;

  return pgsched.lease_term();
end;
$$;

comment on function pgsched.heartbeat(uuid) is
  'Renew a worker''s lease; one that has lapsed starts anew.  Returns how long it is good for.';

create function pgsched.lock_tasks_of(p_worker_ids uuid[])
  returns uuid[]
  language sql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
begin atomic
  select coalesce(array_agg(held.id), '{}')
  from (
    select t.id
    from pgsched.scheduled_tasks as t
    where t.deadline_at is not null
      and t.status = 'SCHEDULED'
      and t.worker_id = any (p_worker_ids)
    for update skip locked
  ) as held;
end;

comment on function pgsched.lock_tasks_of(uuid[]) is
  'Lock what these workers hold; the ids.';

-- Waits for nobody: where a stranger holds the row, the probe runs out.
create function pgsched.forget_probes(p_worker_ids uuid[])
  returns void
  language plpgsql
as $$
begin
  update pgsched.external_systems as s
  set
    probe_by    = null,
    probe_until = null
  where s.name = any (array(
    select x.name
    from pgsched.external_systems as x
    where x.probe_by = any (p_worker_ids)
    for no key update skip locked
  ));

  if found then
    perform pgsched.wake();
  end if;
end;
$$;

comment on function pgsched.forget_probes(uuid[]) is
  'Let others probe the external systems that these workers, which are gone, were probing.';

create function pgsched.release_worker(p_worker_id uuid)
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
  v_now timestamptz := pgsched.now();
  v_ids uuid[];
begin
  delete from pgsched.workers as w
  where w.id = p_worker_id;

  v_ids := pgsched.lock_tasks_of(array[p_worker_id]);

  update pgsched.scheduled_tasks as t
  set
    status        = 'PENDING',
    execute_after = v_now,
    deadline_at   = null
  where t.id = any (v_ids);

  perform pgsched.forget_probes(array[p_worker_id]);

  if cardinality(v_ids) > 0 then
    perform pgsched.wake();
  end if;

  return cardinality(v_ids);
end;
$$;

comment on function pgsched.release_worker(uuid) is
  'A worker''s goodbye: put back what it still holds and forget it.  Returns how many tasks.';

-- The row of a dead worker stays for some terms: a claim of its own that was
-- on its way while it was released is found by the next pass.
create function pgsched.release_dead_workers(p_worker_id uuid)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now  timestamptz := pgsched.now();
  v_dead uuid[];
  v_ids  uuid[];
begin
  if not exists (
    select
    from pgsched.workers as w
    where w.id = p_worker_id
      and w.lease_expires_at > v_now
      and w.lease_since <= v_now - pgsched.lease_term()
  ) then
    return 0;
  end if;

  v_dead := array(
    select w.id
    from pgsched.workers as w
    where w.lease_expires_at <= v_now
    for update skip locked
  );

  if cardinality(v_dead) = 0 then
    return 0;
  end if;

  v_ids := pgsched.lock_tasks_of(v_dead);
  perform pgsched.lose_tasks(v_ids, 'its worker has lost its lease', v_now);
  perform pgsched.forget_probes(v_dead);

  delete from pgsched.workers as w
  where w.id = any (v_dead)
    and w.lease_expires_at <= v_now - 10 * pgsched.lease_term();

  return cardinality(v_ids);
end;
$$;

comment on function pgsched.release_dead_workers(uuid) is
  'Put back what workers without a lease hold, if the caller''s own lease is old enough to judge.  Returns how many tasks.';

revoke execute on all routines in schema pgsched from public;

commit;
