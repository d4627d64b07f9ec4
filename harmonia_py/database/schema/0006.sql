-- In PostgreSQL: the last transaction of each process that writes, by its number, and when it began. Each transaction
-- writes its own number here: after a crash of the server a number may have been given to another one as well.
create table writers (
    process text primary key,
    number bigint not null,
    begun_s bigint not null
)
