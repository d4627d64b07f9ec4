"""The stores, caches and upstreams that a configuration describes, opened for a command."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from harmonia_py.config.settings import Config
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.signing import SecretKey
from harmonia_py.wiring.node import Node
from harmonia_py.wiring.pools import Pools
from harmonia_py.wiring.store_choice import choose_store


@asynccontextmanager
async def open_node(config: Config, secret_keys: Sequence[SecretKey] = ()) -> AsyncIterator[Node]:
    """A node beside that of a server, if one runs: it evicts nothing, and signs with `secret_keys`."""
    choice = await asyncio.to_thread(choose_store, config)
    async with aclosing(Pools()) as pools:
        yield await Node.open(config, secret_keys, choice, pools, metrics=Metrics.alone(), housekeeping=False)
