-- 003 tasks
--
-- scheduled_tasks is the hot table: it holds what is unfinished, and nothing
-- else.  A finished task is moved to task_instances, the record.  So a claim
-- never pays for history, and retention is dropping a partition.
--
-- Two numbers fence what comes back.  `attempt` names an execution: it is in
-- the push, and a report must name it.  `delivery_count` names one delivery:
-- it is raised by every claim, and the worker's settle must name it.
--
-- No foreign key at or from a hot table: its check would lock a row that
-- every enqueue shares.  The functions check instead.
--
-- Adds   scheduled_tasks, task_dependencies, task_instances, task_events, idempotency_keys,
--        status_sequence, status_pushes, guards of definitions and queues that are needed
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(3, 'tasks');

-- First what a reader of `select *` looks for.
create table pgsched.scheduled_tasks (
  id                   uuid                  not null default pgsched.uuid7(),
  status               pgsched.task_status   not null default 'PENDING',
  queue                text                  not null,
  priority             pgsched.priority      not null default 0,
  schedule_type        pgsched.schedule_type not null,
  scheduled_time       timestamptz           not null,
  execute_after        timestamptz           not null,
  pending_dependencies integer               not null default 0,
  depends_on           uuid[],
  on_dependency_failure text,
  attempt              integer               not null default 1,
  retry_count          integer               not null default 0,
  max_retries          integer               not null,
  error_msg            text,
  definition_id        uuid                  not null,
  schedule_id          uuid,
  trace_id             uuid                  not null,
  loop_id              uuid,
  next_task_id         uuid,
  round_index          integer               not null default 0,
  input_params         jsonb                 not null,
  schedule_config      jsonb                 not null,
  worker_id            uuid,
  delivery_count       integer               not null default 0,
  lost_count           integer               not null default 0,
  lapsed_attempt       integer,
  undelivered_since    timestamptz,
  started_at           timestamptz,
  dispatched_at        timestamptz,
  deadline_at          timestamptz,
  cancelled_at         timestamptz,
  progress             jsonb,
  output_ref           text,
  created_by           text                  not null default session_user,
  created_at           timestamptz           not null default pgsched.now(),

  constraint scheduled_tasks_pkey
    primary key (id),

  constraint scheduled_tasks_are_unfinished
    check (status in ('PENDING', 'SCHEDULED', 'DISPATCHED', 'RUNNING')),

  constraint scheduled_tasks_wait_or_have_a_deadline
    check ((status = 'PENDING') = (deadline_at is null)),

  constraint scheduled_tasks_rounds_count_from_zero
    check (round_index >= 0),

  constraint scheduled_tasks_attempts_count_from_one
    check (attempt >= 1),

  constraint scheduled_tasks_retries_are_within_budget
    check (retry_count between 0 and max_retries),

  constraint scheduled_tasks_dependencies_are_counted
    check (pending_dependencies >= 0),

  constraint scheduled_tasks_on_dependency_failure_is_known
    check (on_dependency_failure in ('cancel', 'run'))
)
with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.05,
  vacuum_truncate = off
);

-- One range scan for each priority, which stops at the batch.  It never
-- meets a task that is not due: execute_after is a column of its own.
create index scheduled_tasks_due_idx
  on pgsched.scheduled_tasks (queue, priority desc, execute_after, id)
  where status = 'PENDING' and pending_dependencies = 0;

-- What is under way, for deadlines and for counting a queue.
create index scheduled_tasks_deadline_idx
  on pgsched.scheduled_tasks (queue, deadline_at)
  where deadline_at is not null;

create index scheduled_tasks_loop_idx
  on pgsched.scheduled_tasks (loop_id)
  where loop_id is not null;

-- What waits for another task, for counting a queue.
create index scheduled_tasks_waiting_idx
  on pgsched.scheduled_tasks (queue)
  where pending_dependencies > 0;

create index scheduled_tasks_schedule_idx
  on pgsched.scheduled_tasks (schedule_id)
  where schedule_id is not null;

comment on table pgsched.scheduled_tasks is
  'Unfinished tasks, and nothing else.  Read it through the view tasks; change it through the functions.';
