-- 004 schedules
--
-- When to run a definition, again and again.  A schedule is a row that anyone
-- may read and change; the cron engine is not in the database.  A worker reads
-- the schedules that are due, computes which instants that means, and hands
-- them to fire_schedules(), which fires and advances in one step.
--
-- Two columns carry the whole state: up to `counts_from` every instant is
-- accounted for, and `next_run_at` is when the first one after it fires; null
-- until a worker has computed it.  Whatever changes the time of a schedule
-- only sets these two, so that psql alone will do.
--
-- Adds   jitter_of(), schedules, schedule_fires, schedule_changes, schedule_backfills, schedule_gaps,
--        and the triggers that keep them
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(4, 'schedules');

-- Stable, so that a schedule keeps its distance from one run to the next.
create function pgsched.jitter_of(p_schedule_id uuid, p_jitter interval)
  returns interval
  language sql
  immutable
  return p_jitter * (
    ('x' || encode(substring(sha256(uuid_send(p_schedule_id)) for 4), 'hex'))::bit(32)::bigint / 4294967296.0
  );

comment on function pgsched.jitter_of(uuid, interval) is
  'How long after its instants a schedule fires: from 0 up to p_jitter, always the same for the same schedule.';

create table pgsched.schedules (
  id              uuid        not null default pgsched.uuid7(),
  definition_id   uuid        not null,
  name            text        not null,
  cron_expr       text,
  every           interval,
  timezone        text        not null default 'UTC',
  next_run_at     timestamptz,
  last_run_at     timestamptz,
  last_task_id    uuid,
  run_count       bigint      not null default 0,
  is_active       boolean     not null default true,
  paused_at       timestamptz,
  paused_until    timestamptz,
  pause_note      text,
  ended_at        timestamptz,
  error_msg       text,
  overlap_policy  text        not null default 'skip',
  misfire_policy  text        not null default 'latest',
  misfire_grace   interval    not null default '60 seconds',
  jitter          interval    not null default '0 seconds',
  starts_at       timestamptz,
  ends_at         timestamptz,
  max_runs        bigint,
  input_params    jsonb       not null default '{}',
  schedule_config jsonb       not null default '{}',
  queue           text,
  priority        pgsched.priority,
  trace_id        uuid,
  is_own          boolean     not null default false,
  created_by      text        not null default session_user,
  created_at      timestamptz not null default pgsched.now(),
  changed_at      timestamptz not null default pgsched.now(),
  counts_from     timestamptz not null default pgsched.now(),
  revision        bigint      not null default 0,
  idle_count      bigint      not null default 0,
  tz_version      text,

  constraint schedules_pkey
    primary key (id),

  constraint schedules_name_key
    unique (name),

  constraint schedules_definition_id_fkey
    foreign key (definition_id) references pgsched.task_definitions,

  constraint schedules_queue_fkey
    foreign key (queue) references pgsched.queues,

  constraint schedules_name_is_not_empty
    check (name <> ''),

  constraint schedules_cron_expr_or_every
    check ((cron_expr is null) <> (every is null)),

  constraint schedules_every_is_1_second_to_366_days
    check (every between interval '1 second' and interval '366 days'),

  constraint schedules_every_has_no_months
    check (extract(year from every) = 0 and extract(month from every) = 0),

  constraint schedules_overlap_policy_is_skip_queue_one_or_allow
    check (overlap_policy in ('skip', 'queue_one', 'allow')),

  constraint schedules_misfire_policy_is_latest_all_or_none
    check (misfire_policy in ('latest', 'all', 'none')),

  constraint schedules_misfire_grace_is_1_second_to_366_days
    check (misfire_grace between interval '1 second' and interval '366 days'),

  constraint schedules_jitter_is_0_to_24_hours
    check (jitter between interval '0' and interval '24 hours'),

  constraint schedules_max_runs_is_at_least_1
    check (max_runs >= 1),

  constraint schedules_starts_at_is_before_ends_at
    check (starts_at <= ends_at),

  constraint schedules_starts_at_is_in_the_years_1_to_9999
    check (starts_at between '0001-01-03 00:00+00' and '9999-12-29 00:00+00'),

  constraint schedules_ends_at_is_in_the_years_1_to_9999
    check (ends_at between '0001-01-03 00:00+00' and '9999-12-29 00:00+00'),

  constraint schedules_paused_until_is_in_the_years_1_to_9999
    check (paused_until between '0001-01-03 00:00+00' and '9999-12-29 00:00+00'),

  constraint schedules_params_are_objects
    check (jsonb_typeof(input_params) = 'object' and jsonb_typeof(schedule_config) = 'object')
);

