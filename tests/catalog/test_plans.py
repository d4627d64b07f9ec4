"""What is kept, what goes and why: decided from values alone, tried on any values."""

from collections.abc import Collection, Iterable, Mapping

from catalogs import NOW, hash_part, later
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.collection import Candidate
from harmonia_py.catalog.objects import Keepers
from harmonia_py.catalog.quota import Limits, excess, plan_quota
from harmonia_py.catalog.reachability import KeptBy, WhyKept, why_kept
from harmonia_py.catalog.retention import Condemnation, plan_removal, plan_retention
from harmonia_py.nix.store_path import HashPart

TIMES = st.integers(0, 100).map(later)
PARTS = [hash_part(f"n{number}") for number in range(12)]


def reachable(roots: Iterable[HashPart], references: Mapping[HashPart, Collection[HashPart]]) -> frozenset[HashPart]:
    """The roots and all that they reference, directly or not, as far as `references` knows."""
    found = set(roots)
    pending = list(found)
    while pending:
        new = set(references.get(pending.pop(), ())) - found
        found |= new
        pending += new
    return frozenset(found)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    parts = draw(st.lists(st.sampled_from(PARTS), unique=True))
    found = [
        Candidate(
            hash_part=part,
            size=draw(st.integers(0, 1000)),
            aged_from=draw(TIMES),
            pinned=draw(st.booleans()),
            leased=draw(st.booleans()),
            referrer_aged_from=draw(st.none() | TIMES),
        )
        for part in parts
    ]
    return sorted(found, key=lambda candidate: candidate.aged_from)


def is_free(candidate: Candidate) -> bool:
    return not (candidate.pinned or candidate.leased or candidate.referrer_aged_from is not None)


@given(candidates(), TIMES)
def test_what_nothing_keeps_and_nothing_used_goes_and_nothing_else(found: list[Candidate], since: Timestamp) -> None:
    decision = plan_retention(found, unused_since=since, now=later(1000))
    unused = [candidate for candidate in found if is_free(candidate) and candidate.aged_from <= since]
    assert decision.condemn == {candidate.hash_part for candidate in unused}
    assert decision.size == sum(candidate.size for candidate in unused)


@given(candidates(), TIMES)
def test_an_object_ages_with_what_keeps_it_and_never_backwards(found: list[Candidate], since: Timestamp) -> None:
    decision = plan_retention(found, unused_since=since, now=later(1000))
    for candidate in found:
        aged = decision.age.get(candidate.hash_part, candidate.aged_from)
        assert aged >= candidate.aged_from
        assert not (candidate.hash_part in decision.age and is_free(candidate))
        if candidate.pinned or candidate.leased:
            assert aged == later(1000)
        elif candidate.referrer_aged_from is not None:
            assert aged == max(candidate.aged_from, candidate.referrer_aged_from)


@given(candidates(), st.integers(1, 5000))
def test_the_longest_unused_go_until_there_is_room_and_no_more(found: list[Candidate], too_much: int) -> None:
    decision = plan_quota(found, too_much, now=later(1000))
    free = [candidate for candidate in found if is_free(candidate)]
    going = [candidate for candidate in free if candidate.hash_part in decision.condemn]
    assert going == free[: len(going)]
    assert decision.size == sum(candidate.size for candidate in going)
    if len(going) < len(free):
        assert decision.size >= too_much
    if going:
        assert decision.size - going[-1].size < too_much


@given(st.integers(0, 10**6), st.none() | st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_must_go_makes_both_limits_hold(size: int, max_size: int | None, min_free: int, free: int) -> None:
    too_much = excess(size, Limits(max_size=max_size, min_free=min_free), free)
    assert too_much >= 0
    assert max_size is None or size - too_much <= max_size
    assert free + too_much >= min_free
    if (max_size is None or size <= max_size) and free >= min_free:
        assert too_much == 0


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 2 * 10**6))
def test_a_file_that_found_no_room_has_room_by_what_goes(size: int, max_size: int, wanted: int) -> None:
    limits = Limits(max_size=max_size)
    too_much = excess(size, limits, 0, wanted=wanted)
    if wanted > max_size:
        assert too_much == excess(size, limits, 0), "it never fits"
    else:
        assert max(0, size - too_much) + wanted <= max_size
        assert (too_much > 0) == (size + wanted > max_size)


