-- 001 foundation
--
-- What everything else stands on: the schema, the ledger of migrations, the
-- clock and the ids.
--
-- Each file of this folder is one transaction of plain SQL.  Run them in
-- order with `psql -v ON_ERROR_STOP=1 -f`, or let `pgsched migrate` do it:
-- both run these very bytes.  From 002 on the first statement of a file is
-- begin_migration(), which stops a file that is run twice, too early, or by
-- two people at once.  This one is stopped by its `create schema`.
--
-- Nobody but the owner may use the schema until the file `roles` has granted that.
-- From there on a file must not leave to PUBLIC what it creates, not for a
-- moment: the last statement of each revokes it.
--
-- Adds   five roles, schema pgsched, schema_migrations, begin_migration(), applied_migrations(), may_change(),
--        refuse_stranger(), now(), uuid7(), uuid7_at(), earliest_end()
-- Locks  nothing
-- Undo   drop schema pgsched cascade;  the roles are shared by all databases of the server

begin;

set local lock_timeout = '2s';
set local statement_timeout = '5min';

-- Roles belong to the server, not to the database: they may be there already,
-- or come into being just now in another one, which shows as either error.
do $$
declare
  v_name    text;
  v_missing text[] := '{}';
begin
  foreach v_name in array array[
    'pgsched_client', 'pgsched_executor', 'pgsched_worker', 'pgsched_operator', 'pgsched_reader'
  ] loop
    begin
      if not exists (select from pg_catalog.pg_roles as r where r.rolname = v_name) then
        execute format('create role %I nologin', v_name);
      end if;
    exception
      when duplicate_object or unique_violation then
        null;
      when insufficient_privilege then
        v_missing := v_missing || v_name;
    end;
  end loop;

  if v_missing <> '{}' then
    raise exception sqlstate '42501' using
      message = format('%s may not create the roles that pgsched grants rights to', current_user),
      hint = format(
        'Let an administrator run this, then try again: %s',
        (select string_agg(format('create role %I nologin;', m.name), ' ') from unnest(v_missing) as m (name))
      );
  end if;
end;
$$;

create schema pgsched;

comment on schema pgsched is
  'pgsched: a durable task scheduler.  The functions are the interface; the views are for reading.';

-- The one clock.  Tests replace its body to turn it; production reads no
-- setting, so that no client can.  Functions take it once into v_now: a
-- volatile call in a WHERE clause could not use an index.
create function pgsched.now()
  returns timestamptz
  language sql
  volatile
  return clock_timestamp();

comment on function pgsched.now() is
  'The one clock of pgsched: the time at the database.';

-- 48 bits of milliseconds, then version, variant and 74 random bits: ids that
-- sort by creation and keep the right end of every index warm.  The end of a
-- random UUID of version 4 has the variant, and two bits more make the 4 a 7.
create function pgsched.uuid7(p_at timestamptz default pgsched.now())
  returns uuid
  language sql
  volatile
  return encode(
    substring(int8send((date_part('epoch', p_at) * 1000000)::bigint / 1000) from 3)
      || set_bit(set_bit(substring(uuid_send(gen_random_uuid()) from 7), 4, 1), 5, 1),
    'hex'
  )::uuid;

comment on function pgsched.uuid7(timestamptz) is
  'A new UUID of version 7 (RFC 9562, 5.7) of this time.';

create function pgsched.uuid7_at(p_id uuid)
  returns timestamptz
  language sql
  immutable
  return to_timestamp(
    ('x' || left(encode(uuid_send(p_id), 'hex'), 12))::bit(48)::bigint / 1000.0::double precision
  );

comment on function pgsched.uuid7_at(uuid) is
  'The time in a UUID of version 7, to the millisecond.';

-- Bounds a search of the record, which is partitioned by when tasks ended.
-- A day less, since clocks are set back now and then.
create function pgsched.earliest_end(p_task_ids uuid[])
  returns timestamptz
  language sql
  immutable
  return pgsched.uuid7_at((select u.id from unnest(p_task_ids) as u (id) order by u.id limit 1)) - interval '24 hours';

comment on function pgsched.earliest_end(uuid[]) is
  'None of the tasks of these ids can have ended before.';

