"""A reload of the real server, with another configuration.

reload(server, settings)        # returns when every worker has reloaded
"""

import signal
import time
from typing import Any, Final

import tomli_w
from server import Server

_TIME_LIMIT: Final = 30.0


def reload(server: Server, settings: dict[str, Any] | None = None) -> None:
    if settings is not None:
        (server.root / "harmonia.toml").write_text(tomli_w.dumps(settings))
    wanted = server.output().count("info: reloaded") + len(server.processes()) - 1
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + _TIME_LIMIT
    while server.output().count("info: reloaded") < wanted:
        assert time.monotonic() < deadline, server.output()
        time.sleep(0.01)
