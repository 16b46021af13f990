-- 016 views
--
-- For people.  No view counts millions of rows to draw a number: depths are
-- exact up to 10,000 and say 10,000 beyond.
--
-- Adds   copy_column_comments(), tasks, queue_stats, upcoming, schedule_status, explain_schedule()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(16, 'views');

create procedure pgsched.copy_column_comments(p_from regclass, p_to regclass)
  language plpgsql
as $$
declare
  v_name    name;
  v_comment text;
begin
  for v_name, v_comment in
    select v.attname, col_description(t.attrelid, t.attnum)
    from pg_attribute as t
    join pg_attribute as v
      on v.attname = t.attname
    where t.attrelid = p_from
      and t.attnum > 0
      and v.attrelid = p_to
  loop
    execute format('comment on column %s.%I is %L', p_to, v_name, v_comment);
  end loop;
end;
$$;

comment on procedure pgsched.copy_column_comments(regclass, regclass) is
  'Say of the columns of a view what is said of those of the same names elsewhere; for migrations.';

create view pgsched.tasks as
  select
    t.id, t.status, d.name as definition_name, t.queue, t.priority, t.schedule_type, t.scheduled_time,
    t.execute_after, t.pending_dependencies, t.depends_on, t.on_dependency_failure,
    t.attempt, t.retry_count, t.max_retries, t.error_msg, t.output_ref, t.progress,
    t.definition_id, t.schedule_id, t.trace_id, t.loop_id, t.next_task_id, t.round_index, t.input_params,
    t.schedule_config, t.worker_id, t.delivery_count, t.lost_count, t.lapsed_attempt, t.undelivered_since,
    t.started_at, t.dispatched_at, t.deadline_at, t.cancelled_at, t.created_by, t.created_at, t.finished_at,
    (select p.sequence from pgsched.status_pushes as p where p.task_id = t.id limit 1) is null as external_status_pushed
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

call pgsched.copy_column_comments('pgsched.task_instances', 'pgsched.tasks');

comment on column pgsched.tasks.definition_name is 'The name of what it runs; null once the definition was deleted.';
comment on column pgsched.tasks.finished_at is 'When it ended; null while it is unfinished.';
comment on column pgsched.tasks.external_status_pushed is 'Whether its external system has been told of all that it is to be told; false also when a message was given up.';

