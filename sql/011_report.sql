-- 011 report
--
-- What comes back from the external system, or with the answer to a push.
-- A report names the task and its attempt, and goes by these alone: whichever
-- delivery brought the task, a result of the current attempt counts.  So does
-- the SUCCESS of an earlier attempt that had ended unanswered: the work is
-- done, there is nothing to repeat.
--
-- report_status() is for one report: it waits for a lock, and raises.
-- report_statuses() is for many: it waits for nobody, raises nothing, and
-- answers each report by a code; 'LOCKED' means: say it again.  Only what
-- cannot be read at all, such as an id that is no UUID, fails the whole list.
--
-- Adds   report, task_state, report_answer, is_well_formed(), judge_report(), explain_refusal(), apply_reports(),
--        start_tasks(), record_refusals(), report_statuses(), report_status()
-- Locks  nothing
-- Undo   drop the above

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

call pgsched.begin_migration(11, 'report');

create type pgsched.report as (
  report_index integer,
  task_id      uuid,
  status       text,
  attempt      integer,
  output_ref   text,
  error_msg    text,
  progress     jsonb,
  next_input   jsonb,
  stop_loop    boolean
);

comment on type pgsched.report is
  'What an executor says about one task.';

create type pgsched.task_state as (
  task_id        uuid,
  status         text,
  attempt        integer,
  delivery_count integer,
  lapsed_attempt integer,
  has_budget     boolean
);

comment on type pgsched.task_state is
  'What a report is judged by.';

create type pgsched.report_answer as (
  report_index integer,
  task_id      uuid,
  status       text,
  code         text,
  message      text
);

comment on type pgsched.report_answer is
  'What a report came to: the task''s status now, or a code and why.';

create function pgsched.is_well_formed(p_report pgsched.report)
  returns boolean
  language sql
  immutable
  return coalesce(p_report.status in ('RUNNING', 'SUCCESS', 'FAILED', 'CANCELLED'), false)
    and coalesce(length(p_report.output_ref) <= 2048, true)
    and coalesce(octet_length(p_report.progress::text) <= 4096, true)
    and coalesce(jsonb_typeof(p_report.next_input) = 'object', true)
    and coalesce(octet_length(p_report.next_input::text) <= 262144, true);

comment on function pgsched.is_well_formed(pgsched.report) is
  'Whether a report could be about any task at all.';

-- What a report comes to, given the task as it is now, unfinished or in the
-- record.  The rows of this function are those of docs/state_machine.md.
create function pgsched.judge_report(
  p_report         pgsched.report,
  p_status         text,
  p_attempt        integer,
  p_delivery_count integer,
  p_lapsed_attempt integer
)
  returns text
  language sql
  immutable
  return case
    when not pgsched.is_well_formed(p_report) then 'PS422'
    when p_status is null then 'PS404'
    when p_report.attempt not between 1 and p_attempt or p_delivery_count = 0 then 'PS422'
    when p_status in ('SUCCESS', 'FAILED', 'CANCELLED') and p_status <> p_report.status then 'PS409'
    when coalesce(p_report.attempt, p_attempt) = p_attempt
      or (p_report.status = 'SUCCESS' and p_report.attempt >= p_lapsed_attempt)
      then case
        when p_status in ('SUCCESS', 'FAILED', 'CANCELLED') then 'KNOWN'
        when p_report.status = 'RUNNING' then 'RUN'
        when p_report.status = 'FAILED' then 'FAIL'
        else 'FINISH'
      end
    when p_status not in ('SUCCESS', 'FAILED', 'CANCELLED') and p_report.status = 'FAILED' then 'KNOWN'
    else 'PS409'
  end;

comment on function pgsched.judge_report(pgsched.report, text, integer, integer, integer) is
  'RUN, FINISH, FAIL (a retry, or the end), KNOWN (nothing to do), PS404, PS409 or PS422.';

create function pgsched.explain_refusal(
  p_verdict text,
  p_report  pgsched.report,
  p_status  text,
  p_attempt integer
)
  returns text
  language sql
  stable
  return case
    when p_verdict = 'LOCKED' then format('task %s is locked by another session; report again', p_report.task_id)
    when p_verdict = 'PS404' then format('task %s does not exist', p_report.task_id)
    when p_verdict = 'PS409' then format(
      'task %s is %s in attempt %s: %s of attempt %s comes too late; stop working on it',
      p_report.task_id, p_status, p_attempt, p_report.status, coalesce(p_report.attempt, p_attempt)
    )
    when p_report.status in ('RUNNING', 'SUCCESS', 'FAILED', 'CANCELLED') is not true then format(
      'status must be RUNNING, SUCCESS, FAILED or CANCELLED, not %s', coalesce(p_report.status, 'null')
    )
    when not pgsched.is_well_formed(p_report)
      then 'output_ref may have 2048 characters, progress 4096 bytes, and next_input must be a JSON object of at most 262144 bytes'
    else format('attempt %s of task %s was never pushed', coalesce(p_report.attempt, p_attempt), p_report.task_id)
  end;

