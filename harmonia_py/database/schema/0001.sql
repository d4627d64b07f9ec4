-- What is kept, for which cache, since when. One text for SQLite and PostgreSQL.
--
-- Columns that end in _s are whole seconds since the epoch, in _ns nanoseconds, in _size bytes. Hashes are the digits of
-- Nix's base-32, without the name of their algorithm, which is always sha256. Flags are 0 or 1. `bytea` is PostgreSQL's
-- word; SQLite stores the bytes as they are.

-- A cache that is deleted keeps its row until the collector has removed its objects; its name is free at once.
create table caches (
    id integer primary key,
    name text not null,
    settings text not null,
    declared integer not null,
    created_s bigint not null,
    deleted_s bigint
);
create unique index caches_by_name on caches (name) where deleted_s is null;

-- The caches without a name of their own, and the one at `/` (catalog/caches.py).
insert into caches (id, name, settings, declared, created_s) values
    (1, '.store', '{}', 1, 0), (2, '.mirror', '{}', 1, 0), (3, 'default', '{}', 1, 0);

create table nars (
    nar_hash text primary key,
    nar_size bigint not null,
    findings text
);

-- Whole and durable. Without nar_hash: received, not checked. Quarantined: the bytes are missing or wrong.
-- checked_s: when the bytes were last read, all of them, and found right.
create table nar_files (
    file_hash text primary key,
    file_size bigint not null,
    compression text not null,
    blob_key text not null,
    nar_hash text references nars (nar_hash),
    quarantined_s bigint,
    quarantined_for text,
    checked_s bigint not null
);
create index nar_files_by_nar on nar_files (nar_hash);
create index nar_files_by_blob on nar_files (blob_key);
create index nar_files_by_size on nar_files (file_hash, file_size);
create index nar_files_by_check on nar_files (checked_s, file_hash) where quarantined_s is null;
create index nar_files_quarantined on nar_files (file_hash) where quarantined_s is not null;

-- States: waiting, published, condemned. aged_from_s: the age of an object counts from here; not earlier than used_s, and
-- later when something that was used later keeps it. condemned_rank: greater than that of all that reference the object,
-- so that in the order of time and rank what references goes before what is referenced. broken_s: since then the file of
-- the object, or of something in its closure, is quarantined; readers do not see it, all else goes on as before.
create table objects (
    cache_id integer not null references caches (id),
    hash_part text not null,
    name text not null,
    nar_hash text not null references nars (nar_hash),
    file_hash text not null references nar_files (file_hash),
    file_size bigint not null,
    store_references text not null,
    deriver text,
    signatures text not null,
    ca text,
    verified_ca text,
    state text not null check (state in ('waiting', 'published', 'condemned')),
    session_id text,
    pushed_by text not null,
    pushed_s bigint not null,
    used_s bigint not null,
    aged_from_s bigint not null,
    condemned_s bigint,
    condemned_for text,
    condemned_rank integer,
    broken_s bigint,
    primary key (cache_id, hash_part),
    check ((state = 'condemned') = (condemned_s is not null))
);
create index objects_by_age on objects (cache_id, aged_from_s, hash_part) where state = 'published';
create index objects_condemned on objects (cache_id, condemned_s, condemned_rank, hash_part)
    where state = 'condemned';
create index objects_waiting on objects (pushed_s) where state = 'waiting';
create index objects_by_file on objects (file_hash);
create index objects_by_nar on objects (nar_hash);
create index objects_by_deriver on objects (cache_id, deriver) where deriver is not null;
create index objects_by_size on objects (cache_id, state, file_size);
create index objects_broken on objects (cache_id, hash_part) where broken_s is not null;

-- An object and the paths it references, itself left out. elsewhere: the cache has that path from another place.
create table object_references (
    cache_id integer not null,
    hash_part text not null,
    reference text not null,
    elsewhere integer not null,
    primary key (cache_id, hash_part, reference)
);
create index object_references_back on object_references (cache_id, reference, hash_part);

