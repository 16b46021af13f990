-- 002 definitions
--
-- What can be run and where it goes.  A task names a definition, a definition
-- names a queue, a queue names an external system, and only that has an
-- address: whoever may schedule can not choose where a request is sent.
-- Secrets stay outside: a system names the environment variable that holds
-- its key.
--
-- None of these rows is ever written by an enqueue.
--
-- Adds   domains, external_systems, queues, queue_rates, task_definitions,
--        define_external_system(), define_queue(), pause_queue(), resume_queue(), define_task(),
--        find_definition(), claimable_queues(), check_queue(), check_priority(), check_loop_config()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(2, 'definitions');

-- Text and a domain, not an enum: a value can be dropped again.
create domain pgsched.task_status as text
  constraint task_status_is_known check (value in (
    'PENDING', 'SCHEDULED', 'DISPATCHED', 'RUNNING', 'SUCCESS', 'FAILED', 'CANCELLED'
  ));

comment on domain pgsched.task_status is
  'PENDING: waits.  SCHEDULED: claimed by a worker.  DISPATCHED: accepted by the external system.  RUNNING: reported as under way.  SUCCESS, FAILED, CANCELLED: finished.';

create domain pgsched.schedule_type as text
  constraint schedule_type_is_known check (value in (
    'IMMEDIATE', 'DELAYED', 'CRON', 'LOOP', 'INTERVAL_LOOP', 'LOOP_ONCE'
  ));

comment on domain pgsched.schedule_type is
  'IMMEDIATE: now.  DELAYED: once, later.  CRON: made by a schedule.  LOOP: round after round.  INTERVAL_LOOP: rounds, spaced.  LOOP_ONCE: one round on demand.';

create domain pgsched.priority as smallint
  constraint priority_is_in_range check (value between -9 and 9);

comment on domain pgsched.priority is
  'From -9 (background) to 9 (urgent).';

create table pgsched.external_systems (
  name               text     not null,
  base_url           text,
  api_key_env        text,
  signing_secret_env text,
  completion         text     not null default 'callback',
  request_timeout    interval not null default '30 seconds',
  delivery_timeout   interval not null default '24 hours',
  batch_size         integer  not null default 1,
  max_in_flight      integer,
  push_statuses      text[],
  open_until         timestamptz,
  open_reason        text,
  open_count         integer  not null default 0,
  opened_at          timestamptz,
  closed_at          timestamptz,
  probe_by           uuid,
  probe_until        timestamptz,

  constraint external_systems_pkey
    primary key (name),

  constraint external_systems_base_url_is_http
    check (base_url ~ '^https?://[^[:space:]@/?#]+([/?#][^[:space:]]*)?$'),

  constraint external_systems_completion_is_known
    check (completion in ('callback', 'response')),

  constraint external_systems_request_timeout_is_in_range
    check (request_timeout between '100 milliseconds' and '10 minutes'),

  constraint external_systems_delivery_timeout_is_in_range
    check (delivery_timeout > '0' and delivery_timeout <= '10 years'),

  constraint external_systems_batch_size_is_in_range
    check (batch_size between 1 and 1000),

  constraint external_systems_max_in_flight_is_in_range
    check (max_in_flight between 1 and 1000),

  constraint external_systems_push_statuses_are_known
    check (push_statuses <@ array['PENDING', 'SCHEDULED', 'FAILED', 'CANCELLED']),

  constraint external_systems_are_probed_while_open
    check (open_until is not null or (probe_by is null and probe_until is null))
);

comment on table pgsched.external_systems is
  'Where tasks are pushed to.';
comment on column pgsched.external_systems.name is
  'The name queues refer to.';
comment on column pgsched.external_systems.base_url is
  'http(s) address, without a user or a password; tasks are POSTed to {base_url}/api/tasks/status.  Null: the worker''s PGSCHED_EXTERNAL_SYSTEM_URL.';
comment on column pgsched.external_systems.api_key_env is
  'Name of the environment variable of the worker that holds the bearer key.  Null: PGSCHED_EXTERNAL_SYSTEM_API_KEY when base_url is null too, else no key.';
comment on column pgsched.external_systems.signing_secret_env is
  'Name of the environment variable of the worker that holds the secrets its pushes are signed with (Standard Webhooks), the newest first, separated by spaces.  Null: they are not signed.';
comment on column pgsched.external_systems.completion is
  'callback: a 2xx accepts the task and its end is reported later.  response: a 2xx is its SUCCESS.';
