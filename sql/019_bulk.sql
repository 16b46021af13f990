-- 019 bulk
--
-- What people do to many tasks at once: try again what has failed, cancel
-- what is not wanted any more, by what the tasks have in common.  Each task
-- goes the way of retry_task() or cancel_task(); one that cannot is counted
-- and left, and what another session has locked is not waited for.
--
-- FAILED comes before CANCELLED, and the earlier before the later, so that a
-- task is back before those that were cancelled because of it, and they wait
-- for it again.
--
-- Adds   retry_tasks(), cancel_tasks(), check_bulk_act(), hold_recorded(), hold_unfinished(), an index
-- Locks  writes to task_instances, while the index on it is made
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(19, 'bulk');

-- What ended well is not in it: that costs nothing but the look at its status.
create index task_instances_unsuccessful_idx
  on pgsched.task_instances (status, finished_at)
  where status <> 'SUCCESS';

create function pgsched.check_bulk_act(
  p_filters    integer,
  p_error_like text,
  p_after      timestamptz,
  p_before     timestamptz,
  p_limit      integer
)
  returns void
  language plpgsql
  immutable
as $$
begin
  if p_filters = 0 then
    raise exception sqlstate 'PS422' using
      message = 'give at least one of p_definition, p_queue, p_schedule, p_trace_id, p_status, p_error_like, p_after and p_before',
      hint = 'All tasks at once are seldom what is meant; p_after => ''-infinity'' says so.';
  elsif p_limit is null or p_limit not between 1 and 10000 then
    raise exception sqlstate 'PS422' using
      message = format('p_limit must be from 1 to 10000, not %s', coalesce(p_limit::text, 'null'));
  elsif p_after >= p_before then
    raise exception sqlstate 'PS422' using
      message = format('p_after %s must be before p_before %s', p_after, p_before);
  elsif p_error_like ~ '(^|[^\\])(\\\\)*\\$' then
    raise exception sqlstate 'PS422' using
      message = 'p_error_like must not end with a single backslash, which escapes what follows it';
  end if;
end;
$$;

comment on function pgsched.check_bulk_act(integer, text, timestamptz, timestamptz, integer) is
  'PS422 when what many tasks are chosen by is nothing, or out of range.';

-- Retry ------------------------------------------------------------------

-- Its schedule is written when it was the latest run, and is not waited for
-- either.
create function pgsched.hold_recorded(p_task_id uuid, p_finished_at timestamptz)
  returns boolean
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_schedule_id uuid;
begin
  select i.schedule_id
  into v_schedule_id
  from pgsched.task_instances as i
  where i.id = p_task_id
    and i.finished_at = p_finished_at
  for update skip locked;

  if not found then
    return false;
  end if;

  perform from pgsched.schedules as s
  where s.id = v_schedule_id
    and s.last_task_id = p_task_id
  for no key update skip locked;

  return found or not exists (
    select
    from pgsched.schedules as s
    where s.id = v_schedule_id
      and s.last_task_id = p_task_id
  );
end;
$$;

comment on function pgsched.hold_recorded(uuid, timestamptz) is
  'Lock a task of the record, and what its retry changes, without waiting; false when another session has it.';

create function pgsched.retry_tasks(
  p_definition text        default null,
  p_queue      text        default null,
  p_schedule   text        default null,
  p_trace_id   uuid        default null,
  p_status     text        default null,
  p_error_like text        default null,
  p_after      timestamptz default null,
  p_before     timestamptz default null,
  p_limit      integer     default 1000,
  p_is_preview boolean     default false
)
  returns table (matched bigint, done integer, refused integer)
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set lock_timeout = '50ms'
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now           timestamptz := pgsched.now();
  v_definition_id uuid;
  v_schedule_id   uuid;
  v_statuses      text[] := '{FAILED,CANCELLED}';
  v_found         record;
  v_task          pgsched.task_instances;
