"""Plugins that each break one rule, and what their author must be told.

`python broken.py` runs the contracts against all of them and prints, as JSON, the sentences for each case: one process for
all, because the contracts bring pytest with them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from tmde_core.sdk import hookimpl
from tmde_core.sdk.errors import (
    AdapterInvalidError,
    ContextOverflowError,
    InvalidInputError,
    NotFoundError,
    WorkerFailedError,
)
from tmde_core.sdk.judges import (
    ChoiceCheck,
    Criterion,
    FactsCheck,
    JudgeDescriptor,
    JudgeItem,
    NumberCheck,
    RegexCheck,
    Verdict,
)
from tmde_core.sdk.registries import RegistryDescriptor
from tmde_core.sdk.runtimes import (
    Availability,
    ChatDelta,
    ChatEnd,
    ChatRequest,
    ModelInfo,
    RuntimeCapabilities,
    RuntimeDescriptor,
    RuntimeStatus,
)
from tmde_core.sdk.suites import JudgeAnchor, Question, SuiteDescriptor
from tmde_core.sdk.training import BackendDescriptor, ResourceEstimate, TrainingJob, WorkerCommand

WORKER = Path(__file__).with_name("broken_worker.py")


class Case(NamedTuple):
    """One broken plugin."""

    hook: str
    descriptor: Any
    words: str
    """Stand in the sentence; empty: nothing is wrong."""
    only: str = ""
    """For `pytest -k`, where the other rules would take long."""


def plugin(case: Case) -> SimpleNamespace:
    def offer() -> list[Any]:
        return [case.descriptor]

    offer.__name__ = case.hook
    return SimpleNamespace(**{case.hook: hookimpl(offer)})


# --------------------------------------------------------------------------------------------- judges


def judge(words: str, score: Callable[..., Any], *, also: dict[str, Any] | None = None, **promises: Any) -> Case:
    """A judge whose `score` is a function of item and model."""

    async def ask(_self: object, item: JudgeItem, model: Any) -> Any:
        found = score(item, model)
        return await found if asyncio.iscoroutine(found) else found

    made = type("MyJudge", (), {"score": ask, **(also or {})})
    descriptor = JudgeDescriptor(name="mine", summary="mine", create=lambda _: made(), **promises)
    return Case("tmde_judges", descriptor, words)


def said(score: float | None, **more: Any) -> Verdict:
    return Verdict(score=score, reasons=("Because.",), **more)


async def asked(model: Any) -> str:
    from tmde_core.sdk.runtimes import Message

    messages = [Message(role="user", content="?")]
    return "".join([item.text async for item in model.chat(messages, max_tokens=1) if isinstance(item, ChatDelta)])


async def graded(model: Any, otherwise: float | None = None) -> Verdict:
    if model is None:
        return said(otherwise)
    text = await asked(model)
    return said(float(text) if text.isdigit() and float(text) <= 10 else None)


async def graded_all_the_same(model: Any) -> Verdict:
    try:
        return await graded(model)
    except WorkerFailedError:
        return said(0)


async def confused(model: Any) -> Verdict:
    try:
        return await graded(model)
    except WorkerFailedError:
        return said({}["grade"])


async def trusting(model: Any) -> Verdict:
    return said(None) if model is None else said(min(10, float(await asked(model))))


def checked(item: JudgeItem) -> Verdict:
    if item.criteria:
        return said(10, criteria={one.name: 10.0 for one in item.criteria if one.check is not None})
    return said(10 if item.answer == item.reference else 0)


counter = itertools.count()


def no_score() -> Case:
    descriptor = JudgeDescriptor(name="mine", summary="mine", create=lambda _: object())
    return Case("tmde_judges", descriptor, "without a function `score`")


def plain_score() -> Case:
    made = type("MyJudge", (), {"score": lambda _self, _item, _model: said(5)})
    return Case("tmde_judges", JudgeDescriptor(name="m", summary="m", create=lambda _: made()), "is a plain function")


def failing_create(hook: str, descriptor: type, **more: Any) -> Case:
    def create(_: object) -> Any:
        raise ConnectionError("nobody answers")

    return Case(
        hook, descriptor(name="m", summary="m", create=create, **more), "create raised ConnectionError: nobody answers"
    )


JUDGES = {
    "good": judge("", lambda item, _: said(max(0.0, 10 - len(item.answer) / 100))),
    "no verdict on anything": judge("", lambda _, __: said(None)),
    "no score": no_score(),
    "a plain function": plain_score(),
    "a bare number": judge("returned a float", lambda _, __: 5.0),
    "above the scale": judge("The score 11 is not between 0 and 10", lambda _, __: said(11)),
    "not a number": judge("The score nan is not between", lambda _, __: said(float("nan"))),
    "a criterion above the scale": judge("The criterion 'clear' got 50", lambda _, __: said(5, criteria={"clear": 50})),
    "no reason": judge("(score 5) has no reason", lambda _, __: Verdict(score=5)),
    "no reason for no verdict": judge("(no score) has no reason", lambda _, __: Verdict(score=None)),
    "a text as reasons": judge("has no reason", lambda _, __: Verdict(score=5, reasons="because")),  # type: ignore[arg-type]
    "it remembers": judge("The same answer got", lambda _, __: said(next(counter) % 10)),
    "afraid of nothing": judge("score() raised IndexError", lambda item, _: said(5 if item.answer[0] else 6)),
    "it exits": judge("score() raised SystemExit", lambda _, __: sys.exit(3)),
    "it hangs": judge("score() has not ended after", lambda _, __: asyncio.sleep(600))._replace(only="twice"),
    "a model is not needed after all": judge("raised AttributeError", lambda _, model: graded(model.here)),
    "grades by model": judge("", lambda _, model: graded(model), needs_model=True),
    "grades without its model": judge("Without a model score() gave 5", lambda _, m: graded(m, 5), needs_model=True),
    "a failure as 0": judge(
        "The model failed, and score() gave 0", lambda _, m: graded_all_the_same(m), needs_model=True
    ),
    "a failure as its own": judge("TMDE cannot tell this from", lambda _, model: confused(model), needs_model=True),
    "trusts the model": judge("score() raised ValueError", lambda _, model: trusting(model), needs_model=True),
    "checks": judge("", lambda item, _: checked(item), checks=True),
    "checks nothing": judge(
        'answer "42" to a question with the reference 42 got 5', lambda _, __: said(5), checks=True
    ),
    "checks no criteria": judge(
        "Of the criteria `right`", lambda item, _: said(10 if item.answer == "42" else 0), checks=True
    ),
    "sees problems everywhere": judge(
        "complains about a sound check", lambda _, __: said(5), also={"problems": lambda _, __: ["I do not like it."]}
    ),
    "sees no problem": judge("finds nothing wrong with", lambda _, __: said(5), also={"problems": lambda _, __: []}),
    "problems that raise": judge(
        "problems() raised", lambda _, __: said(5), also={"problems": lambda _, one: one.nothing}
    ),
    "create fails": failing_create("tmde_judges", JudgeDescriptor),
}

# --------------------------------------------------------------------------------------------- suites


def asks(number: int, **changes: Any) -> Question:
    fields = {
        "id": f"q-{number}",
        "query": f"What is {number} times 2?",
        "reference": str(2 * number),
        "domain": "mathematics",
        "criteria": (Criterion(name="number", check=NumberCheck(value=2 * number)),),
    }
    return Question(**(fields | changes))


def suite(words: str, *questions: Any, load: Callable[[], Any] | None = None, **more: Any) -> Case:
    descriptor = SuiteDescriptor(name="mine", summary="mine", questions=load or (lambda: list(questions)), **more)
    return Case("tmde_benchmark_suites", descriptor, words)


def anchor(grade: float) -> JudgeAnchor:
    return JudgeAnchor(item=JudgeItem(question="?", answer="!"), grade=grade)


SUITES = {
    "good": suite("", asks(1), asks(2), quick=("q-1",), anchors=lambda: [anchor(0), anchor(10)]),
    "empty": suite("questions() returns nothing"),
    "it raises": suite("questions() raised KeyError", load=lambda: {}["questions"]),
    "no questions": suite("questions() returns a dict", {"id": "q-1"}),
    "shuffled": suite("returned other questions", load=lambda: [asks(next(counter))]),
    "an id twice": suite("Several questions have the id 'q-1'", asks(1), asks(1)),
    "an unknown domain": suite("q-1: domain: 'cooking' is not one of", asks(1, domain="cooking")),
    "an unknown quick question": suite("quick names 'q-9'", asks(1), quick=("q-9",)),
    "a quick question twice": suite("quick names 'q-1' more than once", asks(1), quick=("q-1", "q-1")),
    "a pattern that is none": suite(
        "q-1: criteria[0].check: the pattern is no regular", asks(1, criteria=(Criterion("n", check=RegexCheck("(")),))
    ),
    "a check that cannot work": suite(
        "q-1, n: ",
        asks(1, criteria=(Criterion("n", check=FactsCheck(facts=(("",),))), Criterion("m", description="d"))),
    ),
    "an answer that is no option": suite(
        "the answer 'C' is none of the options", asks(1, criteria=(Criterion("n", check=ChoiceCheck("C", ("A", "B"))),))
    ),
    "a wrong reference": suite("q-1 (the criterion 'number')", asks(1, reference="It is 3.")),
    "a wrong simple reference": suite("q-1 (", asks(1, criteria=(), check="regex", reference=r"\d+ apples")),
    "an anchor beyond the scale": suite("An anchor is graded 11", asks(1), anchors=lambda: [anchor(11)]),
    "an anchor that is none": suite("anchors() returns a int", asks(1), anchors=lambda: [5]),
}

REGISTRIES = {
    "good": Case("tmde_registries", RegistryDescriptor(name="m", summary="m", create=lambda _: object()), ""),
    "nothing": Case(
        "tmde_registries", RegistryDescriptor(name="m", summary="m", create=lambda _: None), "create returned None"
    ),
    "create fails": failing_create("tmde_registries", RegistryDescriptor),
}

# ------------------------------------------------------------------------------------------- runtimes


class Echo:
    """A good runtime, of which each case spoils something."""

    capabilities = RuntimeCapabilities(token_counts=True)
    context = 512

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def refuse(self, request: ChatRequest, prompt: list[str]) -> None:
        if request.adapter is not None:
            raise AdapterInvalidError("It has no adapters.")
        if request.model not in ("", "echo"):
            raise NotFoundError("It has no such model.")
        if len(prompt) >= self.context:
            raise ContextOverflowError("It does not fit.", limit=self.context)

    async def chat(self, request: ChatRequest) -> AsyncIterator[Any]:
        prompt = request.messages[-1].content.split()
        self.refuse(request, prompt)
        for word in prompt[: request.max_tokens]:
            await asyncio.sleep(0)
            yield ChatDelta(text=word + " ")
        yield self.end(prompt, request)

    def end(self, prompt: list[str], request: ChatRequest) -> ChatEnd:
        return ChatEnd(
            finish_reason="length" if len(prompt) > request.max_tokens else "stop",
            prompt_tokens=len(prompt),
            completion_tokens=min(len(prompt), request.max_tokens),
            model="echo",
        )

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo(name="echo", runtime="echo", context_length=self.context, default=True)]

    async def count_tokens(self, texts: list[str], model: str = "") -> list[int] | None:
        return [len(text.split()) for text in texts]

    async def context_length(self, model: str = "") -> int:
        return self.context

    async def load_adapter(self, adapter: Any, model: str = "") -> None:
        raise AdapterInvalidError("It has no adapters.")

    async def unload_adapter(self, adapter_id: str) -> None: ...

    async def status(self) -> RuntimeStatus:
        return RuntimeStatus(state="ready")


def runtime(words: str, *, available: Callable[[], Any] = lambda: Availability(ok=True), **spoilt: Any) -> Case:
    made = type("MyRuntime", (Echo,), spoilt)
    descriptor = RuntimeDescriptor(
        name="mine", summary="mine", create=lambda _: made(), availability=lambda _: available()
    )
    return Case("tmde_model_runtimes", descriptor, words)


def chatting(*items: Any) -> Callable[..., Any]:
    async def chat(self: Echo, request: ChatRequest) -> AsyncIterator[Any]:
        self.refuse(request, request.messages[-1].content.split())
        for item in items:
            yield item(self, request) if callable(item) else item

    return chat


def returning(value: Any) -> Callable[..., Any]:
    async def answer(*_: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return answer


def the_end(self: Echo, request: ChatRequest) -> ChatEnd:
    return self.end(["w"] * 3, request)


async def talkative(self: Echo, request: ChatRequest) -> AsyncIterator[Any]:
    async for item in Echo.chat(
        self, ChatRequest(model=request.model, messages=request.messages, adapter=request.adapter)
    ):
        yield item


async def whatever(self: Echo, request: ChatRequest) -> AsyncIterator[Any]:
    yield ChatDelta(text=f"{next(counter)}")
    yield the_end(self, request)


async def undying(self: Echo, request: ChatRequest) -> AsyncIterator[Any]:
    self.refuse(request, request.messages[-1].content.split())
    try:
        yield ChatDelta(text="w ")
        yield the_end(self, request)
    except (asyncio.CancelledError, GeneratorExit):
        raise ValueError("never") from None


def unable(**names: bool) -> RuntimeCapabilities:
    return RuntimeCapabilities(token_counts=True, **names)


RUNTIMES = {
    "good": runtime(""),
    "not there": runtime("", available=lambda: Availability(ok=False, reason="No server is there.")),
    "not there for no reason": runtime("gives no reason", available=lambda: Availability(ok=False)),
    "availability as a bool": runtime("availability() returned a bool", available=lambda: True),
    "availability that raises": runtime("availability() raised ZeroDivisionError", available=lambda: 1 / 0),
    "it does not start": runtime("start() raised WorkerFailedError", start=returning(WorkerFailedError("No."))),
    "it does not stop": runtime("stop() raised OSError", stop=returning(OSError("No."))),
    "no status": runtime("has no status", status=property(lambda _: (_ for _ in ()).throw(AttributeError))),
    "not ready": runtime("After a second start() the state is", status=returning(RuntimeStatus(state="stopped"))),
    "nothing": runtime("chat() ended without any item", chat=chatting()),
    "no end": runtime("The last item of chat() is a ChatDelta", chat=chatting(ChatDelta(text="w"))),
    "two ends": runtime("yields a ChatEnd before the end", chat=chatting(the_end, the_end)),
    "no text": runtime("The answer to a short question is empty", chat=chatting(the_end)),
    "no counts": runtime(
        "The ChatEnd counts 0 tokens", chat=chatting(ChatDelta(text="w"), ChatEnd(finish_reason="stop"))
    ),
    "no limit": runtime("With max_tokens=2 the answer has", chat=talkative),
    "no default": runtime("models() marks 0 models as the default", models=returning([])),
    "any model": runtime('The request for the model "no-such-model" succeeded', refuse=lambda *_: None),
    "any adapter": runtime(
        "load_adapter() of an adapter whose directory does not exist succeeded", load_adapter=returning(None)
    ),
    "adapter ignored": runtime(
        "A request with an adapter whose directory does not exist succeeded", refuse=lambda *_: None
    ),
    "unload refuses": runtime(
        "unload_adapter() of an unknown adapter ended", unload_adapter=returning(NotFoundError("No."))
    ),
    "wrong counts": runtime(
        "count_tokens() of one word, five words and nothing gave", count_tokens=returning([1, 1, 1])
    ),
    "counts unpromised": runtime("token_counts is False", capabilities=RuntimeCapabilities()),
    "no context": runtime("context_length() is 0", context_length=returning(0)),
    "deaf to cancelling": runtime("The runtime raised ValueError: never", chat=undying),
    "random": runtime("With temperature 0 the same question got", chat=whatever),
    "cut silently": runtime("TMDE shortens the prompt", refuse=lambda *_: None),
    "no schema": runtime("capabilities.json_schema is True", capabilities=unable(json_schema=True)),
    "no log-probabilities": runtime("capabilities.logprobs is True", capabilities=unable(logprobs=True)),
    "a crash": runtime("The runtime raised KeyError", models=returning(KeyError("models"))),
    "it hangs": runtime("start() has not ended after", start=lambda _: asyncio.sleep(600))._replace(only="streams"),
    "create fails": failing_create(
        "tmde_model_runtimes", RuntimeDescriptor, availability=lambda _: Availability(ok=True)
    ),
}

# ------------------------------------------------------------------------------------------- backends

RUNS = "test_a_run_ends"


class Backend:
    """A good backend, of which each case spoils something. What its worker does is the base model, a word."""

    def availability(self) -> Any:
        return Availability(ok=True)

    def estimate(self, job: TrainingJob) -> Any:
        return ResourceEstimate(seconds=1.0)

    def plan(self, job: TrainingJob) -> Any:
        if job.base_model.startswith("/nonexistent"):
            raise InvalidInputError("There is no such base model.")
        return WorkerCommand(argv=(sys.executable, str(WORKER), str(Path(job.run_dir) / "job.json")))


def backend(words: str, only: str = "", worker: str = "good", **spoilt: Any) -> Case:
    """A backend; its worker does what `worker` says."""
    made = type("MyBackend", (Backend,), spoilt)
    descriptor = BackendDescriptor(name=worker, summary="mine", create=lambda _: made())
    return Case("tmde_training_backends", descriptor, words, only)


def in_the_server(self: Backend, job: TrainingJob) -> WorkerCommand:
    (Path(job.data_dir) / "lora-adapters" / job.run_id).mkdir()
    return Backend.plan(self, job)


MERGER = """
import sys
target, content, result = sys.argv[1:]
open(target, "w").write(content)
print('{"step": "merging", "share": 0.5}')
print(result)
"""


def merging(place: str, notes: Sequence[str] = ("It was not asked.",)) -> Callable[..., WorkerCommand | None]:
    """Return a `merge` that writes the model to a place."""

    def merge(_: Any, adapter_dir: Path, base_model: str, target: Path, quantization: str) -> WorkerCommand | None:
        if base_model.startswith("no-such"):
            return None
        result = {"step": "done", "result": {"sizeBytes": 8, "notes": list(notes)}}
        arguments = (place.format(target=target), "GGUF1234", json.dumps(result))
        return WorkerCommand(argv=(sys.executable, "-c", MERGER, *arguments))

    return merge


def dying(_: Any, adapter_dir: Path, base_model: str, *__: Any) -> WorkerCommand | None:
    program = "raise ValueError('no model')"
    return None if base_model.startswith("no-such") else WorkerCommand(argv=(sys.executable, "-c", program))


def mute(_: Any, adapter_dir: Path, base_model: str, *__: Any) -> WorkerCommand | None:
    return None if base_model.startswith("no-such") else WorkerCommand(argv=("true",))


BACKENDS = {
    "good": backend(""),
    "cannot work here": backend("", availability=lambda _: Availability(ok=False, reason="No GPU.")),
    "cannot work for no reason": backend("gives no reason", availability=lambda _: Availability(ok=False)),
    "availability as a bool": backend("availability() returned a bool", availability=lambda _: True),
    "availability that raises": backend("availability() raised ZeroDivisionError", availability=lambda _: 1 / 0),
    "an estimate below 0": backend(
        "The estimate's seconds is -1", "estimates", estimate=lambda *_: ResourceEstimate(seconds=-1)
    ),
    "no estimate": backend("estimate() returned a NoneType", "estimates", estimate=lambda *_: None),
    "any base model": backend(
        "plan() accepts the base model", "base_model", plan=lambda *_: WorkerCommand(argv=("true",))
    ),
    "a base model by accident": backend(
        "plan() for a base model that does not exist raised FileNotFoundError",
        "base_model",
        plan=lambda _, job: WorkerCommand(argv=(str(Path(job.base_model).stat()),)),
    ),
    "a list": backend("plan() returned a list", "plans", plan=lambda *_: ["true"]),
    "a shell line": backend("has the arguments 'true'", "plans", plan=lambda *_: WorkerCommand(argv="true")),  # type: ignore[arg-type]
    "trains while it plans": backend("plan() has trained", "plans", plan=in_the_server),
    "no program": backend(
        "The planned command raised WorkerFailedError", RUNS, plan=lambda *_: WorkerCommand(argv=("/nonexistent",))
    ),
    "it crashes": backend("ended with exit status 1. The trainer stopped", RUNS, "crashes"),
    "it is killed": backend("was killed by signal 9 (SIGKILL)", RUNS, "dies"),
    "it publishes nothing": backend("there is no adapter", RUNS, "publishes-nothing"),
    "no base model": backend("does not say which base model", RUNS, "nameless"),
    "nothing learned": backend("every B matrix of the adapter is still zero", RUNS, "zero"),
    "nothing learned, without the kit": backend("every B matrix", RUNS, "zero-without-kit"),
    "a damaged adapter": backend("TMDE would list this run as failed", RUNS, "spoils"),
    "no progress": backend("There is no progress event", "progress", "no-progress"),
    "steps from 0": backend("The progress events count the steps 0, 1", "progress", "from-zero"),
    "steps twice": backend("The progress events count the steps 1, 1", "progress", "twice"),
    "no loss": backend("The losses in the progress events are none", "progress", "no-loss"),
    "no validation": backend("There is no eval event", "validation", "no-eval"),
    "no last word": backend("The last event is 'log'", "last_event", "chatty"),
    "another rank": backend("has the rank 4, and the job asked for 8", "exchanged", "good"),
    "no LoRA": backend("these are no LoRA matrices", RUNS, "foreign"),
    "no metrics": backend("The metrics have no final_train_loss", "metrics", "no-metrics"),
    "a negative loss": backend("The metrics have {'finalTrainLoss': -1", "metrics", "negative"),
    "too many steps": backend("The metrics count 99 steps", "metrics", "miscounts"),
    "stops at a bad example": backend("an empty and a far too long answer", "bad_example", "strict"),
    "needs validation examples": backend("With an empty val_file", "without_validation", "needs-val"),
    "deaf to SIGTERM": backend("After SIGTERM it did not end, and was killed", "sigterm", "deaf"),
    "dies of SIGTERM": backend("After SIGTERM it ended with exit status -15", "sigterm", "rude"),
    "overwrites": backend("The worker changed an adapter that was there", "left_alone", "overwrites"),
    "begins anew": backend("reports the steps 1, 2", "checkpoint", "forgets"),
    "cannot resume": backend("A run that goes on after step 4 ended with exit status 1", "checkpoint", "loses"),
    "a preview that fails": backend(
        "The preview failed: It cannot be read",
        "preview",
        preview=lambda *_: WorkerCommand(
            argv=(sys.executable, "-c", "import sys; sys.stderr.write('It cannot be read.\\n'); sys.exit(1)")
        ),
    ),
    "a conversion of anything": backend(
        "for a base model that does not exist", "convert", convert=lambda *_: WorkerCommand(argv=("true",))
    ),
    "a merge of anything": backend(
        "merge() returns a command for a base model that does not exist",
        "merges",
        merge=lambda *_: WorkerCommand(argv=("true",)),
    ),
    "a merge that ends in a traceback": backend(
        "ended with exit status 1: ValueError: no model", "merges", "served", merge=dying
    ),
    "a merge that writes nothing": backend(
        "there is no GGUF file at the target", "merges", "served", merge=merging("{target}-other")
    ),
    "a merge that is not told": backend("last line of output is no MergeProgress", "merges", "served", merge=mute),
    "a merge that nobody compares": backend(
        "has compared nothing", "merges", "served", merge=merging("{target}", notes=())
    ),
    "a good merge": backend("", "merges", "served", merge=merging("{target}")),
    "a damaged file that is taken": backend(
        "For a damaged GGUF file", "no_model", dequantize=lambda *_: WorkerCommand(argv=("true",))
    ),
    "a damaged file that ends in a traceback": backend(
        "its last line on stderr is 'ValueError: no model'",
        "no_model",
        dequantize=lambda *_: WorkerCommand(argv=(sys.executable, "-c", "raise ValueError('no model')")),
    ),
    "weights nowhere": backend(
        "is 'nowhere', which is no directory",
        "dequantizes",
        "served",
        merge=merging("{target}"),
        dequantize=lambda *_: WorkerCommand(argv=("echo", "nowhere")),
    ),
    "weights without a tokenizer": backend(
        "has no config.json and no *.safetensors",
        "dequantizes",
        "served",
        merge=merging("{target}"),
        dequantize=lambda *_: WorkerCommand(argv=("echo", str(Path(__file__).parent))),
    ),
    "create fails": failing_create("tmde_training_backends", BackendDescriptor),
}

ALL = {"judge": JUDGES, "suite": SUITES, "registry": REGISTRIES, "runtime": RUNTIMES, "backend": BACKENDS}


def look(cases: Iterable[tuple[str, Case]], scratch: Path) -> dict[str, Any]:
    """Run the contracts; returns, for each case, the sentences and what was not tried."""
    import io

    import msgspec

    from tmde_core.plugins import Plugins
    from tmde_core.settings import Settings
    from tmde_core.testing.check.__main__ import Listener, run_contracts
    from tmde_core.testing.check.findings import Found, Message, Target
    from tmde_core.testing.check.installed import Work
    from tmde_core.testing.contracts import rules, runtimes, training, training_run

    training_run.GRACE_SECONDS = 1.0
    found = {}
    for number, (name, case) in enumerate(cases):
        data = scratch / str(number) / "data"
        data.mkdir(parents=True)
        plugins = Plugins()
        info = plugins.add("mine", plugin(case))
        assert info.status == "ok", info
        (provided,) = info.provides
        work = Work(plugins, info, (Target(provided.kind, provided.name),), Settings(data_dir=str(data)))
        output = io.BytesIO()
        rules.PATIENCE_SECONDS = runtimes.RULE_SECONDS = 1.0 if name == "it hangs" else 120.0
        training.SMALL = msgspec.structs.replace(training_run.SMALL, lora_rank=8 if "rank" in name else 4)
        base = getattr(case.descriptor, "name", "")
        run_contracts(work, data.parent, Listener(output), base, ["-k", case.only] if case.only else [])
        messages = [msgspec.json.decode(line, type=Message) for line in output.getvalue().splitlines()]
        finding = next(message.finding for message in messages if isinstance(message, Found))
        found[name] = [finding.broken, finding.not_run, finding.held]
    return found


if __name__ == "__main__":
    kind = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory:
        told = os.dup(1)
        os.dup2(2, 1)
        result = look(ALL[kind].items(), Path(directory))
        with os.fdopen(told, "w") as out:
            out.write(json.dumps(result))
            out.flush()
    os._exit(0)  # one of them hangs