-- What wants its next instant computed comes before all that is due.
create index schedules_due_idx
  on pgsched.schedules (coalesce(next_run_at, '-infinity'), id)
  where is_active;

create index schedules_paused_until_idx
  on pgsched.schedules (paused_until)
  where not is_active and paused_until is not null;

create index schedules_definition_idx
  on pgsched.schedules (definition_id);

comment on table pgsched.schedules is
  'When to run a definition.  One definition may have many.  Read them through the view schedule_status.';
comment on column pgsched.schedules.id is 'UUIDv7.';
comment on column pgsched.schedules.definition_id is 'What it runs.';
comment on column pgsched.schedules.name is 'Unique; schedule_cron() and schedule_every() upsert by it.';
comment on column pgsched.schedules.cron_expr is 'Five fields, six with seconds first, or @hourly and its like; null when `every` is given.';
comment on column pgsched.schedules.every is 'Elapsed time from one instant to the next, 1 second to 366 days; a day is 24 hours.  Counts from starts_at, else from changed_at.';
comment on column pgsched.schedules.timezone is 'IANA name of the zone in which cron_expr is read.';
comment on column pgsched.schedules.next_run_at is 'When it fires next, jitter included; null until a worker has computed it, and while it is not active.';
comment on column pgsched.schedules.last_run_at is 'The instant of the latest run.';
comment on column pgsched.schedules.last_task_id is 'The task of the latest run; null after an operator has retried it.  The overlap policy looks at it.';
comment on column pgsched.schedules.run_count is 'How many runs it has made.';
comment on column pgsched.schedules.is_active is 'False: it does not fire, because it is paused, has ended, or is broken.';
comment on column pgsched.schedules.paused_at is 'When it was paused.';
comment on column pgsched.schedules.paused_until is 'When the pause ends by itself; null: when somebody resumes it.  Setting it pauses.';
comment on column pgsched.schedules.pause_note is 'Why it is paused, for the next reader.';
comment on column pgsched.schedules.ended_at is 'When it had made its last run, by ends_at or max_runs.';
comment on column pgsched.schedules.error_msg is 'Why it is broken and was switched off; a change of its time switches it on again.';
comment on column pgsched.schedules.overlap_policy is 'While the task of its latest run is unfinished, further instants are skipped (skip), one waits for it (queue_one), or run beside it (allow).';
comment on column pgsched.schedules.misfire_policy is 'After an outage, of the instants that are late: run the latest (latest), the latest 100 (all), or none (none).';
comment on column pgsched.schedules.misfire_grace is 'Up to so late is not late, 1 second to 366 days.';
comment on column pgsched.schedules.jitter is 'It fires up to so long after its instants, always as long after; up to 24 hours.';
comment on column pgsched.schedules.starts_at is 'No instant before this.';
comment on column pgsched.schedules.ends_at is 'No instant after this.';
comment on column pgsched.schedules.max_runs is 'It ends after so many runs.';
comment on column pgsched.schedules.input_params is 'Laid over the definition''s, key by key.';
comment on column pgsched.schedules.schedule_config is 'Laid over the definition''s, key by key.';
comment on column pgsched.schedules.queue is 'Null: the definition''s.';
comment on column pgsched.schedules.priority is 'Null: the definition''s.';
comment on column pgsched.schedules.trace_id is 'The trace all its runs belong to; null: each begins its own.';
comment on column pgsched.schedules.is_own is 'True for the schedule that the cron_expr of its definition is.';
comment on column pgsched.schedules.created_by is 'The role that made it; its tasks are created in its name.';
comment on column pgsched.schedules.created_at is 'When it was made.';
comment on column pgsched.schedules.changed_at is 'When its time was last changed.';
comment on column pgsched.schedules.counts_from is 'Up to here every instant is accounted for; the next one is the first after it.';
comment on column pgsched.schedules.revision is 'Raised by every change: what was computed from an older one comes too late.';
comment on column pgsched.schedules.idle_count is 'Instants in a row that did not become a run.';
comment on column pgsched.schedules.tz_version is 'The release of the time zone database that next_run_at was computed with.';