begin
  perform pgsched.check_bulk_act(
    num_nonnulls(p_definition, p_queue, p_schedule, p_trace_id, p_status, p_error_like, p_after, p_before),
    p_error_like, p_after, p_before, p_limit
  );

  if p_status not in ('FAILED', 'CANCELLED') then
    raise exception sqlstate 'PS422' using
      message = format('p_status must be FAILED or CANCELLED, which alone can be retried, not %L', p_status);
  elsif p_status is not null then
    v_statuses := array[p_status];
  end if;

  if p_definition is not null then
    v_definition_id := (pgsched.find_definition(p_definition)).id;
  end if;

  if p_queue is not null then
    perform pgsched.check_queue(p_queue);
  end if;

  if p_schedule is not null then
    v_schedule_id := (pgsched.find_schedule(p_schedule)).id;
  end if;

  matched := 0;
  done    := 0;
  refused := 0;

  for v_found in
    select found.*
    from unnest(v_statuses) as s (status)
    cross join lateral (
      select i.id, i.finished_at, i.definition_id, i.queue, i.depends_on
      from pgsched.task_instances as i
      where i.status = s.status
        and i.status <> 'SUCCESS'
        and i.finished_at >= coalesce(p_after, '-infinity')
        and i.finished_at < coalesce(p_before, 'infinity')
        and (v_definition_id is null or i.definition_id = v_definition_id)
        and (p_queue is null or i.queue = p_queue)
        and (v_schedule_id is null or i.schedule_id = v_schedule_id)
        and (p_trace_id is null or i.trace_id = p_trace_id)
        and (p_error_like is null or i.error_msg like p_error_like)
      order by i.finished_at, i.id
      limit 100000
    ) as found
    limit 100000
  loop
    matched := matched + 1;
    continue when p_is_preview;

    if not exists (select from pgsched.task_definitions as d where d.id = v_found.definition_id)
      or not exists (select from pgsched.queues as q where q.name = v_found.queue)
      or not pgsched.hold_recorded(v_found.id, v_found.finished_at)
    then
      refused := refused + 1;
      continue;
    end if;

    -- Only what depends on others can still be refused, and pays for a way back.
    if v_found.depends_on is null then
      delete from pgsched.task_instances as i
      where i.id = v_found.id
        and i.finished_at = v_found.finished_at
      returning i.* into v_task;

      perform pgsched.bring_back(v_task, v_now);
      done := done + 1;
    else
      begin
        delete from pgsched.task_instances as i
        where i.id = v_found.id
          and i.finished_at = v_found.finished_at
        returning i.* into v_task;

        perform pgsched.bring_back(v_task, v_now);
        done := done + 1;
      exception
        when sqlstate 'PS409' or lock_not_available then
          refused := refused + 1;
      end;
    end if;

    exit when done >= p_limit;
  end loop;

  return next;
end;
$$;

comment on function pgsched.retry_tasks(text, text, text, uuid, text, text, timestamptz, timestamptz, integer, boolean) is
  'Retry up to p_limit FAILED or CANCELLED tasks that have all that is given in common; p_after and p_before say when they finished, p_error_like is a pattern of LIKE.  Returns how many were looked at, are PENDING again, and could not be.  p_is_preview: only count what matches, up to 100,000.';

-- Cancel -----------------------------------------------------------------