comment on column pgsched.external_systems.request_timeout is
  'How long one push may take, 100 ms to 10 min.';
comment on column pgsched.external_systems.delivery_timeout is
  'How long a task may stay undeliverable before it is FAILED, up to 10 years.';
comment on column pgsched.external_systems.batch_size is
  'How many tasks one request may carry, 1 to 1000.  More than 1: they are POSTed to {base_url}/api/tasks/status/batch.';
comment on column pgsched.external_systems.max_in_flight is
  'How many requests each worker may have under way to it, 1 to 1000.  Null: the worker''s PGSCHED_PUSH_SLOTS.';
comment on column pgsched.external_systems.push_statuses is
  'Which changes of status it is told of: PENDING (it will be run again), SCHEDULED, FAILED, CANCELLED.  Null: PENDING, FAILED and CANCELLED when completion is callback, else none.';
comment on column pgsched.external_systems.open_until is
  'Not null while its circuit breaker is open: nothing is pushed to it but, from then on, one task at a time as a probe.';
comment on column pgsched.external_systems.open_reason is
  'What it answered last before its breaker opened.';
comment on column pgsched.external_systems.open_count is
  'How often in a row its breaker opened, or a probe failed; each time it stays open for longer.';
comment on column pgsched.external_systems.opened_at is
  'When its breaker opened the last time.';
comment on column pgsched.external_systems.closed_at is
  'When its breaker closed the last time; for ten seconds after, its rate ramps up.';
comment on column pgsched.external_systems.probe_by is
  'The worker whose probe is under way.';
comment on column pgsched.external_systems.probe_until is
  'When another worker may probe, if that one has not told how it went.';

create table pgsched.queues (
  name            text    not null,
  external_system text    not null default 'default',
  is_paused       boolean not null default false,
  pause_note      text,
  max_in_flight   integer,
  rate_per_second double precision,
  burst           integer,
  resumed_at      timestamptz,

  constraint queues_pkey
    primary key (name),

  constraint queues_external_system_fkey
    foreign key (external_system) references pgsched.external_systems,

  constraint queues_name_is_plain
    check (name ~ '^[A-Za-z0-9_.:-]{1,100}$'),

  constraint queues_max_in_flight_is_in_range
    check (max_in_flight between 1 and 1000000),

  constraint queues_rate_per_second_is_in_range
    check (rate_per_second between 0.0001 and 1000000),

  constraint queues_burst_is_in_range
    check (burst between 1 and 1000000),

  constraint queues_burst_is_of_a_rate
    check (burst is null or rate_per_second is not null)
);

comment on table pgsched.queues is
  'Named lines of tasks, each leading to one external system.';
comment on column pgsched.queues.name is
  'Up to 100 of A-Z a-z 0-9 _ . : -';
comment on column pgsched.queues.external_system is
  'Where its tasks are pushed to.';
comment on column pgsched.queues.is_paused is
  'True: nothing is claimed from it.  What is under way goes on.';
comment on column pgsched.queues.pause_note is
  'Why it is paused, for the next reader.';
comment on column pgsched.queues.max_in_flight is
  'How many of its tasks may be SCHEDULED, DISPATCHED or RUNNING at once, 1 to 1,000,000.  Null: no limit.';
comment on column pgsched.queues.rate_per_second is
  'How many of its tasks may be claimed per second, 0.0001 to 1,000,000.  Null: no limit.';
comment on column pgsched.queues.burst is
  'How many may be claimed at once after a lull, 1 to 1,000,000.  Null: those of a tenth of a second, at least 1.';
comment on column pgsched.queues.resumed_at is
  'When its last pause ended; for ten seconds after, its rate ramps up.';

-- Apart from the queues, since it is written by every claim of a limited one.
create table pgsched.queue_rates (
  queue        text             not null,
  tokens       double precision not null,
  refreshed_at timestamptz      not null,

  constraint queue_rates_pkey
    primary key (queue),

  constraint queue_rates_queue_fkey
    foreign key (queue) references pgsched.queues on update cascade on delete cascade
)
with (fillfactor = 10);

comment on table pgsched.queue_rates is
  'The token bucket of each queue whose rate is limited.';
comment on column pgsched.queue_rates.queue is
  'The queue.';
comment on column pgsched.queue_rates.tokens is
  'How many tasks could be claimed at refreshed_at; between 0 and the burst.';
