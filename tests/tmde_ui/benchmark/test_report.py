"""The report of a benchmark, opened in a real browser that is offline."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import link_models
from tmde_core.benchmark.results.comparison import compare
from tmde_core.benchmark.results.metrics import measure
from tmde_core.benchmark.results.report import page as report_page
from tmde_core.benchmark.results.report import report_html
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import DOMAINS, BenchmarkResult, BenchmarkRun
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.services import open_services
from tmde_core.settings import load_settings

HOSTILE = "<img src=//evil.example/x onerror=alert(1)><script>alert(2)</script></pre></details>"


def answered(run: BenchmarkRun, falls: float) -> list[BenchmarkResult]:
    return [
        BenchmarkResult(
            id=uuid4(), run_id=run.id, question_id=f"q{n}", repeat=0, status="scored", domain=DOMAINS[n % 5], difficulty="easy",
            query=HOSTILE, final_answer=f"{HOSTILE} {'long ' * 200}", quality_score=max(0.0, 8.0 - n % 4 - falls * (n % 3)),
            response_time_ms=900.0 + n, reasons=(HOSTILE,),
        )
        for n in range(10)
    ]  # fmt: skip


def report() -> str:
    """Of an adapter that is worse than the base model."""
    base = BenchmarkRun(
        id=uuid4(), type="quick", mode="proposer", suite="tmde-50", status="completed", started_at=utc_now(),
        base_model=HOSTILE, judge="auto", suite_sha256="a" * 64,
    )  # fmt: skip
    adapter = msgspec.structs.replace(base, id=uuid4(), adapter_id=uuid4(), warnings=(HOSTILE,))
    before, after = answered(base, 0.0), answered(adapter, 4.0)
    base = msgspec.structs.replace(base, metrics=measure(before, "proposer"))
    adapter = msgspec.structs.replace(adapter, metrics=measure(after, "proposer"))
    return report_page(adapter, after, compare(base, adapter, before, after, ()))


def opened(browser: Browser, file: Path, *, dark: bool = False, width: int = 1000) -> tuple[Page, list[str]]:
    """The page without any network, and what it asked for, logged or threw."""
    context = browser.new_context(
        offline=True, color_scheme="dark" if dark else "light", viewport={"width": width, "height": 900}
    )
    page, noted = context.new_page(), []
    page.on("request", lambda request: noted.append(request.url))
    page.on("console", lambda message: noted.append(message.text))
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.on("dialog", lambda dialog: (noted.append(dialog.message), dialog.dismiss()))
    page.goto(file.as_uri())
    for answer in page.locator("details").all():
        answer.locator("summary").click()
    return page, noted


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_opens_offline_loads_nothing_and_fits_a_telephone(browser, tmp_path: Path, dark: bool) -> None:
    file = tmp_path / "report.html"
    file.write_text(report())
    page, noted = opened(browser, file, dark=dark, width=390)
    assert noted == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("details").count() == 10
    assert page.locator("svg").count() == 2
    assert page.locator("img, script").count() == 0
    assert "worse" in page.locator("h2", has_text="Against the base model").locator("+ p").inner_text()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(17, 17, 19)" if dark else "rgb(255, 255, 255)")
    page.context.close()


TAUGHT = FineTuneConfig(
    lora_rank=4, lora_alpha=8, learning_rate=1e-3, epochs=1, batch_size=2, gradient_accumulation_steps=1, max_seq_length=512,
    min_traces=8,
)  # fmt: skip
BRIEF = """
[roles.proposer]
max_tokens = 16
[supervisor]
niceness = 0
"""
"""Short answers, and training at its full share beside other tests."""


async def trained_and_judged(data: Path) -> tuple[str, object, object]:
    """The server's services train on eight traces; the gate then measures by itself. Its report, decision and comparison."""
    async with open_services(load_settings(data, environ={}), serving=True) as services:
        traces = (
            {"query": f"Why is a {n} gon round?", "finalAnswer": f"Gon {n} a is.", "qualityScore": 9} for n in range(8)
        )
        await services.traces.import_jsonl([json.dumps(trace).encode() for trace in traces])
        run = await services.finetune.start(TAUGHT)
        run = await services.finetune.wait(run.id)
        assert run.status == "completed", run.error_message
        async for event in services.notifications.follow():
            if decisions := await services.gate.decisions(1, run.id):
                break
            assert event.data["kind"] != "benchmark.gate_failed", event.data["detail"]
        (decision,) = decisions
        found = await services.benchmark.compare(decision.base_run_id, decision.run_id)
        assert (await services.lora.get(run.id)).gate == decision.gate
        assert await services.lora.get_active() is None
        return await report_html(services.benchmark, decision.run_id), decision, found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_training_is_followed_by_a_verdict_with_its_interval_and_a_report_that_opens_offline(
    browser, tmp_path: Path, embedded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tmde_core.benchmark.gate.REPEATS", 1)  # a third of the time, and all of the way
    data = tmp_path / "data"
    link_models(data)
    (data / "tmde.toml").write_text(BRIEF)
    with ThreadPoolExecutor() as pool:  # Playwright has this thread's event loop
        html, decision, found = pool.submit(asyncio.run, trained_and_judged(data)).result()
    assert found.quality.low <= found.quality.difference <= found.quality.high
    held_back = found.quality.outcome == "worse"
    assert decision.gate == (
        "held-back" if held_back else "proven" if found.quality.outcome == "better" else "candidate"
    )
    file = tmp_path / "report.html"
    file.write_text(html)
    page, noted = opened(browser, file)
    assert noted == [file.as_uri()]
    assert page.locator("details").count() == 10
    # So little training may change no answer at all: "No difference over 10 questions."
    assert "over 10 questions" in page.locator("h2", has_text="Against the base model").locator("+ p").inner_text()
    page.context.close()
