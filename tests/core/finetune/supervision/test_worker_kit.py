"""The kit of training workers: checkpoints, the heartbeat, and what is told of memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tmde_core.records.base import to_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.training import TrainingJob
from tmde_core.sdk.worker import vitals
from tmde_core.sdk.worker.kit import RunWorker, list_checkpoints

RUN = "00000000-0000-0000-0000-0000000000aa"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    run_dir = tmp_path / "runs" / RUN
    run_dir.mkdir(parents=True)
    job = TrainingJob(
        run_id=RUN,
        run_dir=str(run_dir),
        train_file="",
        val_file="",
        output_dir=str(tmp_path / "lora-adapters" / f".staging-{RUN}"),
        base_model="",
        data_dir=str(tmp_path),
        config=msgspec.to_builtins(FineTuneConfig()),
    )
    (run_dir / "job.json").write_bytes(to_json(job))
    return run_dir / "job.json"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The kit takes the signals of its process."""
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def events(job: Path) -> list[dict]:
    return [json.loads(line) for line in (job.parent / "events.jsonl").read_text().splitlines()]


def kept(job: Path) -> list[str]:
    return [path.name for path in list_checkpoints(job.parent)]


def test_the_two_newest_checkpoints_are_kept(job: Path) -> None:
    with RunWorker(job) as worker:
        for step in (5, 10, 15):
            worker.checkpoint(step, lambda path: (path / "state").write_text("x") and None)
    assert kept(job) == ["step-00000010", "step-00000015"]
    assert sorted(path.name for path in (job.parent / "checkpoints").iterdir()) == kept(job)


def test_a_disk_that_is_full_amid_a_checkpoint_leaves_the_older_ones_and_no_half_one(job: Path) -> None:
    def fill(path: Path) -> None:
        (path / "weights").write_bytes(b"x" * 1000)
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with RunWorker(job) as worker:
        for step in (5, 10):
            worker.checkpoint(step, lambda path: (path / "state").write_text("x") and None)
        worker.checkpoint(15, fill)
    assert kept(job) == ["step-00000005", "step-00000010"]
    assert sorted(path.name for path in (job.parent / "checkpoints").iterdir()) == kept(job)
    assert events(job)[-1]["type"] == "error"
    assert events(job)[-1]["data"]["reason"] == "disk-full"


def test_a_half_written_checkpoint_of_a_killed_worker_is_none_and_goes_with_the_next(job: Path) -> None:
    half = job.parent / "checkpoints" / ".step-00000005"
    half.mkdir(parents=True)
    (half / "state").write_text("x")
    assert kept(job) == []
    with RunWorker(job) as worker:
        worker.checkpoint(7, lambda path: (path / "state").write_text("x") and None)
    assert kept(job) == ["step-00000007"]
    assert not half.exists()


def test_lack_of_memory_is_not_the_last_word(job: Path) -> None:
    with RunWorker(job) as worker:
        raise MemoryError
    assert worker.exit_code == 1
    assert [event["type"] for event in events(job)] == ["log"]
    assert events(job)[0]["data"]["reason"] == "out-of-memory"


def test_a_file_cancels_as_a_signal_does(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmde_core.sdk.worker.kit.HEARTBEAT_SECONDS", 0.02)
    with RunWorker(job) as worker:
        (job.parent / "cancel").touch()
        threading.Event().wait(60)
    assert worker.exit_code == 143
    assert events(job)[-1]["type"] == "cancelled"


def test_who_was_ended_by_the_supervisor_says_its_reason(job: Path) -> None:
    with RunWorker(job) as worker:
        (job.parent / "stopped.json").write_text('{"reason": "disk-full", "detail": "The disk is full."}')
        os.kill(os.getpid(), 15)
    assert worker.exit_code == 143
    assert events(job)[-1] == {"type": "error", "data": {"reason": "disk-full", "detail": "The disk is full."}}


def test_steps_tell_how_long_they_took(job: Path) -> None:
    with RunWorker(job) as worker:
        worker.events.progress(1, 3)
        worker.events.progress(2, 3)
    steps = [event["data"]["stepSeconds"] for event in events(job) if event["type"] == "progress"]
    assert steps[0] is None
    assert steps[1] >= 0


def test_the_heartbeat_tells_how_much_memory_there_was(job: Path) -> None:
    with RunWorker(job):
        last = vitals.read_heartbeat(job.parent)
    assert last is not None
    assert last.rss_bytes > 0
    assert 0 <= last.available_bytes <= last.total_bytes
    assert not vitals.was_killed_for_memory(None)


def beat(**changes) -> vitals.Vitals:
    fields = {"rss_bytes": 1, "available_bytes": 50, "total_bytes": 100, "oom_counter": "/none", "oom_kills": None}
    return vitals.Vitals(**{**fields, **changes})


def test_a_process_died_of_memory_when_the_kernel_counted_a_kill_since_its_last_heartbeat(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert not vitals.was_killed_for_memory(beat(oom_counter=str(counter), oom_kills=2))
    assert vitals.was_killed_for_memory(beat(oom_counter=str(counter), oom_kills=1))


def test_a_process_died_of_memory_when_little_was_left_at_its_last_heartbeat() -> None:
    assert vitals.was_killed_for_memory(beat(available_bytes=4))
    assert not vitals.was_killed_for_memory(beat(available_bytes=6))


def test_a_control_group_that_allows_less_than_the_machine_has_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 300000\n")
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    monkeypatch.setattr(vitals, "_cgroup", lambda: tmp_path)
    assert vitals.measure_memory() == (1_000_000, 400_000)
    assert vitals.oom_counter() == tmp_path / "memory.events"
    (tmp_path / "memory.max").write_text("max\n")
    assert vitals.measure_memory()[0] > 1_000_000
