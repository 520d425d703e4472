"""Writes changed settings to `tmde.toml`. Everything else in the file stays unchanged, including comments."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tmde_core.errors import BrokenFileError, InvalidInputError
from tmde_core.settings.reading import read_settings_text
from tmde_core.storage.durable import storage_errors, write_atomic
from tmde_core.storage.locks import FileLock


def update_settings_file(path: Path, changes: Mapping[str, Any]) -> None:
    """Write values to the settings file atomically.

    Create the file if it is missing.

    Args:
        path: the settings file.
        changes: values with the names of the file: snake_case, tables as nested mappings. Other values stay unchanged.
            None removes a value.

    Raises:
        InvalidInputError: the file is not text or not valid TOML, or TOML cannot hold a value.
        InsufficientStorageError: the file cannot be written.
    """
    from tomlkit.exceptions import TOMLKitError  # only writing needs this import; most commands only read

    # The lock lets two processes change different settings at the same time; both changes are kept.
    with storage_errors(path), FileLock.acquire(path.with_name(f".{path.name}.lock")):
        try:
            before = read_settings_text(path)
            stored = tomllib.loads(before)
        except tomllib.TOMLDecodeError as error:
            raise BrokenFileError(
                f"{path} is not valid TOML: {error}. Correct that line or move the file away."
            ) from None
        try:
            text = _changed(before, changes, wanted=_over(stored, changes))
        except (TOMLKitError, ValueError, TypeError, RecursionError) as error:
            wrong = "they are nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise InvalidInputError(f"{path} cannot hold these values: {wrong}.") from None
        write_atomic(path, text)


def _changed(before: str, changes: Mapping[str, Any], wanted: dict[str, Any]) -> bytes:
    """Return the changed text of the file. It is read again, so that a file that differs from `wanted` is never written."""
    import tomlkit

    # A new [table] below a dotted key would take in the lines that follow. There, the table is written in one line.
    for inline in (False, True):
        document = tomlkit.parse(before)
        _merge(document, changes, inline)
        text = tomlkit.dumps(document)
        with suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(text) == wanted:
                return text.encode()
    raise ValueError("the file would not read back as it was meant")


def _over(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for name, value in changes.items():
        if isinstance(value, Mapping):
            old = merged.get(name)
            merged[name] = _over(old if isinstance(old, Mapping) else {}, value)
        elif value is None:
            merged.pop(name, None)
        else:
            merged[name] = list(value) if isinstance(value, tuple) else value
    return merged


def _merge(table: Any, changes: Mapping[str, Any], inline: bool) -> None:
    import tomlkit
    from tomlkit.items import InlineTable

    for name, value in changes.items():
        if isinstance(value, Mapping):
            if not isinstance(table.get(name), Mapping):
                within = inline or isinstance(table, InlineTable)
                table[name] = tomlkit.inline_table() if within else tomlkit.table()
            _merge(table[name], value, inline)
        elif value is None:
            table.pop(name, None)
        else:
            table[name] = list(value) if isinstance(value, tuple) else value
