"""Epochs of a catalog: what was made in one is right as long as nothing is changed."""

from harmonia_py.catalog.changes import Changes


def test_an_epoch_lasts_until_something_is_changed() -> None:
    generation = 2
    changes = Changes(lambda: generation, clock=lambda: 100.0)
    first = changes.epoch()
    assert first.until > 100.0
    assert changes.epoch() is first
    generation = 4
    assert changes.epoch() is not first
    assert first.until <= 100.0


def test_what_is_made_during_a_change_is_right_at_no_later_moment() -> None:
    """No end was known of it, so a narinfo of before a download was given for two seconds after it."""
    generation: int | None = 2
    changes = Changes(lambda: generation, clock=lambda: 100.0)
    before = changes.epoch()
    generation = None
    during = changes.epoch()
    assert before.until <= 100.0
    assert during.until <= 100.0
    generation = 4
    after = changes.epoch()
    assert during.until <= 100.0
    assert after.until > 100.0
