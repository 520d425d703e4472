"""Manages the settings of a running process: those at the start, those stored, and those in force now.

Only `LiveSettings` writes `tmde.toml`, and only `LiveSettings` knows which settings the environment overrides. Services
keep no copy. They read `current` when they need a value, or subscribe when they must react to a change.
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

from tmde_core.errors import BrokenFileError, ConflictError, InvalidInputError, TmdeError
from tmde_core.records.base import to_invalid_input, to_json
from tmde_core.settings.file import update_settings_file
from tmde_core.settings.reading import read_settings, snake
from tmde_core.settings.schema import ENVIRONMENT, FOLLOWED, PLUGIN_TABLES, SETTINGS_FILE, Settings

log = structlog.get_logger(__name__)

MASK = "********"
"""Shown instead of a secret. If this value is sent back, the secret stays unchanged."""

_SECRET = re.compile(r"(?i)(key|token|secret|password|authorization|credentials?|bearer)$")
"""Matches the names of secrets."""

_ABSENT: Any = object()
"""Stands for a value that is not stored."""

_OUTDATED = (-1, -1)
"""The state of a file that must be read again. It differs from the state of each file, and from that of no file."""

_DEEPEST = 20
"""How many tables and lists may lie in each other below a plugin's table. The file can be read back up to here."""

Check = Callable[[Settings, Settings], None]
"""Called with the new settings and the stored settings. Raises InvalidInputError if the new settings cannot work."""
Listener = Callable[[Settings, Settings], None]
"""Called with the previous settings and the settings in force now."""


