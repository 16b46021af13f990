-- 021 explain
--
-- Why a task runs or does not, in words.  A sentence says what is the case
-- and, after two spaces, what to do about it.
--
-- Adds   first_line(), error_fingerprint(), queue_obstacles(), explain_queue(), explain_end(),
--        explain_wait(), explain_hold(), explain_run(), explain_past(), explain_task()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(21, 'explain');

create function pgsched.first_line(p_error text)
  returns text
  language sql
  immutable
  return rtrim(left(split_part(p_error, E'\n', 1), 300), '. ');

comment on function pgsched.first_line(text) is
  'The first line of an error, up to 300 characters, without the full stop.';

-- The status of an answer stays: it is what tells HTTP 500 from HTTP 503.
create function pgsched.error_fingerprint(p_error text)
  returns text
  language sql
  immutable
  return left(
    regexp_replace(
      regexp_replace(
        regexp_replace(
          left(split_part(coalesce(p_error, ''), E'\n', 1), 500),
          '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', '#', 'gi'
        ),
        '\m(0x)?(?=[a-f]*[0-9])[0-9a-f]{8,}\M', '#', 'gi'
      ),
      '(?<!HTTP )\m[0-9]+(\.[0-9]+)*', '#', 'g'
    ),
    200
  );

comment on function pgsched.error_fingerprint(text) is
  'What errors that are alike have in common: the first line, with # for ids and numbers, up to 200 characters.';

-- Queues ------------------------------------------------------------------

create function pgsched.queue_obstacles(p_queue text, p_now timestamptz)
  returns text[]
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_queue    pgsched.queues;
  v_system   pgsched.external_systems;
  v_alive    bigint;
  v_serving  bigint;
  v_count    bigint;
  v_bucket   record;
  v_found    text[] := '{}';
begin
  select q.* into v_queue from pgsched.queues as q where q.name = p_queue;
  select s.* into v_system from pgsched.external_systems as s where s.name = v_queue.external_system;

  select count(*), count(*) filter (where w.queues is null or p_queue = any (w.queues))
  into v_alive, v_serving
  from pgsched.workers as w
  where w.lease_expires_at > p_now;

  if v_queue.is_paused then
    v_found := v_found || format(
      'Queue %L is paused%s.  select pgsched.resume_queue(%1$L) ends that.',
      p_queue, coalesce(' (' || v_queue.pause_note || ')', '')
    );
  end if;

  if v_alive = 0 then
    v_found := v_found || 'No worker is alive.  Start one: pgsched worker.'::text;
  elsif v_serving = 0 then
    v_found := v_found || format(
      'No worker serves queue %L: PGSCHED_QUEUES keeps %s away from it.  Start one that does.',
      p_queue, case v_alive when 1 then 'the one that is alive' else format('the %s that are alive', v_alive) end
    );
  end if;

  if v_system.probe_until > p_now and v_system.open_until is not null then
    v_found := v_found || format(
      'External system %L has failed again and again (%s): one task is being pushed to see whether it is up, and the others wait for that.',
      v_system.name, coalesce(pgsched.first_line(v_system.open_reason), 'no reason given')
    );
  elsif v_system.open_until is not null then
    v_found := v_found || format(
      'The breaker of external system %L is open since %s (%s): %s.  Mend the system, and select pgsched.close_breaker(%1$L) lets all through at once.',
      v_system.name, v_system.opened_at, coalesce(pgsched.first_line(v_system.open_reason), 'no reason given'),
      case
        when v_system.open_until > p_now then format('one task will be pushed as a probe at %s', v_system.open_until)
        else 'a worker is about to push one task as a probe'
      end
    );
  end if;

  if v_queue.max_in_flight is not null then
    select count(*)
    into v_count
    from (
      select
      from pgsched.scheduled_tasks as t
      where t.queue = p_queue
        and t.deadline_at is not null
      limit v_queue.max_in_flight
    ) as under_way;

    if v_count >= v_queue.max_in_flight then
      v_found := v_found || format(
        'Queue %L has as many tasks in flight as its max_in_flight of %s allows: the next is claimed when one of them ends.  pgsched.define_queue() raises the limit.',
        p_queue, v_queue.max_in_flight
      );
    end if;
  end if;

  select b.rate, b.tokens
  into v_bucket
  from pgsched.token_bucket(p_queue, p_now) as b;

  if v_bucket.tokens < 1 then
    v_found := v_found || format(
      'Queue %L has spent its rate of %s tasks per second%s: the next is claimed in %s ms.%s',
      p_queue, round(v_bucket.rate::numeric, 1),
      case when v_bucket.rate is distinct from v_queue.rate_per_second then ', which ramps up after a pause or an outage' else '' end,
      ceil((1 - v_bucket.tokens) / v_bucket.rate * 1000),
      case when v_bucket.rate is distinct from v_queue.rate_per_second then '' else '  pgsched.define_queue() raises it.' end
    );
  end if;

  return v_found;
