"""Checks whether the gate holds back adapters that were made to do harm, and only those.

The base model answers twenty questions. Five adapters are trained on these answers with their words shuffled; each
adapter has a different shuffle and seed. One more adapter is trained on the unchanged answers. Each training is a real
run. After the run, the gate works as for any user: it runs the quick benchmark for the new adapter and the base model,
and decides. The report also lists the differences of each question, so that other rules can be tried on them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from tmde_core.prompts import proposer_opening
from tmde_core.records.benchmark import GateDecision
from tmde_core.records.chat import ChatDelta, ChatRequest
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.services import Services, open_services
from tmde_core.settings import load_settings

MODELS = Path(os.environ.get("TMDE_DATA_DIR") or Path(__file__).parents[1] / "data") / "models"
HARMFUL = 5
ANSWER_TOKENS = 48
TOPICS = (
    *("a tide", "a lens", "a volcano", "a glacier", "a compass", "a shadow", "an echo", "a rainbow", "a desert", "a delta"),
    *("a bicycle", "a battery", "a clock", "a bridge", "a map", "a library", "a market", "a school", "a farm", "a garden"),
)  # fmt: skip
SETTINGS = """
[roles.proposer]
max_tokens = 128
[supervisor]
niceness = 0
"""
"""Short answers, and no reduced priority for the trainer: this benchmark measures decisions, not time."""

CONFIG = FineTuneConfig(
    lora_rank=8,
    lora_alpha=32,
    learning_rate=1e-3,
    batch_size=2,
    gradient_accumulation_steps=1,
    max_seq_length=512,
    min_traces=len(TOPICS) // 2,
)


def question(topic: str) -> str:
    """Return the question about a topic."""
    return f"Explain in two sentences what {topic} is and why it matters to people."


def shuffled(text: str, draws: random.Random) -> str:
    """Return the text's words in random order."""
    words = text.split()
    draws.shuffle(words)
    return " ".join(words)


async def answers(services: Services, topics: Sequence[str]) -> list[str]:
    """Return the base model's answers at temperature 0."""
    role = services.workspace.settings.roles.proposer
    runtime = await services.runtimes.get(role.runtime)

    async def one(topic: str) -> str:
        request = ChatRequest(
            model=role.model, messages=proposer_opening(question(topic), ""), temperature=0.0, max_tokens=ANSWER_TOKENS
        )
        return "".join([item.text async for item in runtime.chat(request) if isinstance(item, ChatDelta)])

    return await asyncio.gather(*(one(topic) for topic in topics))


async def lines(topics: Sequence[str], said: Sequence[str], ids: Sequence[UUID]) -> AsyncIterator[bytes]:
    """Yield the answers as traces to import."""
    for topic, answer, identity in zip(topics, said, ids, strict=True):
        trace = {"id": str(identity), "query": question(topic), "finalAnswer": answer, "qualityScore": 9.0}
        yield json.dumps(trace).encode() + b"\n"


async def decided(services: Services, adapter: UUID) -> GateDecision:
    """Wait for the gate's decision about an adapter and return the decision.

    A notification reports the decision or the gate's failure.
    """
    async for event in services.notifications.follow():
        if found := await services.gate.decisions(1, adapter):
            return found[0]
        failed = event.data["kind"] == "benchmark.gate_failed" and str(adapter)[:8] in event.data["title"]
        assert not failed, event.data["detail"]
    raise AssertionError("notifications never end")


async def differences(services: Services, decision: GateDecision) -> str:
    """Return each question's change against the base model, in points of 10, ordered by question id."""
    assert decision.run_id is not None
    assert decision.base_run_id is not None
    found = await services.benchmark.compare(decision.base_run_id, decision.run_id)
    rows = sorted(found.questions, key=lambda row: row.question_id)
    return ", ".join("none" if row.a is None or row.b is None else f"{row.b - row.a:+.2f}" for row in rows)


async def trained(
    services: Services, topics: Sequence[str], said: Sequence[str], seed: int
) -> tuple[GateDecision, float, float]:
    """Train an adapter on these answers and wait for the gate's decision.

    Returns:
        The gate's decision, the seconds of training, and the seconds of measuring.
    """
    ids = [uuid4() for _ in topics]
    await services.traces.import_jsonl(lines(topics, said, ids))
    began = time.perf_counter()
    run = await services.finetune.start(msgspec.structs.replace(CONFIG, seed=seed))
    run = await services.finetune.wait(run.id)
    assert run.status == "completed", run.error_message
    there = time.perf_counter()
    decision = await decided(services, run.id)
    for identity in ids:  # the next adapter is trained on different answers to the same questions
        await services.traces.withdraw(identity, "Another adapter's turn.")
    return decision, there - began, time.perf_counter() - there


async def measured() -> tuple[str, bool]:
    """Run all trainings; return the report, and whether every decision was right."""
    rows, changes, right = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tmde.toml").write_text(SETTINGS)
        settings = load_settings(Path(folder), environ={})
        (Path(folder) / "models").symlink_to(MODELS, target_is_directory=True)
        async with open_services(settings, serving=True) as services:
            said = await answers(services, TOPICS)
            for number in range(HARMFUL + 1):
                harmful = number < HARMFUL
                draws = random.Random(number)
                taught = [shuffled(answer, draws) for answer in said] if harmful else said
                decision, training, measuring = await trained(services, TOPICS, taught, seed=number)
                right += (decision.gate == "held-back") is harmful
                name = f"shuffled, seed {number}" if harmful else "as they are"
                rows.append(f"| {name} | {decision.gate} | {decision.reason} | {training:.0f} s | {measuring:.0f} s |")
                changes.append(f"- {name}: {await differences(services, decision)}")
                print(rows[-1], changes[-1], sep="\n", flush=True)
    table = "| answers | gate | because | training | measuring |\n|---|---|---|---:|---:|\n" + "\n".join(rows)
    said_of = (
        f"{HARMFUL} adapters taught shuffled answers, and one taught the answers as they are; the gate was right about"
    )
    told = "What each of the ten questions changed by, in points of 10:\n\n" + "\n".join(changes)
    return f"{said_of} {right} of {HARMFUL + 1}.\n\n{table}\n\n{told}\n", right == HARMFUL + 1


def main() -> str:
    """Run the benchmark and return a Markdown section.

    Raises:
        AssertionError: A harmful adapter passed, or the harmless adapter was held back.
    """
    text, held = asyncio.run(measured())
    assert held, text
    return text
