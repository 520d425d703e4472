"""The worker on a device that is full as soon as two examples are computed at once: START_PY PACKAGE [OPTION …] JOB."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    _, start, package, *arguments = sys.argv
    add_package = runpy.run_path(start)["add_package"]
    add_package(Path(start).resolve().parents[2])
    add_package(Path(package))

    import torch

    from tmde_axolotl.training import trainer, worker
    from tmde_axolotl.training.options import parse

    real = trainer.TmdeTrainer.training_step

    def training_step(self, model, inputs, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, model, inputs, num_items_in_batch)

    trainer.TmdeTrainer.training_step = training_step
    sys.exit(worker.main(parse(arguments)))
