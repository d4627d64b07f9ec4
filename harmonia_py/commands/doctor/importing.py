"""Whether the nix-daemon would take the paths that `mirror.import` gives it: its own `nix.conf` decides.

Source: `applyConfig` in `src/libutil/config.cc` of Nix, later `configuration.cc`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from harmonia_py.commands.doctor.finding import Finding, in_thread
from harmonia_py.commands.doctor.signing_keys import NIXOS_KEY
from harmonia_py.config.settings import Config
from harmonia_py.config.upstream_tables import Upstream
from harmonia_py.errors import FormatError
from harmonia_py.nix.signing import PublicKey
from harmonia_py.wiring.store_choice import Way, choose_store

_NAME: Final = "import"
_KEYS: Final = "trusted-public-keys"
# A file that includes itself has no end in Nix either.
_MOST_INCLUDES: Final = 32
_MOST_BYTES: Final = 1024 * 1024

Settings = dict[str, list[str]]


async def look_at(
    config: Config, ours: Callable[[], Sequence[PublicKey]], environment: Mapping[str, str]
) -> list[Finding]:
    """Whether the nix-daemon would take mirrored paths; nothing when they are not to be imported."""
    if not config.mirror.import_ or not config.upstream:
        return []
    choice = await in_thread(lambda: choose_store(config))
    if choice.way is not Way.DAEMON:
        what = f"nothing is imported: the way to the store is {choice.words}"
        return [Finding.warning(_NAME, what, "start the nix-daemon, remove nix_db_path, or say import = false")]
    file = Path(environment.get("NIX_CONF_DIR") or "/etc/nix") / "nix.conf"
    try:
        settings = await in_thread(lambda: read_settings(file))
    except OSError as error:
        what = f"{file} cannot be read ({error.strerror}), so whom the nix-daemon trusts is not known"
        return [Finding.warning(_NAME, what, "look there for trusted-public-keys; the log tells what is refused")]
    return judge(settings, config.upstream, await in_thread(ours), file)


def judge(settings: Settings, upstreams: Sequence[Upstream], ours: Sequence[PublicKey], file: Path) -> list[Finding]:
    """The findings from the nix-daemon's settings, for each upstream."""
    if settings.get("require-sigs") == ["false"]:
        return [Finding.ok(_NAME, f"the nix-daemon takes every path that it is given (require-sigs in {file})")]
    trusted = trusted_keys(settings)
    if any(key in trusted for key in ours):
        return [Finding.ok(_NAME, "the nix-daemon trusts our key, with which everything is signed")]
    findings = []
    for upstream in upstreams:
        keys = upstream.keys
        known = [key.name for key in keys if key in trusted]
        if known:
            findings.append(Finding.ok(_NAME, f"the nix-daemon trusts {known[0]}, a key of {upstream.label}"))
            continue
        what = f"the nix-daemon trusts no key of {upstream.label}: only its content-addressed paths are imported"
        missing = " ".join(map(str, keys or ours)) or "a key that signs them"
        remedy = f"add {missing} to trusted-public-keys in {file}, and restart the nix-daemon"
        findings.append(Finding.warning(_NAME, what, remedy))
    return findings


def trusted_keys(settings: Settings) -> set[PublicKey]:
    """The keys that the settings name."""
    found = set()
    for text in settings[_KEYS]:
        try:
            found.add(PublicKey.parse(text))
        except FormatError:
            continue  # Nix reports it; this check only passes over it
    return found


def read_settings(file: Path) -> Settings:
    """The settings in a `nix.conf` and in the files that it includes; the defaults of Nix where there is no such file.

    Raises:
        OSError: a file cannot be read.
    """
    settings = {_KEYS: [str(NIXOS_KEY)]}
    _read(file, settings, needed=False, left=_MOST_INCLUDES)
    return settings


def _read(file: Path, settings: Settings, *, needed: bool, left: int) -> None:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_BYTES).decode(errors="replace")
    except FileNotFoundError:
        if needed:
            raise
        return
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        match words:
            case ["include" | "!include" as word, name] if left:
                _read(file.parent / name, settings, needed=word == "include", left=left - 1)
            case [name, "=", *values] if name.startswith("extra-"):
                settings.setdefault(_canonical(name.removeprefix("extra-")), []).extend(values)
            case [name, "=", *values]:
                settings[_canonical(name)] = values


def _canonical(name: str) -> str:
    return _KEYS if name == "binary-cache-public-keys" else name
