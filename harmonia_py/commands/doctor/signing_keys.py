"""The files of secret keys: whether they hold keys, which users may read them, and the public keys of clients."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.commands.shared.user import describe, may, others_may
from harmonia_py.config.file import SYSTEM_FILE
from harmonia_py.config.key_files import CREDENTIALS, is_credential, read_secret_keys
from harmonia_py.config.settings import Config
from harmonia_py.config.upstream_tables import Upstream
from harmonia_py.errors import ConfigError, FormatError
from harmonia_py.nix.signing import PublicKey, SecretKey

# systemd.exec(5), "Credentials": of the unit in systemd/ and of the module for NixOS.
OF_SERVICE: Final = CREDENTIALS / "harmonia-py.service"
# The second is that of the module for NixOS.
_FILES_OF_SERVICE: Final = (SYSTEM_FILE, SYSTEM_FILE.with_name("harmonia.toml"))

_NAME: Final = "signing key"
NIXOS_KEY: Final = Upstream("https://cache.nixos.org").keys[0]
_MAX_FILE_SIZE: Final = 4096
_AS_ROOT: Final = "run this as root: sudo harmonia-py doctor"
_GENERATE: Final = "make one with `harmonia-py generate-key cache.example.org-1`"


class KeyFile(Struct, frozen=True, kw_only=True):
    """The facts about a file of a secret key.

    Attributes:
        file: its name.
        public_key: of the key in it; None when there is none.
        fault: why there is none, and what to do.
        exposed: its permissions and owner as `ls -l` shows them, where others may read it; else empty.
    """

    file: Path
    public_key: PublicKey | None = None
    fault: tuple[str, str] = ("", "")
    exposed: str = ""


def service_of(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The directory with the credentials of the service; None where `file` is the configuration of another server.

    Without a file root works on the service, and other users on a server of their own. A server whose state was given
    another place is none of the service either.
    """
    is_of_service = os.geteuid() == 0 if file is None else Path(os.path.normpath(file.absolute())) in _FILES_OF_SERVICE
    return OF_SERVICE if is_of_service and not environment.get("STATE_DIRECTORY") else None


def files_of(config: Config, service: Path | None) -> list[Path] | None:
    """The files of the keys that sign here; None when they may be credentials that this user may not see.

    They are those that the configuration names and those in `service`, where a unit gives credentials to the service;
    when there are none, the one that is made at the first start.
    """
    try:
        credentials = [] if service is None else sorted(service.iterdir())
    except PermissionError:
        return None
    except OSError:  # there is no such service, or it does not run
        credentials = []
    given = [one for one in credentials if read(one, {}).public_key is not None]
    generated = config.generated_key_file
    if generated is None:
        named = config.key_files
        return [*named, *(one for one in given if one not in named)] if config.sign else []
    return given or [generated]


def keys_of(config: Config, service: Path | None, environment: Mapping[str, str]) -> list[SecretKey]:
    """The keys that sign here; none where the first start has not made its key yet, or nothing is signed.

    Raises:
        ConfigError: one cannot be read, or this user may not see which there are.
    """
    files = files_of(config, service)
    if files is None:
        raise ConfigError(f"{service}: only root sees which keys the service signs with")
    is_made = files != [config.generated_key_file] or _exists(files[0])
    return read_secret_keys(files, environment) if is_made else []


def read(file: Path, environment: Mapping[str, str]) -> KeyFile:
    """The facts about one file."""
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            text = stream.read(_MAX_FILE_SIZE).decode()
        key = SecretKey.parse(text)
    except OSError as error:
        return KeyFile(file=file, fault=_explain_system(error))
    except (FormatError, UnicodeDecodeError) as error:
        return KeyFile(file=file, fault=_explain_format(file, error))
    is_exposed = others_may(status) and not is_credential(file, environment)
    return KeyFile(file=file, public_key=key.public_key, exposed=describe(status) if is_exposed else "")


def look_at(config: Config, environment: Mapping[str, str], service: Path | None = None) -> list[Finding]:
    """The findings about all keys that sign here."""
    files = files_of(config, service)
    if files is None:
        return [Finding.warning(_NAME, f"{service}: only root sees which keys the service signs with", _AS_ROOT)]
    generated = config.generated_key_file
    if files == [generated] and not _exists(files[0]):
        return [_judge_first_start(files[0])]
    return judge([read(one, environment) for one in files])


def judge(found: Sequence[KeyFile]) -> list[Finding]:
    """The findings about the files, each by itself and beside the others."""
    if not found:
        what = "sign = false: clients that require signatures refuse what this store has built itself"
        return [Finding.warning(_NAME, what, "take sign = false out, and the next start makes a key")]
    findings: list[Finding] = []
    seen: dict[str, KeyFile] = {}
    for one in found:
        findings += _judge_one(one)
        if one.public_key is None:
            continue
        other = seen.setdefault(one.public_key.name, one)
        if other.public_key != one.public_key:
            what = f"{one.file} and {other.file} hold different keys of one name, {one.public_key.name}"
            remedy = "clients tell keys by their names: give the new one another number, such as -2"
            findings.append(Finding.failure(_NAME, what, remedy))
    return findings


def _judge_one(one: KeyFile) -> list[Finding]:
    key = one.public_key
    if key is None:
        what, remedy = one.fault
        return [Finding.failure(_NAME, f"{one.file}: {what}", remedy)]
    findings = [Finding.ok(_NAME, f"{one.file}: {key}")]
    if one.exposed:
        what = f"{one.file}: others may read it ({one.exposed}), and sign as you"
        findings.append(Finding.warning(_NAME, what, f"chmod 600 {one.file}; if another user may have, make a new key"))
    if key.name == NIXOS_KEY.name and key != NIXOS_KEY:
        what = f"{one.file}: {key.name} is the name of cache.nixos.org's key: clients take its signatures for forged"
        findings.append(Finding.failure(_NAME, what, f"{_GENERATE}, with your own host's name"))
    return findings


def _judge_first_start(file: Path) -> Finding:
    if _can_be_made(file.parent):
        return Finding.ok(_NAME, f"none yet: the first start makes one, {file}")
    remedy = "set state_directory (in a unit: StateDirectory=) to a directory that can be written"
    return Finding.failure(_NAME, f"{file}: cannot be made at the first start", remedy)


def _can_be_made(directory: Path) -> bool:
    existing = next(one for one in (directory, *directory.absolute().parents) if one.exists())
    return existing.is_dir() and may(existing, os.W_OK | os.X_OK)


def _exists(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # `read` reports the error
    return True


def _explain_system(error: OSError) -> tuple[str, str]:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, PermissionError):
        return reason, "give it to the user that serves, or in a unit use LoadCredential="
    return reason, f"mend the path in sign_key_paths, or {_GENERATE}"


def _explain_format(file: Path, error: Exception) -> tuple[str, str]:
    try:
        PublicKey.parse(file.read_text().strip())
    except (FormatError, OSError, UnicodeDecodeError):
        what = str(error) if isinstance(error, FormatError) else "it is not text"
        return f"not a secret key of Nix: {what}", _GENERATE
    return "holds a public key", "sign_key_paths wants the secret half, the other of the two files"
