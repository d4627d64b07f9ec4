"""What the oracle allows, and what it does not."""

import pytest
from soak.policy import CUT, GONE_SECONDS, Asked, Doubt, Kind, Origin, Weather, allowed, doubted

NOW = 1000.0
OK = frozenset({"200"})


def outcomes(origin: Origin, *doubts: Doubt, kind: Kind = Kind.NARINFO, gone: float | None = None) -> frozenset[str]:
    """Of a request that took a second, with these in doubt; `gone`: so many seconds before it began."""
    weather = Weather()
    for doubt in doubts:
        weather.begins(doubt, NOW)
    collected = None if gone is None else (NOW - gone - 1, NOW - gone)
    return allowed(Asked(origin, kind, NOW, NOW + 1, OK, collected), weather)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("origin", [origin for origin in Origin if origin is not Origin.NOWHERE])
def test_what_is_there_is_served_when_nothing_is_in_doubt(origin: Origin, kind: Kind) -> None:
    assert outcomes(origin, kind=kind) == OK


def test_what_is_nowhere_is_not_found() -> None:
    assert outcomes(Origin.NOWHERE) == {"404"}


def test_a_cache_that_cannot_ask_an_upstream_may_say_so_of_what_it_does_not_have() -> None:
    assert outcomes(Origin.NOWHERE, Doubt.FAULTY) == {"404", "502"}
    assert outcomes(Origin.NGINX, Doubt.NGINX) == {"200", "404", "502"}
    assert outcomes(Origin.NGINX, Doubt.NGINX, kind=Kind.NAR) == {"200", "404", "502", "503", CUT}


def test_one_upstream_is_no_excuse_for_what_another_one_has() -> None:
    assert outcomes(Origin.NGINX, Doubt.FAULTY) == OK
    assert outcomes(Origin.STORE, Doubt.FAULTY, Doubt.NGINX, kind=Kind.NAR) == OK


def test_while_the_daemon_is_away_clients_are_told_to_come_back() -> None:
    assert outcomes(Origin.STORE, Doubt.DAEMON) == {"200", "503"}
    assert outcomes(Origin.SERVICE, Doubt.DAEMON) == OK


def test_a_download_of_what_lasts_is_never_cut() -> None:
    everything = outcomes(Origin.STORE, *Doubt, kind=Kind.NAR)
    assert everything == {"200", "503"}


def test_what_is_collected_may_be_gone_and_soon_has_to_be() -> None:
    assert outcomes(Origin.DOOMED, gone=GONE_SECONDS / 2) == {"200", "404"}
    assert outcomes(Origin.DOOMED, gone=GONE_SECONDS * 2) == {"404"}


def test_a_collection_cuts_a_download_only_where_its_root_was_lost() -> None:
    assert outcomes(Origin.DOOMED, Doubt.COLLECTION, kind=Kind.NAR, gone=0) == {"200", "404"}
    assert CUT in outcomes(Origin.DOOMED, Doubt.ROOTS, kind=Kind.NAR, gone=0)


def test_a_doubt_lasts_until_it_is_over_and_a_while() -> None:
    weather = Weather()
    with doubted(weather, Doubt.DAEMON, recovery=10.0):
        pass
    end = weather.until()
    assert weather.touches(Doubt.DAEMON, end - 1, end + 1)
    assert not weather.touches(Doubt.DAEMON, end + 1, end + 2)
    assert not weather.touches(Doubt.ROOTS, 0, end)
