"""The file with the hashes of the tokens that open a cache which is not public."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harmonia_py.cache.tokens import Tokens
from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.commands.shared.user import describe, others_may
from harmonia_py.config.key_files import is_credential
from harmonia_py.errors import FormatError

_NAME: Final = "token_file"


def look_at(file: Path, environment: Mapping[str, str]) -> list[Finding]:
    """The findings about the file."""
    try:
        status = file.stat()
        tokens = Tokens.parse(file.read_text())
    except OSError as error:
        what = f"{file}: {(error.strerror or str(error)).lower()}"
        return [Finding.failure(_NAME, what, "mend its path or permissions; `harmonia-py generate-token` makes one")]
    except (FormatError, UnicodeDecodeError) as error:
        return [Finding.failure(_NAME, f"{file}: {error}", "write a hash a line, as `harmonia-py generate-token` does")]
    if not tokens:
        what = f"{file}: holds no token, so no client may read this cache"
        return [Finding.warning(_NAME, what, "add one with `harmonia-py generate-token`")]
    findings = [Finding.ok(_NAME, f"{file}: {len(tokens)} {'token opens' if len(tokens) == 1 else 'tokens open'} this")]
    if others_may(status) and not is_credential(file, environment):
        what = f"{file}: others may read it ({describe(status)}); hashes are no tokens, but name their holders"
        findings.append(Finding.warning(_NAME, what, f"chmod 600 {file}"))
    return findings
