"""Every kind of file that a client pushes has its bound, and how it is put and read."""

from harmonia_py.push.urls import PushKind
from harmonia_py.web.nix import push


def test_no_kind_is_forgotten() -> None:
    """A URL that parses, and that no handler knows, would be an error of the server."""
    # The bound of a NAR is a setting of its cache, and NARs are read as what they are: files.
    assert set(push.WAYS) == set(PushKind) - {PushKind.NAR}
