"""The threads that look at JSON from outside: one of a megabyte would hold up the event loop."""

import threading

import pytest

from harmonia_py import json_text
from harmonia_py.nix.store_path import StorePath


def note_threads(monkeypatch: pytest.MonkeyPatch, about: StorePath) -> set[threading.Thread]:
    """The threads in which JSON about a store path is parsed from now on."""
    threads = set[threading.Thread]()
    check_depth = json_text.check_depth

    def note(data: bytes | bytearray, most: int = json_text.MAX_DEPTH) -> None:
        if about.hash_part.encode() in data:
            threads.add(threading.current_thread())
        check_depth(data, most)

    monkeypatch.setattr(json_text, "check_depth", note)
    return threads
