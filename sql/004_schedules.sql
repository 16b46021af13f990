-- 004 schedules
--
-- When to run a definition, again and again.  The cron engine is not in the
-- database: a worker reads the due schedules, computes their next instants,
-- and hands both to fire_schedules(), which fires and advances in one step.
-- A schedule written from psql has no next_run_at yet; its insert wakes a
-- worker, which computes it.
--
-- Adds   schedules, schedule_fires
-- Locks  nothing
-- Undo   drop table pgsched.schedule_fires, pgsched.schedules;

begin;

call pgsched.begin_migration(4, 'schedules');

create table pgsched.schedules (
  id              uuid        not null default pgsched.uuid7(),
  definition_id   uuid        not null,
  name            text        not null,
  cron_expr       text        not null,
  timezone        text        not null default 'UTC',
  next_run_at     timestamptz,
  last_run_at     timestamptz,
  run_count       bigint      not null default 0,
  is_active       boolean     not null default true,
  error_msg       text,
  input_params    jsonb       not null default '{}',
  schedule_config jsonb       not null default '{}',
  queue           text,
  priority        pgsched.priority,
  created_by      text        not null default session_user,
  created_at      timestamptz not null default pgsched.now(),
  changed_at      timestamptz not null default pgsched.now(),

  constraint schedules_pkey
    primary key (id),

  constraint schedules_name_key
    unique (name),

  constraint schedules_definition_id_fkey
    foreign key (definition_id) references pgsched.task_definitions,

  constraint schedules_queue_fkey
    foreign key (queue) references pgsched.queues
);

create index schedules_due_idx
  on pgsched.schedules (next_run_at nulls first)
  where is_active;

comment on table pgsched.schedules is
  'When to run a definition.  One definition may have many.';
comment on column pgsched.schedules.id is 'UUIDv7.';
comment on column pgsched.schedules.definition_id is 'What it runs.';
comment on column pgsched.schedules.name is 'Unique; schedule_cron() upserts by it.';
comment on column pgsched.schedules.cron_expr is 'Five fields, six with seconds first, or @hourly and its like.';
comment on column pgsched.schedules.timezone is 'IANA name of the zone in which cron_expr is read.';
comment on column pgsched.schedules.next_run_at is 'The next fire; null until a worker has computed it.';
comment on column pgsched.schedules.last_run_at is 'The nominal time of the latest fire.';
comment on column pgsched.schedules.run_count is 'How often it has fired.';
comment on column pgsched.schedules.is_active is 'False: it does not fire; error_msg may say why.';
comment on column pgsched.schedules.error_msg is 'Why it was switched off.';
comment on column pgsched.schedules.input_params is 'Laid over the definition''s, key by key.';
comment on column pgsched.schedules.schedule_config is 'Laid over the definition''s, key by key.';
comment on column pgsched.schedules.queue is 'Null: the definition''s.';
comment on column pgsched.schedules.priority is 'Null: the definition''s.';
comment on column pgsched.schedules.created_by is 'The role that made it.';
comment on column pgsched.schedules.created_at is 'When it was made.';
comment on column pgsched.schedules.changed_at is 'When its time was last changed: fires count from here.';

-- The primary key makes a fire happen once, whoever ticks.
create table pgsched.schedule_fires (
  schedule_id    uuid        not null,
  scheduled_time timestamptz not null,
  outcome        text        not null,
  reason         text,
  task_id        uuid,

  constraint schedule_fires_pkey
    primary key (schedule_id, scheduled_time),

  constraint schedule_fires_outcome_is_known
    check (outcome in ('RUN', 'SKIPPED', 'MISSED')),

  constraint schedule_fires_run_iff_task
    check ((outcome = 'RUN') = (task_id is not null)),

  constraint schedule_fires_say_why_not
    check (outcome = 'RUN' or reason is not null)
)
partition by range (scheduled_time);

create table pgsched.schedule_fires_default
  partition of pgsched.schedule_fires default;

comment on table pgsched.schedule_fires is
  'The ledger: what became of each instant of each schedule.';
comment on column pgsched.schedule_fires.schedule_id is 'Whose instant.';
comment on column pgsched.schedule_fires.scheduled_time is 'Which instant; the partition key.';
comment on column pgsched.schedule_fires.outcome is 'RUN, SKIPPED or MISSED.';
comment on column pgsched.schedule_fires.reason is 'Why it did not run.';
comment on column pgsched.schedule_fires.task_id is 'The task it became.';
comment on table pgsched.schedule_fires_default is
  'Catches what no other partition takes.';

-- Any change of the time starts the count anew, whoever makes it.
create function pgsched.reset_schedule()
  returns trigger
  language plpgsql
as $$
begin
  if (new.cron_expr, new.timezone) is distinct from (old.cron_expr, old.timezone)
    or (new.is_active and not old.is_active)
  then
    new.changed_at  := pgsched.now();
    new.next_run_at := null;
    new.error_msg   := null;
    perform pgsched.wake();
  end if;

  return new;
end;
$$;

comment on function pgsched.reset_schedule() is
  'Have next_run_at computed anew when the time of a schedule was changed.';

create trigger schedules_before_update_reset
  before update of cron_expr, timezone, is_active on pgsched.schedules
  for each row execute function pgsched.reset_schedule();

commit;
