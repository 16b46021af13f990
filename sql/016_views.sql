-- 014 views
--
-- For people.  No view counts millions of rows to draw a number: depths are
-- exact up to 10,000 and say 10,000 beyond.
--
-- Adds   tasks, queue_stats, upcoming
-- Locks  nothing
-- Undo   drop view pgsched.tasks, pgsched.queue_stats, pgsched.upcoming;

begin;

call pgsched.begin_migration(14, 'views');

create view pgsched.tasks as
  select
    t.id, t.status, d.name as definition_name, t.queue, t.priority, t.schedule_type, t.scheduled_time,
    t.execute_after, t.attempt, t.retry_count, t.max_retries, t.error_msg, t.output_ref, t.progress,
    t.definition_id, t.schedule_id, t.trace_id, t.loop_id, t.next_task_id, t.round_index, t.input_params,
    t.schedule_config, t.worker_id, t.delivery_count, t.lost_count, t.lapsed_attempt, t.undelivered_since,
    t.started_at, t.dispatched_at, t.deadline_at, t.cancelled_at, t.created_by, t.created_at, t.finished_at
  from (
    select h.*, null::timestamptz as finished_at
    from pgsched.scheduled_tasks as h
    union all
    select i.*
    from pgsched.task_instances as i
  ) as t
  left join pgsched.task_definitions as d
    on d.id = t.definition_id;

comment on view pgsched.tasks is
  'Every task, unfinished or finished.';

create view pgsched.queue_stats as
  select
    q.name as queue,
    q.external_system,
    q.is_paused,
    due.count as due_count,
    due.oldest as oldest_due_since,
    later.count as later_count,
    under_way.scheduled as scheduled_count,
    under_way.dispatched as dispatched_count,
    under_way.running as running_count
  from pgsched.queues as q
  cross join (select pgsched.now() as at) as n
  cross join lateral (
    select least(count(*), 10000) as count, min(one.execute_after) as oldest
    from generate_series(-9, 9) as p (priority)
    cross join lateral (
      select t.execute_after
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.status = 'PENDING'
        and t.priority = p.priority
        and t.execute_after <= n.at
      order by t.execute_after
      limit 10000
    ) as one
  ) as due
  cross join lateral (
    select least(count(*), 10000) as count
    from generate_series(-9, 9) as p (priority)
    cross join lateral (
      select
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.status = 'PENDING'
        and t.priority = p.priority
        and t.execute_after > n.at
      limit 10000
    ) as one
  ) as later
  cross join lateral (
    select
      count(*) filter (where one.status = 'SCHEDULED') as scheduled,
      count(*) filter (where one.status = 'DISPATCHED') as dispatched,
      count(*) filter (where one.status = 'RUNNING') as running
    from (
      select t.status
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.deadline_at is not null
      limit 10000
    ) as one
  ) as under_way;

comment on view pgsched.queue_stats is
  'Each queue: what is due and since when, what comes later, what is under way.  Counts stop at 10,000.';

create view pgsched.upcoming as
  select u.at, u.kind, u.id, u.name, u.queue, u.priority
  from (
    (
      select t.execute_after as at, 'task' as kind, t.id, d.name, t.queue, t.priority::integer
      from pgsched.queues as q
      cross join (select pgsched.now() as at) as n
      cross join generate_series(-9, 9) as p (priority)
      cross join lateral (
        select c.*
        from pgsched.scheduled_tasks as c
        where c.queue = q.name
          and c.status = 'PENDING'
          and c.priority = p.priority
          and c.execute_after > n.at
        order by c.execute_after
        limit 100
      ) as t
      left join pgsched.task_definitions as d
        on d.id = t.definition_id
    )
    union all
    (
      select s.next_run_at, 'schedule', s.id, s.name, coalesce(s.queue, d.queue), coalesce(s.priority, d.priority)::integer
      from pgsched.schedules as s
      join pgsched.task_definitions as d
        on d.id = s.definition_id
      where s.is_active
        and s.next_run_at is not null
      order by s.next_run_at
      limit 100
    )
  ) as u
  order by u.at
  limit 100;

comment on view pgsched.upcoming is
  'The next 100 things to come due: tasks that wait, and schedules that will fire.';

commit;
