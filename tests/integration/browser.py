# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Chromium without a window, driven by its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any, Optional

LIMIT = 60
"""Seconds without any answer after which the browser hangs."""
_COMMANDS, _ANSWERS = 3, 4
"""The descriptors that Chromium talks on with --remote-debugging-pipe, each message ended by a zero byte."""


class Browser:
    """One browser with one tab. Use as a context manager."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._number = 0
        self._session: Optional[str] = None
        self._buffer = b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        command_end, self._commands = os.pipe()
        self._answers, answer_end = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
        profile = f"--user-data-dir={self._folder / 'profile'}"

        def place() -> None:
            spare = [os.dup(command_end), os.dup(answer_end)]
            os.dup2(spare[0], _COMMANDS)
            os.dup2(spare[1], _ANSWERS)

        self._process = subprocess.Popen(
            [self._program, *options, profile, "about:blank"],
            pass_fds=[_COMMANDS, _ANSWERS, command_end, answer_end],
            preexec_fn=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(self._folder)},
        )
        os.close(command_end)
        os.close(answer_end)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *exc: object) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(LIMIT)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call METHOD of the protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self._events.append(answer)

    def open(self, page: Path) -> list[dict[str, Any]]:
        """Show PAGE; return what the browser had to say meanwhile that a page without faults gives no cause for."""
        self._events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._receive())
        self.evaluate("document.readyState")  # what it says before that comes before the answer
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        asked = [event for event in self._events if event["method"] == "Network.requestWillBeSent"]
        elsewhere = [event for event in asked if event["params"]["request"]["url"] != page.as_uri()]
        return [event for event in self._events if event["method"] in told] + elsewhere

    def evaluate(self, expression: str) -> Any:
        """Return what the JavaScript EXPRESSION is on the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def show(self, width: int, dark: bool = False, media: str = "screen") -> None:
        """Show the page WIDTH pixels wide, on a screen or on paper, to one who likes it DARK or light."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _writable, _failed = select.select([self._answers], [], [], LIMIT)
            assert ready, f"the browser said nothing for {LIMIT} seconds"
            data = os.read(self._answers, 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        message, _zero, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))
