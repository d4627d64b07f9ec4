"""A reload of the real server, with another configuration.

reload(server, settings)        # returns when every worker has reloaded
"""

import signal
from typing import Any

import tomli_w
from server import Server


def reload(server: Server, settings: dict[str, Any] | None = None) -> None:
    if settings is not None:
        (server.root / "harmonia.toml").write_text(tomli_w.dumps(settings))
    wanted = server.output().count("info: reloaded") + len(server.processes()) - 1
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: server.output().count("info: reloaded") >= wanted)
