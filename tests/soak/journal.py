"""What the service says, held to the policy: which warnings and errors may be there at a moment."""

import re
from dataclasses import dataclass
from typing import Final

from soak.policy import UPSTREAM_RECOVERY_SECONDS, Doubt, Weather

_UPSTREAM: Final = frozenset({Doubt.NGINX, Doubt.FAULTY})
_ANY: Final = _UPSTREAM | {Doubt.DAEMON, Doubt.ROOTS}
# What an error says of a request may come at the end of it, after whatever was waited for.
_LATE_SECONDS: Final = UPSTREAM_RECOVERY_SECONDS

_LINE: Final = re.compile(r"(?P<at>\d+\.\d+) \S+ (?P<program>[^\[:]+)(?:\[\d+\])?: (?P<text>.*)")
# `<address> "GET /… " <status> <bytes> <duration>`.
_ACCESS: Final = re.compile(r'info: \S+ "')
_LOUD: Final = re.compile(r"(?i)^(warning|error|critical|fatal)\b|traceback|exception")
# What systemd may say of the service: it starts it, tells it to reload, and ends it.
_SYSTEMD_LOUD: Final = re.compile(r"(?i)fail|kill|watchdog|abort|dump|left-over|oom|time.?out")

# The first that matches a loud line decides: one of these has to have been in doubt.
_ALLOWED: Final[tuple[tuple[re.Pattern[str], frozenset[Doubt]], ...]] = (
    (re.compile(r"warning: upstream \S*: "), _UPSTREAM),
    (re.compile(r"warning: answered by another source: "), frozenset({Doubt.DAEMON})),
    (re.compile(r"warning: a connection to the nix-daemon ended: "), frozenset({Doubt.ROOTS})),
    (re.compile(r"warning: \S+: not kept: "), _UPSTREAM),
    (re.compile(r"warning: \S+: not compressed: "), frozenset({Doubt.ROOTS})),
    (re.compile(r"error: \S+: cut: "), _UPSTREAM | {Doubt.ROOTS}),
    (re.compile(r"error: (GET|HEAD) \S+: (?!unforeseen|no answer in time)"), _ANY),
)


@dataclass(frozen=True, slots=True)
class Line:
    at: float
    program: str
    text: str

    @classmethod
    def parse(cls, text: str) -> "Line | None":
        """A line of `journalctl --output=short-unix`; None for what is none."""
        found = _LINE.fullmatch(text)
        return None if found is None else cls(float(found["at"]), found["program"], found["text"])

    @property
    def is_access(self) -> bool:
        return _ACCESS.match(self.text) is not None


def is_wrong(line: Line, weather: Weather) -> bool:
    """Whether the policy does not allow that the service says this, now."""
    if line.program != "harmonia-py":
        return _SYSTEMD_LOUD.search(line.text) is not None
    if line.is_access or _LOUD.search(line.text) is None:
        return False
    doubts = weather.during(line.at - _LATE_SECONDS, line.at)
    return not any(pattern.match(line.text) and doubts & reasons for pattern, reasons in _ALLOWED)
