"""Where log lines go: to stderr for the server, into `logs/cli.log` for every other command."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TextIO

import structlog

from tmde_core.settings import Settings

LIMIT_BYTES = 2_000_000
"""The log starts afresh beyond this; the one before is kept as `cli.log.1`."""


def log_to_stderr(settings: Settings) -> None:
    """Readable lines on stderr: what the person who started the server wants to see."""
    _configure(sys.stderr, settings, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))


def log_to_file(settings: Settings) -> None:
    """JSON lines in the data directory; the terminal belongs to the command's own output."""
    path = settings.data_path / "logs" / "cli.log"
    try:
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LIMIT_BYTES:
                path.replace(path.with_suffix(".log.1"))
        stream: TextIO = path.open("a", encoding="utf-8")
    except OSError:
        stream = sys.stderr  # a full disk: say it where it can be seen
    _configure(stream, settings, structlog.processors.JSONRenderer())


def _configure(stream: TextIO, settings: Settings, renderer: structlog.types.Processor) -> None:
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        stream=stream,
        level=max(level, logging.WARNING),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        force=True,
    )