end;
$$;

comment on function pgsched.queue_obstacles(text, timestamptz) is
  'What keeps workers from claiming the due tasks of a queue, a sentence for each; empty when nothing does.';

create function pgsched.explain_queue(p_queue text)
  returns text
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now   timestamptz := pgsched.now();
  v_stats pgsched.queue_stats;
begin
  perform pgsched.check_queue(p_queue);

  select s.*
  into v_stats
  from pgsched.queue_stats as s
  where s.queue = p_queue;

  return concat_ws(
    E'\n',
    coalesce(
      nullif(array_to_string(pgsched.queue_obstacles(p_queue, v_now), E'\n'), ''),
      format('Nothing keeps workers from claiming what is due in queue %L.', p_queue)
    ),
    case v_stats.due_count
      when 0 then 'No task is due in it.'
      when 1 then format('1 task is due in it, since %s.', v_stats.oldest_due_since)
      else format('%s%s tasks are due in it, the first since %s.', v_stats.due_count, case when v_stats.due_count >= 10000 then ' or more' else '' end, v_stats.oldest_due_since)
    end,
    format(
      '%s come later, %s wait for other tasks, %s are in flight.',
      v_stats.later_count, v_stats.waiting_count, v_stats.in_flight_count
    )
  );
end;
$$;

comment on function pgsched.explain_queue(text) is
  'Why the due tasks of a queue are claimed or not, how many there are, and what to do; in words.';

-- Tasks -------------------------------------------------------------------

create function pgsched.explain_end(p_task pgsched.tasks)
  returns text
  language plpgsql
  stable
as $$
declare
  v_cancel record;
begin
  case p_task.status
    when 'SUCCESS' then
      return format(
        'It ended with SUCCESS at %s, in attempt %s%s.',
        p_task.finished_at, p_task.attempt, coalesce('; its output is at ' || p_task.output_ref, '')
      );
    when 'FAILED' then
      return format(
        'It FAILED at %s, in attempt %s, with %s of %s retries used: %s.  select pgsched.retry_task(%L) tries it again.',
        p_task.finished_at, p_task.attempt, p_task.retry_count, p_task.max_retries,
        coalesce(pgsched.first_line(p_task.error_msg), 'no reason was given'), p_task.id
      );
    else
      select e.message, e.created_by
      into v_cancel
      from pgsched.task_events as e
      where e.task_id = p_task.id
        and e.at = p_task.finished_at
        and e.event = 'CANCELLED';

      return format(
        'It was CANCELLED at %s%s%s.  select pgsched.retry_task(%L) brings it back.',
        p_task.finished_at, coalesce(' in a session of ' || v_cancel.created_by, ' by a report'),
        coalesce(': ' || pgsched.first_line(coalesce(v_cancel.message, p_task.error_msg)), ''), p_task.id
      );
  end case;
end;
$$;

comment on function pgsched.explain_end(pgsched.tasks) is
  'How a finished task ended.';

create function pgsched.explain_wait(p_task pgsched.tasks, p_now timestamptz)
  returns text
  language plpgsql
  stable
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_obstacles text := nullif(array_to_string(pgsched.queue_obstacles(p_task.queue, p_now), E'\n'), '');
  v_awaited   text;
  v_ahead     bigint;