create view pgsched.queue_stats as
  select
    q.name as queue,
    q.external_system,
    q.is_paused,
    case
      when s.open_until is null then 'closed'
      when s.probe_until > n.at then 'probing'
      else 'open'
    end as breaker,
    s.open_until,
    s.open_reason,
    q.max_in_flight,
    q.rate_per_second,
    coalesce(
      greatest(q.resumed_at, s.closed_at) > n.at - pgsched.ramp_term()
      and greatest(q.resumed_at, s.closed_at) <= n.at + pgsched.ramp_term(),
      false
    ) as is_ramping,
    due.count as due_count,
    due.oldest as oldest_due_since,
    later.count as later_count,
    waiting.count as waiting_count,
    under_way.scheduled as scheduled_count,
    under_way.dispatched as dispatched_count,
    under_way.running as running_count,
    under_way.count as in_flight_count
  from pgsched.queues as q
  join pgsched.external_systems as s
    on s.name = q.external_system
  cross join (select pgsched.now() as at) as n
  cross join lateral (
    select least(count(*), 10000) as count, min(one.execute_after) as oldest
    from generate_series(-9, 9) as p (priority)
    cross join lateral (
      select t.execute_after
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.status = 'PENDING'
        and t.pending_dependencies = 0
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
        and t.pending_dependencies = 0
        and t.priority = p.priority
        and t.execute_after > n.at
      limit 10000
    ) as one
  ) as later
  cross join lateral (
    select count(*) as count
    from (
      select
      from pgsched.scheduled_tasks as t
      where t.queue = q.name
        and t.pending_dependencies > 0
      limit 10000
    ) as one
  ) as waiting
  cross join lateral (
    select
      count(*) as count,
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
  'Each queue: its limits, the breaker of its external system, what is due and since when, what comes later, what waits for another task, what is under way.  Counts stop at 10,000.';
comment on column pgsched.queue_stats.queue is 'Its name.';
comment on column pgsched.queue_stats.external_system is 'Where it leads.';
comment on column pgsched.queue_stats.is_paused is 'Whether it is paused.';
comment on column pgsched.queue_stats.breaker is 'Of its external system: closed, open, or probing while one task is under way to see whether it is up again.';
comment on column pgsched.queue_stats.open_until is 'Not null while that is open: when it may be probed.';
comment on column pgsched.queue_stats.open_reason is 'What it answered last before it opened.';
comment on column pgsched.queue_stats.max_in_flight is 'Its limit of tasks in flight, if it has one.';
comment on column pgsched.queue_stats.rate_per_second is 'Its limit of tasks per second, if it has one.';
comment on column pgsched.queue_stats.is_ramping is 'Whether its rate is ramping up, after a pause or an open breaker.';
comment on column pgsched.queue_stats.due_count is 'PENDING and due.';
comment on column pgsched.queue_stats.oldest_due_since is 'When the oldest of them became due; long ago means that the workers do not keep up, that a limit holds it back, or that nobody serves the queue.';
comment on column pgsched.queue_stats.later_count is 'PENDING and not due yet.';
comment on column pgsched.queue_stats.waiting_count is 'PENDING, and waiting for another task to end.';
comment on column pgsched.queue_stats.scheduled_count is 'Held by a worker.';
comment on column pgsched.queue_stats.dispatched_count is 'Accepted by the external system.';
comment on column pgsched.queue_stats.running_count is 'Reported as under way.';
comment on column pgsched.queue_stats.in_flight_count is 'The three together, which max_in_flight limits.';

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
          and c.pending_dependencies = 0
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
comment on column pgsched.upcoming.at is 'When.';
comment on column pgsched.upcoming.kind is 'task or schedule.';
comment on column pgsched.upcoming.id is 'Of the task or the schedule.';
comment on column pgsched.upcoming.name is 'Of the definition or the schedule.';
comment on column pgsched.upcoming.queue is 'Where it will wait.';
comment on column pgsched.upcoming.priority is 'How urgent it will be.';

create view pgsched.schedule_status as
  select
    s.name,
    case
      when s.is_active then 'ACTIVE'
      when s.paused_at is not null then 'PAUSED'
      when s.error_msg is not null then 'BROKEN'
      else 'ENDED'
    end as state,
    d.name as definition_name,
    coalesce(s.cron_expr, 'every ' || s.every) as runs_at,
    case when s.cron_expr is not null then s.timezone end as timezone,
    s.next_run_at,
    s.last_run_at,
    run.task_id as last_task_id,
    coalesce(hot.status, record.status) as last_task_status,
    s.run_count,
    s.idle_count,
    latest.outcome as last_outcome,
    coalesce(latest.folded_until, latest.scheduled_time) as last_fire_at,
    latest.reason as last_reason,
    s.pause_note,
    s.paused_until,
    s.error_msg,
    s.cron_expr,
    s.every,
    s.overlap_policy,
    s.misfire_policy,
    s.misfire_grace,
    s.jitter,
    s.starts_at,
    s.ends_at,
    s.max_runs,
    s.input_params,
    s.schedule_config,
    coalesce(s.queue, d.queue) as queue,
    coalesce(s.priority, d.priority)::integer as priority,
    s.trace_id,
    s.is_own,
    s.definition_id,
    s.id,
    s.created_by,
    s.created_at,
    s.changed_at,
    s.paused_at,
    s.ended_at,
    s.tz_version
  from pgsched.schedules as s
  join pgsched.task_definitions as d
    on d.id = s.definition_id
  left join lateral (
    select f.*
    from pgsched.schedule_fires as f
    where f.schedule_id = s.id
    order by f.scheduled_time desc
    limit 1
  ) as latest
    on true
  left join lateral (
    select f.task_id
    from pgsched.schedule_fires as f
    where f.schedule_id = s.id
      and f.scheduled_time = s.last_run_at
  ) as run
    on true
  left join lateral (
    select t.status
    from pgsched.scheduled_tasks as t
    where t.id = run.task_id
  ) as hot
    on true
  left join lateral (
    select i.status
    from pgsched.task_instances as i
    where i.id = run.task_id
      and i.finished_at >= pgsched.earliest_end(array[run.task_id])
    limit 1
  ) as record
    on true;

comment on view pgsched.schedule_status is
  'Each schedule: whether it fires, when next, and what became of its latest instants.';

call pgsched.copy_column_comments('pgsched.schedules', 'pgsched.schedule_status');

comment on column pgsched.schedule_status.state is 'ACTIVE, PAUSED, BROKEN (error_msg says why) or ENDED (by ends_at or max_runs).';
comment on column pgsched.schedule_status.definition_name is 'What it runs.';
comment on column pgsched.schedule_status.runs_at is 'cron_expr, or every in words.';
comment on column pgsched.schedule_status.timezone is 'Of cron_expr; null with every.';
comment on column pgsched.schedule_status.last_task_id is 'The task of the latest run.';
comment on column pgsched.schedule_status.last_task_status is 'Its status now; null when it is no longer on record.';
comment on column pgsched.schedule_status.last_outcome is 'Of the latest instant: RUN, SKIPPED or MISSED.';
comment on column pgsched.schedule_status.last_fire_at is 'The latest instant.';
comment on column pgsched.schedule_status.last_reason is 'Why it did not run; of a run, that a backfill made it.';
comment on column pgsched.schedule_status.queue is 'Where its tasks wait.';
comment on column pgsched.schedule_status.priority is 'How urgent they are.';

create function pgsched.explain_schedule(p_schedule text)
  returns text
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now      timestamptz := pgsched.now();
  v_id       uuid := (pgsched.find_schedule(p_schedule)).id;
  v_schedule pgsched.schedule_status;
  v_workers  boolean := exists (select from pgsched.workers as w where w.lease_expires_at > v_now);
begin
  select s.*
  into v_schedule
  from pgsched.schedule_status as s
  where s.id = v_id;

  return concat_ws(
    E'\n',
    case v_schedule.state
      when 'PAUSED' then format(
        'It is paused since %s, %s%s.  select pgsched.resume_schedule(%L) ends the pause.',
        v_schedule.paused_at,
        coalesce('until ' || v_schedule.paused_until, 'until somebody resumes it'),
        coalesce(' (' || v_schedule.pause_note || ')', ''),
        v_schedule.name
      )
      when 'BROKEN' then format(
        'It is switched off, since it cannot be read: %s.  pgsched.reschedule() mends it.', v_schedule.error_msg
      )
      when 'ENDED' then format(
        'It ended at %s: it had made %s runs%s%s.',
        v_schedule.ended_at, v_schedule.run_count,
        coalesce(', max_runs is ' || v_schedule.max_runs, ''),
        coalesce(', ends_at is ' || v_schedule.ends_at, '')
      )
      else case
        when v_schedule.next_run_at > v_now
        then format('It fires next at %s, in %s.', v_schedule.next_run_at, date_trunc('second', v_schedule.next_run_at - v_now))
        when not v_workers
        then 'It is due, and no worker is alive to fire it.  Start one: pgsched worker.'
        when v_schedule.next_run_at is null
        then 'A worker is about to compute when it fires next.'
        else format('It is due since %s, and a worker is about to fire it; if that lasts, see whether a session holds a lock on its row.', v_schedule.next_run_at)
      end
    end,
    (
      select format('Its definition %L is not active: its instants are SKIPPED.  Set is_active in pgsched.task_definitions.', d.name)
      from pgsched.task_definitions as d
      where d.id = v_schedule.definition_id
        and not d.is_active
    ),
    (
      select format('Its queue %L is paused%s: its runs wait there.  select pgsched.resume_queue(%1$L) ends that.', q.name, coalesce(' (' || q.pause_note || ')', ''))
      from pgsched.queues as q
      where q.name = v_schedule.queue
        and q.is_paused
    ),
    case
      when v_schedule.last_run_at is null then 'It has not made a run yet.'
      else format(
        'Its latest run was that of %s: task %s, %s.',
        v_schedule.last_run_at, v_schedule.last_task_id, coalesce(v_schedule.last_task_status, 'no longer on record')
      )
    end,
    case when v_schedule.idle_count > 0 and v_schedule.last_outcome <> 'RUN' then format(
      '%s%s did not run; the latest, that of %s, was %s: %s.',
      case v_schedule.idle_count when 1 then 'One instant' else v_schedule.idle_count || ' instants' end,
      case when v_schedule.last_run_at is not null then ' since then' else '' end,
      v_schedule.last_fire_at, v_schedule.last_outcome, v_schedule.last_reason
    ) end
  );
end;
$$;

comment on function pgsched.explain_schedule(text) is
  'Why a schedule fires or does not, what became of its latest instants, and what to do; in words.';

revoke execute on all routines in schema pgsched from public;

commit;
