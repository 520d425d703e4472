"""The settings while a process runs: what it started with, what is stored, and what is in force now.

`LiveSettings` alone writes `tmde.toml`, and alone knows which settings the environment overrides. Services keep no
copy: they read `current` when they need a value, or subscribe when they must act on a change.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tmde_core.errors import ConflictError, InvalidInputError, TmdeError
from tmde_core.records.base import invalid_field, to_json
from tmde_core.settings.file import update_settings_file
from tmde_core.settings.reading import read_settings, snake
from tmde_core.settings.schema import ENVIRONMENT, FOLLOWED, PLUGIN_TABLES, SETTINGS_FILE, Settings

log = structlog.get_logger(__name__)

MASK = "********"
"""Shown for a secret; sent back, it leaves the secret as it is."""

_SECRET = re.compile(r"(?i)(key|token|secret|password)$")

Check = Callable[[Settings, Settings], None]
"""Given the wanted settings and those stored now: raises InvalidInputError when the wanted ones cannot work."""
Listener = Callable[[Settings, Settings], None]
"""Given the settings that were in force and those that are now."""


class LiveSettings:
    """The settings of one process. The one owner of the file and of what overrides it."""

    def __init__(
        self, started: Settings, checks: Sequence[Check] = (), environ: Mapping[str, str] = os.environ
    ) -> None:
        """Begin with what `load_settings` found.

        Args:
            checks: what domains and plugins ask of new settings; each is called before anything is written.
        """
        self.started = started
        self._stored = started
        self._current = started
        self._checks = checks
        self._environ = environ
        self._listeners: list[Listener] = []
        self._lock = asyncio.Lock()
        self._file_state = self._look()
        self._in_file = self._read() or started
        """What the file and the environment said at the last look."""

    @property
    def current(self) -> Settings:
        """The settings in force now. The tables in `FOLLOWED` follow each change, the others hold as at the start."""
        return self._current

    @property
    def stored(self) -> Settings:
        """The settings from the next start on."""
        return self._stored

    @property
    def restart_required(self) -> bool:
        """Whether something was changed that holds only from the next start on."""
        return self._stored != self._current

    def masked(self) -> dict[str, Any]:
        """The stored settings by field, with the secrets in plugins' tables masked."""
        values = msgspec.structs.asdict(self._stored)
        for table in PLUGIN_TABLES:
            values[table] = {name: _masked(inner) for name, inner in values[table].items()}
        return values

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` whenever the settings in force have changed."""
        self._listeners.append(listener)

    async def change(self, values: Mapping[str, Any]) -> Settings:
        """Put new values over the stored ones, in the file too; all of them, or none.

        Args:
            values: in the wire's form; what is not named stays.

        Returns:
            The stored settings.

        Raises:
            InvalidInputError: an unknown setting, or a value of the wrong type, out of range or refused by a check.
            ConflictError: the environment sets one of them, so the file would not count; context has `variable`.
            InsufficientStorageError: the file cannot be written; nothing has changed.
        """
        async with self._lock:
            self.reread()
            before = _tree(self._stored)
            changes = _changes(before, values)
            self._check(_settings(_over(before, changes)))
            if changes:
                in_file = _as_in_file(changes)
                self._require_free(in_file)
                await asyncio.to_thread(update_settings_file, self._file, in_file)
                self._in_file = _settings(_over(_tree(self._in_file), changes))
                self._file_state = None  # somebody else may have written since; the next look finds out
                self._put(_settings(_over(_tree(self._stored), changes)))
            return self._stored

    def reread(self) -> None:
        """Follow the file where somebody else has changed it: a command line, an editor.

        Only what differs from the last look is taken over. A file that cannot be read is logged and changes nothing.
        """
        state = self._look()
        if state == self._file_state:
            return
        self._file_state = state
        found = self._read()
        if found is None:
            return
        try:
            stored = self._with_changes_of(found)
            self._check(stored)
        except TmdeError as error:
            log.warning("settings.refused", error=error.detail)
            return
        self._in_file = found
        self._put(stored)

    def _with_changes_of(self, found: Settings) -> Settings:
        """The stored settings with what is other in `found` than it was at the last look."""
        changes = _changes(_tree(self._in_file), _tree(found))
        stored = _settings(_over(_tree(self._stored), changes))
        tables = {
            table: getattr(found, table)  # whole: what was taken out of a plugin's table is gone
            for table in PLUGIN_TABLES
            if getattr(found, table) != getattr(self._in_file, table)
        }
        return msgspec.structs.replace(stored, **tables)

    def _put(self, stored: Settings) -> None:
        before = self._current
        self._stored = stored
        self._current = msgspec.structs.replace(self.started, **{table: getattr(stored, table) for table in FOLLOWED})
        if self._current != before:
            for listener in self._listeners:
                listener(before, self._current)

    def _check(self, wanted: Settings) -> None:
        if wanted.data_dir != self.started.data_dir:
            raise InvalidInputError(
                "dataDir: the data directory is chosen at the start, with --data-dir or TMDE_DATA_DIR.", field="dataDir"
            )
        if wanted.debate.min_rounds > wanted.debate.max_rounds:
            raise InvalidInputError(
                f"debate.minRounds: {wanted.debate.min_rounds} is more than debate.maxRounds, {wanted.debate.max_rounds}.",
                field="debate.minRounds",
            )
        if not wanted.host.strip():
            raise InvalidInputError("host: must name an address to listen on.", field="host")
        for check in self._checks:
            check(wanted, self._stored)

    def _require_free(self, changes: Mapping[str, Any]) -> None:
        for variable, path in ENVIRONMENT.items():
            if self._environ.get(variable) and _holds(changes, path):
                raise ConflictError(
                    f"The environment variable {variable} sets this, and it wins over the file. Change it there.",
                    variable=variable,
                )

    @property
    def _file(self) -> Path:
        return self.started.data_path / SETTINGS_FILE

    def _look(self) -> tuple[int, int] | None:
        """What tells one version of the file from another; None when there is no file."""
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _read(self) -> Settings | None:
        try:
            return read_settings(self.started.data_path, self._environ)
        except TmdeError as error:
            log.warning("settings.unreadable", error=error.detail)
            return None


def _tree(settings: Settings) -> dict[str, Any]:
    """The settings in the wire's form: plain dicts and lists."""
    tree: dict[str, Any] = msgspec.json.decode(to_json(settings))
    return tree


def _settings(tree: Mapping[str, Any]) -> Settings:
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise invalid_field(error, Settings) from None


def _changes(before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What of `values` differs from `before`; masked secrets do not."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := _changes(old, value):
                found[name] = inner
        elif name not in before or (value != old and not (value == MASK and _SECRET.search(name))):
            found[name] = value
    return found


def _over(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _as_in_file(changes: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The wire's names as the file spells them; names in plugins' tables stay."""
    plugins = path[:1] != () and path[0] in PLUGIN_TABLES
    if plugins:
        for name, value in changes.items():
            if value is None:
                raise InvalidInputError(f"{'.'.join((*path, name))}: null cannot be stored.", field=name)
    return {
        name if plugins else snake(name): _as_in_file(value, (*path, name)) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }


def _holds(tree: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    value: Any = tree
    for part in path:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _masked(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _masked(value) if isinstance(value, Mapping) else MASK if value and _SECRET.search(name) else value
        for name, value in table.items()
    }
