"""Create small datasets and run directories, to train in seconds and without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from tmde_core.finetune.dataset.selection import TRAIN_FILE, VAL_FILE
from tmde_core.records.base import to_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import Dataset, FineTuneConfig
from tmde_core.records.training import TrainingExample, TrainingJob
from tmde_core.sdk.adapters import staging_directory
from tmde_core.sdk.worker.run_files import JOB_FILE


def times_tables(
    numbers: Sequence[int], system: str = "Answer the question in one short sentence."
) -> list[TrainingExample]:
    """Return one example for each ordered pair of `numbers`: "What is 7 times 8?", "7 times 8 is 56."."""
    examples = []
    for a in numbers:
        for b in numbers:
            question, answer = f"What is {a} times {b}?", f"{a} times {b} is {a * b}."
            messages = (Message("system", system), Message("user", question), Message("assistant", answer))
            trace_id = str(UUID(int=a * 1000 + b))
            examples.append(TrainingExample(question, "", answer, messages, trace_id))
    return examples


def write_job(
    data_dir: Path,
    train: Sequence[TrainingExample],
    val: Sequence[TrainingExample],
    config: FineTuneConfig,
    *,
    run_id: UUID | None = None,
    resume_from: Path | None = None,
) -> Path:
    """Write a run's dataset and job.json under `data_dir/runs` and return the path of job.json."""
    run = str(run_id or uuid4())
    run_dir = data_dir / "runs" / run
    run_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "lora-adapters").mkdir(exist_ok=True)
    files = {TRAIN_FILE: train, VAL_FILE: val}
    for name, examples in files.items():
        (run_dir / name).write_bytes(b"".join(to_json(example) + b"\n" for example in examples))
    dataset = Dataset(
        sha256="0" * 64,
        trace_ids=tuple(UUID(example.trace_id) for example in (*train, *val)),
        train_examples=len(train),
        val_examples=len(val),
    )
    (run_dir / "dataset.json").write_bytes(to_json(dataset))
    job = TrainingJob(
        run_id=run,
        run_dir=str(run_dir),
        train_file=str(run_dir / TRAIN_FILE),
        val_file=str(run_dir / VAL_FILE),
        output_dir=str(staging_directory(data_dir / "lora-adapters", run)),
        base_model=config.base_model,
        data_dir=str(data_dir),
        config=msgspec.to_builtins(config),
        resume_from=str(resume_from) if resume_from else None,
    )
    (run_dir / JOB_FILE).write_bytes(to_json(job))
    return run_dir / JOB_FILE
