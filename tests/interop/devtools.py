"""Chromium, led by its DevTools protocol over two pipes, as Playwright leads it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.interop.test_chromium import QUIET
from tests.support.clients import client
from tests.support.processes import Program

TO_BROWSER, FROM_BROWSER = 3, 4


class Browser(Program):
    """A Chromium that gives a proxy these credentials when it is asked for them."""

    def __init__(self, proxy: str, username: str, password: str, profile: Path) -> None:
        super().__init__()
        self._received = b""
        self._session = ""
        self._said = 0
        self._login = {"username": username, "password": password}
        self.heard: list[dict[str, Any]] = []
        arguments = [client("chromium"), *QUIET, f"--user-data-dir={profile}",
                     "--remote-debugging-pipe", "--ignore-certificate-errors",
                     f"--proxy-server={proxy}", "about:blank"]  # fmt: skip
        pipes = {0: "w", 1: "r", 2: "r", TO_BROWSER: "w", FROM_BROWSER: "r"}
        self.start(arguments, dict(os.environ), descriptors=pipes)

    def say(self, method: str, **parameters: Any) -> int:
        """Send a command; return its number."""
        self._said += 1
        message = {"id": self._said, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self.transport.writeToChild(TO_BROWSER, json.dumps(message).encode() + b"\0")
        return self._said

    def childDataReceived(self, descriptor: int, data: bytes) -> None:
        if descriptor != FROM_BROWSER:
            super().childDataReceived(descriptor, data)
            return
        *messages, self._received = (self._received + data).split(b"\0")
        for message in map(json.loads, messages):
            self._hear(message)
        self.wake()

    def _hear(self, message: dict[str, Any]) -> None:
        self.heard.append(message)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Fetch.requestPaused":
                self.say("Fetch.continueRequest", requestId=parameters["requestId"])
            case "Fetch.authRequired":
                response = {"response": "ProvideCredentials", **self._login}
                self.say(
                    "Fetch.continueWithAuth",
                    requestId=parameters["requestId"],
                    authChallengeResponse=response,
                )

    async def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command; return its result."""
        number = self.say(method, **parameters)
        await self.until(lambda: any(heard.get("id") == number for heard in self.heard))
        return next(heard for heard in self.heard if heard.get("id") == number)["result"]

    async def title_of(self, url: str) -> str:
        """Load a page; return its title."""
        if not self._session:
            targets = (await self.ask("Target.getTargets"))["targetInfos"]
            page = next(target for target in targets if target["type"] == "page")
            attached = await self.ask(
                "Target.attachToTarget", targetId=page["targetId"], flatten=True
            )
            self._session = attached["sessionId"]
            await self.ask("Fetch.enable", handleAuthRequests=True)
            await self.ask("Page.enable")
        self.heard.clear()
        await self.ask("Page.navigate", url=url)
        await self.until(
            lambda: any(heard.get("method") == "Page.loadEventFired" for heard in self.heard)
        )
        answer = await self.ask("Runtime.evaluate", expression="document.title")
        return str(answer["result"]["value"])

    async def close(self) -> None:
        """End it."""
        self.say("Browser.close")
        await self.end()
