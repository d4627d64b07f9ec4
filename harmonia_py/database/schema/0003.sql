-- How many objects of each state a cache has, and the bytes of their files; and of the cache 0, in the state 'stored', all
-- files, each once. Every transaction that changes objects or files changes these rows with them.
create table totals (
    cache_id integer not null,
    state text not null,
    objects bigint not null,
    size bigint not null,
    primary key (cache_id, state)
);
insert into totals (cache_id, state, objects, size)
    select cache_id, state, count(*), sum(file_size) from objects group by cache_id, state;
insert into totals (cache_id, state, objects, size)
    select 0, 'stored', count(*), coalesce(sum(file_size), 0) from nar_files;

-- Only sums over everything read these.
drop index objects_by_size;
drop index nar_files_by_size;