begin
  if p_task.pending_dependencies > 0 then
    select string_agg(format('%s (%s, %s)', t.id, d.name, t.status), ', ' order by t.id)
    into v_awaited
    from (
      select c.depends_on_id
      from pgsched.task_dependencies as c
      where c.task_id = p_task.id
      limit 3
    ) as edge
    join pgsched.scheduled_tasks as t
      on t.id = edge.depends_on_id
    join pgsched.task_definitions as d
      on d.id = t.definition_id;

    return case
      when v_awaited is null then concat_ws(
        E'\n', 'What it waited for has ended, and a worker is about to see to it.', v_obstacles
      )
      else format(
        'It waits for %s to end%s: %s%s.  select pgsched.explain_task(…) of each says why it has not.',
        case p_task.pending_dependencies when 1 then '1 other task' else p_task.pending_dependencies || ' other tasks' end,
        case when p_task.on_dependency_failure = 'run' then '' else ' with SUCCESS' end,
        v_awaited, case when p_task.pending_dependencies > 3 then ' and more' else '' end
      )
    end;
  elsif p_task.execute_after > p_now then
    return concat_ws(
      E'\n',
      format(
        'It is due at %s, in %s%s.', p_task.execute_after, date_trunc('second', p_task.execute_after - p_now),
        case
          when p_task.undelivered_since is not null then format(
            ': it could not be delivered since %s (%s), and is tried again then',
            p_task.undelivered_since, coalesce(pgsched.first_line(p_task.error_msg), 'no answer')
          )
          when p_task.retry_count > 0 then format(
            ', for retry %s of %s: the attempt before failed (%s)',
            p_task.retry_count, p_task.max_retries, coalesce(pgsched.first_line(p_task.error_msg), 'no reason was given')
          )
          else ', as it was scheduled'
        end
      ),
      v_obstacles
    );
  elsif v_obstacles is not null then
    return concat_ws(E'\n', format('It is due since %s, and is not claimed.', p_task.execute_after), v_obstacles);
  end if;

  select count(*)
  into v_ahead
  from (
    select
    from generate_series(p_task.priority::integer, 9) as p (priority)
    cross join lateral (
      select
      from pgsched.scheduled_tasks as t
      where t.queue = p_task.queue
        and t.status = 'PENDING'
        and t.pending_dependencies = 0
        and t.priority = p.priority
        and t.execute_after <= p_now
        and (p.priority > p_task.priority or (t.execute_after, t.id) < (p_task.execute_after, p_task.id))
      limit 10000
    ) as one
    limit 10000
  ) as ahead;

  return case v_ahead
    when 0 then format(
      'It is due since %s, and a worker is about to claim it.  If that lasts, see in pg_locks whether a session holds its row.',
      p_task.execute_after
    )
    else format(
      'It is due since %s, and its turn comes after %s%s of queue %L.  If that grows, start more workers: pgsched worker.',
      p_task.execute_after, v_ahead,
      case when v_ahead = 1 then ' other task' when v_ahead >= 10000 then ' or more tasks' else ' other tasks' end,
      p_task.queue
    )
  end;
end;
$$;

comment on function pgsched.explain_wait(pgsched.tasks, timestamptz) is
  'What a PENDING task waits for.';

create function pgsched.explain_hold(p_task pgsched.tasks, p_now timestamptz)
  returns text
  language plpgsql
  stable
as $$
declare
  v_worker pgsched.workers;
  v_name   text;
begin
  select w.*
  into v_worker
  from pgsched.workers as w
  where w.id = p_task.worker_id;

  v_name := coalesce(format('Worker %s:%s', v_worker.hostname, v_worker.pid), 'A worker');

  return case
    when v_worker.lease_expires_at > p_now and p_task.deadline_at > p_now then format(
      '%s has claimed it and is pushing it.  What it has not settled until %s is given to another.', v_name, p_task.deadline_at
    )
    when not exists (select from pgsched.workers as w where w.lease_expires_at > p_now) then format(
      '%s had claimed it, and no worker is alive to take it back.  Start one: pgsched worker.', v_name
    )
    when v_worker.id is null or v_worker.lease_expires_at <= p_now then format(
      '%s had claimed it and has lost its lease%s: another takes it back within a minute, at %s at the latest.',
      v_name, coalesce(' at ' || v_worker.lease_expires_at, ''), p_task.deadline_at
    )
    else format(
      '%s has claimed it and did not settle it until %s: another is about to take it back.', v_name, p_task.deadline_at
    )
  end;
end;
$$;

comment on function pgsched.explain_hold(pgsched.tasks, timestamptz) is
  'Who holds a SCHEDULED task, and until when.';

create function pgsched.explain_run(p_task pgsched.tasks, p_now timestamptz)
  returns text
  language plpgsql
  stable
as $$
declare
  v_system text := (select q.external_system from pgsched.queues as q where q.name = p_task.queue);
