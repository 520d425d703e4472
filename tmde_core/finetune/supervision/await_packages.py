"""Waits until the packages of a training backend are installed, and becomes the training process.

`python -m tmde_core.finetune.supervision.await_packages DATA_DIR BACKEND RUN_DIR PROGRAM [ARGUMENT …]`

The server may install them meanwhile. If no process does, this one installs them itself, with the low priority of a
training process: the run then needs no server.

RUN_DIR is `-` for a process that a worker starts, such as the conversion of its base model. The wait then shows on
standard output, and its failure is the worker's to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from tmde_core.backends.service import BackendEnvironments
from tmde_core.errors import ConflictError, TmdeError
from tmde_core.finetune.supervision.becoming import become
from tmde_core.plugins import Plugins
from tmde_core.plugins.records import describe_error
from tmde_core.sdk.worker.kit import RunEvents
from tmde_core.sdk.worker.run_files import ACTIVITY_FILE, EVENTS_FILE
from tmde_core.settings import load_settings

POLL_SECONDS = 0.5
"""The time between two looks at an installation by another process."""
ALIVE_SECONDS = 2.0
"""The time between two signs of life for the watchdog."""
MAX_REFUSALS = 3
"""After so many refusals in a row without another process at work, the run fails with the reason."""
LINE_SECONDS = 10.0
"""The longest time between two lines on standard output."""
NO_RUN = "-"
"""Stands for the directory of a run where there is none."""


async def wait(backends: BackendEnvironments, name: str) -> None:
    """Wait until the packages of a backend are installed and examined.

    Raises:
        TmdeError: they cannot be installed; the detail says why.
        PluginUnavailableError: they are installed, but do not work.
    """
    refused = 0
    while backends.awaits_installation(name):
        try:
            await backends.install(name)
        except ConflictError:
            # Another process installs them, or has just ended. A refusal that stays has another reason, such as a file
            # in the way.
            refused = 0 if backends.is_busy(name) else refused + 1
            if refused == MAX_REFUSALS:
                raise
            await asyncio.sleep(POLL_SECONDS)
    await backends.require_working(name)


async def _show_life(run_dir: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            (run_dir / ACTIVITY_FILE).touch()
        await asyncio.sleep(ALIVE_SECONDS)


async def _print_state(backends: BackendEnvironments, name: str) -> None:
    told, since = "", 0.0
    while True:
        state = await asyncio.to_thread(backends.describe_wait, name)
        if state and (state != told or since >= LINE_SECONDS):
            sys.stdout.write(f"{state}\n")
            sys.stdout.flush()
            told, since = state, 0.0
        await asyncio.sleep(ALIVE_SECONDS)
        since += ALIVE_SECONDS


async def _wait_visibly(data_dir: str, name: str, run_dir: Path | None) -> None:
    settings = load_settings(Path(data_dir))
    backends = BackendEnvironments(Plugins.load(), lambda: settings)
    waiting = asyncio.ensure_future(wait(backends, name))
    # A cancelled run ends this process with SIGTERM. The installation then says that it was cancelled.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, waiting.cancel)
    living = asyncio.create_task(_print_state(backends, name) if run_dir is None else _show_life(run_dir))
    try:
        await waiting
    finally:
        living.cancel()


def main(arguments: list[str]) -> None:
    """Wait, and replace this process by the program. If the packages cannot be installed, end the run."""
    data_dir, name, place, *command = arguments
    run_dir = None if place == NO_RUN else Path(place)
    try:
        asyncio.run(_wait_visibly(data_dir, name, run_dir))
    except Exception as error:  # a full disk, for example
        why = error.detail if isinstance(error, TmdeError) else f"{describe_error(error)}."
        sentence = f"The packages of training could not be installed. {why}"
        sys.stderr.write(f"{sentence}\n")
        if run_dir is not None:
            RunEvents(run_dir / EVENTS_FILE).end("error", {"reason": "no-packages", "detail": sentence})
        sys.exit(1)
    except asyncio.CancelledError:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    become(command)


if __name__ == "__main__":
    main(sys.argv[1:])
