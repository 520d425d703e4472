"""Train a LoRA adapter with Axolotl: `python -m tmde_axolotl.training.worker [OPTION …] RUN_DIR/job.json`.

Axolotl takes many seconds to import. The worker imports it after it has reported to the supervisor.
"""

from __future__ import annotations

import sys

from tmde_axolotl.training.options import Options, parse, prepare_environment
from tmde_core.sdk.worker import RunWorker, require_card


def main(options: Options) -> int:
    """Run the job and return an exit code of `tmde_core.sdk.worker`."""
    with RunWorker(options.job) as worker:
        prepare_environment()
        worker.events.log("Loading Axolotl.")
        require_card("axolotl", allow_cpu=options.allow_cpu)
        from tmde_axolotl.training.run import train

        train(worker, options)
    return worker.exit_code


if __name__ == "__main__":
    sys.exit(main(parse()))
