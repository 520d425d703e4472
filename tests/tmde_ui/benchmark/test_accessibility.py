"""The pages of benchmarks and adapter versions, in both themes, as axe-core sees them: what it calls serious or critical fails a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.tmde_ui.accessibility import check, check_dialog

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scripted_server) -> Iterator[Any]:
    started = scripted_server(tmp_path_factory.mktemp("data"), "tests.tmde_ui.benchmark.server", "0", "few")
    yield started
    started.stop()


@pytest.mark.parametrize("path", ["/benchmark", "/finetune/versions"])
def test_axe_finds_nothing_grave_on_an_empty_page(open_page, path):
    check(open_page(path))


def test_axe_finds_nothing_grave_with_runs_and_adapters(open_page, server):
    base = server.do("run", base=True)
    bad, good = server.do("adapter", knows=0.0), server.do("adapter", knows=0.9)
    for adapter in (bad, good):
        server.do("judge", adapter=adapter)
    server.do("activate", adapter=good)
    page = open_page("/finetune/versions")
    for details in page.get_by_test_id("details").all():
        details.click()
    check(page)
    page = open_page("/benchmark")
    check(page)
    check_dialog(page, "run-benchmark")
    check(open_page(f"/benchmark/{base}"))


def test_axe_finds_nothing_grave_while_a_benchmark_runs(open_page, server):
    server.do("hold", after=2)
    running = server.do("start", base=True)
    check(open_page("/benchmark"))
    check(open_page(f"/benchmark/{running}"))
    server.do("open")
    server.do("settled")
