"""Report an unexpected error: write the traceback to a file, and describe the error in one sentence."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

from tmde_core.cli.kit.invocation import Invocation
from tmde_core.settings import default_data_dir


def record(error: BaseException, invocation: Invocation) -> str:
    """Write the traceback to a file and return a sentence that describes the error and names the file."""
    name = f"crash-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    report = f"command: {sys.argv}\npython: {sys.version}\n\n{''.join(traceback.format_exception(error))}"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    for directory in ((invocation.data_dir or default_data_dir()) / "logs", Path(tempfile.gettempdir())):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / name
            path.write_text(report, encoding="utf-8")
        except OSError:
            continue
        return f"Something went wrong inside TMDE ({what}). What happened is written in {path}; please report it with that file."
    return f"Something went wrong inside TMDE ({what}), and its report could not be written anywhere."
