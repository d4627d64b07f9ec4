-- The objects that keep a document, by the document. Without the hash part SQLite, which takes a cache for ten objects,
-- took the index that has it, and read all edges of a cache for each document that went. Some seconds for a million, and
-- readers wait for none of them: what they read by goes when the other one is there.
create index object_documents_by_document on object_documents (cache_id, kind, name, hash_part);
drop index object_documents_back