comment on function pgsched.explain_refusal(text, pgsched.report, text, integer) is
  'Why a report was refused, and what to do.';

-- For distinct tasks.
create function pgsched.apply_reports(p_reports pgsched.report[])
  returns pgsched.report_answer[]
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
  set enable_nestloop = off
as $$
declare
  v_now      timestamptz := pgsched.now();
  v_since    timestamptz := pgsched.earliest_end(array(select r.task_id from unnest(p_reports) as r));
  v_locked   pgsched.task_state[];
  v_started  pgsched.report[];
  v_ends     pgsched.task_end[];
  v_failures pgsched.failed_attempt[];
  v_answers  pgsched.report_answer[];
begin
  v_locked := array(
    select row(
      t.id, t.status, t.attempt, t.delivery_count, t.lapsed_attempt, t.retry_count < t.max_retries
    )::pgsched.task_state
    from pgsched.scheduled_tasks as t
    where t.id = any (array(select r.task_id from unnest(p_reports) as r))
    for update skip locked
  );

  -- What is not locked is in the record, or locked by somebody else, or does
  -- not exist.  Materialized, so that a report is judged once and not once for
  -- every use of its verdict.
  with judged as materialized (
    select
      r as report,
      s.status,
      s.attempt,
      s.has_budget,
      case
        when s.status = 'LOCKED' then 'LOCKED'
        else pgsched.judge_report(r, s.status, s.attempt, s.delivery_count, s.lapsed_attempt)
      end as verdict
    from unnest(p_reports) as r
    left join unnest(v_locked) as l
      on l.task_id = r.task_id
    left join lateral (
      select l.status, l.attempt, l.delivery_count, l.lapsed_attempt, l.has_budget
      where l.task_id is not null
      union all
      (
        select i.status, i.attempt, i.delivery_count, i.lapsed_attempt, false
        from pgsched.task_instances as i
        where i.id = r.task_id
          and i.finished_at >= v_since
          and l.task_id is null
        order by i.finished_at desc
        limit 1
      )
      union all
      select 'LOCKED', t.attempt, t.delivery_count, t.lapsed_attempt, false
      from pgsched.scheduled_tasks as t
      where t.id = r.task_id
        and l.task_id is null
      limit 1
    ) as s
      on true
  )
  select
    array_agg(j.report) filter (where j.verdict = 'RUN'),
    array_agg(
      row(
        (j.report).task_id, (j.report).status, left((j.report).error_msg, 8192), (j.report).output_ref,
        (j.report).next_input, (j.report).stop_loop, true
      )::pgsched.task_end
    ) filter (where j.verdict = 'FINISH'),
    array_agg(
      row(
        (j.report).task_id, coalesce(left((j.report).error_msg, 8192), 'reported FAILED'), true, false,
        (j.report).output_ref, (j.report).next_input, (j.report).stop_loop, null
      )::pgsched.failed_attempt
    ) filter (where j.verdict = 'FAIL'),
    array_agg(
      row(
        (j.report).report_index,
        (j.report).task_id,
        case j.verdict
          when 'RUN' then 'RUNNING'
          when 'FINISH' then (j.report).status
          when 'FAIL' then case when j.has_budget then 'PENDING' else 'FAILED' end
          else j.status
        end,
        case when j.verdict in ('PS404', 'PS409', 'PS422', 'LOCKED') then j.verdict end,
        case
          when j.verdict in ('PS404', 'PS409', 'PS422', 'LOCKED')
          then pgsched.explain_refusal(j.verdict, j.report, j.status, j.attempt)
        end
      )::pgsched.report_answer
    )
  into v_started, v_ends, v_failures, v_answers
  from judged as j;

  perform pgsched.start_tasks(v_started, v_now);
  perform pgsched.finish_tasks(v_ends, v_now);
  perform pgsched.fail_attempts(v_failures, v_now);
  perform pgsched.record_refusals(p_reports, v_answers, v_now);

  return v_answers;
end;
$$;

comment on function pgsched.apply_reports(pgsched.report[]) is
  'Apply reports about distinct tasks; one answer each.';

create function pgsched.start_tasks(p_reports pgsched.report[], p_now timestamptz)
  returns void
  language plpgsql
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
  set enable_nestloop = off
