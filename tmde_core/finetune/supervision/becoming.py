"""Lets a process wait before it becomes the training process. It keeps its id, its mark and the run's leash.

The waiting process holds the run's leash from its first moment, as every worker does. Starting a run therefore does
not wait, and cancelling the run ends the wait.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType

import msgspec

from tmde_core.records.training import WorkerCommand
from tmde_core.sdk.environments import VARIABLES

ENVIRONMENT = "TMDE_TRAINING_ENVIRONMENT"
"""Environment variable with the variables of the training process as JSON. They may be for another interpreter."""


def put_before(command: WorkerCommand, module: ModuleType, *arguments: str) -> WorkerCommand:
    """Return the command of a process that runs a module of TMDE first. The module ends with `become`."""
    waiting = (sys.executable, "-m", module.__name__, *arguments)
    return WorkerCommand(
        argv=(*waiting, *command.argv),
        env={
            # A worker of another environment may start the process, and has emptied these variables.
            **{name: os.environ.get(name, "") for name in VARIABLES},
            ENVIRONMENT: msgspec.json.encode(dict(command.env)).decode(),
        },
    )


def become(command: Sequence[str]) -> None:
    """Replace this process by the program, with the variables of its command."""
    sys.stderr.flush()
    os.environ.update(msgspec.json.decode(os.environ.pop(ENVIRONMENT, "{}"), type=dict[str, str]))
    os.execvp(command[0], list(command))  # noqa: S606 - the backend's own argument list, which no shell may read
