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


def test_changes_that_come_by_the_dozen_end_one_epoch_a_second() -> None:
    """While files became chunks each commit ended the epoch: hot narinfos were made anew ten times a second."""
    now, generation = 100.0, 2
    changes = Changes(lambda: generation, clock=lambda: now, rest=1.0)
    epochs = []
    for _ in range(30):
        now, generation = now + 0.1, generation + 2
        epochs.append(changes.epoch())
        assert epochs[-1].until > now
    assert len({id(epoch) for epoch in epochs}) <= 4
    assert all(epoch.until <= now + 1.0 for epoch in epochs)
    assert epochs[0].until <= now