comment on column pgsched.queue_rates.refreshed_at is
  'When tokens was right.';

insert into pgsched.external_systems (name) values ('default');
insert into pgsched.queues (name) values ('default');

create table pgsched.task_definitions (
  id              uuid                  not null default pgsched.uuid7(),
  name            text                  not null,
  content         jsonb                 not null default '{}',
  queue           text                  not null default 'default',
  schedule_type   pgsched.schedule_type not null default 'IMMEDIATE',
  cron_expr       text,
  schedule_config jsonb                 not null default '{}',
  loop_config     jsonb                 not null default '{}',
  input_params    jsonb                 not null default '{}',
  priority        pgsched.priority      not null default 0,
  max_retries     integer               not null default 3,
  retry_delay     interval              not null default '60 seconds',
  retry_backoff   text                  not null default 'exponential',
  timeout         interval              not null default '1 hour',
  on_dependency_failure text            not null default 'cancel',
  is_active       boolean               not null default true,
  is_temporary    boolean               not null default false,
  created_by      text                  not null default session_user,
  created_at      timestamptz           not null default pgsched.now(),
  updated_at      timestamptz           not null default pgsched.now(),

  constraint task_definitions_pkey
    primary key (id),

  constraint task_definitions_queue_fkey
    foreign key (queue) references pgsched.queues,

  constraint task_definitions_name_is_short
    check (length(name) between 1 and 200),

  constraint task_definitions_configs_are_objects
    check (
      jsonb_typeof(schedule_config) = 'object'
      and jsonb_typeof(loop_config) = 'object'
      and jsonb_typeof(input_params) = 'object'
    ),

  constraint task_definitions_content_is_small
    check (octet_length(content::text) <= 262144),

  constraint task_definitions_max_retries_is_in_range
    check (max_retries between 0 and 100),

  constraint task_definitions_retry_delay_is_in_range
    check (retry_delay between '0' and '24 hours'),

  constraint task_definitions_retry_backoff_is_known
    check (retry_backoff in ('fixed', 'exponential')),

  constraint task_definitions_timeout_is_in_range
    check (timeout > '0' and timeout <= '10 years'),

  constraint task_definitions_on_dependency_failure_is_known
    check (on_dependency_failure in ('cancel', 'run'))
);

create unique index task_definitions_name_key
  on pgsched.task_definitions (name)
  where not is_temporary;

comment on table pgsched.task_definitions is
  'What can be run.  Timeout and retry delay are read here when they are used, so a change holds for tasks that wait already.';
comment on column pgsched.task_definitions.id is 'UUIDv7.';
comment on column pgsched.task_definitions.name is 'Unique, unless temporary.';
comment on column pgsched.task_definitions.content is 'What the external system needs to know to run it, up to 256 KiB; pushed as metadata.content.';
comment on column pgsched.task_definitions.queue is 'The queue its tasks go to, unless a call names another.';
comment on column pgsched.task_definitions.schedule_type is 'How it is run when a call does not say.';
comment on column pgsched.task_definitions.cron_expr is 'Its own schedule, if it has one; see the schedule of the same name.';
comment on column pgsched.task_definitions.schedule_config is 'Defaults for the schedule_config of its tasks.';
comment on column pgsched.task_definitions.loop_config is 'Defaults of its loops: max_rounds, loop_interval (seconds), interval_from (start, end), on_failure (stop, continue).';
comment on column pgsched.task_definitions.input_params is 'Defaults; those of a call are laid over them, key by key.';
comment on column pgsched.task_definitions.priority is 'The priority of its tasks, unless a call names another.';
comment on column pgsched.task_definitions.max_retries is 'How often a failed task is tried again, 0 to 100; copied to each task.';
comment on column pgsched.task_definitions.retry_delay is 'The pause before the first retry, up to 24 h.';
comment on column pgsched.task_definitions.retry_backoff is 'exponential: each pause twice the one before, up to 24 h.  fixed: always the same.';
comment on column pgsched.task_definitions.timeout is 'How long the external system may be silent about an accepted task, up to 10 years.';
comment on column pgsched.task_definitions.on_dependency_failure is 'When a task that one of its tasks depends on does not end with SUCCESS: cancel, or run all the same; copied to each task that depends on another.';
comment on column pgsched.task_definitions.is_active is 'False: nothing new can be scheduled; what is there runs.';
comment on column pgsched.task_definitions.is_temporary is 'True for the definition behind an ad-hoc task: no unique name.';
comment on column pgsched.task_definitions.created_by is 'The role that defined it.';
comment on column pgsched.task_definitions.created_at is 'When it was defined.';
comment on column pgsched.task_definitions.updated_at is 'When it was last changed.';

