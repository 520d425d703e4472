"""Start a worker in another Python environment: `python .../start.py PACKAGE_DIRECTORY MODULE [ARGUMENT …]`.

The environment of a training backend has its own packages and no TMDE. This script gives it exactly two packages of
TMDE's own environment: the core and the plugin. It loads them from their directories, so no other package of TMDE's
environment can be imported, and the worker always has the same version as the server that started it.

The script uses the standard library only, and runs on Python 3.10 and newer.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

__all__ = ["add_package"]


def add_package(directory: Path) -> None:
    """Load a package from its directory. Its modules can be imported afterwards."""
    spec = importlib.util.spec_from_file_location(
        directory.name, directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"There is no package in {directory}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[directory.name] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Run the module that the arguments name as the main program."""
    _, package, module, *arguments = sys.argv
    del sys.path[0]  # the directory of this script, whose modules are no top-level modules
    add_package(Path(__file__).resolve().parents[2])
    add_package(Path(package))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
