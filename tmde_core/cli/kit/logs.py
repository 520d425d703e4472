"""Configure logging: to stderr for the server, to `logs/cli.log` for every other command."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler

import structlog

from tmde_core.settings import Settings

LIMIT_BYTES = 2_000_000
"""The size at which a new log file is started. The previous file is kept as `cli.log.1`."""

CHATTY = ("aiosqlite", "asyncio", "engineio", "httpcore", "httpx", "nicegui", "socketio", "uvicorn", "watchfiles")
"""Libraries that log every request at `info`. Only their warnings are logged."""


def log_to_stderr(settings: Settings) -> None:
    """Log readable lines to stderr, for the person who started the server."""
    colours = sys.stderr.isatty()
    _configure(
        logging.StreamHandler(sys.stderr),
        settings,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
    )


def log_to_file(settings: Settings) -> None:
    """Log JSON lines to a file in the data directory, because the terminal is for the command's own output."""
    path = settings.data_path / "logs" / "cli.log"
    handler: logging.Handler
    try:
        path.parent.mkdir(exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=LIMIT_BYTES, backupCount=1, encoding="utf-8", delay=True)
    except OSError:
        handler = logging.NullHandler()  # the command reports a problem with the directory when it uses the directory
    _configure(handler, settings, structlog.processors.JSONRenderer())


def _configure(handler: logging.Handler, settings: Settings, renderer: structlog.types.Processor) -> None:
    """Install one handler for TMDE's own log lines and for those of libraries."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    last = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if isinstance(renderer, structlog.processors.JSONRenderer):
        last.append(structlog.processors.format_exc_info)  # type: ignore[arg-type]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*last, renderer]))
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    logging.raiseExceptions = False  # a full disk must not print tracebacks of the logging itself
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