-- Listings, logs, debug files and realisations: bytes in a blob, or in the row when they are small.
create table documents (
    cache_id integer not null,
    kind text not null,
    name text not null,
    size bigint not null,
    blob_key text,
    body bytea,
    session_id text,
    received_s bigint not null,
    primary key (cache_id, kind, name)
);
create index documents_by_blob on documents (blob_key) where blob_key is not null;
create index documents_by_session on documents (session_id);
create index documents_by_age on documents (cache_id, received_s) where session_id is null;
create index documents_of_sessions on documents (received_s) where session_id is not null;

-- A document and the objects that keep it, whether those are there already or come later.
create table object_documents (
    cache_id integer not null,
    hash_part text not null,
    kind text not null,
    name text not null,
    primary key (cache_id, hash_part, kind, name)
);
create index object_documents_back on object_documents (cache_id, kind, name);

-- A push shows signs of life. leases: it was told that these objects are here.
create table sessions (
    id text primary key,
    cache_id integer not null references caches (id),
    principal text not null,
    begun_s bigint not null,
    seen_s bigint not null,
    ended_s bigint
);
create index sessions_by_sign on sessions (seen_s);
create table leases (
    session_id text not null references sessions (id),
    cache_id integer not null,
    hash_part text not null,
    primary key (session_id, cache_id, hash_part)
);
create index leases_back on leases (cache_id, hash_part);

-- Files that a cache was sent: expected (perhaps being written) or received. They stay until their session is dead.
create table received (
    cache_id integer not null references caches (id),
    file_hash text not null,
    blob_key text not null,
    session_id text not null references sessions (id),
    state text not null check (state in ('expected', 'received')),
    received_s bigint not null,
    primary key (cache_id, file_hash)
);
create index received_by_file on received (file_hash);
create index received_by_blob on received (blob_key);
create index received_by_session on received (session_id);
create index received_by_age on received (received_s);

create table pins (
    cache_id integer not null references caches (id),
    name text not null,
    keep_revisions integer not null,
    keep_s bigint not null,
    keep_forever integer not null,
    primary key (cache_id, name)
);
-- set_s is null while the path is not published yet.
create table pin_revisions (
    cache_id integer not null,
    name text not null,
    revision integer not null,
    hash_part text not null,
    path_name text not null,
    set_by text not null,
    set_s bigint,
    primary key (cache_id, name, revision)
);
create index pin_revisions_back on pin_revisions (cache_id, hash_part);

-- Keys of bytes that no row names any more. claimed: they are being deleted, and nothing can be written there meanwhile.
create table garbage (
    blob_key text primary key,
    since_s bigint not null,
    not_before_s bigint not null,
    claimed integer not null
);
create index garbage_by_time on garbage (not_before_s, blob_key);

-- What an upstream said of an object of the cache 2.
create table upstream_narinfos (
    hash_part text primary key,
    upstream text not null,
    url text not null,
    compression text not null,
    file_hash text,
    file_size bigint,
    fetched_ns bigint not null,
    max_age_ns bigint not null
);
create table upstream_realisations (
    output text primary key,
    body bytea not null,
    upstream text not null,
    kept_s bigint not null
);
create table mismatches (
    store_path text primary key,
    expected text not null,
    actual text,
    found_s bigint not null
);
create index mismatches_by_time on mismatches (found_s);

create table tokens (
    id text primary key,
    name text not null,
    secret_hash bytea not null,
    actions text not null,
    patterns text not null,
    created_s bigint not null,
    expires_s bigint,
    used_s bigint,
    revoked_s bigint
);
create unique index tokens_by_name on tokens (name) where revoked_s is null;

create table signing_keys (
    cache_id integer not null references caches (id),
    name text not null,
    public_key text not null,
    secret bytea not null,
    encryption text not null,
    state text not null check (state in ('active', 'retiring', 'retired')),
    created_s bigint not null,
    until_s bigint,
    primary key (cache_id, name)
);

create table audit (
    at_ns bigint not null,
    id text not null,
    principal text not null,
    action text not null,
    cache text not null,
    subject text not null,
    detail text not null,
    primary key (at_ns, id)
);

-- How far work that is done once has come.
create table progress (
    name text primary key,
    value text not null
);
