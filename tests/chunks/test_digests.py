"""The rate at which files made of chunks are read once more."""

from harmonia_py.cache.source import Pause
from harmonia_py.chunks.digests import _at_rate


def test_parts_that_come_with_pauses_are_read_no_faster() -> None:
    """From a bucket a pause comes with each window: the count began again, and nothing held the reader back."""
    wait, parts = Pause(0.1), 6
    read = list(_at_rate((part for _ in range(parts) for part in (b"x" * 10, wait)), 20.0))
    rests = [part for part in read if isinstance(part, Pause) and part is not wait]
    assert [rest.seconds for rest in rests] == [1.0] * (parts * 10 // 20)
    assert list(_at_rate(iter([b"x" * 10, wait]), None)) == [b"x" * 10, wait]
