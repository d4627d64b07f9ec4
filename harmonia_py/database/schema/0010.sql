-- Bytes of the files that recipes make, as they are sent ('sent'): 'stored' counts these files as well, whose bytes are in
-- packs.
insert into totals (cache_id, state, objects, size)
    select 0, 'sent', count(*), coalesce(sum(f.file_size), 0)
    from recipes r join nar_files f on f.file_hash = r.file_hash where r.dropped_s is null
