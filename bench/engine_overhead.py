"""Measures the debate engine's overhead between two model calls.

The overhead is the time from the last item of one call to the arrival of the next call. The model is scripted and
answers at once, so that only the engine's own work is measured: parsing, events, prompts, fitting into the context, and
SQLite on a real file.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from tmde_core.plugins import Plugins
from tmde_core.records.chat import ChatRequest
from tmde_core.records.debate import DebateConfig
from tmde_core.services import open_services
from tmde_core.testing import DEFAULT_SCRIPT, REVISE, ScriptedRuntime, scripted_plugins, scripted_settings

DEBATES = 30
ROUNDS = 5
LIMIT_MS = 5.0


def main() -> str:
    """Run the benchmark and return a Markdown section."""
    gaps = asyncio.run(_measure())
    gaps.sort()
    worst, median, p95 = gaps[-1], statistics.median(gaps), gaps[int(len(gaps) * 0.95)]
    return (
        "Engine overhead between two model calls. "
        f"{DEBATES} debates of {ROUNDS} rounds, answers of 200 words, scripted model, SQLite on disk, {len(gaps)} gaps.\n\n"
        "| median | 95th percentile | worst | limit | within |\n|---|---|---|---|---|\n"
        f"| {median:.2f} ms | {p95:.2f} ms | {worst:.2f} ms | {LIMIT_MS:g} ms | {'yes' if p95 < LIMIT_MS else 'NO'} |\n"
    )


async def _measure() -> list[float]:
    """Return the milliseconds of every gap."""
    gaps: list[float] = []
    ended: list[float] = []

    def on_request(_request: ChatRequest) -> None:
        if ended:
            gaps.append((time.perf_counter() - ended.pop()) * 1000)

    answer = " ".join(f"word{index}." for index in range(200))
    # The context overflows in the later rounds, so that the shortening of rounds is measured too.
    runtime = ScriptedRuntime({**DEFAULT_SCRIPT, "proposer": answer, "skeptic": REVISE}, context=1200)
    runtime.on_request = on_request
    runtime.on_end = lambda: ended.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as directory:
        settings = scripted_settings(Path(directory))
        async with open_services(settings, scripted_plugins(runtime, Plugins.load())) as services:
            for number in range(DEBATES):
                config = DebateConfig(min_rounds=ROUNDS, max_rounds=ROUNDS, max_tokens=250)
                debate = await services.debates.start(f"Explain why question {number} matters.", config)
                ended_debate = await services.debates.wait(debate.id)
                if ended_debate.status != "completed":
                    raise SystemExit(f"The measured debate did not complete: {ended_debate.error_message}")
                ended.clear()
    return gaps


if __name__ == "__main__":
    print(main())
