"""A real browser: Debian's chromium without a window, spoken to in its DevTools protocol over a pair of pipes.

with Chromium(tmp_path) as chromium:
    page = chromium.open(url, width=375, height=812, dark=True, scripts=False)
    page.run("document.title")              # the value of a JavaScript expression; also with `scripts=False`
    page.press("Tab"); page.type("glibc")   # real key events
    page.screenshot("home-phone-dark")      # into $HARMONIA_PY_ARTIFACTS or .cache/screenshots
    page.requests                           # every URL it asked for
    page.complaints                         # what the browser logged: violations of the policy, exceptions
"""

import json
import os
import select
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

TIME_LIMIT: Final = 60.0
ARTIFACTS: Final = Path(os.environ.get("HARMONIA_PY_ARTIFACTS") or Path(__file__).parents[2] / ".cache" / "screenshots")

_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",  # it refuses to start as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    # It must not look for anything outside this machine.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_KEYS: Final = {"Tab": 9, "Enter": 13}


class Chromium:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._last_id = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        profile = self._root / "profile"
        # The browser reads from descriptor 3 and writes to 4.
        script = f'exec chromium "$@" 3<&{read_commands} 4>&{write_answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read_commands, write_answers),
            env={**os.environ, "HOME": str(self._root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._commands)
        try:
            self._process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)

    def open(
        self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> "Page":
        """Open `url` in a page of its own, and return when it has loaded."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            page.call(f"{domain}.enable")
        page.call("Page.setLifecycleEventsEnabled", enabled=True)
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        page.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.go(url)
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._last_id += 1
        number = self._last_id
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda received: received.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message for which `is_it` says so; keep the others."""
        deadline = time.monotonic() + TIME_LIMIT
        while True:
            message = self._receive(deadline)
            if is_it(message):
                return message
            self.events.append(message)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


class Page:
    """One page of a browser."""

    def __init__(self, chromium: Chromium, session: str) -> None:
        self._chromium = chromium
        self._session = session
        self._seen = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._chromium.call(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Load `url`, and return when that is done."""
        loader = self.call("Page.navigate", url=url)["loaderId"]
        self._wait_for_load(lambda event: event["params"]["loaderId"] == loader)

    def go_by_pressing(self, key: str) -> None:
        """Press a key, and return when the page has loaded that it leads to."""
        before = self.call("Page.getFrameTree")["frameTree"]["frame"]["loaderId"]
        self.press(key)
        self._wait_for_load(lambda event: event["params"]["loaderId"] != before)

    def _wait_for_load(self, is_it: Callable[[dict[str, Any]], bool]) -> None:
        # What came before, of the empty page that every page begins as, does not count.
        loads = self._events("Page.lifecycleEvent")
        if not any(event["params"]["name"] == "load" and is_it(event) for event in loads[self._seen :]):
            self._chromium.wait(
                lambda event: (
                    event.get("sessionId") == self._session
                    and event.get("method") == "Page.lifecycleEvent"
                    and event["params"]["name"] == "load"
                    and is_it(event)
                )
            )
        self._seen = len(self._events("Page.lifecycleEvent"))

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=_KEYS[key], **text)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, name: str) -> Path:
        """Keep a picture of the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        file = ARTIFACTS / f"{name}.png"
        file.write_bytes(b64decode(picture))
        return file

    @property
    def requests(self) -> list[str]:
        return [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        return [event["params"] for event in self._events("Log.entryAdded", "Runtime.exceptionThrown")]

    def _events(self, *methods: str) -> list[dict[str, Any]]:
        events = self._chromium.events
        return [event for event in events if event.get("sessionId") == self._session and event["method"] in methods]