create table pgsched.schema_migrations (
  version    integer     not null,
  name       text        not null,
  checksum   text,
  breaking   boolean     not null default false,
  applied_at timestamptz not null default pgsched.now(),
  applied_by text        not null default session_user,

  constraint schema_migrations_pkey
    primary key (version)
);

comment on table pgsched.schema_migrations is
  'The ledger: one row for each file of sql/ that was applied.';
comment on column pgsched.schema_migrations.version is
  'The number of the file, from 1, without gaps.';
comment on column pgsched.schema_migrations.name is
  'The noun in the name of the file.';
comment on column pgsched.schema_migrations.checksum is
  'sha256 of the file in hex; null until `pgsched migrate` has seen it.';
comment on column pgsched.schema_migrations.breaking is
  'True when workers that do not know this version must not run on it.';
comment on column pgsched.schema_migrations.applied_at is
  'When it was applied.';
comment on column pgsched.schema_migrations.applied_by is
  'The role that applied it.';

create function pgsched.applied_migrations()
  returns setof pgsched.schema_migrations
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
begin atomic
  select m.* from pgsched.schema_migrations as m order by m.version;
end;

comment on function pgsched.applied_migrations() is
  'The ledger, for workers, which may read no table.';

-- Whose something is, says created_by: the role that was logged in.
create function pgsched.may_change(p_created_by text)
  returns boolean
  language sql
  stable
  return session_user = p_created_by
    or pg_has_role(session_user, 'pgsched_operator', 'member')
    or pg_has_role(session_user, (select n.nspowner from pg_namespace as n where n.nspname = 'pgsched'), 'member')
    or coalesce((select pg_has_role(session_user, r.oid, 'member') from pg_roles as r where r.rolname = p_created_by), false);

comment on function pgsched.may_change(text) is
  'Whether who is logged in may change what that role has made: that role itself, its members, operators, and the owner of the schema.';

create function pgsched.refuse_stranger(p_what text, p_created_by text)
  returns void
  language plpgsql
as $$
begin
  raise exception sqlstate '42501' using
    message = format('%s belongs to %s, and %s may change only its own', p_what, p_created_by, session_user),
    hint = format('Members of %s or of pgsched_operator may change it.', p_created_by);
end;
$$;

comment on function pgsched.refuse_stranger(text, text) is
  'Raise insufficient_privilege about something that is another''s.';

-- The lock on the ledger makes a second migrator wait for the first, and then
-- fail here, before it has changed anything.
create procedure pgsched.begin_migration(
  p_version  integer,
  p_name     text,
  p_breaking boolean default false
)
  language plpgsql
as $$
declare
  v_next  integer;
  v_owner name := (select pg_get_userbyid(n.nspowner) from pg_catalog.pg_namespace as n where n.nspname = 'pgsched');
begin
  -- What is SECURITY DEFINER has the rights of whoever made it.
  if v_owner <> current_user then
    raise exception sqlstate '42501' using
      message = format('the schema pgsched belongs to %s, and this is %s', v_owner, current_user),
      hint = format('Migrate as the owner, or set role %I first.', v_owner);
  end if;

  lock table pgsched.schema_migrations in share row exclusive mode;

  select coalesce(max(m.version), 0) + 1
  into v_next
  from pgsched.schema_migrations as m;

  if p_version < v_next then
    raise exception sqlstate 'PS409' using
      message = format('migration %s %s is applied already', p_version, p_name),
      hint = format('The next one is %s.', v_next);
  elsif p_version > v_next then
    raise exception sqlstate 'PS409' using
      message = format('migration %s %s comes too early', p_version, p_name),
      hint = format('Apply %s first.', v_next);
  end if;

  insert into pgsched.schema_migrations (version, name, breaking)
  values (p_version, p_name, p_breaking);
end;
$$;

comment on procedure pgsched.begin_migration(integer, text, boolean) is
  'First statement of every migration: lock the ledger, refuse another role than the owner and what is not exactly the next version, record it.';

call pgsched.begin_migration(1, 'foundation');

revoke execute on all routines in schema pgsched from public;

commit;
