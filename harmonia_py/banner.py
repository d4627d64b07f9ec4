"""What a person sees when the daemon starts: what is served, where, and what to give to clients."""

from collections.abc import Sequence

from harmonia_py import __version__
from harmonia_py.config import Config
from harmonia_py.listen import Listener
from harmonia_py.nix.signing import PublicKey
from harmonia_py.store_choice import StoreChoice, Way


def banner(config: Config, choice: StoreChoice, listeners: Sequence[Listener], public_keys: Sequence[PublicKey]) -> str:
    """A few lines for standard output."""
    where = " and ".join(listener.url for listener in listeners)
    store = "none" if choice.way is Way.NONE else f"{config.store_dir}, {choice.words}"
    if config.real_nix_store is not None and choice.way is not Way.NONE:
        store += f", files in {config.real_nix_store}"
    signed = [str(key) for key in public_keys] or [
        "no key: clients that require signatures refuse what is not signed already"
    ]
    lines = [
        f"harmonia-py {__version__} serves at {where}",
        "",
        f"  store      {store}",
        *(f"  {'signed by' if index == 0 else '':9}  {line}" for index, line in enumerate(signed)),
        f"  workers    {config.workers}",
    ]
    url = config.base_url or next((one.url for one in listeners if one.url.startswith("http")), None)
    if url is not None:
        elsewhere = ", with this machine's name for localhost" if "//localhost" in url else ""
        lines += ["", f"In a client's nix.conf{elsewhere}:", "", f"  extra-substituters = {url}"]
        if public_keys:
            lines.append(f"  extra-trusted-public-keys = {' '.join(map(str, public_keys))}")
    return "\n".join([*lines, ""])
