-- 022 watch
--
-- What needs somebody's eyes: what is stuck, what fails and for which reasons,
-- who works, and whether all is well.  Each reads a bounded number of rows.
--
-- Adds   stuck_tasks, recent_failures, worker_status, health, new_failures()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(22, 'watch');

create view pgsched.worker_status as
  select
    w.id,
    case when w.lease_expires_at > n.at then 'ALIVE' else 'LOST' end as state,
    w.hostname,
    w.pid,
    w.version,
    w.queues,
    coalesce(h.count, 0) as held_count,
    w.started_at,
    w.lease_since,
    w.lease_expires_at
  from pgsched.workers as w
  cross join (select pgsched.now() as at) as n
  -- Those that are pushed end, or are taken back, before those that are accepted.
  left join (
    select one.worker_id, count(*) as count
    from pgsched.queues as q
    cross join lateral (
      select t.worker_id, t.status
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.deadline_at is not null
      order by t.deadline_at
      limit 2000
    ) as one
    where one.status = 'SCHEDULED'
    group by one.worker_id
  ) as h
    on h.worker_id = w.id
  order by w.started_at, w.id;

comment on view pgsched.worker_status is
  'Each worker process that is there, or was until some minutes ago: whether its lease holds, and how many tasks it is about to push.';
comment on column pgsched.worker_status.id is 'UUIDv7, new with every start.';
comment on column pgsched.worker_status.state is 'ALIVE while its lease holds, else LOST.  One that has said goodbye is not listed.';
comment on column pgsched.worker_status.hostname is 'The machine it runs on.';
comment on column pgsched.worker_status.pid is 'Its process there.';
comment on column pgsched.worker_status.version is 'Its version of pgsched.';
comment on column pgsched.worker_status.queues is 'The queues it claims from; null: all.';
comment on column pgsched.worker_status.held_count is 'Tasks that it has claimed and not yet settled; of each queue it looks at 2,000.';
comment on column pgsched.worker_status.started_at is 'When it registered.';
comment on column pgsched.worker_status.lease_since is 'Since when its lease is unbroken.';
comment on column pgsched.worker_status.lease_expires_at is 'Until when what it holds is its own.';

create view pgsched.stuck_tasks as
  select
    s.id, s.status, s.queue, d.name as definition_name, s.since, date_trunc('second', n.at - s.since) as stuck_for,
    s.reason, s.attempt, s.retry_count, s.worker_id, s.error_msg
  from (select pgsched.now() as at) as n
  cross join lateral (
    (
      select
        t.id, t.status, t.queue, t.execute_after as since,
        coalesce(o.reason, 'It is due, and workers claim others before it, or none at all.') as reason,
        t.attempt, t.retry_count, t.worker_id, t.error_msg, t.definition_id
      from pgsched.queues as q
      cross join generate_series(-9, 9) as p (priority)
      cross join lateral (
        select c.*
        from pgsched.scheduled_tasks as c
        where c.queue = q.name
          and c.status = 'PENDING'
          and c.pending_dependencies = 0
          and c.priority = p.priority
          and c.execute_after <= n.at - interval '5 minutes'
        order by c.execute_after
        limit 100
      ) as t
      left join lateral (
        select (pgsched.queue_obstacles(q.name, n.at))[1] as reason
        offset 0
      ) as o
        on true
    )
    union all
    (
      select
        t.id, t.status, t.queue, t.deadline_at,
        case t.status
          when 'SCHEDULED' then 'Its worker did not settle it in time, and none has taken it back.'
          else 'No report came in time, and no worker has ended the attempt.'
        end,
        t.attempt, t.retry_count, t.worker_id, t.error_msg, t.definition_id
      from pgsched.queues as q
      cross join lateral (
        select c.*
        from pgsched.scheduled_tasks as c
        where c.queue = q.name
          and c.deadline_at <= n.at - interval '1 minute'
        order by c.deadline_at
        limit 100
      ) as t
    )
    union all
    (
      select
        t.id, t.status, t.queue, coalesce(t.undelivered_since, t.created_at),
        case
          when t.undelivered_since is not null then 'It cannot be delivered: ' || coalesce(pgsched.first_line(t.error_msg), 'no answer') || '.'
          else format('It was lost with its worker %s times in a row.', t.lost_count)
        end,
        t.attempt, t.retry_count, t.worker_id, t.error_msg, t.definition_id
      from pgsched.queues as q
      cross join generate_series(-9, 9) as p (priority)
      cross join lateral (
        select c.*
        from pgsched.scheduled_tasks as c
        where c.queue = q.name
          and c.status = 'PENDING'
          and c.pending_dependencies = 0
          and c.priority = p.priority
          and c.execute_after > n.at - interval '5 minutes'
        order by c.execute_after
        limit 1000
      ) as t
      where t.undelivered_since <= n.at - interval '5 minutes'
        or t.lost_count >= 3
    )
  ) as s
  left join pgsched.task_definitions as d
    on d.id = s.definition_id
  order by s.since;

