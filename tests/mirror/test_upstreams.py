"""Which upstream next, for how long, and what their answers amount to: functions of values."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonia_py.mirror.outcome import OnUnknown, Outcome, conclude, is_not_found
from harmonia_py.mirror.upstream import Body, Resume
from harmonia_py.mirror.upstream_metrics import UpstreamMetrics
from harmonia_py.mirror.upstreams import Upstreams, share, tiers
from harmonia_py.nix.signing import PublicKey


class Named:
    """An upstream that is never asked."""

    public_keys: tuple[PublicKey, ...] = ()
    metrics = UpstreamMetrics()

    def __init__(self, name: str, priority: int) -> None:
        self.name = name
        self.priority = priority

    async def open(self, url: str, resume: Resume | None = None) -> Body | None:
        raise AssertionError((url, resume))


def upstreams_of(upstreams: Iterable[Named]) -> Upstreams:
    return Upstreams(upstreams, budget=2.0, on_unknown=OnUnknown.AUTO)


@given(st.lists(st.integers(0, 5), max_size=12))
def test_each_upstream_is_in_one_tier_with_its_equals_and_the_smallest_number_comes_first(
    priorities: list[int],
) -> None:
    found = tiers(upstreams_of(Named(str(number), priority) for number, priority in enumerate(priorities)).all)
    assert [{state.upstream.priority for state in tier} for tier in found] == [{one} for one in sorted(set(priorities))]
    assert sum(map(len, found)) == len(priorities)


@given(st.floats(0.2, 10), st.integers(1, 8))
def test_a_tier_that_hangs_leaves_time_for_those_behind_it(budget: float, count: int) -> None:
    left = budget
    shares = []
    for tiers_left in range(count, 0, -1):
        shares.append(share(left, tiers_left))
        left -= shares[-1]
    assert min(shares) >= 0.1 - 1e-9
    assert sum(shares) <= max(budget, 0.1 * count) + 1e-6


@given(st.lists(st.sampled_from(Outcome)))
def test_absent_only_when_every_upstream_was_asked_and_none_is_unknown(outcomes: list[Outcome]) -> None:
    assert (conclude(outcomes) is Outcome.ABSENT) == {Outcome.UNKNOWN, Outcome.NOT_ASKED}.isdisjoint(outcomes)


@pytest.mark.parametrize(
    ("on_unknown", "breakers", "expected"),
    [
        (OnUnknown.AUTO, [True, True], True),
        (OnUnknown.AUTO, [True, False], False),
        (OnUnknown.AUTO, [False], False),
        (OnUnknown.NOT_FOUND, [False], True),
        (OnUnknown.ERROR, [True], False),
    ],
)
def test_what_a_client_hears_when_nobody_can_tell(
    on_unknown: OnUnknown, breakers: list[bool], *, expected: bool
) -> None:
    assert is_not_found(on_unknown, breakers) == expected