-- The primary key makes a fire happen once, whoever ticks.
create table pgsched.schedule_fires (
  schedule_id    uuid        not null,
  scheduled_time timestamptz not null,
  outcome        text        not null,
  reason         text,
  task_id        uuid,
  folded_until   timestamptz,
  folded_count   bigint      not null default 1,

  constraint schedule_fires_pkey
    primary key (schedule_id, scheduled_time),

  constraint schedule_fires_outcome_is_known
    check (outcome in ('RUN', 'SKIPPED', 'MISSED')),

  constraint schedule_fires_run_iff_task
    check ((outcome = 'RUN') = (task_id is not null)),

  constraint schedule_fires_say_why_not
    check (outcome = 'RUN' or reason is not null),

  constraint schedule_fires_only_what_did_not_run_is_folded
    check (folded_until is null or outcome <> 'RUN'),

  constraint schedule_fires_count_what_is_folded
    check (folded_count >= 1 and (folded_until is not null or folded_count = 1))
)
partition by range (scheduled_time);

create table pgsched.schedule_fires_default
  partition of pgsched.schedule_fires default;

comment on table pgsched.schedule_fires is
  'The ledger: what became of each instant of each schedule.';
comment on column pgsched.schedule_fires.schedule_id is 'Whose instant.';
comment on column pgsched.schedule_fires.scheduled_time is 'Which instant, without jitter; the partition key.';
comment on column pgsched.schedule_fires.outcome is 'RUN, SKIPPED (by a policy, though a worker was there) or MISSED (nobody was there in time).';
comment on column pgsched.schedule_fires.reason is 'Why it did not run; of a run, that a backfill made it.';
comment on column pgsched.schedule_fires.task_id is 'The task it became.';
comment on column pgsched.schedule_fires.folded_until is 'The last of the instants that this row stands for, where more than 100 in a row did not run.';
comment on column pgsched.schedule_fires.folded_count is 'How many instants this row stands for; those with a row of their own are not counted.';
comment on table pgsched.schedule_fires_default is
  'Catches what no other partition takes.';

create table pgsched.schedule_changes (
  id          uuid        not null default pgsched.uuid7(),
  at          timestamptz not null default pgsched.now(),
  schedule_id uuid        not null,
  name        text        not null,
  change      text        not null,
  old_values  jsonb,
  new_values  jsonb,
  changed_by  text        not null default session_user,

  constraint schedule_changes_pkey
    primary key (id)
);

create index schedule_changes_schedule_idx
  on pgsched.schedule_changes (schedule_id, at);

comment on table pgsched.schedule_changes is
  'Who changed which schedule when, from what to what; stays when the schedule is deleted.';
comment on column pgsched.schedule_changes.id is 'UUIDv7.';
comment on column pgsched.schedule_changes.at is 'When.';
comment on column pgsched.schedule_changes.schedule_id is 'Which schedule.';
comment on column pgsched.schedule_changes.name is 'Its name then.';
comment on column pgsched.schedule_changes.change is
  'CREATED, CHANGED, PAUSED, RESUMED, BROKEN, ENDED, DELETED, TRIGGERED or BACKFILLED.';
