"""A headless Chromium driven over a pipe (``--remote-debugging-pipe``): no driver, no port, no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANSWER_WITHIN_S = 60
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str:
    """The browser; fails with what to install, because a skipped check proves nothing."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    assert found, "these tests open the report in a browser: install Chromium (Debian: apt-get install chromium)"
    return found


@dataclass
class Page:
    """One tab. ``requests`` are the addresses it asked for, ``complaints`` everything its console said."""

    _send: int
    _receive: int
    _session: str = ""
    _last: int = 0
    _rest: bytes = b""
    _events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; returns its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._receive], [], [], ANSWER_WITHIN_S)
            assert ready, f"the browser said nothing for {ANSWER_WITHIN_S} s"
            read = os.read(self._receive, 1 << 20)
            assert read, "the browser has gone"
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def open(self, file: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Show a file at a width in CSS pixels, light or dark, and wait until it has loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self._events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())

    def ask(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened, allowed or not."""
        return [one["params"]["request"]["url"] for one in self._of("Network.requestWillBeSent")]

    def complaints(self) -> list[str]:
        """What the console and the browser said about the page since it was opened."""
        said = [one["params"]["entry"]["text"] for one in self._of("Log.entryAdded")]
        said += [json.dumps(one["params"]["args"]) for one in self._of("Runtime.consoleAPICalled")]
        return said + [json.dumps(one["params"]) for one in self._of("Runtime.exceptionThrown")]

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self._events if event.get("method") == method]

    def picture(self, width: int, height: int | None = None) -> bytes:
        """A PNG of the page from its top; of the whole page without a height."""
        tall = height or self.ask("Math.ceil(document.documentElement.getBoundingClientRect().height)")
        clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def print(self) -> bytes:
        """The page as an A4 PDF."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
        return base64.b64decode(self.call("Page.printToPDF", **paper)["data"])


@contextmanager
def browser() -> Iterator[Page]:
    """A browser of its own with an empty profile and no network; ended with everything it started."""
    command = [
        executable(),
        "--headless=new",
        "--remote-debugging-pipe",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--hide-scrollbars",
    ]
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        page = Page(send, receive)
        try:
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            page._session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            yield page
            page._session = ""
            page.call("Browser.close")
        finally:
            os.close(send)
            os.close(receive)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
