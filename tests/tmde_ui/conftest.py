"""A server with scripted models, and a real browser that forgives nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

REPOSITORY = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--no-first-run",
)
"""A container has no sandbox of the kind Chromium wants; nothing of the browser's own may call home."""
PATIENCE_MS = 20_000
"""For what must appear, on a machine that does other things beside; what is there in time costs nothing."""
expect.set_options(timeout=PATIENCE_MS)


class ScriptedServer:
    """The process of `scripted_server`, or of another module that obeys in the same way."""

    def __init__(self, directory: Path, module: str = "tests.tmde_ui.scripted_server", *arguments: str) -> None:
        # NiceGUI behaves differently when it believes to be in a test.
        self._log = (directory / "server.log").open("a+")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(directory), *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self.url: str = self._read()["url"]

    def do(self, what: str, **details: object) -> Any:
        """Give a command; returns its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **details}) + "\n")
        self._process.stdin.flush()
        return self._read()["done"]

    def stop(self) -> tuple[int, str]:
        """End it; returns its exit code and what it logged."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        code = self._process.wait(60)
        self._process.stdout.close()
        with self._log:
            self._log.seek(0)
            return code, self._log.read()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(
                f"the scripted server ended with code {self._process.wait()}; its errors are in {self._log.name}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


class TrainingServer(ScriptedServer):
    """The process of `finetune/server.py`, and the orders of its worker."""

    def __init__(self, directory: Path, port: str = "0") -> None:
        self.directory = directory
        super().__init__(directory, "tests.tmde_ui.finetune.server", port)

    def order(self, **orders: Any) -> None:
        """Say how far the worker may go, and what comes then."""
        draft = self.directory / "orders.draft"
        draft.write_text(json.dumps(orders))
        draft.rename(self.directory / "orders.json")

    def idle(self) -> None:
        """No run is in progress."""
        self.order(then="end")
        self.do("settled")

    def run(self, by: str = "api", **orders: Any) -> str:
        """Start a run under these orders; its id."""
        self.order(**orders)
        run_id: str = self.do("start", by=by)
        return run_id


@pytest.fixture(scope="session")
def training_server() -> type[TrainingServer]:
    """The class of servers whose training backend pretends."""
    return TrainingServer


@pytest.fixture(scope="session")
def scripted_server() -> type[ScriptedServer]:
    """The class of servers that obey."""
    return ScriptedServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """One server for a module; tests of one module see each other's debates."""
    started = ScriptedServer(tmp_path_factory.mktemp("data"))
    yield started
    code, log = started.stop()
    assert code == 0
    assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail("No Chromium is installed, and the pages are tested in a real one: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield launched
        launched.close()


OpenPage = Callable[..., Page]


class Profile:
    """A browser profile, and its first tab, which stays open.

    A page of a profile that has a window opens as a tab of this window. To draw a window costs more than to draw a page.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self._first = context.new_page()
        self._tools = context.new_cdp_session(self._first)

    def forget(self, home: str) -> None:
        """Close the pages, and forget what pages of `home` have stored."""
        for page in self.context.pages:
            if page != self._first:
                page.close()
        self._tools.send(
            "Storage.clearDataForOrigin",
            {"origin": home, "storageTypes": "cookies,local_storage,indexeddb,service_workers"},
        )


class Profiles:
    """Browser profiles that are used again: one that has loaded the scripts and styles opens a page with half the work."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: dict[tuple[int, bool], list[Profile]] = {}
        self._taken: list[tuple[tuple[int, bool], Profile]] = []

    def take(self, width: int, *, dark: bool) -> BrowserContext:
        """A profile that knows nobody and shows no page."""
        if free := self._free.get((width, dark)):
            profile = free.pop()
        else:
            profile = Profile(
                self._browser.new_context(
                    viewport={"width": width, "height": 900},
                    color_scheme="dark" if dark else "light",
                    accept_downloads=True,
                )
            )
        self._taken.append(((width, dark), profile))
        return profile.context

    def give_back(self, home: str) -> None:
        """Close the pages of all that were taken, and forget what pages of `home` have stored."""
        for kind, profile in self._taken:
            profile.forget(home)
            self._free.setdefault(kind, []).append(profile)
        self._taken.clear()


@pytest.fixture(scope="module")
def profiles(browser: Browser) -> Profiles:
    """The profiles of a module's browser."""
    return Profiles(browser)


@pytest.fixture
def open_page(profiles: Profiles, server: ScriptedServer) -> Iterator[OpenPage]:
    """Opens pages of the server. Any console error, uncaught exception or request to elsewhere fails the test."""
    wrong: list[str] = []

    def open_(
        path: str = "/", *, width: int = 1280, dark: bool = False, status: int = 200, refusals: tuple[int, ...] = ()
    ) -> Page:
        home = server.url
        expected = {status, *refusals} - {200}
        page = profiles.take(width, dark=dark).new_page()
        allowed = (home, home.replace("http:", "ws:"), "data:", "blob:")
        page.on(
            "request",
            lambda request: None if request.url.startswith(allowed) else wrong.append(f"request to {request.url}"),
        )
        page.on(
            "websocket",
            lambda socket: None if socket.url.startswith(allowed) else wrong.append(f"socket to {socket.url}"),
        )
        page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
        page.on(
            "console",
            lambda message: wrong.append(f"console: {message.text}") if _is_error(message, expected) else None,
        )
        page.set_default_timeout(PATIENCE_MS)
        response = page.goto(home + path)
        assert response is not None
        assert response.status == status
        page.wait_for_function("window.socket === undefined || window.socket.connected", timeout=PATIENCE_MS)
        return page

    yield open_
    profiles.give_back(server.url)
    assert wrong == []


def _is_error(message: ConsoleMessage, expected: set[int]) -> bool:
    # Chromium logs every answer of 4xx as an error of its own; a test that asks for one expects it.
    return message.type == "error" and not any(f"status of {status}" in message.text for status in expected)