comment on column pgsched.schedule_changes.old_values is 'What was there, of the columns that changed.';
comment on column pgsched.schedule_changes.new_values is 'What is there now, of the columns that changed.';
comment on column pgsched.schedule_changes.changed_by is 'The role in whose session it happened.';

create table pgsched.schedule_backfills (
  id             uuid        not null default pgsched.uuid7(),
  schedule_id    uuid        not null,
  from_time      timestamptz not null,
  to_time        timestamptz not null,
  max_instants   integer     not null,
  status         text        not null default 'WAITING',
  counts_from    timestamptz not null,
  instant_count  integer     not null default 0,
  run_count      integer     not null default 0,
  error_msg      text,
  created_by     text        not null default session_user,
  created_at     timestamptz not null default pgsched.now(),
  finished_at    timestamptz,

  constraint schedule_backfills_pkey
    primary key (id),

  constraint schedule_backfills_schedule_id_fkey
    foreign key (schedule_id) references pgsched.schedules
    on delete cascade,

  constraint schedule_backfills_status_is_known
    check (status in ('WAITING', 'DONE', 'REFUSED')),

  constraint schedule_backfills_are_finished_or_waiting
    check ((status = 'WAITING') = (finished_at is null))
);

create index schedule_backfills_waiting_idx
  on pgsched.schedule_backfills (created_at)
  where status = 'WAITING';

create index schedule_backfills_schedule_idx
  on pgsched.schedule_backfills (schedule_id);

comment on table pgsched.schedule_backfills is
  'Ranges of time in which a schedule is to be run after all; a worker computes the instants.';
comment on column pgsched.schedule_backfills.id is 'UUIDv7.';
comment on column pgsched.schedule_backfills.schedule_id is 'Which schedule.';
comment on column pgsched.schedule_backfills.from_time is 'The first instant that counts.';
comment on column pgsched.schedule_backfills.to_time is 'The last instant that counts.';
comment on column pgsched.schedule_backfills.max_instants is 'With more instants than this in the range it is refused.';
comment on column pgsched.schedule_backfills.status is 'WAITING (for a worker, or under way), DONE or REFUSED.';
comment on column pgsched.schedule_backfills.counts_from is 'Up to here it is done.';
comment on column pgsched.schedule_backfills.instant_count is 'Instants it has come to.';
comment on column pgsched.schedule_backfills.run_count is 'Those it has made a run of; the others had one.';
comment on column pgsched.schedule_backfills.error_msg is 'Why it was refused.';
comment on column pgsched.schedule_backfills.created_by is 'The role that asked for it.';
comment on column pgsched.schedule_backfills.created_at is 'When it was asked for.';
comment on column pgsched.schedule_backfills.finished_at is 'When it was done or refused.';

create table pgsched.schedule_gaps (
  id          uuid        not null default pgsched.uuid7(),
  schedule_id uuid        not null,
  cron_expr   text,
  every       interval,
  timezone    text        not null,
  anchor      timestamptz not null,
  counts_from timestamptz not null,
  to_time     timestamptz not null,
  reason      text        not null,

  constraint schedule_gaps_pkey
    primary key (id)
);

create index schedule_gaps_schedule_idx
  on pgsched.schedule_gaps (schedule_id);

comment on table pgsched.schedule_gaps is
  'What was due and had not fired when a schedule was paused, changed or deleted: a worker enters it into the ledger as MISSED, and deletes the row.';
comment on column pgsched.schedule_gaps.id is 'UUIDv7.';
comment on column pgsched.schedule_gaps.schedule_id is 'Whose instants.';
comment on column pgsched.schedule_gaps.cron_expr is 'Its expression then.';
comment on column pgsched.schedule_gaps.every is 'Its interval then.';
comment on column pgsched.schedule_gaps.timezone is 'Its zone then.';
comment on column pgsched.schedule_gaps.anchor is 'What its interval counted from.';
comment on column pgsched.schedule_gaps.counts_from is 'Up to here every instant is accounted for.';
comment on column pgsched.schedule_gaps.to_time is 'The last instant that counts.';
comment on column pgsched.schedule_gaps.reason is 'Why they did not run.';

