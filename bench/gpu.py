"""Measures Unsloth on this machine's card: TMDE's run against plain scripts, and what it does short of memory.

    ./run bench gpu            on a card, in less than five minutes; writes its section of RESULTS.md
    ./run bench gpu --tiny     the same parts without a card, on a tiny model; writes nothing

Nothing is fetched. The script makes a Llama of 1.07 billion random weights and 50 chats of 1,004 tokens, and uses the
libraries of Unsloth's environment: the interpreter that `TMDE_BENCH_UNSLOTH_PYTHON` names, or the environment in the
data directory, or this interpreter. A part for which no time is left is named as not measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import msgspec

from tmde_core.records.base import from_json, to_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import Dataset, FineTuneConfig
from tmde_core.records.training import TrainingExample, TrainingJob, WorkerCommand
from tmde_core.resources import read_gpus
from tmde_core.sdk.adapters import staging_directory
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.measured_runs import MEASURED_FILE, MeasuredRun
from tmde_core.sdk.worker import list_checkpoints
from tmde_core.storage.events import Event, FileLog
from tmde_unsloth.backend import UnslothBackend
from tmde_unsloth.options import UnslothSettings

SECONDS = 285.0
"""The time for everything. A device is lent for minutes."""
TRIAL_SECONDS = 1200.0
"""The time for a trial, which must measure everything also on a busy machine."""
RESERVE_SECONDS = 20.0
"""The time for which a part is not begun any more."""
TRL_SECONDS = 75.0
"""The time that is left for plain TRL after the runs with Unsloth: one run in progress, and then TRL."""

PARTS = Path(__file__).with_name("_gpu_parts.py")
DATA_DIR = Path(os.environ.get("TMDE_DATA_DIR") or Path(__file__).parents[1] / "data")
NO_CARD = "There is no NVIDIA card here (`nvidia-smi` finds none), so nothing was measured."


class Conditions(NamedTuple):
    """What is trained."""

    shape: Mapping[str, int]
    """The shape of the model, in the words of `LlamaConfig`."""
    train: int
    """Examples to train on."""
    val: int
    """Examples that are held out."""
    tokens: int
    """Tokens of each example."""
    batch: int
    accumulation: int
    rank: int
    rate: float

    @property
    def step(self) -> int:
        """Examples of a step."""
        return self.batch * self.accumulation


REAL = Conditions(
    shape={
        "vocab_size": 49_152, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    train=50, val=8, tokens=1004, batch=4, accumulation=4, rank=16, rate=2e-4,
)  # fmt: skip
"""The conditions of the figures that the estimates are fitted to."""
TINY = Conditions(
    shape={
        "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
    train=10, val=2, tokens=160, batch=2, accumulation=2, rank=4, rate=1e-3,
)  # fmt: skip
EPOCHS = 3

PROMPT_TOKENS = 94
"""The tokens before an answer, with those of the template. The rest of an example is learned."""
TEMPLATE_TOKENS = 20
"""The tokens of the template: names of the roles, line ends and control tokens."""

Figures = dict[str, Any]


def find_python() -> str | None:
    """Return an interpreter that has Unsloth; None if there is none."""
    named = os.environ.get("TMDE_BENCH_UNSLOTH_PYTHON")
    if named:
        return named
    for home in (DATA_DIR, Path(__file__).parents[1] / ".backends"):  # the second one is that of `./run test backends`
        if (built := home / "envs" / "unsloth" / "bin" / "python").exists():
            return str(built)
    return sys.executable if importlib.util.find_spec("unsloth") is not None else None


# ------------------------------------------------------------------------------------------------ data


def make_examples(conditions: Conditions) -> list[TrainingExample]:
    """Return chats of exactly the wanted length. A token is a byte, and every answer has equally many."""
    drawn = random.Random(7)
    words = ["".join(drawn.choices("abcdefghijklmnop", k=drawn.randint(2, 7))) for _ in range(40)]

    def text(length: int) -> str:
        made = ""
        while len(made) < length:
            made += f"{drawn.choice(words)} "
        return f"{made[: length - 1]}."

    examples = []
    for number in range(conditions.train + conditions.val):
        question = text(PROMPT_TOKENS - TEMPLATE_TOKENS + 1)
        answer = text(conditions.tokens - PROMPT_TOKENS - 1)
        messages = (Message("user", question), Message("assistant", answer))
        examples.append(TrainingExample(question, "", answer, messages, str(UUID(int=number))))
    return examples


def write_run(data_dir: Path, conditions: Conditions, config: FineTuneConfig) -> TrainingJob:
    """Write the dataset and the job of a run."""
    run_id = str(uuid4())
    run_dir = data_dir / "runs" / run_id
    run_dir.mkdir(parents=True)
    (data_dir / "lora-adapters").mkdir(exist_ok=True)
    examples = make_examples(conditions)
    parts = {"train.jsonl": examples[: conditions.train], "val.jsonl": examples[conditions.train :]}
    for name, some in parts.items():
        (run_dir / name).write_bytes(b"".join(to_json(one) + b"\n" for one in some))
    dataset = Dataset(
        sha256="0" * 64,
        trace_ids=tuple(UUID(one.trace_id) for one in examples),
        train_examples=conditions.train,
        val_examples=conditions.val,
    )
    (run_dir / "dataset.json").write_bytes(to_json(dataset))
    job = TrainingJob(
        run_id=run_id,
        run_dir=str(run_dir),
        train_file=str(run_dir / "train.jsonl"),
        val_file=str(run_dir / "val.jsonl"),
        output_dir=str(staging_directory(data_dir / "lora-adapters", run_id)),
        base_model=config.base_model,
        data_dir=str(data_dir),
        config=msgspec.to_builtins(config),
    )
    (run_dir / "job.json").write_bytes(to_json(job))
    return job


# ------------------------------------------------------------------------------------------- the parts


class Bench:
    """The parts of the benchmark, in a directory of their own."""

    def __init__(self, folder: Path, python: str, conditions: Conditions, *, tiny: bool) -> None:
        self._folder = folder
        self._conditions = conditions
        self._until = time.time() + (TRIAL_SECONDS if tiny else SECONDS)
        self._model = folder / "models" / "llama"
        self._config = FineTuneConfig(
            base_model=str(self._model),
            backend="unsloth",
            batch_size=conditions.batch,
            gradient_accumulation_steps=conditions.accumulation,
            lora_rank=conditions.rank,
            lora_alpha=2 * conditions.rank,
            learning_rate=conditions.rate,
            epochs=EPOCHS,
            min_traces=1,
        )
        self._settings = UnslothSettings(python=python, allow_cpu=tiny)
        self._python = python
        self.figures: Figures = {}

    def measure(self) -> None:
        """Run all parts for which there is time."""
        self._part("model", {"model": str(self._model), "shape": dict(self._conditions.shape)})
        first = write_run(self._folder, self._conditions, self._config)
        command = self._plan(first)
        self._environment = {**os.environ, **command.env}
        self._locate = command.argv[1:3]
        begun = time.monotonic()
        self._run(command.argv, "ours")
        self.figures["wall"] = time.monotonic() - begun
        self.figures["first"] = self._described(first)

        jobs = {
            "resumed": self._copy(list_checkpoints(Path(first.run_dir))[-2]),
            "memory": self._copy(),
            "again": self._copy(),
            "equal": self._copy(),
        }
        # The run `equal` computes as many examples at a time as the scripts do.
        sizes = {"equal": self._conditions.batch}
        task = self._task(first) | {
            "runs": {name: [*self._plan(job, sizes.get(name, 0)).argv[4:]] for name, job in jobs.items()},
            "usualBytes": self.figures["first"]["measured"].peak_bytes,
        }
        self.figures["unsloth"] = self._part("unsloth", task)
        for name, job in jobs.items():
            if (self._folder / "lora-adapters" / job.run_id).exists():
                self.figures[name] = self._described(job)
        self.figures["plain-trl"] = self._part("plain-trl", task).get("plain-trl")
        del jobs["equal"]
        adapters = {"first": first, **jobs}
        paths = {name: str(self._folder / "lora-adapters" / job.run_id) for name, job in adapters.items()}
        self.figures["apart"] = self._part("compare", {"adapters": paths})

    def _plan(self, job: TrainingJob, micro_batch: int = 0) -> WorkerCommand:
        settings = msgspec.structs.replace(self._settings, micro_batch=micro_batch)
        return UnslothBackend(PluginContext(self._folder, settings)).plan(job)

    def _task(self, job: TrainingJob) -> Figures:
        config = self._config
        return {
            "model": str(self._model),
            "folder": str(self._folder / "plain"),
            "train": job.train_file,
            "val": job.val_file,
            "batch": config.batch_size,
            "step": self._conditions.step,
            "epochs": config.epochs,
            "rate": config.learning_rate,
            "warmup": config.warmup_ratio,
            "decay": config.weight_decay,
            "rank": config.lora_rank,
            "alpha": config.lora_alpha,
            "seed": config.seed,
            "until": self._until - TRL_SECONDS,
        }

    def _copy(self, checkpoint: Path | None = None) -> TrainingJob:
        """Write the same run once more; it goes on from `checkpoint` if there is one."""
        other = write_run(self._folder, self._conditions, self._config)
        if checkpoint is not None:
            other = msgspec.structs.replace(other, resume_from=str(checkpoint))
            (Path(other.run_dir) / "job.json").write_bytes(to_json(other))
        return other

    def _part(self, name: str, task: Figures) -> Figures:
        """Run a part in a process of its own and return its results, those of a process that was ended included."""
        if time.time() > self._until - RESERVE_SECONDS and name != "compare":
            print(f"No time is left for {name}.", flush=True)
            return {}
        file = self._folder / f"{name}.task.json"
        file.write_text(json.dumps(task), encoding="utf-8")
        start, package = self._locate if name != "model" else self._backend_files()
        self._run((self._python, str(PARTS), start, package, name, str(file)), name)
        results = self._folder / f"{name}.results.json"
        return json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}

    def _backend_files(self) -> tuple[str, str]:
        import tmde_core
        import tmde_unsloth

        start = Path(tmde_core.__file__).parent / "sdk" / "worker" / "start.py"
        return str(start), str(Path(tmde_unsloth.__file__).parent)

    def _run(self, argv: Sequence[str], name: str) -> None:
        """Run a process. Its output is shown only if it fails."""
        print(f"-- {name}", flush=True)
        environment = getattr(self, "_environment", dict(os.environ) | {"PYTHONPATH": ""})
        left = max(RESERVE_SECONDS, self._until - time.time())
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            try:
                done = subprocess.run(
                    argv, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=left, check=False
                )
                told = f"ended with status {done.returncode}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                told = "was ended because the time was over"
        if told:
            print(log.read_text(encoding="utf-8", errors="replace")[-4000:])
            print(f"{name} {told}.", flush=True)
            if name in ("model", "ours"):
                raise SystemExit(f"Nothing can be compared: {name} {told}.")

    def _described(self, job: TrainingJob) -> Figures:
        run_dir = Path(job.run_dir)
        events = FileLog(run_dir / "events.jsonl").read()
        steps = [event.data for event in events if event.type == "progress"]
        complete = next((event.data["metrics"] for event in events if event.type == "complete"), None)
        if complete is None:
            raise SystemExit(f"The run did not end: {events[-1].data if events else 'it has no events'}.")
        return {
            "metrics": complete,
            "losses": {step["step"]: step["loss"] for step in steps},
            "tokensPerSecond": self._pace_of(steps),
            "halved": [event.data["microBatch"] for event in events if _is_halving(event)],
            "measured": from_json((run_dir / MEASURED_FILE).read_bytes(), MeasuredRun),
        }

    def _pace_of(self, steps: Sequence[Figures]) -> float | None:
        """Return all tokens a second, from the learned tokens a second of the steps after the first."""
        conditions = self._conditions
        learned = conditions.tokens - PROMPT_TOKENS
        seconds = 0.0
        sizes = [self._size_of(step["step"]) for step in steps[1:]]
        for step, size in zip(steps[1:], sizes, strict=True):
            seconds += size * learned / step["tokensPerSecond"]
        return sum(sizes) * conditions.tokens / seconds if seconds else None

    def plain_pace(self, found: Figures | None) -> float | None:
        """Return all tokens a second of a plain script, without its first step."""
        if not found or "stepSeconds" not in found:
            return None
        seconds: list[float] = found["stepSeconds"][1:]
        sizes = [self._size_of(number) for number in range(2, len(seconds) + 2)]
        return sum(sizes) * self._conditions.tokens / sum(seconds)

    def _size_of(self, step: int) -> int:
        """Return the number of examples of a step, counted from 1."""
        steps = -(-self._conditions.train // self._conditions.step)
        done = (step - 1) % steps * self._conditions.step
        return min(self._conditions.step, self._conditions.train - done)


def _is_halving(event: Event) -> bool:
    return event.type == "log" and "memory was too small" in event.data.get("text", "")


# --------------------------------------------------------------------------------------------- results


def report(bench: Bench, conditions: Conditions, seconds: float) -> str:
    """Return the Markdown section."""
    figures = bench.figures
    first, plain = figures["first"], figures["unsloth"].get("plain-unsloth") or {}
    trl, machine = figures.get("plain-trl") or {}, figures["unsloth"].get("machine", {})
    ours, script = first["tokensPerSecond"], bench.plain_pace(plain)
    metrics, measured = first["metrics"], first["measured"]
    if measured.longest != conditions.tokens:
        raise SystemExit(
            f"The chats have {measured.longest} tokens and not {conditions.tokens}: the figures are wrong."
        )
    whole_step = metrics["microBatch"] == min(conditions.step, conditions.train)
    wanted = 2.5 if whole_step else 0.98
    ratio = ours / script if ours and script else None
    equal = figures["equal"]["tokensPerSecond"] / script if script and "equal" in figures else None
    loss = metrics["finalValLoss"]
    rows = [
        ("TMDE with Unsloth", ours, metrics["trainingTimeSeconds"], measured.allocated_bytes, measured.peak_bytes, loss),
        *(
            (name, bench.plain_pace(one), one.get("trainingSeconds"), one.get("allocated"), one.get("reserved"), one.get("valLoss"))
            for name, one in (("a plain Unsloth script", plain), ("plain TRL, PEFT and bitsandbytes", trl))
        ),
    ]  # fmt: skip
    setting = (
        f"Training on a card: a Llama of {_weights(conditions) / 1e9:.2f} billion random weights, rank {conditions.rank}, "
        f"{conditions.train} chats of {conditions.tokens:,} tokens ({conditions.tokens - PROMPT_TOKENS} learned), "
        f"{EPOCHS} epochs, effective batch {conditions.step}. The scripts compute {conditions.batch} examples at a time, "
        f"TMDE {metrics['microBatch']}."
    )
    lines = [
        setting,
        "",
        "| | tokens/s without the first step | training | allocated | reserved | validation loss |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {_number(pace)} | {_seconds(took)} | {_gib(used)} | {_gib(held)} | {_number(lost, 3)} |"
            for name, pace, took, used, held, lost in rows
        ),
        "",
        "| | measured | limit | within |",
        "|---|---:|---:|---|",
        _limit("tokens/s against the plain Unsloth script", ratio, f"≥ {wanted}", ratio and ratio >= wanted, "×"),
        _limit(f"the same with {conditions.batch} examples at a time", equal, "≥ 0.98", equal and equal >= 0.98, "×"),
        *(
            _limit(f"validation loss against {name}", apart, "≤ 1 %", apart is not None and apart <= 0.01, "%")
            for name, apart in (("the plain Unsloth script", _apart(loss, plain)), ("plain TRL", _apart(loss, trl)))
        ),
        _limit(
            "from start to adapter, import and load included", figures["wall"], "< 120 s", figures["wall"] < 120, "s"
        ),
        _limit(
            f"largest memory against the estimate of {_gib(measured.computed_bytes)}",
            measured.memory_ratio - 1,
            "± 20 %",
            abs(measured.memory_ratio - 1) <= 0.2,
            "%",
        ),
        *_repeatability(figures),
        "",
        _forced(figures),
        "",
        f"Until the first step: {measured.start_seconds:.0f} s. The whole benchmark took {seconds:.0f} s.",
        "",
        _machine(machine),
    ]
    return "\n".join(lines) + "\n"


def _weights(conditions: Conditions) -> int:
    shape = conditions.shape
    hidden, keys = shape["hidden_size"], shape["hidden_size"] * shape["num_key_value_heads"]
    keys //= shape["num_attention_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * shape["intermediate_size"]
    return shape["num_hidden_layers"] * layer + hidden * shape["vocab_size"]


def _repeatability(figures: Figures) -> list[str]:
    apart, first = figures["apart"], figures["first"]
    spread, resumed = apart.get("again"), apart.get("resumed")
    within = None if spread is None or resumed is None else resumed <= max(spread, 1e-6)
    rows = [_limit("two equal runs, of the adapter's norm", spread, "", None, "%")]
    if "again" in figures:
        rows.append(_limit("their losses, at most", _losses_apart(first, figures["again"]), "", None, ""))
    rows.append(_limit("a resumed run, of the adapter's norm", resumed, "the line above but one", within, "%"))
    return rows


def _forced(figures: Figures) -> str:
    found = figures.get("memory")
    if found is None:
        told = figures["unsloth"].get("memory", {}).get("error") or "no time was left"
        return f"Lack of memory was not measured: {told}."
    if not found["halved"]:
        return "Lack of memory was forced, but the run fitted all the same."
    sizes = " → ".join(str(one) for one in (figures["first"]["metrics"]["microBatch"], *found["halved"]))
    return (
        f"Out of memory, forced: the examples at a time fell {sizes}, the run went on, and its losses differ by "
        f"{_losses_apart(figures['first'], found):.1e} at most."
    )


def _losses_apart(one: Figures, other: Figures) -> float:
    ours: dict[int, float] = one["losses"]
    theirs: dict[int, float] = other["losses"]
    return max(abs(ours[step] - loss) for step, loss in theirs.items())


def _apart(ours: float | None, found: Figures) -> float | None:
    theirs = found.get("valLoss")
    return abs(ours / theirs - 1) if ours and theirs else None


def _limit(name: str, value: float | None, limit: str, within: Any, unit: str) -> str:
    if value is None:
        return f"| {name} | not measured | {limit} | |"
    text = {"%": f"{value:.3%}", "×": f"{value:.2f}×", "s": f"{value:.0f} s"}.get(unit, f"{value:.1e}")
    return f"| {name} | {text} | {limit} | {'' if within is None else 'yes' if within else '**no**'} |"


def _machine(found: Figures) -> str:
    if not found:
        return "The machine was not described, because no time was left."
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    if "card" not in found:
        return f"No card; {versions}."
    return f"{found['card']}, {found['memory'] / 2**30:.0f} GiB, compute capability {found['capability']}; {versions}."


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _gib(value: int | None) -> str:
    return "–" if not value else f"{value / 2**30:.2f} GiB"


def find_missing(figures: Figures) -> list[str]:
    """Return the names of the parts that have no result."""
    plain = figures["unsloth"].get("plain-unsloth") or {}
    found = {
        "a plain Unsloth script": "valLoss" in plain,
        "plain TRL": "valLoss" in (figures.get("plain-trl") or {}),
        "lack of memory": bool((figures.get("memory") or {}).get("halved")),
        "the same number of examples at a time": "equal" in figures,
        "two equal runs": figures["apart"].get("again") is not None,
        "a resumed run": figures["apart"].get("resumed") is not None,
    }
    return [name for name, is_there in found.items() if not is_there]


def main() -> str:
    """Run the benchmark and return a Markdown section; empty if there is no card."""
    tiny = "--tiny" in sys.argv[1:]
    if not tiny and not read_gpus():
        print(NO_CARD)
        return ""
    python = find_python()
    if python is None:
        raise SystemExit("There is no environment of Unsloth. Run `tmde backends install unsloth` first.")
    begun = time.monotonic()
    conditions = TINY if tiny else REAL
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), python, conditions, tiny=tiny)
        bench.measure()
        text = report(bench, conditions, time.monotonic() - begun)
        if not tiny:
            return text
        # A trial shows that every part works, so a missing one is a failure.
        if missing := find_missing(bench.figures):
            raise SystemExit(f"{text}\nNot measured: {', '.join(missing)}.")
        return f"A trial without a card, on a tiny model: every part works, and the figures say nothing else.\n\n{text}"


if __name__ == "__main__":
    print(main())