as $$
begin
  if p_reports is null then
    return;
  end if;

  update pgsched.scheduled_tasks as t
  set
    status            = 'RUNNING',
    started_at        = coalesce(t.started_at, p_now),
    deadline_at       = p_now + (select d.timeout from pgsched.task_definitions as d where d.id = t.definition_id),
    progress          = coalesce(r.progress, t.progress),
    lost_count        = 0,
    undelivered_since = null
  from unnest(p_reports) as r
  where t.id = any (array(select x.task_id from unnest(p_reports) as x))
    and r.task_id = t.id;
end;
$$;

comment on function pgsched.start_tasks(pgsched.report[], timestamptz) is
  'Locked tasks are RUNNING: a new deadline, and their progress.';

create function pgsched.record_refusals(
  p_reports pgsched.report[],
  p_answers pgsched.report_answer[],
  p_now     timestamptz
)
  returns void
  language plpgsql
as $$
begin
  if not exists (select from unnest(p_answers) as a where a.code in ('PS409', 'PS422') and a.status is not null) then
    return;
  end if;

  insert into pgsched.task_events (at, task_id, event, attempt, message)
  select p_now, a.task_id, 'REPORT_REFUSED', r.attempt, left(a.message, 8192)
  from unnest(p_answers) as a
  join unnest(p_reports) as r
    on r.report_index = a.report_index
  where a.code in ('PS409', 'PS422')
    and a.status is not null;
end;
$$;

comment on function pgsched.record_refusals(pgsched.report[], pgsched.report_answer[], timestamptz) is
  'Leave an event of each refused report about a task that exists.';

-- Several reports about one task are applied in the order given: the first
-- of each task, then the second of each, and so on.
create function pgsched.report_statuses(p_reports jsonb)
  returns setof pgsched.report_answer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
  v_all  pgsched.report[];
  v_wave pgsched.report[];
begin
  if jsonb_typeof(p_reports) is distinct from 'array' then
    raise exception sqlstate 'PS422' using message = 'p_reports must be a JSON array of reports';
  end if;

  begin
    v_all := array(
      select row(
        e.n - 1, e.task_id, e.status, e.attempt, e.output_ref, e.error_msg, e.progress,
        nullif(e.next_input, 'null'), e.stop_loop
      )::pgsched.report
      from rows from (jsonb_to_recordset(p_reports) as (
        task_id uuid, status text, attempt integer, output_ref text, error_msg text, progress jsonb,
        next_input jsonb, stop_loop boolean
      )) with ordinality as e (task_id, status, attempt, output_ref, error_msg, progress, next_input, stop_loop, n)
    );
  exception
    when data_exception then
      raise exception sqlstate 'PS422' using message = format('p_reports: %s', sqlerrm);
  end;

  for v_wave in
    select array_agg(w.report)
    from (
      select r as report, row_number() over (partition by r.task_id order by r.report_index) as wave
      from unnest(v_all) as r
    ) as w
    group by w.wave
    order by w.wave
  loop
    return query select a.* from unnest(pgsched.apply_reports(v_wave)) as a;
  end loop;
end;
$$;

comment on function pgsched.report_statuses(jsonb) is
  'Report many: [{"task_id", "status", "attempt", "output_ref", "error_msg", "progress", "next_input", "stop_loop"}, …].  One row for each: the task''s status now, or a code and why: PS404, PS409, PS422, or LOCKED (say it again).';

create function pgsched.report_status(
  p_task_id    uuid,
  p_status     text,
  p_attempt    integer default null,
  p_output_ref text    default null,
  p_error_msg  text    default null,
  p_progress   jsonb   default null,
  p_next_input jsonb   default null,
  p_stop_loop  boolean default null
)
  returns text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
  set jit = off
  set plan_cache_mode = force_generic_plan
  set lock_timeout = '5s'
as $$
declare
  v_answer record;
begin
  perform from pgsched.scheduled_tasks as t
  where t.id = p_task_id
  for update;

  select a.*
  into v_answer
  from pgsched.report_statuses(jsonb_build_array(jsonb_build_object(
    'task_id', p_task_id, 'status', p_status, 'attempt', p_attempt, 'output_ref', p_output_ref,
    'error_msg', p_error_msg, 'progress', p_progress, 'next_input', p_next_input, 'stop_loop', p_stop_loop
  ))) as a;

  if v_answer.code is not null then
    raise exception using
      errcode = replace(v_answer.code, 'LOCKED', 'PS409'),
      message = v_answer.message;
  end if;

  return v_answer.status;
exception
  when lock_not_available then
    raise exception sqlstate 'PS409' using
      message = format('task %s is locked by another session; report again', p_task_id);
end;
$$;

comment on function pgsched.report_status(uuid, text, integer, text, text, jsonb, jsonb, boolean) is
  'Report RUNNING, SUCCESS, FAILED or CANCELLED for a task''s attempt (null: the current one).  Returns the task''s status now.  A refusal raises; only report_statuses() leaves an event of it.';

revoke execute on all routines in schema pgsched from public;

commit;