comment on view pgsched.stuck_tasks is
  'Unfinished tasks that do not get on: due for more than 5 minutes, past a deadline for more than one, undeliverable for more than 5, or lost with their worker three times in a row.  Of each queue and priority the first 100, of those that come due next the first 1,000 are looked at.';
comment on column pgsched.stuck_tasks.id is 'The task; select pgsched.explain_task(id) says more.';
comment on column pgsched.stuck_tasks.status is 'Its status.';
comment on column pgsched.stuck_tasks.queue is 'Its queue.';
comment on column pgsched.stuck_tasks.definition_name is 'What it runs.';
comment on column pgsched.stuck_tasks.since is 'Since when.';
comment on column pgsched.stuck_tasks.stuck_for is 'For how long.';
comment on column pgsched.stuck_tasks.reason is 'Why, as far as it can be told.';
comment on column pgsched.stuck_tasks.attempt is 'The number of the execution, from 1.';
comment on column pgsched.stuck_tasks.retry_count is 'Retries used.';
comment on column pgsched.stuck_tasks.worker_id is 'The worker that claimed it last.';
comment on column pgsched.stuck_tasks.error_msg is 'The latest error.';

-- A task that is tried again is found by what happened to it, since no index
-- leads from an error to its tasks.
create view pgsched.recent_failures as
  select
    pgsched.error_fingerprint(f.error_msg) as fingerprint,
    d.name as definition_name,
    f.queue,
    count(*) filter (where f.is_final) as failed_count,
    count(*) filter (where not f.is_final) as retrying_count,
    min(f.at) as first_at,
    max(f.at) as last_at,
    (array_agg(f.id order by f.at desc))[1] as last_task_id,
    (array_agg(f.error_msg order by f.at desc))[1] as last_error
  from (select pgsched.now() - interval '24 hours' as start) as n
  cross join lateral (
    (
      select i.id, i.finished_at as at, i.error_msg, i.queue, i.definition_id, true as is_final
      from pgsched.task_instances as i
      where i.status = 'FAILED'
        and i.status <> 'SUCCESS'
        and i.finished_at > n.start
      order by i.finished_at desc
      limit 5000
    )
    union all
    (
      select t.id, max(e.at), t.error_msg, t.queue, t.definition_id, false
      from (
        select e.task_id, e.at
        from pgsched.task_events as e
        where e.at > n.start
          and e.event in ('RETRY', 'DEFERRED', 'LOST')
        order by e.id desc
        limit 5000
      ) as e
      join pgsched.scheduled_tasks as t
        on t.id = e.task_id
      group by t.id
    )
  ) as f
  left join pgsched.task_definitions as d
    on d.id = f.definition_id
  group by 1, d.name, f.queue
  order by last_at desc;

comment on view pgsched.recent_failures is
  'Why tasks failed in the latest 24 hours, those alike together: the newest 5,000 that FAILED, and the newest 5,000 attempts after which a task is tried again.';
comment on column pgsched.recent_failures.fingerprint is 'What the errors have in common, with # for ids and numbers.';
comment on column pgsched.recent_failures.definition_name is 'What the tasks run.';
comment on column pgsched.recent_failures.queue is 'Their queue.';
comment on column pgsched.recent_failures.failed_count is 'Tasks that are FAILED.';
comment on column pgsched.recent_failures.retrying_count is 'Unfinished tasks whose latest error it is.';
comment on column pgsched.recent_failures.first_at is 'The first of them.';
comment on column pgsched.recent_failures.last_at is 'The latest of them.';
comment on column pgsched.recent_failures.last_task_id is 'The task of the latest one.';
comment on column pgsched.recent_failures.last_error is 'The error of the latest one, whole.';

