-- NARs that are kept as chunks (harmonia_py/chunks). Of such a NAR the row in nar_files has the hash and the size of the
-- file that is sent, and the key of its recipe; the bytes are in packs, which are blobs as well.

-- look_s: from then on it is to be looked at how much of a pack is in use; null while nothing has changed.
create table packs (
    id integer primary key,
    blob_key text not null,
    size bigint not null,
    look_s bigint
);
create unique index packs_by_blob on packs (blob_key);
create index packs_to_look_at on packs (look_s, id) where look_s is not null;

-- chunk_hash: of what is in the frame of zstd that is kept. lost_s: since then its bytes are missing or wrong.
create table chunks (
    id integer primary key,
    chunk_hash bytea not null,
    frame_size bigint not null,
    pack_id integer not null references packs (id),
    pack_offset bigint not null,
    lost_s bigint
);
create unique index chunks_by_hash on chunks (chunk_hash);
create index chunks_by_pack on chunks (pack_id, pack_offset);

-- dropped_s: nothing has this file any more, and its uses of chunks go.
create table recipes (
    id integer primary key,
    file_hash text not null,
    dropped_s bigint
);
create index recipes_by_file on recipes (file_hash);
create index recipes_dropped on recipes (id) where dropped_s is not null;

create table chunk_uses (
    chunk_id integer not null,
    recipe_id integer not null,
    primary key (chunk_id, recipe_id)
);
create index chunk_uses_back on chunk_uses (recipe_id, chunk_id)
