"""The banner for a person who starts the daemon: the store, the URLs, and the lines for clients."""

import shlex
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from harmonia_py import __version__
from harmonia_py.config.settings import Config
from harmonia_py.nix.signing import PublicKey
from harmonia_py.server.listen import Listener
from harmonia_py.wiring.store_choice import StoreChoice, Way

_LOCALHOST: Final = "localhost"


def banner(
    config: Config,
    choice: StoreChoice,
    listeners: Sequence[Listener],
    public_keys: Sequence[PublicKey],
    host_name: str | None = None,
) -> str:
    """A few lines for standard output.

    Args:
        config: what is in effect.
        choice: the way to the metadata of store paths.
        listeners: on which it serves.
        public_keys: of the keys that it signs with.
        host_name: of this machine; asked of the system when it is not given.
    """
    where = " and ".join(listener.url for listener in listeners)
    lines = [f"harmonia-py {__version__} serves at {where}", ""]
    lines += [f"  {name:9}  {text}" for name, text in _about(config, choice, public_keys)]
    url = config.base_url or _url_for_clients(listeners, host_name or socket.gethostname())
    if url is not None:
        # If we sign, our signature is on every path that needs one; else clients need the keys of the upstreams.
        keys = list(public_keys) or list(dict.fromkeys(key for upstream in config.upstream for key in upstream.keys))
        lines += ["", *_for_clients(url, keys, is_private=config.token_file is not None)]
    return "\n".join([*lines, ""])


def _about(config: Config, choice: StoreChoice, public_keys: Sequence[PublicKey]) -> Iterator[tuple[str, str]]:
    store = "none" if choice.way is Way.NONE else f"{config.store_dir}, {choice.words}"
    if config.real_nix_store is not None and choice.way is not Way.NONE:
        store += f", files in {config.real_nix_store}"
    yield "store", store
    names = ["signed by", *[""] * len(public_keys)]
    yield from zip(names, map(str, public_keys), strict=False)
    if not public_keys:
        others = ", but those of upstreams" if config.upstream else ""
        yield (
            "signed by",
            f"no key{others}: clients that require signatures refuse what is not signed already",
        )
    names = ["mirrors", *[""] * len(config.upstream)]
    yield from zip(names, (upstream.url for upstream in config.upstream), strict=False)
    yield "workers", str(config.workers)


def _url_for_clients(listeners: Sequence[Listener], host_name: str) -> str | None:
    """The first URL that leads here from another machine, or else from this one; None behind Unix sockets alone."""
    urls = [one.url for one in listeners if one.url.startswith("http")]
    elsewhere = [url for url in urls if not _is_of_this_machine_alone(url)]
    for url in (*elsewhere, *urls):
        # It stands for every address of this machine, but only here.
        parts = urlsplit(url)
        return url if parts.hostname != _LOCALHOST else f"{parts.scheme}://{host_name}:{parts.port}"
    return None


def _is_of_this_machine_alone(url: str) -> bool:
    try:
        return ip_address(urlsplit(url).hostname or "").is_loopback
    except ValueError:
        return False


def _for_clients(url: str, keys: Sequence[PublicKey], *, is_private: bool) -> Iterator[str]:
    note = ", on this machine alone" if _is_of_this_machine_alone(url) else ""
    options = {"extra-substituters": url}
    if keys:
        options["extra-trusted-public-keys"] = " ".join(map(str, keys))
    yield from (f"In a client's nix.conf{note}:", "")
    yield from (f"  {name} = {value}" for name, value in options.items())
    if is_private:
        yield from (
            "",
            "It is not public: in the file that netrc-file names there, with a token of generate-token,",
            "",
        )
        yield f"  machine {urlsplit(url).hostname} login nix password TOKEN"
    yield from ("", "Or once, as root or another user whom that Nix trusts:", "")
    given = [f"--option {name} {shlex.quote(value)}" for name, value in options.items()]
    yield " ".join(["  nix-store --realise /nix/store/…", *given])
