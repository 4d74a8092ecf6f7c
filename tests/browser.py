"""Headless Chromium, driven through its DevTools protocol: what a page looks like and what it complains about.

One process a `Browser`, one tab a `Page`. Everything the page says is collected: console messages, refused resources
(a content security policy's among them) and exceptions.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

PATIENCE_S = 60
#: How Debian and others name it.
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """One tab, of a given size."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.loaded = asyncio.Event()

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """An event of the tab."""
        if method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Log.entryAdded":
            self.complaints.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("text")))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(f"{params['type']}: {params['args']}")

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A call of the protocol."""
        return await self._browser.call(method, params, self._session)

    async def resize(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """The window's size in CSS pixels; `phone`: as a small touch screen would have it."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, url: str) -> None:
        """Returns when the page and all of its parts are there."""
        self.loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(PATIENCE_S):
            await self.loaded.wait()

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(answer["data"]))


class Browser:
    """An async context manager: a process with a profile of its own, gone at the end."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def __aenter__(self) -> Browser:
        program = next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
        assert program is not None, "no Chromium: apt-get install chromium"
        self._profile = tempfile.mkdtemp(prefix="browser-")
        options = ["--headless=new", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={self._profile}"]
        options += [
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--hide-scrollbars",
            "--mute-audio",
        ]
        if os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium refuses to start as root with it
        self._process = await asyncio.create_subprocess_exec(
            program, *options, "about:blank", stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        assert self._process.stderr is not None
        url = ""
        async with asyncio.timeout(PATIENCE_S):
            while not url:
                line = (await self._process.stderr.readline()).decode()
                assert line, "Chromium ended before it listened"
                url = line.partition("DevTools listening on ")[2].strip()
        self._drain = asyncio.create_task(self._process.stderr.read())
        self._client = aiohttp.ClientSession()
        self._socket = await self._client.ws_connect(url, max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._client.close()
        self._process.kill()
        await self._process.wait()
        await self._drain
        await asyncio.to_thread(shutil.rmtree, self._profile, ignore_errors=True)

    async def _read(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._waiting.pop(said["id"]).set_result(said)
            elif said.get("sessionId") in self._pages:
                self._pages[said["sessionId"]].hear(said["method"], said["params"])

    async def call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """A call of the protocol; raises AssertionError where the browser refuses it."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        whole = {"id": number, "method": method, "params": params}
        await self._socket.send_json(whole if session is None else {**whole, "sessionId": session})
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._waiting[number]
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def page(self) -> Page:
        """A new tab that tells what it has to say."""
        target = await self.call("Target.createTarget", {"url": "about:blank"})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        return page
