"""Writes changed settings back into `tmde.toml`, leaving everything else in it, comments too, as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.storage.durable import storage_errors, write_whole
from tmde_core.storage.locks import FileLock


def update_settings_file(path: Path, changes: Mapping[str, Any]) -> None:
    """Put values into the settings file, whole or not at all; makes the file when there is none.

    Args:
        changes: as the file has them: snake_case, tables as nested mappings. What is not named stays.

    Raises:
        InvalidInputError: the file is no TOML.
        InsufficientStorageError: it cannot be written.
    """
    import tomlkit  # only who writes needs it; most commands only read
    from tomlkit.exceptions import TOMLKitError

    # Two who change different settings at the same time both succeed.
    with storage_errors(path), FileLock.acquire(path.with_name(f".{path.name}.lock")):
        try:
            document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"{path} is not valid TOML: {error}. Correct that line or move the file away."
            ) from None
        _merge(document, changes)
        write_whole(path, tomlkit.dumps(document).encode())


def _merge(table: Any, changes: Mapping[str, Any]) -> None:
    import tomlkit

    for name, value in changes.items():
        if isinstance(value, Mapping):
            if name not in table:
                table[name] = tomlkit.table()
            _merge(table[name], value)
        else:
            table[name] = list(value) if isinstance(value, tuple) else value
