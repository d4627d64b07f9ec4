"""What happens is the same for the same seed, and everything happens, also in a short run."""

import pytest
from soak.plan import FAULTY, NGINX, Fault, Happening, plan


def test_a_seed_and_a_length_are_a_plan() -> None:
    assert plan(7, 90) == plan(7, 90)
    assert plan(7, 90) != plan(8, 90)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("seconds", [90, 600, 1800])
def test_everything_happens_in_order_and_ends_before_the_end(seed: int, seconds: float) -> None:
    events = plan(seed, seconds)
    assert {event.what for event in events} == set(Happening)
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert all(event.at > 0 and event.at + event.seconds < seconds for event in events)


def test_every_way_to_fail_is_tried_in_half_an_hour_and_in_a_minute_and_a_half() -> None:
    for seconds in (90, 1800):
        flaps = {(event.upstream, event.fault) for event in plan(1, seconds) if event.what is Happening.FLAP}
        assert {fault for _, fault in flaps} == set(Fault)
        assert {upstream for upstream, _ in flaps} == {NGINX, FAULTY}


def test_the_first_half_of_a_short_run_has_upstreams_that_can_be_relied_upon() -> None:
    assert all(event.at >= 45 for event in plan(1, 90) if event.what is Happening.FLAP)
