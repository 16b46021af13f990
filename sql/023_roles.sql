-- 023 roles
--
-- Who may do what.  Give a login the role it needs:
--
--   grant pgsched_client to app;
--
--   pgsched_client    schedules, and reads, cancels and changes what is its own: created_by says whose
--   pgsched_executor  reports, and nothing else
--   pgsched_worker    calls what workers call
--   pgsched_operator  calls all that people and the API call, reads everything, changes what is configuration
--   pgsched_reader    reads everything
--
-- The first three have no right on any table: what they may execute runs with
-- the rights of the owner of this schema, which is nobody's login at best.
-- Nobody needs more than one of these roles, and none is a member of another.
--
-- This is the last file, so that it sees everything.
--
-- Adds   my_tasks, rights of the five roles
-- Locks  nothing
-- Undo   revoke all on schema pgsched from the five roles

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(23, 'roles');

create view pgsched.my_tasks
  with (security_barrier)
  as
  select t.*
  from pgsched.tasks as t
  where t.created_by = session_user;

comment on view pgsched.my_tasks is
  'The view tasks, of what was scheduled by the role that is logged in.';

call pgsched.copy_column_comments('pgsched.tasks', 'pgsched.my_tasks');

grant usage on schema pgsched
  to pgsched_client, pgsched_executor, pgsched_worker, pgsched_operator, pgsched_reader;

-- Schedule, and what one can do to one's own.
grant execute on function
    pgsched.define_task,
    pgsched.schedule_immediate,
    pgsched.schedule_delayed,
    pgsched.schedule_at,
    pgsched.schedule_loop,
    pgsched.schedule_many,
    pgsched.schedule_cron,
    pgsched.schedule_every,
    pgsched.trigger_loop_once,
    pgsched.stop_loop,
    pgsched.cancel_task,
    pgsched.get_task,
    pgsched.explain_task,
    pgsched.reschedule,
    pgsched.pause_schedule,
    pgsched.resume_schedule,
    pgsched.trigger_schedule,
    pgsched.backfill_schedule,
    pgsched.delete_schedule
  to pgsched_client, pgsched_operator;

grant select on pgsched.my_tasks
  to pgsched_client, pgsched_operator;

-- Report.
grant execute on function
    pgsched.report_status,
    pgsched.report_statuses
  to pgsched_executor, pgsched_worker, pgsched_operator;

-- Work.
grant execute on function
    pgsched.applied_migrations,
    pgsched.register_worker,
    pgsched.heartbeat,
    pgsched.release_worker,
    pgsched.release_dead_workers,
    pgsched.claim_due_tasks,
    pgsched.settle_tasks,
    pgsched.next_due_in,
    pgsched.dispatch_targets,
    pgsched.open_breaker,
    pgsched.close_breaker,
    pgsched.claim_status_pushes,
    pgsched.settle_status_pushes,
    pgsched.due_schedules,
    pgsched.fire_schedules,
    pgsched.recompute_schedules,
    pgsched.due_gaps,
    pgsched.close_gap,
    pgsched.due_backfills,
    pgsched.run_backfill,
    pgsched.resolve_dependencies,
    pgsched.expire_deadlines,
    pgsched.new_failures,
    pgsched.maintain
  to pgsched_worker;

-- Operate.
grant execute on function
    pgsched.define_external_system,
    pgsched.define_queue,
    pgsched.pause_queue,
    pgsched.resume_queue,
    pgsched.open_breaker,
    pgsched.close_breaker,
    pgsched.retry_task,
    pgsched.retry_tasks,
    pgsched.cancel_tasks,
    pgsched.set_retention,
    pgsched.wake,
    pgsched.resolve_dependencies,
    pgsched.expire_deadlines,
    pgsched.maintain
  to pgsched_operator;

grant insert, update, delete on
    pgsched.external_systems,
    pgsched.queues,
    pgsched.task_definitions,
    pgsched.schedules
  to pgsched_operator;

-- Read.
grant select on all tables in schema pgsched
  to pgsched_operator, pgsched_reader;

grant execute on function
    pgsched.applied_migrations,
    pgsched.next_due_in,
    pgsched.get_task,
    pgsched.find_definition,
    pgsched.find_schedule,
    pgsched.explain_task,
    pgsched.explain_queue,
    pgsched.explain_schedule,
    pgsched.partitions
  to pgsched_operator, pgsched_reader;

-- What defaults, checks and views call with the rights of who uses them.
grant execute on function
    pgsched.now,
    pgsched.uuid7,
    pgsched.uuid7_at
  to pgsched_client, pgsched_executor, pgsched_worker, pgsched_operator, pgsched_reader;

grant execute on function
    pgsched.jitter_of,
    pgsched.ramp_term,
    pgsched.earliest_end,
    pgsched.queue_obstacles,
    pgsched.first_line,
    pgsched.error_fingerprint
  to pgsched_operator, pgsched_reader;

revoke execute on all routines in schema pgsched from public;

commit;