create view pgsched.health as
  with
  clock as materialized (select pgsched.now() as at),
  alive as materialized (
    select
      count(distinct w.id) filter (where w.state = 'ALIVE') as alive,
      count(distinct w.id) filter (where w.state = 'LOST') as lost,
      count(distinct w.id) filter (where w.state = 'ALIVE' and w.queues is null) as serve_all,
      array_agg(distinct u.queue) as queues
    from pgsched.worker_status as w
    left join lateral unnest(w.queues) as u (queue)
      on w.state = 'ALIVE'
  ),
  queue as materialized (
    select q.*, a.serve_all = 0 and (q.queue = any (a.queues)) is not true as is_unserved
    from pgsched.queue_stats as q
    cross join alive as a
  ),
  late as (
    select count(*) as count, min(q.oldest_due_since) as since, string_agg(q.queue, ', ' order by q.oldest_due_since) as names
    from queue as q
    cross join clock as c
    where q.oldest_due_since <= c.at - interval '5 minutes'
  ),
  ended as (
    select count(*) as count, count(*) filter (where e.status = 'FAILED') as failed
    from (
      select i.status
      from pgsched.task_instances as i
      cross join clock as c
      where i.finished_at > c.at - interval '10 minutes'
      order by i.finished_at desc
      limit 1000
    ) as e
  ),
  expired as (
    select count(*) as count, min(s.deadline_at) as since
    from pgsched.queues as q
    cross join clock as c
    cross join lateral (
      select t.deadline_at
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.deadline_at <= c.at - interval '1 minute'
      order by t.deadline_at
      limit 1000
    ) as s
  ),
  record as (
    select r.table_name, max(p.upper_bound) as until
    from pgsched.retention as r
    left join lateral pgsched.partitions(r.table_name) as p
      on true
    group by r.table_name
  )
  select h.name, h.status, h.seen, h.advice
  from (
    select
      1 as number, 'workers' as name,
      case when a.alive = 0 then 'error' when a.lost > 0 then 'warning' else 'ok' end as status,
      format('%s alive%s', a.alive, case when a.lost > 0 then format(', %s lost in the latest minutes', a.lost) else '' end) as seen,
      case
        when a.alive = 0 then 'Nothing fires and nothing is pushed.  Start one: pgsched worker.'
        when a.lost > 0 then 'See their logs, and select * from pgsched.worker_status.'
      end as advice
    from alive as a
    union all
    select
      2, 'queues served',
      case when count(*) filter (where q.is_unserved and q.due_count > 0) > 0 then 'error' else 'ok' end,
      coalesce(
        'nobody serves ' || string_agg(q.queue, ', ' order by q.queue) filter (where q.is_unserved and q.due_count > 0),
        format('%s of %s have a worker', count(*) filter (where not q.is_unserved), count(*))
      ),
      case when count(*) filter (where q.is_unserved and q.due_count > 0) > 0
        then 'Start a worker whose PGSCHED_QUEUES names it, or names none.' end
    from queue as q
    union all
    select
      3, 'paused queues',
      case when count(*) filter (where q.due_count > 0) > 0 then 'warning' else 'ok' end,
      coalesce(string_agg(format('%s (%s due)', q.queue, q.due_count), ', ' order by q.queue), 'none'),
      case when count(*) filter (where q.due_count > 0) > 0
        then 'What is due there waits.  select pgsched.resume_queue(name) ends a pause.' end
    from queue as q
    where q.is_paused
    union all
    select
      4, 'breakers', case when count(*) > 0 then 'error' else 'ok' end,
      coalesce(string_agg(format('%s open since %s: %s', s.name, s.opened_at, coalesce(pgsched.first_line(s.open_reason), 'no reason given')), '; ' order by s.name), 'all closed'),
      case when count(*) > 0 then 'Nothing but a probe is pushed to it until it answers.  Mend the system.' end
    from pgsched.external_systems as s
    where s.open_until is not null
    union all
    select
      5, 'due tasks', case when l.count > 0 then 'warning' else 'ok' end,
      case when l.count > 0 then format('due since %s in %s', l.since, l.names) else 'none due for more than 5 minutes' end,
      case when l.count > 0 then 'select pgsched.explain_queue(name) says why.' end
    from late as l
    union all
    select
      6, 'deadlines', case when e.count > 0 then 'error' else 'ok' end,
      case when e.count > 0 then format('passed by %s%s, the first at %s', case e.count when 1 then '1 task' else e.count || ' tasks' end, case when e.count >= 1000 then ' or more' else '' end, e.since) else 'none passed and not seen to' end,
      case when e.count > 0 then 'Workers end such attempts each second: see whether any is alive, and select * from pgsched.stuck_tasks.' end
    from expired as e
    union all
    select
      7, 'failures', case when e.failed * 2 > e.count then 'warning' else 'ok' end,
      format('%s of the latest %s tasks that ended in 10 minutes FAILED', e.failed, e.count),
      case when e.failed * 2 > e.count then 'select * from pgsched.recent_failures says why.' end
    from ended as e
    union all
    select
      8, 'schedules',
      case when count(*) > 0 then 'error' else 'ok' end,
      coalesce(string_agg(s.problem, '; ' order by s.name), 'none broken, none late'),
      case when count(*) > 0 then 'select pgsched.explain_schedule(name) says what to do.' end
    from (
      select
        s.name,
        case when s.is_active then format('%s late since %s', s.name, s.next_run_at) else format('%s broken: %s', s.name, pgsched.first_line(s.error_msg)) end as problem
      from pgsched.schedules as s
      cross join clock as c
      where (s.is_active and s.next_run_at <= c.at - interval '1 minute')
        or (not s.is_active and s.paused_at is null and s.error_msg is not null)
      order by s.name
      limit 10
    ) as s
    union all
    select
      9, 'outbox', case when o.given_up > 0 or o.late > 0 then 'warning' else 'ok' end,
      case
        when o.given_up > 0 or o.late > 0 then format('%s given up in the latest day, %s waiting for more than 5 minutes', o.given_up, o.late)
        else 'nothing given up lately, nothing late'
      end,
      case when o.given_up > 0 or o.late > 0
        then 'External systems were not told what became of these tasks: see last_error in pgsched.status_pushes.' end
    from (
      select
        (
          select count(*)
          from (
            select from pgsched.status_pushes as p
            where p.given_up_at > c.at - interval '1 day'
            limit 1000
          ) as one
        ) as given_up,
        (
          select count(*)
          from pgsched.queues as q
          cross join lateral (
            select
            from pgsched.status_pushes as p
            where p.queue = q.name
              and p.due_at <= c.at - interval '5 minutes'
            limit 1000
          ) as one
        ) as late
      from clock as c
    ) as o
    union all
    select
      10, 'partitions', case when count(*) filter (where r.until is null or r.until < c.at + interval '7 days') > 0 then 'warning' else 'ok' end,
      string_agg(format('%s until %s', r.table_name, coalesce(to_char(r.until at time zone 'UTC', 'YYYY-MM-DD'), 'none at all')), ', ' order by r.table_name),
      case when count(*) filter (where r.until is null or r.until < c.at + interval '7 days') > 0
        then 'Workers make them: see that one is alive, or select pgsched.maintain().  Until then the default partitions catch what comes.' end
    from record as r
    cross join clock as c
    group by c.at
  ) as h
  order by h.number;

