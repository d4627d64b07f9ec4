"""What a worker says of files that another one could not make by a recipe."""

import pytest

from harmonia_py import errors
from harmonia_py.errors import HarmoniaError
from harmonia_py.metrics.shared import SharedTexts
from harmonia_py.push.making import Making
from harmonia_py.web.http.errors import status_of


@pytest.mark.parametrize(
    "error",
    [
        errors.FormatError("x"),
        errors.PushConflict("x"),
        errors.PushTooLarge("x"),
        errors.SessionEnded("x"),
        errors.PushRefused("x"),
        errors.QuotaExceeded("x"),
        errors.Overloaded("x"),
        errors.StorageFull("x"),
        errors.CatalogError("x"),
        errors.StorageError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_worker_answers_with_the_status_of_the_one_that_failed(error: HarmoniaError) -> None:
    """Of a session that had ended, and of a full disk, it told as of something else."""
    made, asked = (Making(texts) for texts in [SharedTexts()] * 2)
    made.fails("key", error)
    failure = asked.failure("key")
    assert failure is not None
    assert str(failure) == str(error)
    for writing in (False, True):
        assert status_of(failure, writing=writing) == status_of(error, writing=writing)


def test_what_is_no_fault_of_the_client_is_not_told_as_one() -> None:
    """An error of another kind became a refusal, whose message goes to the client."""
    making = Making(SharedTexts())
    making.fails("key", errors.UpstreamUnreachable("10.0.0.7 does not answer \udc80"))
    failure = making.failure("key")
    assert type(failure) is errors.StorageError
    assert status_of(failure) == 503
