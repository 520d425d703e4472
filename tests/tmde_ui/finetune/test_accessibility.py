"""The pages of training, in both themes, as axe-core sees them: what it calls serious or critical fails a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.tmde_ui.accessibility import check, check_dialog

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, training_server) -> Iterator[Any]:
    started = training_server(tmp_path_factory.mktemp("data"))
    started.do("traces", number=130)
    yield started
    started.idle()
    started.stop()


def test_axe_finds_nothing_grave_before_during_and_after_a_run(open_page, server):
    page = open_page("/finetune")
    check(page)
    check_dialog(page, "run-now")
    run = server.run(steps=3)
    check(page)
    check(open_page(f"/finetune/{run}"))
    server.idle()
    check(page)
    check(open_page(f"/finetune/{run}"))