comment on column pgsched.scheduled_tasks.id is 'UUIDv7.';
comment on column pgsched.scheduled_tasks.status is 'See docs/state_machine.md.';
comment on column pgsched.scheduled_tasks.queue is 'The queue it waits in.';
comment on column pgsched.scheduled_tasks.priority is 'Urgent first, within its queue.';
comment on column pgsched.scheduled_tasks.schedule_type is 'Why it exists.';
comment on column pgsched.scheduled_tasks.scheduled_time is 'The nominal time; never changes.';
comment on column pgsched.scheduled_tasks.execute_after is 'Not to be claimed before; moved by retries and deferrals.';
comment on column pgsched.scheduled_tasks.pending_dependencies is 'How many tasks it still waits for; not to be claimed before that is 0.';
comment on column pgsched.scheduled_tasks.depends_on is 'The tasks it was to wait for when it was scheduled; null when none.';
comment on column pgsched.scheduled_tasks.on_dependency_failure is 'When one of them does not end with SUCCESS: cancel, or run all the same.  Null when it waits for none.';
comment on column pgsched.scheduled_tasks.attempt is 'The number of the execution, from 1; with the id it is the idempotency key.';
comment on column pgsched.scheduled_tasks.retry_count is 'Retries used.';
comment on column pgsched.scheduled_tasks.max_retries is 'Retries allowed, copied from the definition.';
comment on column pgsched.scheduled_tasks.error_msg is 'The latest error.';
comment on column pgsched.scheduled_tasks.definition_id is 'What it runs.';
comment on column pgsched.scheduled_tasks.schedule_id is 'The schedule that made it, if one did.';
comment on column pgsched.scheduled_tasks.trace_id is 'Shared by all rounds of a loop; the trace id of the traceparent header.';
comment on column pgsched.scheduled_tasks.loop_id is 'The id of the loop''s first round.';
comment on column pgsched.scheduled_tasks.next_task_id is 'The round that followed this one.';
comment on column pgsched.scheduled_tasks.round_index is 'The round of the loop, from 0.';
comment on column pgsched.scheduled_tasks.input_params is 'What the task is given; a JSON object of up to 256 KiB.';
comment on column pgsched.scheduled_tasks.schedule_config is 'Options of this run; of a loop: max_rounds, loop_interval (seconds), interval_from, on_failure.';
comment on column pgsched.scheduled_tasks.worker_id is 'The worker that claimed it last; null again when that worker has given it back.';
comment on column pgsched.scheduled_tasks.delivery_count is 'How often it was claimed; never reset.  Fences the worker''s settle.';
comment on column pgsched.scheduled_tasks.lost_count is 'Claims in a row that came to nothing by a lost lease or a hung worker; at 10 the task is FAILED.';
comment on column pgsched.scheduled_tasks.lapsed_attempt is 'The first attempt that ended unanswered; a SUCCESS of it or a later one still counts.';
comment on column pgsched.scheduled_tasks.undelivered_since is 'The first of the deferrals in a row.';
comment on column pgsched.scheduled_tasks.started_at is 'When this attempt was accepted or reported RUNNING.';
comment on column pgsched.scheduled_tasks.dispatched_at is 'When this attempt was accepted.';
comment on column pgsched.scheduled_tasks.deadline_at is 'When it is taken back: from the worker while SCHEDULED, from the external system after.';
comment on column pgsched.scheduled_tasks.cancelled_at is 'When it was cancelled.';
comment on column pgsched.scheduled_tasks.progress is 'The latest progress the executor reported, as it gave it.';
comment on column pgsched.scheduled_tasks.output_ref is 'Where its output is, as reported.';
comment on column pgsched.scheduled_tasks.created_by is 'The role that scheduled it.';
comment on column pgsched.scheduled_tasks.created_at is 'When it was scheduled.';

-- An edge is written with the task that waits, and seen with it.  It goes when
-- the task it points at ends.  Whoever ends it deletes what
-- it sees; resolve_dependencies() finds what was written meanwhile.
create table pgsched.task_dependencies (
  task_id       uuid not null,
  depends_on_id uuid not null,

  constraint task_dependencies_pkey
    primary key (depends_on_id, task_id)
);

create index task_dependencies_task_idx
  on pgsched.task_dependencies (task_id);

comment on table pgsched.task_dependencies is
  'Which unfinished task waits for which.';
comment on column pgsched.task_dependencies.task_id is 'The task that waits.';
comment on column pgsched.task_dependencies.depends_on_id is 'The task it waits for.';

