"""Starts a real `tmde serve` on its own data directory, for benchmarks that measure the server from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MODELS = Path(os.environ.get("TMDE_DATA_DIR") or Path(__file__).parents[1] / "data") / "models"


@contextmanager
def served(data_dir: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Yield the address and the process of a running server.

    The server has no pages, uses a free port, and finds the embedded model in its data directory.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if not (data_dir / "models").exists():
        (data_dir / "models").symlink_to(MODELS.absolute(), target_is_directory=True)
    command = [sys.executable, "-m", "tmde_core.cli", "serve", "--no-ui", "--port", "0", "--data-dir", str(data_dir)]
    environment = {**os.environ, "TMDE_LOG_LEVEL": "warning"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise RuntimeError("the server did not start")
        yield found[0].rstrip("/"), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)
