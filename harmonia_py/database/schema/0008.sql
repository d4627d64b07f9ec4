-- What chunks save, kept as running totals of the cache 0: recipes that something has, with what their files took before
-- ('chunked'); packs, with their bytes ('packs'); and the bytes in these that recipes use ('used').

-- former_size: of the file that a NAR was before it became chunks.
alter table recipes add column former_size bigint not null default 0;
update recipes set former_size =
    coalesce((select f.file_size from nar_files f where f.file_hash = recipes.file_hash), 0);
insert into totals (cache_id, state, objects, size)
    select 0, 'chunked', count(*), coalesce(sum(former_size), 0) from recipes where dropped_s is null;
insert into totals (cache_id, state, objects, size)
    select 0, 'packs', count(*), coalesce(sum(size), 0) from packs;
insert into totals (cache_id, state, objects, size) values (0, 'used', 0, 0);

-- used_size: bytes of the chunks that recipes used when it was last looked at. Readers of NARs wait from here on: the uses of
-- all chunks are counted by the looks, some packs a minute.
alter table packs add column used_size bigint not null default 0;
update packs set look_s = 0 where look_s is null
