"""The answers of a cache for paths that it does not have, judged by what Nix makes of them.

Source: `src/libstore/filetransfer.cc` of Nix, the table of statuses.
"""

import re
from http import HTTPStatus
from typing import Final

from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.commands.doctor.remote import Answer

_ABSENT: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_WANTS_PASSWORD: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
_RETRIED: Final = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
# Nix itself remembers for an hour that a path is absent; a proxy that remembers it as long doubles the time.
_LONGEST_NEGATIVE_SECONDS: Final = 3600
_MAX_AGE: Final = re.compile(r"(?:s-maxage|max-age)=(\d{1,10})", re.ASCII)


def judge_absent(answer: Answer, method: str) -> list[Finding]:
    """The answer for a store path that the cache cannot have."""
    name, status = "absent path", answer.status
    if status in _ABSENT:
        return [Finding.ok(name, f"{method}: {status}"), *_judge_age(answer)]
    if status == HTTPStatus.FORBIDDEN:
        what = f"{method}: 403, which Nix takes for absent, so that a wrong password goes unnoticed"
        remedy = "answer 404; S3 does for clients that may list the bucket (s3:ListBucket)"
        return [Finding.warning(name, what, remedy)]
    if status in _WANTS_PASSWORD:
        what = f"{method}: {status}, which Nix up to 2.34 silently takes for absent, and later ones for an error"
        remedy = "answer 404 to clients with the right password, and give them the right one (netrc-file)"
        return [Finding.failure(name, what, remedy)]
    if status == HTTPStatus.OK:
        remedy = "a page for everything (a single-page site, a login) answers; let unknown paths be 404"
        return [Finding.failure(name, f"{method}: 200, so clients try to read it as a narinfo", remedy)]
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _RETRIED:
        what = f"{method}: {status}, so Nix tries five times, and then gives up the cache or the build"
        remedy = "404 is for what is absent; look at the server's log for what it cannot do"
        return [Finding.failure(name, what, remedy)]
    return [Finding.failure(name, f"{method}: {status}, on which Nix gives up the build", "answer 404")]


def judge_malformed(answer: Answer) -> Finding:
    """The answer for a name that no store path has."""
    status = answer.status
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Finding.ok("malformed hash", f"{status}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        remedy = "scanners will fill your log with it; answer 404"
        return Finding.warning("malformed hash", f"{status}: it does not expect such requests", remedy)
    return Finding.warning("malformed hash", f"{status}: every name that is asked for is there", "answer 404")


def _judge_age(answer: Answer) -> list[Finding]:
    control = answer.header("cache-control").lower()
    ages = [int(age) for age in _MAX_AGE.findall(control)]
    if not ages or "no-store" in control or max(ages) <= _LONGEST_NEGATIVE_SECONDS:
        return []
    what = f"its 404 may be kept for {max(ages)} seconds: what is pushed meanwhile stays absent"
    return [Finding.warning("absent path", what, "send `Cache-Control: no-store` with a 404")]
