"""Finds installed plugins. stevedore imports their entry points; a failed import affects only that plugin."""

from __future__ import annotations

import importlib.metadata
from typing import Any, NoReturn

import structlog
from stevedore import ExtensionManager
from stevedore.extension import Extension

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
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _raise_import_error(error)


def _raise_import_error(error: BaseException) -> NoReturn:
    raise ImportError(str(error)) from error


def _describe(entry_point: importlib.metadata.EntryPoint) -> Entry:
    distribution = entry_point.dist
    return Entry(
        name=entry_point.name,
        module=entry_point.value,
        distribution=distribution.name if distribution else None,
        version=distribution.version if distribution else None,
    )
