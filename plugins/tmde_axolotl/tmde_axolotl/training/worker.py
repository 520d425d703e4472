"""Train a LoRA adapter with Axolotl: `python -m tmde_axolotl.training.worker [OPTION …] RUN_DIR/job.json`.

Axolotl takes many seconds to import. The worker imports it after it has reported to the supervisor.
"""

from __future__ import annotations

import sys

from tmde_axolotl.training.options import Options, parse, prepare_environment
from tmde_core.sdk.worker import RunWorker, TrainingFailedError


def main(options: Options) -> int:
    """Run the job and return an exit code of `tmde_core.sdk.worker`."""
    with RunWorker(options.job) as worker:
        prepare_environment()
        worker.events.log("Loading Axolotl.")
        require_card(options)
        from tmde_axolotl.training.run import train

        train(worker, options)
    return worker.exit_code


def require_card(options: Options) -> None:
    """Raise an error if there is no card and nobody allowed to train without one."""
    import torch

    if not options.allow_cpu and not torch.cuda.is_available():
        raise TrainingFailedError(
            "no-card",
            "PyTorch finds no NVIDIA card. Run `tmde backends doctor axolotl`, or train with the backend `cpu`.",
        )


if __name__ == "__main__":
    sys.exit(main(parse()))
