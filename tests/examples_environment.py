"""One fresh virtual environment that has every package of `examples/`, made once for all tests and workers.

It finds TMDE and the libraries in the environment of the tests, so that nothing is downloaded.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
PACKAGES = sorted(file.parent for file in EXAMPLES.glob("*/pyproject.toml"))
TMDE = "from tmde_core.cli import main; main()"


class Environment:
    """A virtual environment with the examples, and a data directory."""

    def __init__(self, root: Path) -> None:
        self.python = root / "bin" / "python"
        self._root = root

    def make(self) -> None:
        """Create the environment and install every example into it as pip installs a stranger's package."""
        venv.create(self._root, symlinks=True)
        shared = sysconfig.get_path("purelib")
        (site,) = self._root.glob("lib/python*/site-packages")
        # `addsitedir` also follows the links of packages that are installed as editable.
        (site / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-index"]
        self._run([*pip, "--no-deps", "--no-build-isolation", "--disable-pip-version-check", *map(str, PACKAGES)])

    def run(self, *words: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
        """Run Python in the environment."""
        return self._run([str(self.python), *words], check=False, data_dir=data_dir)

    def tmde(self, *words: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
        """Run `tmde` in the environment."""
        return self.run("-c", TMDE, *words, data_dir=data_dir)

    def variables(self, data_dir: Path) -> dict[str, str]:
        """The environment variables of a process."""
        return {**os.environ, "TMDE_DATA_DIR": str(data_dir), "COLUMNS": "200", "NO_COLOR": "1"}

    def _run(
        self, argv: list[str], *, check: bool = True, data_dir: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        variables = self.variables(data_dir) if data_dir else None
        done = subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done


def make_environment(base: Path) -> Environment:
    """Return the environment; the first test that asks makes it.

    Args:
        base: pytest's own directory of this session.
    """
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    environment = Environment(shared / "examples-environment")
    with (shared / "examples-environment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shared / "examples-environment.done"
        if not done.exists():
            environment.make()
            done.touch()
    return environment
