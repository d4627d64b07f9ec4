"""`wrk`: more requests per second than any server here can answer."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import BenchmarkError
from benchmarks.client import Address

# Every thread walks its own part of the list; `%d` is filled with the number of threads.
_SCRIPT = """
local threads = %d
local number = 0
function setup(thread)
  thread:set("first", number)
  number = number + 1
end
function init(args)
  requests, at = {}, 0
  local index = 0
  for line in io.lines(args[1]) do
    if index %% threads == first then requests[#requests + 1] = wrk.format("GET", line) end
    index = index + 1
  end
end
function request()
  at = at %% #requests + 1
  return requests[at]
end
function done(summary, latency, _)
  local e = summary.errors
  print(string.format('\\nJSON{"requests": %%d, "microseconds": %%d, "p50": %%d, "p99": %%d,'
    .. '"errors": {"connect": %%d, "read": %%d, "write": %%d, "status": %%d, "timeout": %%d}}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What `wrk` measured.

    Attributes:
        requests: answered.
        per_second: requests per second.
        p50: median latency in milliseconds.
        p99: 99th percentile of the latency in milliseconds.
    """

    requests: int
    per_second: float
    p50: float
    p99: float


def run(
    address: Address,
    targets: Sequence[str],
    *,
    connections: int,
    seconds: int,
    threads: int,
    are_absent: bool = False,
) -> Load:
    """Ask for `targets`, which are all there, or all absent, over and over.

    Raises:
        BenchmarkError: `wrk` is missing, or a request failed.
    """
    if shutil.which("wrk") is None:
        raise BenchmarkError("wrk is not installed")
    threads = min(threads, connections, len(targets))
    with tempfile.TemporaryDirectory(prefix="harmonia-bench-") as name:
        script, urls = Path(name, "load.lua"), Path(name, "urls")
        script.write_text(_SCRIPT % threads)
        urls.write_text("".join(f"{target}\n" for target in targets))
        command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
        command += [f"http://{address[0]}:{address[1]}/", "--", str(urls)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    facts = json.loads(output.rpartition("JSON")[2])
    if are_absent:
        facts["errors"]["status"] -= facts["requests"]
    errors = ", ".join(f"{kind} {count}" for kind, count in facts["errors"].items() if count)
    if errors or not facts["requests"]:
        raise BenchmarkError(f"requests that failed, of {facts['requests']}: {errors or 'all'}")
    return Load(
        requests=facts["requests"],
        per_second=facts["requests"] / facts["microseconds"] * 1e6,
        p50=facts["p50"] / 1000,
        p99=facts["p99"] / 1000,
    )