create table pgsched.task_instances (
  like pgsched.scheduled_tasks including comments including defaults,
  finished_at timestamptz not null,

  constraint task_instances_pkey
    primary key (id, finished_at),

  constraint task_instances_are_finished
    check (status in ('SUCCESS', 'FAILED', 'CANCELLED'))
)
partition by range (finished_at);

create table pgsched.task_instances_default
  partition of pgsched.task_instances default;

-- What ended lately is at its end: a rate costs as many rows as are asked for.
create index task_instances_finished_idx
  on pgsched.task_instances (finished_at);

comment on table pgsched.task_instances is
  'The record: finished tasks, as they ended.';
comment on column pgsched.task_instances.finished_at is 'When it ended; the partition key.';
comment on table pgsched.task_instances_default is
  'Catches what no other partition takes.';

-- What happened off the happy path: enough to answer "why" later.
create table pgsched.task_events (
  id             uuid        not null default pgsched.uuid7(),
  at             timestamptz not null,
  task_id        uuid        not null,
  event          text        not null,
  attempt        integer,
  delivery_count integer,
  message        text,
  response_time  interval,
  created_by     text        not null default session_user,

  constraint task_events_pkey
    primary key (id, at)
)
partition by range (at);

create table pgsched.task_events_default
  partition of pgsched.task_events default;

create index task_events_task_idx
  on pgsched.task_events (task_id, at);

comment on table pgsched.task_events is
  'The story of each task that left the happy path; append-only.';
comment on column pgsched.task_events.id is 'UUIDv7.';
comment on column pgsched.task_events.at is 'When; the partition key.';
comment on column pgsched.task_events.task_id is 'Which task.';
comment on column pgsched.task_events.event is
  'RETRY, DEFERRED, RELEASED, REFUSED, LOST, SETTLE_REFUSED, REPORT_REFUSED, CANCELLED, OPERATOR_RETRY, LOOP_STOPPED';
comment on column pgsched.task_events.attempt is 'The attempt it is about.';
comment on column pgsched.task_events.delivery_count is 'The delivery it is about.';
comment on column pgsched.task_events.message is 'What happened, in words; of an answer up to 2 KiB.';
comment on column pgsched.task_events.response_time is 'When an answer is the cause: how long it took.';
comment on column pgsched.task_events.created_by is 'The role in whose session it happened.';
comment on table pgsched.task_events_default is
  'Catches what no other partition takes.';

create table pgsched.idempotency_keys (
  definition_id uuid        not null,
  key           text        not null,
  task_id       uuid        not null,
  input_hash    bytea       not null,
  expires_at    timestamptz not null,

  constraint idempotency_keys_pkey
    primary key (definition_id, key),

  constraint idempotency_keys_key_is_short
    check (length(key) between 1 and 255)
);

create index idempotency_keys_expiry_idx
  on pgsched.idempotency_keys (expires_at);

comment on table pgsched.idempotency_keys is
  'Keys of enqueues, each good for one task of its definition.  Holds 24 h, and as long as its task or a round of its loop is unfinished.';
comment on column pgsched.idempotency_keys.definition_id is 'The scope of the key.';
comment on column pgsched.idempotency_keys.key is 'What the caller gave, up to 255 characters.';
comment on column pgsched.idempotency_keys.task_id is 'The task it stands for.';
comment on column pgsched.idempotency_keys.input_hash is 'sha256 of the input_params it came with.';
comment on column pgsched.idempotency_keys.expires_at is 'When it may be used anew.';

create sequence pgsched.status_sequence;

comment on sequence pgsched.status_sequence is
  'Numbers what is told to the external systems: of two messages about a task the higher is the later.';