class LiveSettings:
    """The settings of one process. Only this class writes the file and tracks the environment's overrides."""

    def __init__(
        self, started: Settings, checks: Sequence[Check] = (), environ: Mapping[str, str] = os.environ
    ) -> None:
        """Start with the result of `load_settings`.

        Args:
            started: the settings at the start of the process.
            checks: rules of domains and plugins for new settings. Each is called before anything is written.
            environ: the environment variables.
        """
        self.started = started
        self._stored = started
        self._current = started
        self._checks = checks
        self._environ = environ
        self._listeners: list[Listener] = []
        self._lock = asyncio.Lock()
        self._file_state: tuple[int, int] | None = self._look()
        found = self._read()
        self._refused = found is None
        """Whether the file was invalid at the last check."""
        self._in_file = found or started
        """The settings from the file and the environment at the last check of the file."""

    @property
    def current(self) -> Settings:
        """The settings in force now.

        The tables in `FOLLOWED` change at once; all others stay as they were at the start.
        """
        return self._current

    @property
    def stored(self) -> Settings:
        """The settings that will be in force after the next start."""
        return self._stored

    @property
    def restart_required(self) -> bool:
        """Whether a stored change needs a restart to take effect."""
        return self._stored != self._current

    def masked(self) -> dict[str, Any]:
        """Return the stored settings by field. Secrets in plugins' tables are masked."""
        values = msgspec.structs.asdict(self._stored)
        for table in PLUGIN_TABLES:
            values[table] = {name: _masked(inner) for name, inner in values[table].items()}
        return values

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` after each change of the settings in force."""
        self._listeners.append(listener)

    async def change(self, values: Mapping[str, Any]) -> Settings:
        """Change stored settings, and write them to the file.

        Either all values change, or none.

        Args:
            values: new values under their JSON names (camelCase). Other settings stay unchanged.

        Returns:
            The stored settings.

        Raises:
            InvalidInputError: a setting is unknown, has the wrong type, is out of range or was refused by a check; or
                the file is invalid at present.
            ConflictError: an environment variable sets one of the values, so the file has no effect; context has
                `variable`.
            InsufficientStorageError: the file cannot be written; nothing has changed.
        """
        async with self._lock:
            if self._refused or self._look() != self._file_state:
                self._apply_file()
            before = _tree(self._stored)
            changes = _changes(before, _sent(before, values))
            self._check(_settings(_over(before, changes)))
            if changes:
                in_file = _as_in_file(changes)
                self._require_free(in_file)
                await asyncio.to_thread(update_settings_file, self._file, in_file)
                self._in_file = _settings(_over(_tree(self._in_file), changes))
                # Another process may have written the file since. The next check compares it.
                self._file_state = _OUTDATED
                self._put(_settings(_over(_tree(self._stored), changes)))
            return self._stored

    def reread(self) -> None:
        """Apply changes that another program, such as an editor or the command line, made to the file.

        Only values that differ from the last check are applied. If the file cannot be read, this is logged and nothing
        changes.
        """
        if self._look() == self._file_state:
            return
        try:
            self._apply_file()
        except TmdeError as error:
            log.warning("settings.refused", error=error.detail)

    def _apply_file(self) -> None:
        """Apply what changed in the file since the last check.

        Raises:
            InvalidInputError: the file cannot be read, or holds a value that cannot be used. Nothing has changed.
        """
        self._file_state = self._look()
        self._refused = True
        found = read_settings(self.started.data_path, self._environ)
        stored = self._with_changes_of(found)
        try:
            self._check(stored)
        except TmdeError as error:
            raise BrokenFileError(f"In {self._file}: {error.detail} Correct it there.", **error.context) from None
        self._refused = False
        self._in_file = found
        self._put(stored)

    def _with_changes_of(self, found: Settings) -> Settings:
        """Return the stored settings with the values of `found` that changed since the last check of the file."""
        changes = _changes(_tree(self._in_file), _tree(found))
        stored = _settings(_over(_tree(self._stored), changes))
        tables = {
            table: getattr(found, table)  # the whole table, so that keys removed from the file are removed here too
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

    def find_variable(self, *path: str) -> str | None:
        """Return the environment variable that sets a setting, so that it cannot be changed; None if there is none.

        Args:
            path: the names of the setting and the tables around it, as in the file: `"finetune", "base_model"`.
        """
        return next((name for name, set_ in ENVIRONMENT.items() if set_ == path and self._environ.get(name)), None)

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
        """Return the modification time and size of the file, which identify its version; None if there is no file."""
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
    """Return the settings as plain dicts and lists with their JSON names."""
    tree: dict[str, Any] = msgspec.json.decode(to_json(settings))
    return tree


def _settings(tree: Mapping[str, Any]) -> Settings:
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise to_invalid_input(error, Settings) from None


def _changes(before: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `values` that differs from `before`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := _changes(old, value):
                found[name] = inner
        elif name not in before or value != old:
            found[name] = value
    return found


def _unmasked(stored: Any, value: Any, secret: bool = False) -> Any:
    """Return `value` with the stored secrets in place of their masks. The mask of a secret that is not stored is left out.

    Args:
        stored: the stored value in the same place, or `_ABSENT`.
        value: the new value.
        secret: whether the name of the value, or of a table around it, is that of a secret.
    """
    if isinstance(value, Mapping):
        old = stored if isinstance(stored, Mapping) else {}
        inner = {
            name: _unmasked(old.get(name, _ABSENT), part, secret or bool(_SECRET.search(name)))
            for name, part in value.items()
        }
        found = {name: part for name, part in inner.items() if part is not _ABSENT}
        return found if found or not value or stored is not _ABSENT else _ABSENT
    if isinstance(value, list):
        olds = stored if isinstance(stored, list) else []
        parts = [_unmasked(_counterpart(olds, value, index), part, secret) for index, part in enumerate(value)]
        return [part for part in parts if part is not _ABSENT]
    return stored if secret and value == MASK else value


def _counterpart(olds: list[Any], news: list[Any], index: int) -> Any:
    """Return the old item of a list that a new item was made from, as far as this can be told; else `_ABSENT`."""
    for old in olds[index : index + 1] + olds:
        if _masked(old) == news[index]:
            return old
    return olds[index] if len(olds) == len(news) else _ABSENT  # an item was changed, but none added or removed


def _sent(stored: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` without masks, after checking that TOML can hold what the plugins' tables have.

    The types of all other settings are checked with the settings.
    """
    found = dict(values)
    for table in PLUGIN_TABLES:
        if isinstance(values.get(table), Mapping):
            _require_toml(values[table], (table,), _DEEPEST)
            found[table] = _unmasked(stored[table], values[table])
    return found


def _require_toml(value: Any, path: tuple[str, ...], depth: int) -> None:
    name = ".".join(path[:4])
    if value is None:
        raise InvalidInputError(f"{'.'.join(path)}: null cannot be stored.", field=path[-1])
    if not isinstance(value, Mapping | list):
        return
    if not depth:
        raise InvalidInputError(f"{name}: more than {_DEEPEST} tables and lists lie in each other.", field=name)
    if isinstance(value, Mapping):
        for key, part in value.items():
            _require_toml(part, (*path, key), depth - 1)
    else:
        for part in value:
            _require_toml(part, path, depth - 1)


def _over(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _as_in_file(changes: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the changes with the names of the file instead of JSON names. Names in plugins' tables stay unchanged."""
    plugins = path[:1] != () and path[0] in PLUGIN_TABLES
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


def _masked(value: Any, secret: bool = False) -> Any:
    """Return the value with its secrets masked. `secret`: its name, or that of a table around it, is a secret's."""
    if isinstance(value, Mapping):
        return {name: _masked(part, secret or bool(_SECRET.search(name))) for name, part in value.items()}
    if isinstance(value, list) and not secret:
        return [_masked(part) for part in value]
    return MASK if secret and value else value