begin
  return format(
    case p_task.status
      when 'RUNNING' then 'External system %L reports it RUNNING, since %s, in attempt %s%s.  '
      else 'External system %L accepted it at %s, in attempt %s%s, and has not reported since.  '
    end,
    v_system, p_task.started_at, p_task.attempt, coalesce('; its progress is ' || left(p_task.progress::text, 200), '')
  ) || case
    when p_task.deadline_at > p_now then format(
      'Its report is waited for until %s, for %s more; then this attempt counts as failed, and %s.',
      p_task.deadline_at, date_trunc('second', p_task.deadline_at - p_now),
      case
        when p_task.retry_count < p_task.max_retries then format('retry %s of %s follows', p_task.retry_count + 1, p_task.max_retries)
        else 'the task is FAILED, since no retry is left'
      end
    )
    when exists (select from pgsched.workers as w where w.lease_expires_at > p_now) then format(
      'No report came until %s: a worker is about to end this attempt.', p_task.deadline_at
    )
    else format(
      'No report came until %s, and no worker is alive to end this attempt.  Start one: pgsched worker.', p_task.deadline_at
    )
  end;
end;
$$;

comment on function pgsched.explain_run(pgsched.tasks, timestamptz) is
  'What is known of a task that the external system has, and until when a report is waited for.';

create function pgsched.explain_past(p_task pgsched.tasks)
  returns text
  language plpgsql
  stable
as $$
declare
  v_schedule text := (select s.name from pgsched.schedules as s where s.id = p_task.schedule_id);
  v_news     record;
begin
  select count(*) as count, max(p.last_error) as error, bool_or(p.given_up_at is not null) as is_given_up
  into v_news
  from pgsched.status_pushes as p
  where p.task_id = p_task.id;

  return nullif(concat_ws(
    E'\n',
    case when p_task.retry_count > 0 and p_task.status in ('SCHEDULED', 'DISPATCHED', 'RUNNING') then format(
      '%s of %s retries are used; the latest error: %s.',
      p_task.retry_count, p_task.max_retries, coalesce(pgsched.first_line(p_task.error_msg), 'none was given')
    ) end,
    case when p_task.lost_count > 0 and p_task.finished_at is null then format(
      'It was lost with its worker %s in a row: see the logs of the workers for why they end.  At 10 it is FAILED.',
      case p_task.lost_count when 1 then 'once' else p_task.lost_count || ' times' end
    ) end,
    case when v_schedule is not null then format(
      'Schedule %L made it, for %s.  select pgsched.explain_schedule(%1$L) says more.', v_schedule, p_task.scheduled_time
    ) end,
    case when p_task.loop_id is not null then format(
      'It is round %s of a loop%s.%s', p_task.round_index,
      coalesce(' of ' || (p_task.schedule_config ->> 'max_rounds') || ' rounds', ''),
      coalesce('  Task ' || p_task.next_task_id || ' followed it.', '')
    ) end,
    case when v_news.count > 0 then format(
      'Its external system has still to be told of %s%s.',
      case v_news.count when 1 then '1 change of its status' else v_news.count || ' changes of its status' end,
      case
        when v_news.is_given_up then ', which was given up: ' || coalesce(pgsched.first_line(v_news.error), 'too old')
        else coalesce(': ' || pgsched.first_line(v_news.error), '')
      end
    ) end
  ), '');
end;
$$;

comment on function pgsched.explain_past(pgsched.tasks) is
  'Where a task comes from, and what befell it before; null when there is nothing to say.';

create function pgsched.explain_task(p_task_id uuid)
  returns text
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now  timestamptz := pgsched.now();
  v_task pgsched.tasks;
begin
  select t.*
  into v_task
  from pgsched.get_task(p_task_id) as t;

  if not found then
    raise exception sqlstate 'PS404' using message = format('task %s does not exist', p_task_id);
  end if;

  return concat_ws(
    E'\n',
    case
      when v_task.finished_at is not null then pgsched.explain_end(v_task)
      when v_task.status = 'PENDING' then pgsched.explain_wait(v_task, v_now)
      when v_task.status = 'SCHEDULED' then pgsched.explain_hold(v_task, v_now)
      else pgsched.explain_run(v_task, v_now)
    end,
    pgsched.explain_past(v_task)
  );
end;
$$;

comment on function pgsched.explain_task(uuid) is
  'Why a task runs or does not, how it ended, and what to do; in words.';

revoke execute on all routines in schema pgsched from public;

commit;
