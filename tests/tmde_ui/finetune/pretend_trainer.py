"""A training worker that pretends, as slowly or as fast as a test wants: `python pretend_trainer.py train|preview JOB`.

What it does is in `orders.json` of the data directory, which the test writes and may change while it runs:
`steps` it may have done by now of `total`, and what comes `then`: wait, end or fail. It says what it is told by `say`.
A preview needs `ram` bytes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tmde_core.records.base import from_json, to_json
from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.records.training import (
    PREVIEW_FILE,
    ExampleTokens,
    MaskedPiece,
    PreviewReport,
    ResourceEstimate,
    TrainingJob,
)
from tmde_core.sdk.worker.kit import BaseIdentity, RunWorker, TrainingFailedError
from tmde_core.testing.adapters import write_adapter


def orders(data_dir: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((Path(data_dir) / "orders.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not yet, or half written
        return {}
    return found


def save(directory: Path) -> None:
    (directory / "state").write_text("as far as it is")


def train(worker: RunWorker) -> None:
    write_adapter(worker.make_staging(), worker.job.run_id)
    step = 0
    if worker.job.resume_from:
        step = int(worker.job.resume_from.rsplit("-", 1)[1])
    while True:
        told = orders(worker.job.data_dir)
        total = told.get("total", 40)
        between = max(10, total // 4)  # a checkpoint waits for the disk
        while step < told.get("steps", 0):
            step += 1
            if step == 1 and told.get("say"):
                worker.events.log(told["say"])
                sys.stdout.write(told["say"] + "\n")
                sys.stdout.flush()
            held_out = 2.4 / step**0.2 if step % between == 0 else None
            worker.events.progress(
                step, total, loss=2.5 / step**0.3 + 0.05 * (step * 7 % 5), eval_loss=held_out, tokens_per_second=812.5,
                rss_bytes=1_240_000_000, eta_seconds=2.0 * (total - step),
            )  # fmt: skip
            if held_out is not None:
                worker.events.eval(step, held_out, best=True)
                worker.checkpoint(step, save)
        if told.get("then") == "fail":
            raise TrainingFailedError("nan-loss", told.get("why", "The loss is not a number. Lower the learning rate."))
        if told.get("then") == "end":
            break
        time.sleep(0.02)
    metrics = FineTuneMetrics(
        final_train_loss=0.874, best_val_loss=1.016, total_steps=step, perplexity=2.76, tokens_per_second=801.0
    )
    worker.publish(metrics, BaseIdentity(name="pretended-base"))


def preview(job: TrainingJob) -> None:
    lengths: list[ExampleTokens] = []
    for file, split in ((job.train_file, "train"), (job.val_file, "val")):
        for number, line in enumerate(Path(file).read_bytes().splitlines()):
            total = 60 + 13 * (number % 9)
            trace = json.loads(line)["traceId"]
            lengths.append(ExampleTokens(trace_id=trace, split=split, total=total, supervised=total // 3))  # type: ignore[arg-type]
    first = json.loads(Path(job.train_file).read_bytes().splitlines()[0])
    report = PreviewReport(
        examples=tuple(lengths),
        first_example=(
            MaskedPiece(text=f"<|im_start|>user\n{first['instruction']}<|im_end|>\n<|im_start|>assistant\n", supervised=False),
            MaskedPiece(text=f"{first['output']}<|im_end|>", supervised=True),
        ),
        estimate=ResourceEstimate(ram_bytes=orders(job.data_dir).get("ram", 1_310_000_000), seconds=372.0),
        calibrated=True,
    )  # fmt: skip
    (Path(job.run_dir) / PREVIEW_FILE).write_bytes(to_json(report))


if __name__ == "__main__":
    what, path = sys.argv[1], Path(sys.argv[2])
    if what == "preview":
        preview(from_json(path.read_bytes(), TrainingJob))
    else:
        with RunWorker(path) as run:
            train(run)
        sys.exit(run.exit_code)