@st.composite
def condemnations(draw: st.DrawFn) -> list[Condemnation]:
    """What references stands before what is referenced; referrers may also be none of these."""
    count = draw(st.integers(0, len(PARTS)))
    found = []
    for number in range(count):
        above = [*PARTS[:number], hash_part("elsewhere")]
        referrers = draw(st.lists(st.sampled_from(above), unique=True, max_size=3))
        kept = draw(st.integers(0, 4)) == 0
        found.append(Condemnation(hash_part=PARTS[number], kept=kept, referrers=tuple(referrers)))
    return found


@given(condemnations())
def test_nothing_goes_before_what_references_it_and_what_is_kept_keeps_all_below(found: list[Condemnation]) -> None:
    removal = plan_removal(found)
    going = set(removal.going)
    assert not going & removal.kept
    below: dict[HashPart, list[HashPart]] = {}
    for one in found:
        for referrer in one.referrers:
            below.setdefault(referrer, []).append(one.hash_part)
    assert removal.kept == reachable((one.hash_part for one in found if one.kept), below)
    waiting = reachable([hash_part("elsewhere")], below) - {hash_part("elsewhere")}
    assert going == {one.hash_part for one in found} - removal.kept - waiting
    for one in found:
        if one.hash_part in going:
            assert going.issuperset(one.referrers)


def asked(hash_part: HashPart, graph: Mapping[HashPart, Keepers], since: Timestamp | None) -> WhyKept | None:
    plan = why_kept(hash_part, since)
    level = next(plan)
    while True:
        try:
            level = plan.send({part: graph[part] for part in level if part in graph})
        except StopIteration as stop:
            result: WhyKept | None = stop.value
            return result


def keepers(*referrers: HashPart, pins: tuple[str, ...] = (), sessions: tuple[str, ...] = ()) -> Keepers:
    return Keepers(pins=pins, sessions=sessions, used=NOW, referrers=referrers)


def test_the_shortest_reason_is_told_with_the_way_to_it() -> None:
    app, git, curl, libc, tool = map(hash_part, ("app", "git", "curl", "libc", "tool"))
    graph = {
        libc: keepers(curl, git, tool),
        curl: keepers(git),
        git: keepers(app),
        app: keepers(pins=("release",)),
        tool: keepers(),
    }
    assert asked(libc, graph, NOW) == WhyKept(path=(app, git, libc), by=KeptBy.PIN, name="release")
    graph[curl] = keepers(git, sessions=("s",))
    assert asked(libc, graph, NOW) == WhyKept(path=(curl, libc), by=KeptBy.SESSION, name="s")
    assert asked(tool, graph, NOW) is None
    assert asked(tool, graph, None) == WhyKept(path=(tool,), by=KeptBy.USE)
    assert asked(hash_part("absent"), graph, None) is None


@given(st.dictionaries(st.sampled_from(PARTS), st.lists(st.sampled_from(PARTS), max_size=3)), st.sampled_from(PARTS))
def test_a_reason_is_found_if_and_only_if_a_pin_reaches_the_object(
    referrers: dict[HashPart, list[HashPart]], pinned: HashPart
) -> None:
    graph = {part: keepers(*referrers.get(part, ()), pins=("p",) if part == pinned else ()) for part in PARTS}
    for part in PARTS:
        reason = asked(part, graph, NOW)
        assert (reason is not None) == (pinned in reachable([part], referrers))
        if reason is not None:
            assert (reason.path[0], reason.path[-1]) == (pinned, part)
            for above, below in zip(reason.path, reason.path[1:], strict=False):
                assert above in referrers[below]