-- What was due and has not fired must not vanish when the count moves on.
create function pgsched.note_gap(p_schedule pgsched.schedules, p_act text, p_to_time timestamptz)
  returns void
  language sql
begin atomic
  insert into pgsched.schedule_gaps (schedule_id, cron_expr, every, timezone, anchor, counts_from, to_time, reason)
  select
    p_schedule.id, p_schedule.cron_expr, p_schedule.every, p_schedule.timezone,
    coalesce(p_schedule.starts_at, p_schedule.changed_at),
    greatest(p_schedule.counts_from, p_schedule.starts_at - interval '1 microsecond'),
    least(p_to_time, p_schedule.ends_at),
    format('the schedule was %s before this had fired', p_act)
  where p_schedule.is_active
    and coalesce(p_schedule.next_run_at - pgsched.jitter_of(p_schedule.id, p_schedule.jitter), '-infinity') <= p_to_time;
end;

comment on function pgsched.note_gap(pgsched.schedules, text, timestamptz) is
  'Leave to a worker what was due of a schedule that is paused, changed or deleted.';

-- Any change starts the computation anew, whoever makes it: through a function,
-- or by a plain update in psql.
create function pgsched.reset_schedule()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now     timestamptz := pgsched.now();
  v_due     timestamptz := v_now - pgsched.jitter_of(old.id, old.jitter);
  v_retimed boolean := (new.cron_expr, new.every, new.timezone, new.starts_at)
    is distinct from (old.cron_expr, old.every, old.timezone, old.starts_at);
  v_revived boolean := old.ended_at is not null
    and (new.ends_at, new.max_runs) is distinct from (old.ends_at, old.max_runs);
begin
  if new.is_active and new.paused_until is not null and new.paused_until is distinct from old.paused_until then
    new.is_active := false;
  end if;

  -- What was broken or had ended gets another chance; a pause is kept.
  if (v_retimed or v_revived) and not old.is_active and old.paused_at is null then
    new.is_active := true;
  end if;

  if v_retimed then
    perform pgsched.note_gap(old, 'changed', v_now);
    new.changed_at  := v_now;
    new.counts_from := greatest(old.counts_from, v_now);
  elsif old.is_active and not new.is_active and new.ended_at is null then
    perform pgsched.note_gap(old, case when new.error_msg is null then 'paused' else 'switched off' end, v_due);
    new.counts_from := greatest(old.counts_from, v_due);
  elsif new.is_active and not old.is_active then
    new.counts_from := greatest(
      old.counts_from,
      least(v_now, old.paused_until) - pgsched.jitter_of(new.id, new.jitter)
    );
  end if;

  -- No row of the ledger stands for instants on both sides.
  if new.counts_from <> old.counts_from then
    new.idle_count := 0;
  end if;

  if new.is_active and new.run_count >= new.max_runs then
    new.is_active    := false;
    new.ended_at     := coalesce(old.ended_at, v_now);
    new.paused_at    := null;
    new.paused_until := null;
    new.pause_note   := null;
  elsif new.is_active then
    new.paused_at    := null;
    new.paused_until := null;
    new.pause_note   := null;
    new.ended_at     := null;
    new.error_msg    := null;
  elsif new.ended_at is null and new.error_msg is null then
    new.paused_at := coalesce(new.paused_at, v_now);
  end if;

  new.next_run_at := null;
  new.revision    := old.revision + 1;
  perform pgsched.wake();

  return new;
end;
$$;

comment on function pgsched.reset_schedule() is
  'Have next_run_at computed anew when a schedule was changed.';

