-- Sessions that have brought a file of `received` as well, beside the last one that did, whose id is there: the file stays
-- until the last of them has ended.
create table received_as_well (
    cache_id integer not null,
    file_hash text not null,
    session_id text not null references sessions (id) on delete cascade,
    primary key (cache_id, file_hash, session_id),
    foreign key (cache_id, file_hash) references received (cache_id, file_hash) on delete cascade
);
create index received_as_well_by_session on received_as_well (session_id)
