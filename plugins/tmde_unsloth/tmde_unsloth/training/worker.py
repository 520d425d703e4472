"""Train a LoRA adapter with Unsloth: `python -m tmde_unsloth.training.worker [OPTION …] RUN_DIR/job.json`.

Unsloth takes half a minute to import. The worker imports it after it has reported to the supervisor.
"""

from __future__ import annotations

import sys

from tmde_core.sdk.worker import RunWorker, TrainingFailedError
from tmde_unsloth.training.options import Options, parse, prepare_environment


def main(options: Options) -> int:
    """Run the job and return an exit code of `tmde_core.sdk.worker`."""
    with RunWorker(options.job) as worker:
        prepare_environment(options, worker.run_dir)
        worker.events.log("Loading Unsloth.")
        require_card(options)
        import unsloth  # noqa: F401  # before transformers and peft, which it changes

        from tmde_unsloth.training.loop import train

        train(worker, options)
    return worker.exit_code


def require_card(options: Options) -> None:
    """Raise an error if there is no card and nobody allowed to train without one. Unsloth would only say "crash"."""
    import torch

    if not options.allow_cpu and not torch.cuda.is_available():
        raise TrainingFailedError(
            "no-card",
            "PyTorch finds no NVIDIA card. Run `tmde backends doctor unsloth`, or train with the backend `cpu`.",
        )


if __name__ == "__main__":
    sys.exit(main(parse()))
