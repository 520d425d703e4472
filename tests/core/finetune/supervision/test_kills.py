"""Server and trainer are killed at random moments, again and again; nothing that was promised may be lost.

The real `tmde serve` in a process of its own, over HTTP; its libraries are loaded when it begins, so that kills hit its work and
not its imports. Most kills hit a worker that only pretends to train, because it starts in a third of a second; its adapter
depends on every step, so a lost or repeated step shows. The others hit the trainer that ships, on a model of a few thousand
parameters. Moments and victims follow from a seed that a failure names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import httpx
import pytest

from tests import warm
from tmde_core.finetune.supervision import supervisor
from tmde_core.lora.files.store import AdapterStore
from tmde_core.sdk.worker.kit import list_checkpoints

pytestmark = pytest.mark.slow

SEED = 20_261_124
SERVE = Path(__file__).parents[1].joinpath("stand_in_serve.py")
DEADLINE_SECONDS = 240.0
"""For anything that is waited for: an end that does not come is a failure, not a hang of the tests. A busy machine takes a minute to
import what the trainer needs."""


def soon(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE_SECONDS:g} s"
        time.sleep(0.02)


class Moments(NamedTuple):
    """When kills come, in seconds after the one before."""

    longest: float
    at_work: float = 0.0
    """The share of those that wait for the worker's next word first."""
    longest_at_work: float = 0.0


