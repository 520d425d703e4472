"""Does the gate hold back adapters that were made to do harm, and only those?

The base model answers sixty questions. Five adapters are trained on those answers with their words shuffled, each with another
shuffle and another seed; one is trained on the answers as they are. Each training is a real run, after which the gate does what it
does for any user: the quick benchmark by itself, for the new adapter and the base model, and a decision.
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
from uuid import UUID

import msgspec

from tmde_core.benchmark.records import GateDecision
from tmde_core.debate.prompts import proposer_opening
from tmde_core.finetune.records import FineTuneConfig
from tmde_core.ports import ChatDelta, ChatRequest
from tmde_core.services import Services, open_services
from tmde_core.settings import load_settings

MODELS = Path(os.environ.get("TMDE_DATA_DIR") or Path(__file__).parents[1] / "data") / "models"
HARMFUL = 5
ANSWER_TOKENS = 64
TOPICS = (
    *(
        "a tide",
        "a lens",
        "a volcano",
        "a glacier",
        "a compass",
        "a shadow",
        "an echo",
        "a rainbow",
        "a desert",
        "a river delta",
    ),
    *(
        "a bicycle",
        "a battery",
        "a thermometer",
        "a lighthouse",
        "a windmill",
        "a bridge",
        "a clock",
        "a map",
        "a lock",
        "a key",
    ),
    *(
        "a library",
        "a market",
        "a school",
        "a hospital",
        "a museum",
        "a harbour",
        "a farm",
        "a bakery",
        "a theatre",
        "a garden",
    ),
    *("bread", "cheese", "salt", "sugar", "tea", "rice", "honey", "soap", "glass", "paper"),
    *(
        "a proverb",
        "a poem",
        "a letter",
        "a diary",
        "a contract",
        "a recipe",
        "a calendar",
        "a dictionary",
        "a song",
        "a game",
    ),
    *("a fox", "a whale", "a bee", "an owl", "a spider", "a horse", "a snail", "an oak", "a mushroom", "a fern"),
)
CONFIG = FineTuneConfig(
    lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=8, gradient_accumulation_steps=1, max_seq_length=512
)


def question(topic: str) -> str:
    """What is asked about a topic."""
    return f"Explain in two sentences what {topic} is and why it matters to people."


def shuffled(text: str, draws: random.Random) -> str:
    """The same words in another order."""
    words = text.split()
    draws.shuffle(words)
    return " ".join(words)


async def answers(services: Services, topics: Sequence[str]) -> list[str]:
    """What the base model says, greedily."""
    role = services.settings.roles.proposer
    runtime = await services.runtimes.get(role.runtime)

    async def one(topic: str) -> str:
        request = ChatRequest(
            model=role.model, messages=proposer_opening(question(topic), ""), temperature=0.0, max_tokens=ANSWER_TOKENS
        )
        return "".join([item.text async for item in runtime.chat(request) if isinstance(item, ChatDelta)])

    return await asyncio.gather(*(one(topic) for topic in topics))


async def lines(topics: Sequence[str], said: Sequence[str]) -> AsyncIterator[bytes]:
    """The answers as traces to import."""
    for topic, answer in zip(topics, said, strict=True):
        yield json.dumps({"query": question(topic), "finalAnswer": answer, "qualityScore": 9.0}).encode() + b"\n"


async def decided(services: Services, adapter: UUID) -> GateDecision:
    """The gate's decision about an adapter, when it has fallen; the gate tells of it, or of its failure."""
    async for event in services.notifications.follow():
        if str(event.data["kind"]).startswith("benchmark."):
            break
    return (await services.gate.decisions(1, adapter))[0]


async def trained(
    services: Services, topics: Sequence[str], said: Sequence[str], seed: int
) -> tuple[GateDecision, float, float]:
    """Train on these answers and wait for the gate: its decision, seconds of training, seconds of measuring."""
    await services.traces.import_jsonl(lines(topics, said))
    began = time.perf_counter()
    run = await services.finetune.start(msgspec.structs.replace(CONFIG, seed=seed))
    run = await services.finetune.wait(run.id)
    assert run.status == "completed", run.error_message
    there = time.perf_counter()
    decision = await decided(services, run.id)
    return decision, there - began, time.perf_counter() - there


async def measured() -> str:
    """The table."""
    rows, held_back = [], 0
    said: list[str] = []
    for number in range(HARMFUL + 1):
        with tempfile.TemporaryDirectory() as folder:
            settings = load_settings(Path(folder), environ={})
            (Path(folder) / "models").symlink_to(MODELS, target_is_directory=True)
            async with open_services(settings, serving=True) as services:
                said = said or await answers(services, TOPICS)
                harmful = number < HARMFUL
                draws = random.Random(number)
                taught = [shuffled(answer, draws) for answer in said] if harmful else said
                decision, training, measuring = await trained(services, TOPICS, taught, seed=number)
                held_back += harmful and decision.gate == "held-back"
                name = f"shuffled, seed {number}" if harmful else "as they are"
                rows.append(f"| {name} | {decision.gate} | {decision.reason} | {training:.0f} s | {measuring:.0f} s |")
                print(rows[-1], flush=True)
    table = "| answers | gate | because | training | measuring |\n|---|---|---|---:|---:|\n" + "\n".join(rows)
    return f"{held_back} of {HARMFUL} harmful adapters were held back.\n\n{table}\n"


def main() -> str:
    """Measure, and tell it as Markdown."""
    return asyncio.run(measured())
