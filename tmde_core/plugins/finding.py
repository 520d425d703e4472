"""Finds installed plugins. stevedore imports their entry points; a failed import affects only that plugin."""

from __future__ import annotations

import importlib.metadata
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import structlog
from stevedore import ExtensionManager
from stevedore.extension import Extension

from tmde_core.entry_points import describe_distribution
from tmde_core.plugins.records import Entry, describe_error
from tmde_core.sdk.hooks import ENTRY_POINT_GROUP

log = structlog.get_logger(__name__)


def find_plugins() -> list[tuple[Entry, object | None]]:
    """Import every installed plugin.

    Returns:
        Each plugin with the object that its entry point names, or None if the import failed. The list is sorted by
        plugin name, so that the same provider keeps a contested name at every start.
    """
    found: list[tuple[Entry, object | None]] = []

    def failed(_manager: object, entry_point: importlib.metadata.EntryPoint, error: BaseException) -> None:
        entry = _describe(entry_point)
        entry.fail("import", describe_error(error.__cause__ or error))
        found.append((entry, None))
        log.warning("plugin.import_failed", plugin=entry.name, error=entry.problems[-1].detail)

    with _watch_interrupts():
        finder = _Finder(ENTRY_POINT_GROUP, on_load_failure_callback=failed)
    found += [(_describe(extension.entry_point), extension.plugin) for extension in finder]
    return sorted(found, key=lambda one: (one[0].name, one[0].distribution or ""))


class _Finder(ExtensionManager[Any]):
    """stevedore's manager with two changes."""

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        """Read the entry points from the metadata each time.

        stevedore's own list uses a cache in the user's home directory. Its entries do not have their distribution, and
        the cache is a file outside the data directory that can be outdated. Reading the metadata takes about 50 ms.
        """
        return list(importlib.metadata.entry_points(group=self.namespace))

    def _load_one_plugin(self, ep: importlib.metadata.EntryPoint, *args: Any, **kwds: Any) -> Extension[Any] | None:
        """Import a plugin and raise any failure as an ImportError.

        stevedore itself does not catch AssertionError and SystemExit.
        """
        try:
            return super()._load_one_plugin(ep, *args, **kwds)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and _interrupted.is_set():
                raise
            _raise_import_error(error)


_interrupted = threading.Event()
"""Set if Ctrl-C was pressed while plugins are imported. A module can also raise KeyboardInterrupt by itself."""


@contextmanager
def _watch_interrupts() -> Iterator[None]:
    """Note whether a real interrupt arrives. Python delivers interrupts to the main thread only."""
    _interrupted.clear()
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return

    def note(number: int, frame: FrameType | None) -> Any:
        _interrupted.set()
        return handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)


def _raise_import_error(error: BaseException) -> NoReturn:
    raise ImportError(describe_error(error)) from error


def _describe(entry_point: importlib.metadata.EntryPoint) -> Entry:
    package = describe_distribution(entry_point.dist)
    entry = Entry(
        name=entry_point.name,
        module=entry_point.value,
        distribution=package.name or None,
        version=package.version or None,
    )
    if package.problem:
        entry.fail("import", package.problem)
    return entry
