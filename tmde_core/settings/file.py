"""Writes changed settings to `tmde.toml`. Everything else in the file stays unchanged, including comments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.storage.durable import storage_errors, write_atomic
from tmde_core.storage.locks import FileLock


def update_settings_file(path: Path, changes: Mapping[str, Any]) -> None:
    """Write values to the settings file atomically.

    Create the file if it is missing.

    Args:
        path: the settings file.
        changes: values with the names of the file: snake_case, tables as nested mappings. Other values stay unchanged.

    Raises:
        InvalidInputError: the file is not valid TOML.
        InsufficientStorageError: the file cannot be written.
    """
    import tomlkit  # only writing needs this import; most commands only read
    from tomlkit.exceptions import TOMLKitError

    # The lock lets two processes change different settings at the same time; both changes are kept.
    with storage_errors(path), FileLock.acquire(path.with_name(f".{path.name}.lock")):
        try:
            document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"{path} is not valid TOML: {error}. Correct that line or move the file away."
            ) from None
        _merge(document, changes)
        write_atomic(path, tomlkit.dumps(document).encode())


def _merge(table: Any, changes: Mapping[str, Any]) -> None:
    import tomlkit

    for name, value in changes.items():
        if isinstance(value, Mapping):
            if name not in table:
                table[name] = tomlkit.table()
            _merge(table[name], value)
        else:
            table[name] = list(value) if isinstance(value, tuple) else value
