-- The largest file that found no room, of each cache that refused one, and since when it is wanted; of the cache 0, in the
-- storage of all caches together.
create table room_wanted (
    cache_id integer primary key,
    size bigint not null,
    wanted_s bigint not null
)
