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
    import unsloth  # noqa: F401

    from tmde_unsloth.training import trainee, worker
    from tmde_unsloth.training.options import parse

    real = trainee.Trainee.loss

    def loss(self, part, supervised):  # type: ignore[no-untyped-def]
        found = real(self, part, supervised)
        if len(part.input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return found

    trainee.Trainee.loss = loss
    sys.exit(worker.main(parse(arguments)))
