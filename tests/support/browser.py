"""A headless Chromium, driven over its DevTools protocol through a pipe: no packages needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 60  # seconds for an answer: machines are shared


class Browser:
    """One tab of one browser; ``requests``, ``faults`` and ``events`` say what happened in it."""

    def __init__(self, to: int, source: int):
        self.to, self.source, self.left = to, source, b""
        self.count, self.events = 0, list[dict[str, Any]]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.tab = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Accessibility"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: Any) -> Any:
        """Call a method of the tab."""
        return self.call(method, self.tab, **parameters)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        os.write(self.to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            heard = self._hear(PATIENCE)
            if heard.get("id") == self.count:
                assert "error" not in heard, (method, heard["error"])
                return heard["result"]

    def _hear(self, patience: float) -> dict[str, Any]:
        """The next message; an event is kept as well."""
        until = time.monotonic() + patience
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.source], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self.source, 1 << 20)
            assert part, "the browser ended"
            self.left += part
        one, _, self.left = self.left.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, page: Path, *, width: int, dark: bool = False, scripts: bool = True, media: str = "") -> None:
        """Load a page, and wait until it is there."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.tell("Emulation.setEmulatedMedia", media=media, features=features)
        self.tell("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.events.clear()
        self.tell("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._hear(PATIENCE)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; that of a promise once it has one."""
        told = self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    @property
    def requests(self) -> list[str]:
        """What was asked for, beside the page and data that it holds itself."""
        told = [event["params"]["request"]["url"] for event in self._of("Network.requestWillBeSent")]
        return [url for url in told[1:] if not url.startswith("data:")]

    @property
    def faults(self) -> list[str]:
        """What the console shows of errors and warnings, and exceptions."""
        logged = [event["params"]["entry"]["text"] for event in self._of("Log.entryAdded")]
        thrown = [str(event["params"]["exceptionDetails"]) for event in self._of("Runtime.exceptionThrown")]
        said = [str(event["params"]["args"]) for event in self._of("Runtime.consoleAPICalled")]
        return logged + thrown + said

    def _of(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["method"] == method]

    def screenshot(self, path: Path) -> None:
        """The whole page as a picture."""
        told = self.tell("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser with a profile of its own; it ends with the block."""
    assert CHROMIUM is not None, "there is no Chromium"
    (low_in, to), (source, low_out) = os.pipe(), os.pipe()
    theirs_in, theirs_out = (fcntl(low, F_DUPFD, 10) for low in (low_in, low_out))
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-extensions", "--remote-debugging-pipe"]  # fmt: skip
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol is spoken on the descriptors 3 and 4.
        shell = [
            "bash",
            "-c",
            f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}',
            "bash",
            *words,
            f"--user-data-dir={profile}",
        ]
        process = subprocess.Popen(shell, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        for descriptor in (low_in, low_out, theirs_in, theirs_out):
            os.close(descriptor)
        try:
            yield Browser(to, source)
        finally:
            os.close(to)
            os.close(source)
            process.terminate()
            process.wait(PATIENCE)
