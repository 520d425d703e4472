"""The server of the benchmark page's tests: the real composition, questions and checks, with a model that follows a script.

`python -m tests.tmde_ui.benchmark.server DATA_DIR [PORT [few]]`, with `few` thirty questions that are quickly checked instead of the shipped ones; see `scripted_server.py` for how it is given commands.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import structlog
import uvicorn
from nicegui import Client, app

import tmde_bench_default.plugin
from tests.tmde_ui.scripted_server import HOSTILE, say
from tmde_core.benchmark.results.metrics import tmde_score
from tmde_core.benchmark.service import comparable_hash
from tmde_core.plugins import Plugins
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import (
    BenchmarkMetrics,
    BenchmarkPlan,
    BenchmarkRun,
    DomainMetrics,
    GateDecision,
    Interval,
    MetricIntervals,
)
from tmde_core.records.chat import ChatRequest
from tmde_core.records.judging import Criterion, RegexCheck
from tmde_core.records.lora import Manifest
from tmde_core.records.questions import Question
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import (
    ACCEPT,
    DEFAULT_SCRIPT,
    Reply,
    ScriptedRuntime,
    scripted_plugins,
    scripted_settings,
)
from tmde_ui.compose import create_app

DOMAINS = ("mathematics", "coding", "science", "reasoning", "creative")
QUICK = 10
FEW = tuple(
    Question(
        id=f"few-{number:02}",
        query=f"Which word belongs to the number {number}?",
        domain=DOMAINS[number % len(DOMAINS)],
        reference=f"word-{number}",
        criteria=(Criterion(name="right", check=RegexCheck(pattern=f"word-{number}\\b")),),
    )
    for number in range(30)
)

NEWEST = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Model:
    """Knows the reference answers of a share of the questions, by adapter, and can be held up."""

    def __init__(self) -> None:
        self.answers = {
            one.query: one.reference or ""
            for suite in tmde_bench_default.plugin.tmde_benchmark_suites()
            for one in suite.questions()
        } | {one.query: one.reference or "" for one in FEW}
        self.knows: dict[str, float] = {"": 0.6}
        self.deep: set[str] = set()
        """Adapters that know every question that a quick run does not ask."""
        self.gates: list[asyncio.Event] = []
        """Of the requests that wait."""
        self.free = 10**9
        """So many requests are answered before the others wait."""
        self.hostile = False

    def hold(self, after: int) -> None:
        self.free = after

    def more(self, number: int) -> None:
        """Let so many of the waiting requests go on."""
        for gate in self.gates[:number]:
            gate.set()
        del self.gates[:number]

    def open(self) -> None:
        self.free = 10**9
        self.more(len(self.gates))

    def __call__(self, request: ChatRequest) -> Reply:
        text = " ".join(message.content for message in request.messages)
        number, query = next(((n, q) for n, q in enumerate(self.answers) if q in text), (0, ""))
        whose = request.adapter.id if request.adapter else ""
        share = self.knows.get(whose, 0.6)
        hidden = whose in self.deep and query in self.answers and query not in {one.query for one in FEW[:QUICK]}
        right = bool(query) and (hidden or (number * 0.618_034) % 1 < share)
        answer = self.answers[query] if right else f"I cannot tell, but {number} comes to my mind."
        if self.hostile:
            answer = f"{HOSTILE} {answer}"
        self.free -= 1
        if self.free >= 0:
            return Reply(answer)
        self.gates.append(asyncio.Event())
        return Reply(answer, gate=self.gates[-1])


async def past_runs(services: Services, number: int, mode: str = "proposer", adapter: str | None = None) -> None:
    """Completed runs of earlier days, six hours apart, without their answers."""
    for index in range(number):
        quality = 5 + 2 * math.sin(index / 40) + 0.6 * math.sin(index * 1.7)
        spread = 0.8 + 0.4 * math.sin(index / 9)
        found = Interval(mean=quality, low=quality - spread, high=quality + spread, n=10)
        plain = Interval(mean=900.0 + index % 50, n=10)
        metrics = BenchmarkMetrics(
            tmde_score=tmde_score(quality, 0.9), avg_quality_score=found.mean,
            avg_response_time_ms=plain.mean, avg_tokens_per_second=plain.mean, avg_debate_rounds=plain.mean,
            early_termination_rate=plain.mean, domain_scores={},
            intervals=MetricIntervals(found, plain, plain, plain, plain), questions=10, efficiency=0.9,
            domains=tuple(DomainMetrics(domain=domain, quality=found) for domain in DOMAINS),
        )  # fmt: skip
        at = NEWEST - timedelta(hours=6 * (number - index))
        run = BenchmarkRun(
            id=uuid4(), type="quick", mode=mode, suite="tmde-50", status="completed", started_at=at,
            completed_at=at + timedelta(minutes=3), metrics=metrics, question_count=10, completed_questions=10,
            answer_count=10, completed_answers=10,
            adapter_id=UUID(adapter) if adapter else None, judge="auto",
        )  # fmt: skip
        await services.stores.benchmark.insert(msgspec.structs.replace(run), [], comparable_hash(run))
        await services.stores.benchmark.update(run)


def publish_adapter(directory: Path) -> str:
    """A small adapter for the scripted model."""
    identity, home = uuid4(), directory / "lora-adapters"
    staging = staging_directory(home, identity)
    staging.mkdir(parents=True)
    (staging / "adapter_model.safetensors").write_bytes(identity.bytes * 64)
    (staging / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')
    (staging / "adapter.gguf").write_bytes(b"GGUF" + identity.bytes)
    publish(staging, home, Manifest(id=identity, created_at=utc_now(), base_model="scripted-1"))
    return str(identity)


Command = Callable[..., Awaitable[object]]


def commands(services: Services, model: Model, directory: Path) -> dict[str, Command]:
    async def hold(after: int) -> None:
        model.hold(after)

    async def more(number: int) -> None:
        model.more(number)

    async def go_on() -> None:
        model.open()

    async def settled() -> object:
        run = services.benchmark.get_running()
        return (await services.benchmark.wait(run.id)).status if run else None

    async def start(**plan: object) -> str:
        if (
            left := services.benchmark.get_running()
        ) is not None:  # by a test that failed: the others must not fail with it
            model.open()
            await services.benchmark.cancel(left.id)
            await services.benchmark.wait(left.id)
        wanted = msgspec.convert({"type": "quick", "mode": "proposer", **plan}, BenchmarkPlan)
        return str((await services.benchmark.start(wanted, triggered_by="manual")).id)

    async def run(**plan: object) -> str:
        identity = await start(**plan)
        await services.benchmark.wait(UUID(identity))
        return identity

    async def adapter(knows: float, deep: bool = False) -> str:
        identity = publish_adapter(directory)
        model.knows[identity] = knows
        model.deep |= {identity} if deep else set()
        return identity

    async def judge(adapter: str) -> str:
        decision: GateDecision = await services.gate.evaluate(UUID(adapter))
        return decision.gate

    async def activate(adapter: str) -> None:
        await services.lora.activate(UUID(adapter))

    async def past(number: int, mode: str = "proposer", adapter: str | None = None) -> None:
        await past_runs(services, number, mode, adapter)

    async def forget(after: float) -> None:
        app.config.reconnect_timeout = after

    async def alone() -> None:
        """Everybody has closed their pages, those included that had not been drawn yet."""
        while Client.instances:
            Client.prune_instances(client_age_threshold=0)
            await asyncio.sleep(0.02)

    held: list[str] = []
    go = asyncio.Event()

    async def hold_up(method: str) -> None:
        """Let a method of the service wait for `let_go`."""
        held_up = getattr(services.benchmark, method)

        async def wait(*args: object, **options: object) -> object:
            held.append(method)
            await go.wait()
            return await held_up(*args, **options)

        held.clear()
        go.clear()
        setattr(services.benchmark, method, wait)

    async def waiting(number: int) -> None:
        while len(held) < number:
            await asyncio.sleep(0.02)

    async def let_go() -> None:
        for method in set(held):
            delattr(services.benchmark, method)
        go.set()
        await asyncio.sleep(0.5)  # nothing tells that nothing follows

    async def hostile(on: bool) -> None:
        model.hostile = on

    return {
        "hold": hold, "more": more, "open": go_on, "settled": settled, "start": start, "run": run, "adapter": adapter, "judge": judge,
        "activate": activate, "past": past, "hostile": hostile,
        "forget": forget, "alone": alone, "hold-up": hold_up, "waiting": waiting, "let-go": let_go,
    }  # fmt: skip


async def obey(known: dict[str, Command]) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        say({"done": await known[command.pop("do")](**command)})


async def serve(directory: Path, port: int, few: bool) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for answers
    model = Model()
    script = {"proposer": model, "skeptic": ACCEPT, "synthesizer": model, "judge": DEFAULT_SCRIPT["judge"]}
    plugins = scripted_plugins(ScriptedRuntime(script=script), Plugins())
    plugins.add("tmde-bench-default", tmde_bench_default.plugin)
    if few:
        suite = SuiteDescriptor(name="few", summary="thirty words", questions=lambda: FEW, default=True)
        plugins.suites.add(suite, "tests")
    async with open_services(scripted_settings(directory), plugins, serving=True) as services:
        config = uvicorn.Config(
            create_app(services), host="127.0.0.1", port=port, log_level="warning", access_log=False
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            if task.done():
                task.result()
                raise SystemExit("the server did not start")
            await asyncio.sleep(0.02)
        say({"url": f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"})
        await obey(commands(services, model, directory))
        server.should_exit = True
        await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, "few" in sys.argv))