comment on view pgsched.health is
  'One row for each thing that should be well.  What only a superuser or pg_monitor sees, such as sessions that hold old snapshots, is told by `pgsched doctor`.';
comment on column pgsched.health.name is 'What was looked at.';
comment on column pgsched.health.status is 'ok, warning or error.';
comment on column pgsched.health.seen is 'What was seen.';
comment on column pgsched.health.advice is 'What to do; null when all is well.';

-- For the log of the workers, so that a failure is told once and by one of
-- them.  What commits more than a second after it began is left out.
create function pgsched.new_failures(
  p_worker_id uuid,
  p_after     timestamptz default null,
  p_limit     integer     default 20
)
  returns table (
    until           timestamptz,
    failed_count    bigint,
    task_id         uuid,
    trace_id        uuid,
    definition_name text,
    queue           text,
    attempt         integer
  )
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  v_now    timestamptz := pgsched.now();
  v_until  timestamptz := v_now - interval '1 second';
  v_teller uuid;
begin
  select w.id
  into v_teller
  from pgsched.workers as w
  where w.lease_expires_at > v_now
  order by w.id
  limit 1;

  if p_after is null or v_teller is distinct from p_worker_id then
    return query select v_until, 0::bigint, null::uuid, null::uuid, null::text, null::text, null::integer;
    return;
  end if;

  return query
    with failed as materialized (
      select i.id, i.trace_id, i.definition_id, i.queue, i.attempt, i.finished_at
      from pgsched.task_instances as i
      where i.status = 'FAILED'
        and i.status <> 'SUCCESS'
        and i.finished_at > p_after
        and i.finished_at <= v_until
    )
    select v_until, n.count, f.id, f.trace_id, d.name, f.queue, f.attempt
    from (select count(*) as count from failed) as n
    left join (
      select *
      from failed
      order by finished_at, id
      limit p_limit
    ) as f
      on true
    left join pgsched.task_definitions as d
      on d.id = f.definition_id
    order by f.finished_at, f.id;
end;
$$;

comment on function pgsched.new_failures(uuid, timestamptz, integer) is
  'For the log: the tasks that have ended FAILED after p_after until a second ago, the first p_limit of them, and how many in all.  None for a worker that is not the oldest one alive.';

revoke execute on all routines in schema pgsched from public;

commit;
