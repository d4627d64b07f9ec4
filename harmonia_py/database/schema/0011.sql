-- The builds of a program, the newest last: a client that pushes one sends only what these lack (catalog/bases.py). Some
-- seconds for a million objects.
create index objects_by_name on objects (cache_id, name, pushed_s)
