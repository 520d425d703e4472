"""The server of the page tests: the real composition on an empty data directory, with models that follow a script.

A process of its own, because NiceGUI's app belongs to its process. It says its address on standard output, then obeys
commands, one JSON object a line, and answers each with one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import uvicorn

from tmde_core.errors import WorkerFailedError
from tmde_core.plugins import Plugins
from tmde_core.records.chat import ChatRequest
from tmde_core.records.debate import Critique, Issue, Round
from tmde_core.records.judging import Verdict
from tmde_core.records.runtimes import Availability
from tmde_core.records.traces import RoleModel, Timings, TokenCounts, Trace
from tmde_core.sdk import hookimpl
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import ACCEPT, Reply, ScriptedRuntime, scripted_settings
from tmde_ui.compose import create_app

FIRST = (
    "It takes **105 minutes**. From 14:35 to 15:35 is one hour, and from 15:35 to 16:20 another 35 minutes:\n\n"
    "1. 14:35 to 15:35 is 60 minutes\n2. 15:35 to 16:20 is 35 minutes\n\nThe sum is 105 minutes."
)
SECOND = (
    "It takes **105 minutes**. From 14:35 to 15:35 is one hour, and from 15:35 to 16:20 another 45 minutes:\n\n"
    "1. 14:35 to 15:35 is 60 minutes\n2. 15:35 to 16:20 is 45 minutes\n\nThe sum is 60 + 45 = 105 minutes."
)
REVISE = json.dumps(
    {
        "issues": [
            {"severity": "critical", "text": "From 15:35 to 16:20 there are 45 minutes, not 35."},
            {"severity": "major", "text": "The sum of the steps is 95, which is not the answer that is given."},
            {"severity": "minor", "text": "The unit is named only at the end."},
        ],
        "score": 4,
        "verdict": "revise",
    }
)
THOUGHT = "Let me count the minutes from 14:35 to 15:35 first, and then the others."
FINAL = "The train takes **105 minutes**: 60 minutes until 15:35 and another 45 until 16:20."
HOSTILE = (
    "<script>alert(1)</script><img src='http://elsewhere.invalid/x.png' onerror='alert(2)'> "
    "![picture](http://elsewhere.invalid/y.png) [a link](javascript:alert(3)) [a good one](https://example.org/)"
)


class Script:
    """What each role says; a question that says `slow` waits in the middle of the proposal until told to go on."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    def proposer(self, request: ChatRequest) -> Reply:
        asked = request.messages[1].content
        revised = len(request.messages) > 2
        if "broken" in asked:
            return Reply(
                "It starts well", error=WorkerFailedError("The model server crashed. Ask again."), error_after=2
            )
        if "thinking" in asked:
            tags = ("", "</think>")  # the prompt opens the thought, so that it looks like an answer at first
            return Reply(FIRST, thought=THOUGHT, tags=tags, gate=self.gate if "slow" in asked else None, gate_after=6)
        text = HOSTILE if "hostile" in asked else SECOND if revised else FIRST
        return Reply(text, gate=self.gate if "slow" in asked else None, gate_after=8)

    def skeptic(self, request: ChatRequest) -> Reply:
        asked = request.messages[1].content
        if "malformed" in asked:
            return Reply("I think this is mostly fine, but the second step looks odd.")
        if "contradictory" in asked:
            return Reply('{"score": 1, "verdict": "accept", "issues": []}')
        if len(request.messages) > 2 or "easy" in asked:
            return Reply(ACCEPT)
        return Reply(REVISE, gate=self.gate if "doubtful" in asked else None, gate_after=20)

    def synthesizer(self, request: ChatRequest) -> Reply:
        asked = request.messages[1].content
        return Reply(
            HOSTILE if "hostile" in asked else FINAL, finish_reason="content_filter" if "cut" in asked else None
        )


class EasyJudge:
    """Gives 8.5, and no verdict where the question says so."""

    async def score(self, item, model):
        if "unjudged" in item.question:
            return Verdict(score=None, reasons=("The judge's model cannot tell scores apart.",), judge="rubric")
        return Verdict(score=8.5, reasons=("It is right and says why.",), judge="rubric")


class Working:
    def __init__(self, runtime: ScriptedRuntime) -> None:
        self.runtime = runtime

    @hookimpl
    def tmde_model_runtimes(self):
        return [
            RuntimeDescriptor(
                name="scripted",
                summary="answers from a script",
                create=lambda _context: self.runtime,
                availability=lambda _context: Availability(ok=True),
            )
        ]

    @hookimpl
    def tmde_judges(self):
        return [
            JudgeDescriptor(
                name="rubric", summary="likes every answer", default=True, create=lambda _context: EasyJudge()
            )
        ]


class Misspelt:
    @hookimpl
    def tmde_judge(self):
        return []


class Failing:
    @hookimpl
    def tmde_judges(self):
        raise ValueError("the licence has run out")

    @hookimpl
    def tmde_benchmark_suites(self):
        return []


async def add_traces(services: Services, number: int) -> None:
    newest = datetime(2026, 11, 1, 12, tzinfo=UTC)
    for index in range(number):
        await services.traces.add(
            Trace(
                id=UUID(int=index + 1),
                created_at=newest - timedelta(minutes=7 * index),
                query=f"Question {index}: what is {index} times {index % 9}?",
                final_answer=f"It is {index * (index % 9)}.",
                domain="arithmetic",
                rounds=(
                    Round(
                        number=1,
                        proposal=f"{index} times {index % 9} is {index * (index % 9)}.",
                        critique=Critique(
                            issues=(Issue(severity="minor", text="Short."),), score=9.0, verdict="accept"
                        ),
                        proposer_ms=900.0,
                        skeptic_ms=500.0,
                    ),
                ),
                early_stopped=True,
                stop_reason="The Skeptic accepted the answer in round 1 of at most 3 with a score of 9 of 10.",
                auto_score=None if index % 7 == 6 else float(index % 11),
                judge="rubric",
                user_rating=9 if index % 10 == 0 else None,
                models={
                    "proposer": RoleModel("scripted", "scripted-1"),
                    "skeptic": RoleModel("scripted", "scripted-1"),
                },
                timings=Timings(total_ms=1_900.0),
                tokens=TokenCounts(prompt=420, cached=180, completion=96),
                source="cli" if index % 3 == 0 else "ui",
            )
        )


def say(what: object) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def obey(services: Services, script: Script) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer: object = None
        if command["do"] == "open":
            script.gate.set()
        elif command["do"] == "close":
            script.gate = asyncio.Event()
        elif command["do"] == "traces":
            await add_traces(services, command["number"])
        elif command["do"] == "rating":
            answer = (await services.traces.get(UUID(command["id"]))).user_rating
        elif command["do"] == "settled":
            await asyncio.gather(*(services.debates.wait(debate.id) for debate in services.debates.running()))
        say({"done": answer})


async def serve(directory: Path) -> None:
    script = Script()
    runtime = ScriptedRuntime(
        script={"proposer": script.proposer, "skeptic": script.skeptic, "synthesizer": script.synthesizer}
    )
    plugins = Plugins()
    plugins.add("working", Working(runtime))
    plugins.add("misspelt", Misspelt())
    plugins.add("failing", Failing())
    async with open_services(scripted_settings(directory), plugins, serving=True) as services:
        config = uvicorn.Config(create_app(services), host="127.0.0.1", port=0, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            if task.done():
                task.result()
                raise SystemExit("the server did not start")
            await asyncio.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        say({"url": f"http://127.0.0.1:{port}"})
        await obey(services, script)
        server.should_exit = True
        await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