class Victims:
    """A data directory with its server, which is there again after each kill, and what was acknowledged to clients."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        self.data_dir = data_dir
        self.random = random.Random(seed)
        self.traces: list[str] = []
        self.runs: list[str] = []
        self.kills = 0
        self._log, self._said = data_dir.parent / "server.log", data_dir.parent / "server.out"
        self._server: ForkServerProcess | None = None
        self._url = ""

    # ------------------------------------------------------------------------------- the server

    def spawn(self) -> None:
        """Start the server, unless it runs; it may not listen yet."""
        if self._server is None:
            command = [sys.executable, str(SERVE), "serve", "--no-ui", "--port", "0", "--data-dir", str(self.data_dir)]
            self._said.write_text("")
            self._server = warm.start(command, self._said, self._log)
            self._url = ""

    @property
    def client(self) -> httpx.Client:
        """A client of the running server, which is started and waited for if need be."""
        self.spawn()
        server = self._server
        assert server is not None
        if not self._url:
            soon(lambda: "\n" in self._said.read_text() or server.exitcode is not None, "the start of the server")
            assert server.exitcode is None, f"the server ended by itself; {self._log} tells why"
            self._url = self._said.read_text().split()[3]
        return httpx.Client(base_url=self._url, timeout=30)

    def kill_server(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.join()
            self._server.close()
            self._server = None

    def close(self) -> None:
        self.kill_server()
        for run in self.runs:
            supervisor.end(run, self.run_dir(run), grace_seconds=0)

    # ---------------------------------------------------------------------------- what clients do

    def acknowledged(self) -> None:
        """Send a trace that is too poor to be trained on, and note that the server has promised to keep it."""
        line = json.dumps(
            {"id": str(UUID(int=len(self.traces) + 1)), "query": "?", "finalAnswer": "!", "qualityScore": 1}
        )
        with self.client as client:
            answer = client.post("/api/traces/import", content=line, headers={"Content-Type": "application/x-ndjson"})
        assert answer.json()["imported"] == 1
        self.traces.append(json.loads(line)["id"])

    def start(self, config: dict[str, object]) -> str:
        with self.client as client:
            answer = client.post("/api/finetune", json={"config": {"minTraces": 5, **config}})
        assert answer.status_code == 202, answer.text
        self.runs.append(answer.json()["runId"])
        return self.runs[-1]

    def resume(self, run: str) -> None:
        with self.client as client:
            answer = client.post(f"/api/finetune/{run}/resume")
        assert answer.status_code == 202, answer.text

    # ------------------------------------------------------------------------------- what is true

    def run_dir(self, run: str) -> Path:
        return self.data_dir / "runs" / run

    def row(self, run: str) -> sqlite3.Row:
        with contextlib.closing(sqlite3.connect(self.data_dir / "tmde.db", timeout=30)) as database:
            database.row_factory = sqlite3.Row
            found = database.execute("SELECT * FROM finetune_runs WHERE id = ?", (run,)).fetchone()
        assert found is not None, "an acknowledged run is gone"
        return found

    def said(self, run: str) -> int:
        """Bytes that the workers of a run have written to its log of events."""
        log = self.run_dir(run) / "events.jsonl"
        return log.stat().st_size if log.exists() else 0

    def ended(self, run: str) -> bool:
        return self.row(run)["status"] not in ("pending", "running")

    def kill(self, run: str, moments: Moments) -> None:
        """After a random time, kill the server, the trainer, or both."""
        longest = moments.longest
        if self.random.random() < moments.at_work:
            before = self.said(run)
            soon(lambda: self.ended(run) or self.said(run) > before, "a word of the worker")
            longest = moments.longest_at_work
        time.sleep(self.random.uniform(0, longest))
        victim = self.random.choice(("server", "trainer", "both"))
        if victim != "trainer":
            self.kill_server()
        if victim != "server":
            for process in supervisor.find_processes(run):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        self.kills += 1

    def check(self) -> None:
        """Whatever was killed: every adapter is whole, and every acknowledged row is there."""
        adapters = AdapterStore(self.data_dir)
        for directory in (self.data_dir / "lora-adapters").glob("[!.]*"):
            if directory.is_dir():
                adapters.verify_files(UUID(directory.name))
        with contextlib.closing(sqlite3.connect(self.data_dir / "tmde.db", timeout=30)) as database:
            assert {row[0] for row in database.execute("SELECT id FROM traces")} >= set(self.traces)
            assert {row[0] for row in database.execute("SELECT id FROM finetune_runs")} == set(self.runs)

    def survive(self, config: dict[str, object], kills: int, moments: Moments) -> str:
        """A run that is killed so many times on its way, and comes to an end all the same."""
        run = self.start(config)
        left = kills
        while True:
            self.spawn()
            if left and self.random.random() < 0.3:
                self.acknowledged()
            if not self.ended(run):
                if left:
                    self.kill(run, moments)
                    left -= 1
                    self.check()
                    continue
                self.spawn()
                soon(lambda: self.ended(run), "the end of a run that nobody disturbs any more")
            row = self.row(run)
            if row["status"] == "failed":
                assert row["error_message"], "a run failed without a reason"
                assert "happened 3 times" in row["error_message"], row["error_message"]
                if not list_checkpoints(self.run_dir(run)):
                    return run
                self.resume(run)
            else:
                assert row["status"] == "completed", row["error_message"]
                return run

    def weights(self, run: str) -> str:
        file = self.data_dir / "lora-adapters" / run / "adapter_model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()

    def finish(self) -> None:
        """At the end of all: nothing lives on, nothing is half there, and everybody is told how each run ended."""
        self.check()
        assert not list((self.data_dir / "lora-adapters").glob(".staging-*"))
        with self.client as client:
            for run in self.runs:
                soon(lambda run=run: not supervisor.find_processes(run), f"the end of every process of {run}")
                shown = client.get(f"/api/finetune/{run}").json()
                assert all(attempt["outcome"] != "running" for attempt in shown["attempts"])
                events = client.get(f"/api/finetune/{run}/progress").text
                last = [line for line in events.splitlines() if line.startswith("event: ")][-1]
                assert last == {"completed": "event: complete", "failed": "event: error"}[shown["status"]]
            for trace in self.traces:
                assert client.get(f"/api/traces/{trace}").status_code == 200


@pytest.fixture
def victims(data_dir: Path) -> Iterator[Victims]:
    data_dir.mkdir()
    (data_dir / "tmde.toml").write_text("[supervisor]\nniceness = 0\n")
    victims = Victims(data_dir, SEED)
    good = "\n".join(
        json.dumps({"query": f"What is {n} times 7?", "finalAnswer": f"It is {n * 7}.", "qualityScore": 9})
        for n in range(24)
    )
    with victims.client as client:
        client.post("/api/traces/import", content=good, headers={"Content-Type": "application/x-ndjson"})
    yield victims
    victims.close()


def survived(victims: Victims, config: dict[str, object], kills: int, per_run: int, moments: Moments) -> None:
    """Kill so often, spread over several runs, and compare each adapter with that of a run that nobody disturbed."""
    undisturbed = victims.survive(config, 0, moments)
    expected = victims.weights(undisturbed)
    completed = 0
    while victims.kills < kills:
        run = victims.survive(config, min(per_run, kills - victims.kills), moments)
        if victims.row(run)["status"] == "completed":
            completed += 1
            assert victims.weights(run) == expected, f"run {run} learned something else"
    victims.finish()
    assert completed > 0
    print(f"seed {SEED}: {victims.kills} kills, {len(victims.runs)} runs, {completed} of the disturbed ones completed")


def test_fifty_kills_of_server_and_worker_lose_nothing(victims: Victims) -> None:
    survived(victims, {"backend": "stand-in", "baseModel": "steps-80"}, kills=50, per_run=10, moments=Moments(0.8))


def test_four_kills_of_server_and_the_real_trainer_lose_nothing(victims: Victims, tiny_model: Path) -> None:
    config = {"baseModel": str(tiny_model), "epochs": 10, "batchSize": 1, "gradientAccumulationSteps": 1}
    # It imports for five seconds and trains for two: half of the kills wait for it to train.
    survived(victims, config, kills=4, per_run=2, moments=Moments(8.0, at_work=0.5, longest_at_work=1.5))
