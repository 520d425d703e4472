"""Train a LoRA adapter with Unsloth: `python -m tmde_unsloth.training.worker [OPTION …] RUN_DIR/job.json`.

Unsloth takes half a minute to import. The worker imports it after it has reported to the supervisor.
"""

from __future__ import annotations

import sys

from tmde_core.sdk.worker import RunWorker, require_card
from tmde_unsloth.training.options import Options, parse, prepare_environment


def main(options: Options) -> int:
    """Run the job and return an exit code of `tmde_core.sdk.worker`."""
    with RunWorker(options.job) as worker:
        prepare_environment(options, worker.run_dir)
        worker.events.log("Loading Unsloth.")
        require_card("unsloth", allow_cpu=options.allow_cpu)
        import unsloth  # noqa: F401  # before transformers and peft, which it changes

        from tmde_unsloth.training.loop import train

        train(worker, options)
    return worker.exit_code


if __name__ == "__main__":
    sys.exit(main(parse()))