-- Define -----------------------------------------------------------------

create function pgsched.define_external_system(
  p_name               text,
  p_base_url           text     default null,
  p_api_key_env        text     default null,
  p_completion         text     default 'callback',
  p_request_timeout    interval default '30 seconds',
  p_delivery_timeout   interval default '24 hours',
  p_signing_secret_env text     default null,
  p_batch_size         integer  default 1,
  p_max_in_flight      integer  default null,
  p_push_statuses      text[]   default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '5s'
as $$
begin
  insert into pgsched.external_systems as s (
    name, base_url, api_key_env, signing_secret_env, completion, request_timeout, delivery_timeout,
    batch_size, max_in_flight, push_statuses
  )
  values (
    p_name, p_base_url, p_api_key_env, p_signing_secret_env, p_completion, p_request_timeout,
    p_delivery_timeout, p_batch_size, p_max_in_flight, p_push_statuses
  )
  on conflict (name) do update
  set
    base_url           = excluded.base_url,
    api_key_env        = excluded.api_key_env,
    signing_secret_env = excluded.signing_secret_env,
    completion         = excluded.completion,
    request_timeout    = excluded.request_timeout,
    delivery_timeout   = excluded.delivery_timeout,
    batch_size         = excluded.batch_size,
    max_in_flight      = excluded.max_in_flight,
    push_statuses      = excluded.push_statuses;
exception
  when check_violation or not_null_violation then
    raise exception sqlstate 'PS422' using
      message = format('define_external_system(%L): %s', p_name, sqlerrm),
      hint = 'See the comments on the columns of pgsched.external_systems for the ranges.';
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('external system %L is locked by another session', p_name),
      hint = 'A transaction that changed it is still open: wait for it, or find it in pg_stat_activity.';
end;
$$;

comment on function pgsched.define_external_system(text, text, text, text, interval, interval, text, integer, integer, text[]) is
  'Create an external system, or change the one of that name; what is left out takes its default.  Workers follow within a second.';

create function pgsched.define_queue(
  p_name            text,
  p_external_system text             default 'default',
  p_max_in_flight   integer          default null,
  p_rate_per_second double precision default null,
  p_burst           integer          default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '5s'
as $$
begin
  if not exists (select from pgsched.external_systems as s where s.name = p_external_system) then
    raise exception sqlstate 'PS404' using
      message = format('external system %L does not exist', p_external_system),
      hint = 'Create it with pgsched.define_external_system().';
  elsif coalesce(p_name !~ '^[A-Za-z0-9_.:-]{1,100}$', true) then
    raise exception sqlstate 'PS422' using
      message = format('p_name must have 1 to 100 of the characters A-Z a-z 0-9 _ . : -, not %L', p_name);
  end if;

  insert into pgsched.queues (name, external_system, max_in_flight, rate_per_second, burst)
  values (p_name, p_external_system, p_max_in_flight, p_rate_per_second, p_burst)
  on conflict (name) do update
  set
    external_system = excluded.external_system,
    max_in_flight   = excluded.max_in_flight,
    rate_per_second = excluded.rate_per_second,
    burst           = excluded.burst;

  perform pgsched.wake();
exception
  when check_violation then
    raise exception sqlstate 'PS422' using
      message = format('define_queue(%L): %s', p_name, sqlerrm),
      hint = 'See the comments on the columns of pgsched.queues for the ranges.';
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('queue %L is locked by another session', p_name),
      hint = 'A transaction that changed it is still open: wait for it, or find it in pg_stat_activity.';
end;
$$;

comment on function pgsched.define_queue(text, text, integer, double precision, integer) is
  'Create a queue, or change the one of that name: where it leads and its limits; what is left out takes its default.';

-- A pause writes no task row: the claim reads it.
create function pgsched.pause_queue(p_queue text, p_note text default null)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '5s'
as $$
begin
  update pgsched.queues as q
  set is_paused = true, pause_note = p_note
  where q.name = p_queue;

  if not found then
    raise exception sqlstate 'PS404' using message = format('queue %L does not exist', p_queue);
  end if;
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('queue %L is locked by another session', p_queue),
      hint = 'A transaction that changed it is still open: wait for it, or find it in pg_stat_activity.';
end;
$$;

comment on function pgsched.pause_queue(text, text) is
  'Stop claiming from a queue; what is under way goes on.';

create function pgsched.resume_queue(p_queue text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '5s'
as $$
begin
  update pgsched.queues as q
  set
    is_paused  = false,
    pause_note = null,
    resumed_at = case when q.is_paused then pgsched.now() else q.resumed_at end
  where q.name = p_queue;

  if not found then
    raise exception sqlstate 'PS404' using message = format('queue %L does not exist', p_queue);
  end if;

  perform pgsched.wake();
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('queue %L is locked by another session', p_queue),
      hint = 'A transaction that changed it is still open: wait for it, or find it in pg_stat_activity.';
end;
$$;

comment on function pgsched.resume_queue(text) is
  'Claim from a paused queue again; its rate ramps up for ten seconds.';

create function pgsched.check_queue(p_queue text)
  returns void
  language plpgsql
  stable
as $$
begin
  if not exists (select from pgsched.queues as q where q.name = p_queue) then
    raise exception sqlstate 'PS404' using
      message = format('queue %L does not exist', p_queue),
      hint = 'Create it with pgsched.define_queue().';
  end if;
end;
$$;

comment on function pgsched.check_queue(text) is
  'PS404 when there is no such queue.';

create function pgsched.check_priority(p_priority integer)
  returns void
  language plpgsql
  immutable
as $$
begin
  if p_priority not between -9 and 9 then
    raise exception sqlstate 'PS422' using
      message = format('p_priority must be from -9 (background) to 9 (urgent), not %s', p_priority);
  end if;
end;
$$;

comment on function pgsched.check_priority(integer) is
  'PS422 when a priority is out of range.';

-- The time after an outage or a pause in which a queue has a growing rate.
create function pgsched.ramp_term()
  returns interval
  language sql
  immutable
  return interval '10 seconds';

comment on function pgsched.ramp_term() is
  'How long the rate of a queue ramps up after its pause, or after its external system''s breaker has closed.';

create function pgsched.claimable_queues(
  p_queues    text[],
  p_now       timestamptz,
  out queues  text[],
  out limited text[],
  out probes  text[]
)
  language sql
  stable
begin atomic
  select
    coalesce(
      array_agg(q.name order by array_position(p_queues, q.name), q.name) filter (where s.open_until is null),
      '{}'
    ),
    coalesce(
      array_agg(q.name) filter (
        where q.max_in_flight is not null
          or q.rate_per_second is not null
          or greatest(q.resumed_at, s.closed_at) > p_now - pgsched.ramp_term()
      ),
      '{}'
    ),
    coalesce(
      array_agg(distinct s.name) filter (
        where s.open_until <= p_now
          and coalesce(s.probe_until, '-infinity') <= p_now
      ),
      '{}'
    )
  from pgsched.queues as q
  join pgsched.external_systems as s
    on s.name = q.external_system
  where not q.is_paused
    and (p_queues is null or q.name = any (p_queues));
end;

comment on function pgsched.claimable_queues(text[], timestamptz) is
  'Of these queues (null: of all), in the order given, those that exist, are not paused, and whose external system''s breaker is closed; which of these are limited; and the systems whose breaker may be probed.';

create function pgsched.find_definition(p_definition text)
  returns pgsched.task_definitions
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_definition pgsched.task_definitions;
begin
  select d.*
  into v_definition
  from pgsched.task_definitions as d
  where d.name = p_definition
    and not d.is_temporary;

  if not found and p_definition ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' then
    select d.*
    into v_definition
    from pgsched.task_definitions as d
    where d.id = p_definition::uuid;
  end if;

  if v_definition.id is null then
    raise exception sqlstate 'PS404' using
      message = format('p_definition: no task definition has the name or id %L', p_definition),
      hint = 'Create it with pgsched.define_task().';
  end if;

  return v_definition;
end;
$$;

comment on function pgsched.find_definition(text) is
  'The definition of that name or id, or PS404.';

create function pgsched.check_loop_config(p_config jsonb)
  returns void
  language plpgsql
  immutable
as $$
declare
  v_rounds   jsonb := nullif(p_config -> 'max_rounds', 'null');
  v_interval jsonb := nullif(p_config -> 'loop_interval', 'null');
begin
  if jsonb_typeof(v_rounds) <> 'number' or (v_rounds)::numeric not between 1 and 2147483647
    or (v_rounds)::numeric % 1 <> 0
  then
    raise exception sqlstate 'PS422' using
      message = format('max_rounds must be a whole number of at least 1, or null for no end, not %s', v_rounds);
  elsif jsonb_typeof(v_interval) <> 'number' or (v_interval)::numeric not between 0 and 31622400 then
    raise exception sqlstate 'PS422' using
      message = format('loop_interval must be from 0 to 31622400 seconds (366 days), not %s', v_interval);
  elsif p_config ->> 'interval_from' not in ('start', 'end') then
    raise exception sqlstate 'PS422' using
      message = format('interval_from must be "start" or "end", not %s', p_config -> 'interval_from');
  elsif p_config ->> 'on_failure' not in ('stop', 'continue') then
    raise exception sqlstate 'PS422' using
      message = format('on_failure must be "stop" or "continue", not %s', p_config -> 'on_failure');
  end if;
end;
$$;

comment on function pgsched.check_loop_config(jsonb) is
  'PS422 when a key of a loop is out of range.';

create function pgsched.define_task(
  p_name            text,
  p_content         jsonb    default '{}',
  p_queue           text     default 'default',
  p_priority        integer  default 0,
  p_max_retries     integer  default 3,
  p_retry_delay     interval default '60 seconds',
  p_retry_backoff   text     default 'exponential',
  p_timeout         interval default '1 hour',
  p_schedule_type   text     default 'IMMEDIATE',
  p_cron_expr       text     default null,
  p_schedule_config jsonb    default '{}',
  p_loop_config     jsonb    default '{}',
  p_input_params    jsonb    default '{}',
  p_is_temporary    boolean  default false,
  p_on_dependency_failure text default 'cancel'
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  if p_name is null or p_name = '' then
    raise exception sqlstate 'PS422' using message = 'p_name must not be empty';
  end if;

  perform pgsched.check_priority(p_priority);
  perform pgsched.check_queue(p_queue);
  perform pgsched.check_payload('p_input_params', p_input_params);
  perform pgsched.check_payload('p_schedule_config', p_schedule_config);
  perform pgsched.check_payload('p_loop_config', p_loop_config);
  perform pgsched.check_loop_config(p_loop_config);

  insert into pgsched.task_definitions as d (
    name, content, queue, priority, max_retries, retry_delay, retry_backoff, timeout,
    schedule_type, cron_expr, schedule_config, loop_config, input_params, is_temporary, on_dependency_failure
  )
  values (
    p_name, p_content, p_queue, p_priority, p_max_retries, p_retry_delay, p_retry_backoff, p_timeout,
    p_schedule_type, p_cron_expr, p_schedule_config, p_loop_config, p_input_params, p_is_temporary,
    p_on_dependency_failure
  )
  on conflict (name) where not is_temporary do update
  set
    content         = excluded.content,
    queue           = excluded.queue,
    priority        = excluded.priority,
    max_retries     = excluded.max_retries,
    retry_delay     = excluded.retry_delay,
    retry_backoff   = excluded.retry_backoff,
    timeout         = excluded.timeout,
    schedule_type   = excluded.schedule_type,
    cron_expr       = excluded.cron_expr,
    schedule_config = excluded.schedule_config,
    loop_config     = excluded.loop_config,
    input_params    = excluded.input_params,
    on_dependency_failure = excluded.on_dependency_failure,
    updated_at      = pgsched.now()
  where pgsched.may_change(d.created_by)
  returning d.id into v_id;

  if v_id is null then
    perform pgsched.refuse_stranger(format('definition %L', d.name), d.created_by)
    from pgsched.task_definitions as d
    where d.name = p_name
      and not d.is_temporary;
  end if;

  return v_id;
exception
  when check_violation or not_null_violation then
    raise exception sqlstate 'PS422' using
      message = format('define_task(%L): %s', p_name, sqlerrm),
      hint = 'See the comments on the columns of pgsched.task_definitions for the ranges.';
end;
$$;

comment on function pgsched.define_task(text, jsonb, text, integer, integer, interval, text, interval, text, text, jsonb, jsonb, jsonb, boolean, text) is
  'Define what can be run, or change the definition of that name.  Returns its id.';

revoke execute on all routines in schema pgsched from public;

commit;