create function pgsched.hold_unfinished(p_task_ids uuid[])
  returns uuid[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_ids       uuid[];
  v_schedules uuid[];
begin
  v_ids := array(
    select t.id
    from pgsched.scheduled_tasks as t
    where t.id = any (p_task_ids)
    for update skip locked
  );

  v_schedules := array(
    select s.id
    from pgsched.schedules as s
    where s.id = any (array(
      select t.schedule_id
      from pgsched.scheduled_tasks as t
      where t.id = any (v_ids)
        and t.pending_dependencies > 0
    ))
      and s.last_task_id = any (v_ids)
    for no key update skip locked
  );

  return array(
    select t.id
    from pgsched.scheduled_tasks as t
    where t.id = any (v_ids)
      and (
        t.pending_dependencies = 0
        or t.schedule_id is null
        or t.schedule_id = any (v_schedules)
        or (
          select s.last_task_id
          from pgsched.schedules as s
          where s.id = t.schedule_id
        ) is distinct from t.id
      )
  );
end;
$$;

comment on function pgsched.hold_unfinished(uuid[]) is
  'Of these unfinished tasks, lock those that no other session has, and what their end changes, without waiting; their ids.';

create function pgsched.cancel_tasks(
  p_definition text        default null,
  p_queue      text        default null,
  p_schedule   text        default null,
  p_trace_id   uuid        default null,
  p_status     text        default null,
  p_error_like text        default null,
  p_after      timestamptz default null,
  p_before     timestamptz default null,
  p_reason     text        default null,
  p_limit      integer     default 1000,
  p_is_preview boolean     default false
)
  returns table (matched bigint, done integer, refused integer)
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set lock_timeout = '5s'
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_now    timestamptz := pgsched.now();
  v_reason text := left(coalesce(p_reason, 'cancelled by ' || session_user), 8192);
  v_query  text;
  v_ids    uuid[];
  v_held   uuid[];
  v_last   uuid := uuid '00000000-0000-0000-0000-000000000000';
begin
  perform pgsched.check_bulk_act(
    num_nonnulls(p_definition, p_queue, p_schedule, p_trace_id, p_status, p_error_like, p_after, p_before),
    p_error_like, p_after, p_before, p_limit
  );

  if p_status not in ('PENDING', 'SCHEDULED', 'DISPATCHED', 'RUNNING') then
    raise exception sqlstate 'PS422' using
      message = format('p_status must be PENDING, SCHEDULED, DISPATCHED or RUNNING, since what is finished stays as it ended, not %L', p_status);
  end if;

  if p_queue is not null then
    perform pgsched.check_queue(p_queue);
  end if;

  -- By the index of the schedule where one is named, else along the ids.
  v_query := concat_ws(
    ' ',
    'select t.id from',
    case
      when p_schedule is null then 'pgsched.scheduled_tasks as t'
      else format('(select * from pgsched.scheduled_tasks where schedule_id = %L offset 0) as t', (pgsched.find_schedule(p_schedule)).id)
    end,
    'where t.id > $1',
    case when p_definition is not null then format('and t.definition_id = %L', (pgsched.find_definition(p_definition)).id) end,
    'and ($2 is null or t.queue = $2)',
    'and ($3 is null or t.trace_id = $3)',
    'and ($4 is null or t.status = $4)',
    'and ($5 is null or t.error_msg like $5)',
    'and ($6 is null or t.created_at >= $6)',
    'and ($7 is null or t.created_at < $7)',
    'order by t.id limit $8'
  );

  matched := 0;
  done    := 0;
  refused := 0;

  if p_is_preview then
    execute format('select count(*) from (%s) as found', v_query)
    into matched
    using v_last, p_queue, p_trace_id, p_status, p_error_like, p_after, p_before, 100000;
  end if;

  while not p_is_preview and done < p_limit loop
    execute format('select array(%s)', v_query)
    into v_ids
    using v_last, p_queue, p_trace_id, p_status, p_error_like, p_after, p_before, p_limit - done;

    exit when cardinality(v_ids) = 0;

    v_held := pgsched.hold_unfinished(v_ids);
    perform pgsched.cancel_locked(v_held, v_reason, v_now);

    v_last  := v_ids[cardinality(v_ids)];
    matched := matched + cardinality(v_ids);
    done    := done + cardinality(v_held);
    refused := refused + cardinality(v_ids) - cardinality(v_held);
  end loop;

  return next;
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = 'what waits for one of these tasks is locked by another session',
      hint = 'Try again; pg_locks and pg_stat_activity tell who holds it.';
end;
$$;

comment on function pgsched.cancel_tasks(text, text, text, uuid, text, text, timestamptz, timestamptz, text, integer, boolean) is
  'Cancel up to p_limit unfinished tasks that have all that is given in common; p_after and p_before say when they were made, p_error_like is a pattern of LIKE.  Returns how many were looked at, are CANCELLED, and could not be.  p_is_preview: only count what matches, up to 100,000.';

revoke execute on all routines in schema pgsched from public;

commit;
