"""The conditions that keep an object, in SQL: `o` is the row of the object, `$now` a parameter for the time."""

from typing import Final

from harmonia_py.catalog.uploads import SESSION_SECONDS

REVISION_KEEPS: Final = """
    p.keep_forever = 1 or pr.set_s > $now - p.keep_s or (
        select count(*) from pin_revisions newer
        where newer.cache_id = pr.cache_id and newer.name = pr.name and newer.revision > pr.revision
            and newer.set_s is not null
    ) < case when p.keep_revisions < 1 then 1 else p.keep_revisions end
"""
"""Whether `pr`, a revision of the pin `p` that is set, keeps its closure."""

_PIN: Final = f"""
    from pin_revisions pr join pins p on p.cache_id = pr.cache_id and p.name = pr.name
    where pr.cache_id = o.cache_id and pr.hash_part = o.hash_part and pr.set_s is not null and ({REVISION_KEEPS})
"""
_LEASE: Final = f"""
    from leases l join sessions s on s.id = l.session_id
    where l.cache_id = o.cache_id and l.hash_part = o.hash_part
        and s.ended_s is null and s.seen_s > $now - {SESSION_SECONDS}
"""
REFERRER: Final = """
    from object_references r join objects q on q.cache_id = r.cache_id and q.hash_part = r.hash_part
    where r.cache_id = o.cache_id and r.reference = o.hash_part and q.state <> 'condemned'
"""
"""Objects `q` that reference it and are not condemned."""

IS_PINNED: Final = f"exists (select 1 {_PIN})"
"""Whether a revision of a pin that keeps names it."""
IS_LEASED: Final = f"exists (select 1 {_LEASE})"
"""Whether a push that is under way was told that it is here."""
IS_REFERENCED: Final = f"exists (select 1 {REFERRER})"
"""Whether an object references it that is not condemned itself."""

_OF: Final = "where o.cache_id = $1 and o.hash_part = $2"
PINS_OF: Final = f"""
    select distinct pr.name from objects o join pin_revisions pr on pr.cache_id = o.cache_id
        and pr.hash_part = o.hash_part
    {_OF} and pr.name in (select p.name {_PIN}) order by pr.name
""".replace("$now", "$3")
SESSIONS_OF: Final = f"""
    select s.id from sessions s where s.id in (
        select l.session_id from objects o join leases l on l.cache_id = o.cache_id and l.hash_part = o.hash_part {_OF}
    ) and s.ended_s is null and s.seen_s > $3 - {SESSION_SECONDS} order by s.id
"""
LIVE_REFERRERS: Final = """
    select q.hash_part, q.aged_from_s
    from object_references r join objects q on q.cache_id = r.cache_id and q.hash_part = r.hash_part
    where r.cache_id = $1 and r.reference = $2 and q.state <> 'condemned' limit $3
"""
"""Up to `$3` objects that reference `$2`, with the time from which they age."""