-- The outbox: written in the transaction that changes the task, emptied by
-- workers.  It has copies of what a message says, since the task may be gone
-- from the record by the time it is sent.
create table pgsched.status_pushes (
  sequence       bigint      not null default nextval('pgsched.status_sequence'),
  task_id        uuid        not null,
  queue          text        not null,
  definition_id  uuid        not null,
  trace_id       uuid        not null,
  scheduled_time timestamptz not null,
  status         text        not null,
  attempt        integer     not null,
  error_msg      text,
  created_at     timestamptz not null default pgsched.now(),
  due_at         timestamptz          default pgsched.now(),
  worker_id      uuid,
  push_count     integer     not null default 0,
  last_error     text,
  given_up_at    timestamptz,

  constraint status_pushes_pkey
    primary key (sequence),

  constraint status_pushes_status_is_known
    check (status in ('PENDING', 'SCHEDULED', 'FAILED', 'CANCELLED')),

  constraint status_pushes_given_up_are_held_by_nobody
    check (given_up_at is null or worker_id is null),

  constraint status_pushes_given_up_are_never_due
    check ((given_up_at is null) = (due_at is not null))
)
with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.05,
  vacuum_truncate = off
);

-- Not partial: a partial index is read as a whole by who looks for other
-- things under its condition.
create index status_pushes_due_idx
  on pgsched.status_pushes (queue, due_at, sequence);

create index status_pushes_task_idx
  on pgsched.status_pushes (task_id, sequence);

create index status_pushes_given_up_idx
  on pgsched.status_pushes (given_up_at)
  where given_up_at is not null;

comment on table pgsched.status_pushes is
  'What the external systems have still to be told: changes of status that pgsched itself decided.';
comment on column pgsched.status_pushes.sequence is 'Of two messages about a task the higher is the later.';
comment on column pgsched.status_pushes.task_id is 'The task it is about.';
comment on column pgsched.status_pushes.queue is 'Its queue, which leads to the external system.';
comment on column pgsched.status_pushes.definition_id is 'What it runs.';
comment on column pgsched.status_pushes.trace_id is 'Its trace.';
comment on column pgsched.status_pushes.scheduled_time is 'Its nominal time.';
comment on column pgsched.status_pushes.status is 'What it became: PENDING (it will be run again), SCHEDULED, FAILED or CANCELLED.';
comment on column pgsched.status_pushes.attempt is 'Its attempt then; of one that is PENDING the coming one.';
comment on column pgsched.status_pushes.error_msg is 'Why.';
comment on column pgsched.status_pushes.created_at is 'When its status changed.';
comment on column pgsched.status_pushes.due_at is 'Not to be sent before; while a worker sends it, when another may.  Null: given up.';
comment on column pgsched.status_pushes.worker_id is 'The worker that is sending it; null when none is.';
comment on column pgsched.status_pushes.push_count is 'How often it was claimed; fences the settle.';
comment on column pgsched.status_pushes.last_error is 'What the external system answered last.';
comment on column pgsched.status_pushes.given_up_at is 'When it was given up; it is kept for 30 days.';

create function pgsched.guard_definition()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from pgsched.scheduled_tasks as t where t.definition_id = old.id)
    or exists (select from pgsched.schedules as s where s.definition_id = old.id)
  then
    raise exception sqlstate 'PS409' using
      message = format('task definition %L has unfinished tasks or schedules', old.name),
      hint = 'Set is_active to false, delete its schedules, and delete it when its tasks have ended.';
  end if;

  return old;
end;
$$;

comment on function pgsched.guard_definition() is
  'Keep a definition that unfinished tasks or schedules still need.';

create function pgsched.guard_queue()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (
      select from pgsched.scheduled_tasks as t
      where t.queue = old.name
        and t.status = 'PENDING'
        and t.pending_dependencies = 0
    )
    or exists (select from pgsched.scheduled_tasks as t where t.queue = old.name and t.pending_dependencies > 0)
    or exists (select from pgsched.scheduled_tasks as t where t.queue = old.name and t.deadline_at is not null)
  then
    raise exception sqlstate 'PS409' using
      message = format('queue %L has unfinished tasks', old.name),
      hint = 'Pause it with pgsched.pause_queue(), and delete or rename it when its tasks have ended.';
  end if;

  return coalesce(new, old);
end;
$$;

comment on function pgsched.guard_queue() is
  'Keep a queue that unfinished tasks still wait in.';

create trigger queues_before_delete_guard
  before delete on pgsched.queues
  for each row execute function pgsched.guard_queue();

create trigger queues_before_update_guard
  before update of name on pgsched.queues
  for each row when (old.name <> new.name) execute function pgsched.guard_queue();

create trigger task_definitions_before_delete_guard
  before delete on pgsched.task_definitions
  for each row execute function pgsched.guard_definition();

revoke execute on all routines in schema pgsched from public;

commit;