create trigger schedules_before_update_reset
  before update of cron_expr, every, timezone, starts_at, ends_at, max_runs, jitter, misfire_policy, misfire_grace, is_active, paused_until
  on pgsched.schedules
  for each row
  when (
    (
      old.cron_expr, old.every, old.timezone, old.starts_at, old.ends_at, old.max_runs, old.jitter, old.misfire_policy,
      old.misfire_grace, old.is_active, old.paused_until
    ) is distinct from (
      new.cron_expr, new.every, new.timezone, new.starts_at, new.ends_at, new.max_runs, new.jitter, new.misfire_policy,
      new.misfire_grace, new.is_active, new.paused_until
    )
  )
  execute function pgsched.reset_schedule();

create function pgsched.begin_schedule()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.paused_until is not null then
    new.is_active := false;
  end if;

  if not new.is_active and new.error_msg is null and new.ended_at is null then
    new.paused_at := coalesce(new.paused_at, pgsched.now());
  end if;

  return new;
end;
$$;

comment on function pgsched.begin_schedule() is
  'A schedule that is written as inactive begins with a pause.';

create trigger schedules_before_insert_begin
  before insert on pgsched.schedules
  for each row execute function pgsched.begin_schedule();

-- The columns that firing moves are nobody's change.
create function pgsched.schedule_settings(p_schedule pgsched.schedules)
  returns jsonb
  language sql
  stable
  return to_jsonb(p_schedule) - array[
    'id', 'next_run_at', 'last_run_at', 'last_task_id', 'run_count', 'paused_at', 'ended_at', 'created_by', 'created_at',
    'changed_at', 'counts_from', 'revision', 'idle_count', 'tz_version'
  ];

comment on function pgsched.schedule_settings(pgsched.schedules) is
  'What people set of a schedule, without what its firing moves.';

create function pgsched.log_schedule_change()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_old jsonb := case when tg_op <> 'INSERT' then pgsched.schedule_settings(old) end;
  v_new jsonb := case when tg_op <> 'DELETE' then pgsched.schedule_settings(new) end;
begin
  if v_old = v_new and old.paused_at is not distinct from new.paused_at then
    return null;
  end if;

  insert into pgsched.schedule_changes (schedule_id, name, change, old_values, new_values)
  values (
    coalesce(new.id, old.id),
    coalesce(new.name, old.name),
    case
      when tg_op = 'INSERT' then 'CREATED'
      when tg_op = 'DELETE' then 'DELETED'
      when new.is_active and not old.is_active then 'RESUMED'
      when new.paused_at is not null and old.paused_at is null then 'PAUSED'
      when not old.is_active or new.is_active then 'CHANGED'
      when new.error_msg is not null then 'BROKEN'
      else 'ENDED'
    end,
    (
      select jsonb_object_agg(o.key, o.value)
      from jsonb_each(v_old) as o
      where v_new is null or o.value <> v_new -> o.key
    ),
    (
      select jsonb_object_agg(n.key, n.value)
      from jsonb_each(v_new) as n
      where v_old is null or n.value <> v_old -> n.key
    )
  );

  return null;
end;
$$;

comment on function pgsched.log_schedule_change() is
  'Record who changed a schedule, from what to what.';

create trigger schedules_after_insert_or_delete_log
  after insert or delete on pgsched.schedules
  for each row execute function pgsched.log_schedule_change();

create trigger schedules_after_update_log
  after update of definition_id, name, cron_expr, every, timezone, is_active, paused_until, pause_note, overlap_policy,
    misfire_policy, misfire_grace, jitter, starts_at, ends_at, max_runs, input_params, schedule_config, queue, priority, trace_id
  on pgsched.schedules
  for each row execute function pgsched.log_schedule_change();

create function pgsched.note_gap_of_deleted()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := pgsched.now();
begin
  perform pgsched.note_gap(old, 'deleted', v_now);
  perform pgsched.wake();

  return old;
end;
$$;

comment on function pgsched.note_gap_of_deleted() is
  'Leave to a worker what was due of a schedule that is deleted.';

create trigger schedules_before_delete_gap
  before delete on pgsched.schedules
  for each row execute function pgsched.note_gap_of_deleted();

revoke execute on all routines in schema pgsched from public;

commit;
