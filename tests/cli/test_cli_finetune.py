"""`tmde finetune` and `tmde worker`, with a backend whose worker is a real process that only pretends to train."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import psutil
import pytest

from tests.core.settings.environment import OTHER
from tmde_core.cli.finetune import watch
from tmde_core.cli.finetune.watch import TrainingBar, figures
from tmde_core.finetune.supervision import supervisor
from tmde_core.plugins import Plugins
from tmde_core.settings import ENVIRONMENT
from tmde_core.storage.events import Event, FileLog

HERE = Path(__file__).parents[1] / "core" / "finetune"
PROGRAM = HERE / "stand_in_serve.py"
SETTINGS = '[finetune]\nbackend = "stand-in"\nmin_traces = 5\n[supervisor]\nniceness = 0\n'


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory whose training only pretends; workers that are left alive are ended with it."""
    directory = tmp_path / "data"
    directory.mkdir(exist_ok=True)
    with (directory / "tmde.toml").open("a") as file:
        file.write(SETTINGS)
    yield directory
    for run_dir in (directory / "runs").glob("*"):
        supervisor.end(run_dir.name, run_dir, grace_seconds=0)


@pytest.fixture
def cli(tmde, data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`tmde …` in this process, with the stand-in backend and twelve good traces."""
    shared = runpy.run_path(str(HERE / "conftest.py"))
    load = Plugins.load
    monkeypatch.setattr(Plugins, "load", lambda: shared["stand_in_plugins"](load()))
    lines = tmp_path / "good.jsonl"
    lines.write_text("".join(good_lines()))
    assert tmde("traces", "import", lines).code == 0
    return tmde


def good_lines() -> Iterator[str]:
    for n in range(12):
        yield (
            json.dumps({"query": f"What is {n} plus {n}?", "finalAnswer": f"It is {2 * n}.", "qualityScore": 9}) + "\n"
        )


def soon(condition: Callable[[], object]) -> object:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def checkpointed(cli, data_dir: Path) -> str:
    """A run that has been cancelled after its checkpoint."""
    run = cli("finetune", "start", "--set", "base_model=checkpointed", "--json").json["id"]
    soon(lambda: list((data_dir / "runs" / run / "checkpoints").glob("step-*")))
    assert cli("finetune", "cancel").out == f"Cancelled the training run {run}.\n"
    return run


def test_a_cancelled_run_is_resumed_and_its_attempts_are_shown(cli, data_dir: Path) -> None:
    run = checkpointed(cli, data_dir)
    (data_dir / "runs" / run / "go").touch()
    resumed = cli("finetune", "resume", "--watch")
    assert (resumed.code, resumed.out.splitlines()[-1]) == (
        0,
        f"Completed, final loss 1.000. `tmde lora activate {run}` lets the adapter answer.",
    )
    assert "Attempt 2 begins after step 3." in resumed.err
    shown = cli("finetune", "show", run).out
    assert "attempt 1" in shown
    assert "cancelled, batch 4 × 4, " in shown
    assert "completed, from step 3, batch 4 × 4, " in shown


def test_without_an_id_the_newest_that_can_be_resumed_is(cli, data_dir: Path) -> None:
    nothing = cli("finetune", "resume")
    assert (nothing.code, "No training run can be resumed" in nothing.err) == (1, True)
    run = checkpointed(cli, data_dir)
    (data_dir / "runs" / run / "go").touch()
    assert cli("finetune", "resume", "--json").json["id"] == run
    cli("finetune", "watch", run)
    refused = cli("finetune", "resume", run)
    assert (refused.code, "is completed. Only one that failed" in refused.err) == (1, True)


def test_without_an_id_the_newest_run_is_shown_and_what_it_printed(cli) -> None:
    for command in ("show", "log"):
        nothing = cli("finetune", command)
        assert (nothing.code, nothing.err) == (
            1,
            "Error: There has been no training run yet. `tmde finetune start` begins one.\n",
        )
    run = cli("finetune", "start", "--set", "base_model=quick", "--json").json["id"]
    cli("finetune", "watch", run)
    assert cli("finetune", "show").out.splitlines()[0].split() == ["id", run]
    assert cli("finetune", "log").code == 0


def test_the_ranges_are_written_as_one_would_type_them(cli) -> None:
    shown = cli("finetune", "config").out
    assert "0.00001–0.001" in shown
    assert "0–2147483647" in shown
    assert "e+" not in shown


CHANGES = {
    "FINETUNE_MIN_TRACES": ("finetune", "config", "minTraces=9"),
    "FINETUNE_MIN_QUALITY": ("finetune", "config", "min_quality_score=9"),
    "FINETUNE_BACKEND": ("finetune", "config", "backend=lacking"),
    "FINETUNE_BASE_MODEL": ("finetune", "config", "base-model=b"),
    "FINETUNE_SCHEDULE": ("finetune", "schedule", "--set", "0 3 * * 0"),
    "FINETUNE_TIMEZONE": ("finetune", "schedule", "--timezone", "Europe/Berlin"),
    "BENCHMARK_SCHEDULE": ("bench", "schedule", "--set", "0 3 * * 0"),
}
"""Variable → the command that would change what it sets."""


@pytest.mark.parametrize("variable", CHANGES)
def test_what_the_environment_sets_is_not_changed_here_and_the_variable_is_named(
    cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    value = "stand-in" if variable == "FINETUNE_BACKEND" else OTHER[variable][0]
    monkeypatch.setenv(variable, value)
    *command, _ = CHANGES[variable] if "config" in CHANGES[variable] else (*CHANGES[variable][:2], "")
    file, before = (data_dir / "tmde.toml").read_text(), cli(*command, "--json").json
    refused = cli(*CHANGES[variable])
    assert refused.code == 1
    assert refused.out == ""
    assert refused.err == (
        f"Error: The environment variable {variable} sets this, and it wins over the file. Change it there.\n"
    )
    assert (data_dir / "tmde.toml").read_text() == file
    assert cli(*command, "--json").json == before


def test_every_variable_that_a_command_could_change_is_tried() -> None:
    assert CHANGES.keys() == {name for name, path in ENVIRONMENT.items() if path[0] in ("finetune", "schedule")}


def test_the_help_says_what_each_hyperparameter_may_be_and_does(cli) -> None:
    told = cli("finetune", "config", "--help").out
    assert "lora_rank  4–128\n" in told
    assert "How much the adapter can hold." in told


def test_a_failed_run_is_told_with_its_reason_and_its_log(cli) -> None:
    ran = cli("finetune", "start", "--watch", "--set", "base_model=killed")
    assert ran.code == 1
    assert "has failed: The training process was killed by signal 9 (SIGKILL)" in ran.err
    run = cli("finetune", "list", "--json").json["items"][0]
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["killed"] * 3
    assert run["errorMessage"] in cli("finetune", "show", run["id"]).out
    assert run["errorMessage"] in cli("finetune", "list").out
    assert cli("finetune", "log", run["id"], "--lines", "2").out == "about to be killed\n" * 2


def test_a_run_whose_process_is_gone_is_shown_as_interrupted_and_goes_on_when_watched(cli, data_dir: Path) -> None:
    run = cli("finetune", "start", "--set", "base_model=waits", "--json").json["id"]
    soon((data_dir / "runs" / run / "events.jsonl").exists)
    for process in supervisor.find_processes(run):
        process.kill()
    soon(lambda: not supervisor.is_alive(data_dir / "runs" / run))
    assert "its process is gone; the next `tmde serve`" in cli("finetune", "show").out
    (data_dir / "runs" / run / "go").touch()
    watched = cli("finetune", "watch")
    assert watched.code == 0
    assert "Attempt 2 begins from the first step." in watched.err


def test_watching_in_a_pipe_gives_one_line_a_step(cli) -> None:
    err = cli("finetune", "start", "--watch", "--set", "base_model=steps-60").err
    steps = [line for line in err.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in steps] == [f"step {n} of 60" for n in range(1, 61)]
    assert steps[0] == "step 1 of 60: loss 3.000"
    assert steps[3].startswith("step 4 of 60: loss 0.750, ")
    assert steps[3].endswith(" left")
    assert steps[-1] == "step 60 of 60: loss 0.050"


def test_watching_on_a_terminal_keeps_to_one_line(data_dir: Path) -> None:
    importing(data_dir)
    seen = on_terminal(words(data_dir, "finetune", "start", "--watch", "--set", "base_model=steps-40"))
    assert "Training begins" in seen
    assert "step 40 of 40: loss 0.075" in seen
    assert "Completed" in seen
    # The line is drawn again in its place: far fewer line breaks than steps.
    assert seen.count("\n") < 15


def test_a_step_is_told_with_what_is_known_of_it() -> None:
    whole = {"loss": 1.23456, "evalLoss": 1.5, "tokensPerSecond": 34.6, "etaSeconds": 245.0}
    assert figures(whole) == "loss 1.235, eval 1.500, 35 tokens/s, 4 min 05 s left"
    assert figures({"loss": 1.0, "evalLoss": None}) == "loss 1.000"
    assert figures({}) == ""


def test_a_validation_is_told_with_as_many_digits_as_matter(capsys) -> None:
    bar = TrainingBar()
    bar.take(Event(id=1, type="eval", data={"step": 5, "evalLoss": 5.549129909939236, "best": True}))
    bar.take(Event(id=2, type="eval", data={"step": 10, "evalLoss": None}))
    assert capsys.readouterr().err.splitlines() == [
        "step 5: validation loss 5.549, the best so far",
        "step 10: validation loss unknown",
    ]


class Pending:
    """The services of a run that waits twice for something else, and then has ended."""

    def __init__(self, directory: Path) -> None:
        self.finetune, self._directory, self._looks, self._over = self, directory, 0, asyncio.Event()

    def events(self, _: object) -> FileLog:
        return FileLog(self._directory / "events.jsonl")

    async def get(self, _: object) -> object:
        self._looks += 1
        if self._looks > 2:
            self._over.set()
            return SimpleNamespace(status="failed", notice="")
        return SimpleNamespace(status="pending", notice=f"Waiting for the packages of training: {self._looks} of 9.")

    async def wait(self, _: object) -> object:
        await self._over.wait()
        return SimpleNamespace(status="failed")


async def test_who_watches_a_waiting_run_on_a_terminal_sees_what_it_waits_for(tmp_path: Path, monkeypatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(watch, "WAIT_SECONDS", 0)
    monkeypatch.setattr(TrainingBar, "wait", lambda _, notice: shown.append(notice))
    await asyncio.wait_for(watch.watch_run(Pending(tmp_path), uuid4(), json=False), 30)
    assert shown == [f"Waiting for the packages of training: {done} of 9." for done in (1, 2)]


def test_the_bar_of_a_waiting_run_shows_what_it_waits_for() -> None:
    bar = TrainingBar()
    bar._live = True
    bar.wait("Waiting for the packages of training: 3 of 9.")
    assert bar._bar.tasks[0].description == "Waiting for the packages of training: 3 of 9."
    bar.wait("")
    assert bar._bar.tasks[0].description == watch.BEGINS


# ------------------------------------------------------------------------------------------ tmde worker


def importing(data_dir: Path) -> None:
    file = data_dir / "good.jsonl"
    file.write_text("".join(good_lines()))
    assert program(data_dir, "traces", "import", str(file)).wait(60) == 0


def words(data_dir: Path, *arguments: str) -> list[str]:
    """`tmde …` with the stand-in backend."""
    return [sys.executable, str(PROGRAM), *arguments, "--data-dir", str(data_dir)]


def program(data_dir: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """The same, begun in a process of its own."""
    command = [*prefix, *words(data_dir, *arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def asked(data_dir: Path, *arguments: str) -> dict:
    """What a command line answers that leaves training to a worker."""
    placed = {**os.environ, "TMDE_SUPERVISOR": "worker"}
    command = words(data_dir, *arguments, "--json")
    done = subprocess.run(command, env=placed, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def on_terminal(command: list[str]) -> str:
    """Everything that the command writes to a terminal of its own."""
    master, slave = pty.openpty()
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, close_fds=True) as process:
        os.close(slave)
        seen = b""
        while select.select([master], [], [], 60)[0]:
            with contextlib.suppress(OSError):
                if block := os.read(master, 65536):
                    seen += block
                    continue
            break
        process.wait(60)
    os.close(master)
    return seen.decode()


def test_a_worker_trains_what_was_enqueued_and_survives_its_own_end(data_dir: Path) -> None:
    importing(data_dir)
    queued = asked(data_dir, "finetune", "start", "--set", "base_model=waits")
    run_dir = data_dir / "runs" / queued["id"]
    assert (queued["queued"], queued["status"], (run_dir / "worker.log").exists()) == (True, "pending", False)
    worker = program(data_dir, "worker")
    soon((run_dir / "events.jsonl").exists)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert supervisor.is_alive(run_dir)
    (run_dir / "go").touch()
    assert program(data_dir, "worker", "--once").wait(60) == 0
    shown = asked(data_dir, "finetune", "show", queued["id"])
    assert (shown["status"], shown["queued"], len(shown["attempts"])) == ("completed", False, 1)


def test_a_killed_worker_leaves_its_run_to_the_next_one(data_dir: Path) -> None:
    importing(data_dir)
    run = asked(data_dir, "finetune", "start", "--set", "base_model=steps-60-held-at-30")["id"]
    worker = program(data_dir, "worker")
    soon(lambda: list((data_dir / "runs" / run / "checkpoints").glob("step-*")))
    worker.kill()
    worker.wait()
    for process in supervisor.find_processes(run):
        process.kill()
    (data_dir / "runs" / run / "go").touch()
    assert program(data_dir, "worker", "--once").wait(60) == 0
    shown = asked(data_dir, "finetune", "show", run)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["killed", "completed"]
    assert shown["attempts"][1]["resumedFromStep"] > 0


APART = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Runs a program that sees no process outside, and whose process ids mean nothing outside: as in a container."""


@pytest.fixture
def apart() -> tuple[str, ...]:
    """`APART`, where the system allows it."""
    if subprocess.run([*APART, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets no user make a process namespace")
    return APART


def checked(data_dir: Path) -> tuple[int, str]:
    """What `tmde worker --check` says, and its exit code."""
    done = subprocess.run(words(data_dir, "worker", "--check"), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_a_worker_in_another_container_is_seen_and_pauses_its_run_when_it_is_stopped(
    data_dir: Path, apart: tuple[str, ...]
) -> None:
    importing(data_dir)
    assert checked(data_dir) == (1, "No worker is running. Start `tmde worker` on this data directory.\n")
    run = asked(data_dir, "finetune", "start", "--set", "base_model=paced-2000")["id"]
    placed = {**os.environ, "TMDE_SUPERVISOR": "worker"}
    worker = subprocess.Popen([*apart, *words(data_dir, "worker", "--pause-runs")], env=placed)
    try:
        soon((data_dir / "runs" / run / "heartbeat").exists)
        code, said = checked(data_dir)
        assert (code, said.startswith("A worker runs on ")) == (0, True)
        (inside,) = psutil.Process(worker.pid).children()
        inside.terminate()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()
    assert checked(data_dir)[0] == 1
    shown = asked(data_dir, "finetune", "show", run)
    assert (shown["status"], shown["queued"]) == ("pending", True)
    (attempt,) = shown["attempts"]
    assert attempt["outcome"] == "paused"
    assert list((data_dir / "runs" / run / "checkpoints").glob("step-*"))
    assert asked(data_dir, "finetune", "cancel", run)["status"] == "cancelled"


def test_a_check_goes_with_no_option_that_starts_a_worker(tmde) -> None:
    refused = tmde("worker", "--check", "--once")
    assert refused.code == 2
    assert "--check starts no worker" in refused.err


def test_show_says_that_no_worker_is_there_and_that_the_next_one_goes_on(cli, monkeypatch) -> None:
    monkeypatch.setenv("TMDE_SUPERVISOR", "worker")
    started = cli("finetune", "start", "--set", "base_model=quick")
    assert "The run waits for a worker. No worker is running. Start `tmde worker`" in started.out
    assert "No worker is running" in cli("finetune", "show").out
    assert cli("finetune", "cancel").code == 0


def test_cancelling_reaches_a_worker_in_another_process_namespace(data_dir: Path, apart: tuple[str, ...]) -> None:
    importing(data_dir)
    run = asked(data_dir, "finetune", "start", "--set", "base_model=waits")["id"]
    worker = program(data_dir, "worker", prefix=apart)
    try:
        soon((data_dir / "runs" / run / "heartbeat").exists)
        cancelled = asked(data_dir, "finetune", "cancel", run)
        assert cancelled["status"] == "cancelled"
        assert not supervisor.is_alive(data_dir / "runs" / run)
    finally:
        worker.kill()
        worker.wait()
