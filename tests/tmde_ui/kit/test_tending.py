"""Pages that are closed while they still work: nothing goes on behind them, and nothing is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(data: Path, scripted_server) -> Iterator[Any]:
    """A server that forgets a page as soon as its browser has gone."""
    started = scripted_server(data, "tests.tmde_ui.benchmark.server", "0", "few")
    started.do("forget", after=0)
    started.do("past", number=3)
    yield started
    assert started.stop()[0] == 0


@pytest.fixture(autouse=True)
def _nothing_said(server, data: Path) -> Iterator[None]:
    yield
    log = (data / "server.log").read_text()
    for word in ("Traceback", "[error", "[warning", "WARNING", "has been deleted"):
        assert word not in log, log


def test_a_page_may_be_closed_while_it_is_still_being_filled(open_page, server):
    server.do("hold-up", method="results")
    page = open_page("/benchmark")
    server.do("waiting", number=1)
    page.close()
    server.do("alone")
    server.do("let-go")


def test_a_page_may_be_closed_while_the_press_of_a_button_is_seen_to(open_page, server):
    page = open_page("/benchmark")
    expect(page.get_by_test_id("questions")).to_be_attached()
    server.do("hold-up", method="questions")
    page.get_by_test_id("run-benchmark").click()
    server.do("waiting", number=2)  # the other is the page's own look
    page.close()
    server.do("alone")
    server.do("let-go")


def test_many_pages_may_be_opened_and_left_at_once_while_a_run_goes_on(open_page, server):
    """Some leave before their page has arrived, some while it is being drawn, some as soon as it stands."""
    server.do("hold", after=3)
    run = server.do("start")
    paths = ("/", "/finetune", "/finetune/versions", "/plugins", "/benchmark", f"/benchmark/{run}")
    page = open_page("/plugins")
    with ThreadPoolExecutor(4) as strangers:
        asked = [strangers.submit(ask, server.url + path) for path in paths]
        for path in paths:
            page.goto(server.url + path, wait_until="commit")
        server.do("more", number=2)
        for path in paths[-2:]:
            page.goto(server.url + path, wait_until="load")
        server.do("more", number=2)
        assert {one.result() for one in asked} == {200}
    page.close()
    server.do("alone")
    server.do("open")
    assert server.do("settled") in (None, "completed")


def test_a_page_whose_connection_broke_is_the_page_that_it_would_have_been(open_page, server):
    server.do("forget", after=30)
    server.do("hold", after=2)
    server.do("start")
    page = open_page("/benchmark")
    figures = expect(page.get_by_test_id("benchmark-figures"))
    figures.to_contain_text("2 of 10")
    page.evaluate("window.socket.io.engine.close()")
    server.do("more", number=1)
    figures.to_contain_text("3 of 10")
    server.do("open")
    expect(page.get_by_test_id("benchmark-result")).to_contain_text("TMDE score")


def ask(address: str) -> int:
    """Fetch a page and never come back, as a crawler does."""
    with urlopen(address, timeout=30) as answer:
        answer.read()
        return int(answer.status)
