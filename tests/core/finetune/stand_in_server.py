"""A server without HTTP: opens the data directory, starts a run and says its id, then waits to be killed.

`python stand_in_server.py DATA_DIR BASE_MODEL`
"""

import asyncio
import runpy
import sys
from pathlib import Path

from tmde_core.records.finetune import FineTuneConfig
from tmde_core.services import open_services


async def main(data_dir: Path, base_model: str) -> None:
    shared = runpy.run_path(str(Path(__file__).with_name("conftest.py")))
    async with open_services(shared["settings_on"](data_dir), shared["stand_in_plugins"](), serving=True) as services:
        run = await services.finetune.start(FineTuneConfig(backend="stand-in", base_model=base_model, min_traces=5))
        sys.stdout.write(f"run {run.id}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
