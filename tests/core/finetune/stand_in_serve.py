"""`tmde serve` with one backend more, whose worker only pretends to train: `python stand_in_serve.py serve --port 0 …`."""

import runpy
import sys
from pathlib import Path

from tmde_core.cli.app import run
from tmde_core.plugins import Plugins

shared = runpy.run_path(str(Path(__file__).with_name("conftest.py")))


def load() -> Plugins:
    return shared["stand_in_plugins"](shipped())


if __name__ == "__main__":
    shipped = Plugins.load
    Plugins.load = load  # type: ignore[method-assign, assignment]
    run(sys.argv[1:])
