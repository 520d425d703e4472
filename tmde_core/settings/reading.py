"""Reads the settings: flags override environment variables, and these override `tmde.toml`."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.errors import BrokenFileError, InsufficientStorageError, InvalidInputError, NotFoundError
from tmde_core.records.wrong_values import describe_problem
from tmde_core.settings.schema import ENVIRONMENT, PLUGIN_TABLES, SETTINGS_FILE, Roles, Settings
from tmde_core.storage.text_files import read_text_file, split_text_lines

MAX_FILE_BYTES = 1024 * 1024
"""The largest settings file. All settings together take a hundredth of this size."""

_LONE_CR = re.compile(r"\r(?!\n)")

COMMAND_LINE = "the command line"


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return `TMDE_DATA_DIR` if it is set, else the platform's directory for a user's data."""
    if environ.get("TMDE_DATA_DIR"):
        return Path(environ["TMDE_DATA_DIR"]).expanduser()
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "tmde"


def load_settings(
    data_dir: Path | None = None, environ: Mapping[str, str] = os.environ, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Create the data directory if needed and read the settings.

    Flags override the environment, which overrides the file.

    Raises:
        InvalidInputError: the file is not valid TOML, or a value is unknown or out of range. The detail names the file
            and the line.
        InsufficientStorageError: the data directory cannot be created or written.
    """
    directory = (data_dir or default_data_dir(environ)).expanduser().absolute()
    _make(directory)
    return read_settings(directory, environ, flags)


def read_settings(directory: Path, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of an existing data directory.

    Raises:
        InvalidInputError: as `load_settings`.
    """
    file = directory / SETTINGS_FILE
    text = read_settings_text(file)
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BrokenFileError(f"{file} is not valid TOML: {error}. Correct that line or move the file away.") from None
    if "data_dir" in tree:
        raise _refused(f"{file}", text, "data_dir", "it cannot be set by a file that lies in it; use --data-dir")
    _check(tree, f"{file}", text)
    for variable, path in ENVIRONMENT.items():
        if environ.get(variable):
            _put(tree, path, environ[variable])
            _check(tree, f"the environment variable {variable}", "")
    tree |= {name: value for name, value in (flags or {}).items() if value is not None}
    tree["data_dir"] = str(directory)
    return _check(tree, COMMAND_LINE, "")


def _check(tree: dict[str, Any], source: str, text: str) -> Settings:
    try:
        settings = msgspec.convert(_with_role_defaults(_wire(tree)), Settings, strict=False)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.([^`]*)`", str(error))
        field = snake(found.group(1)) if found else ""
        unknown = re.search(r"unknown field `([^`]*)`", str(error))
        if unknown:
            field = ".".join(part for part in (field, snake(unknown.group(1))) if part)
            sentence = f"there is no setting called `{snake(unknown.group(1))}`"
        else:
            sentence = describe_problem(str(error).split(" - at ")[0], Settings, found.group(1) if found else "")
        raise _refused(source, text, field, sentence) from None
    debate = settings.debate
    if debate.min_rounds > debate.max_rounds:
        field = "debate.min_rounds" if _line_of(text, "debate.min_rounds") else "debate.max_rounds"
        sentence = f"min_rounds ({debate.min_rounds}) is above max_rounds ({debate.max_rounds})"
        raise _refused(source, text, field, sentence)
    return settings


def _with_role_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of each role to its table. Setting only a judge's runtime must not change its temperature."""
    roles = tree.get("roles")
    if not isinstance(roles, dict):
        return tree
    shipped: dict[str, dict[str, Any]] = msgspec.to_builtins(Roles())
    filled = {
        name: {**shipped[name], **table} if name in shipped and isinstance(table, dict) else table
        for name, table in roles.items()
    }
    return {**tree, "roles": filled}


def _refused(source: str, text: str, field: str, sentence: str) -> InvalidInputError:
    line = _line_of(text, field)
    where = f"{source}, line {line}" if line else source
    kind = InvalidInputError if source == COMMAND_LINE else BrokenFileError
    return kind(f"In {where}: {field or 'the settings'}: {sentence}. Correct it and start again.", field=field or None)


def _line_of(text: str, field: str) -> int | None:
    """Return the number of the line that sets a dotted key, in plain TOML with `[tables]`; None if it is not found."""
    wanted, table = field.split("."), []
    for number, line in enumerate(split_text_lines(text), 1):
        stripped = line.strip()
        if header := re.match(r"^\[([^\[\]]+)\]", stripped):
            table = [part.strip().strip('"') for part in header.group(1).split(".")]
            if table == wanted:
                return number
        elif assignment := re.match(r"^([A-Za-z0-9_.\-\"]+)\s*=", stripped):
            key = table + [part.strip('"') for part in assignment.group(1).split(".")]
            if key == wanted[: len(key)]:
                return number
    return None


def _wire(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """Convert snake_case keys to the camelCase names of JSON. Keys in plugins' tables stay unchanged."""
    if not isinstance(tree, dict) or (path and path[0] in PLUGIN_TABLES):
        return tree
    return {_camel(key): _wire(value, (*path, key)) for key, value in tree.items()}


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def snake(name: str) -> str:
    """Convert a camelCase JSON name to the snake_case name of the file."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match.group(1).lower(), name)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InsufficientStorageError(
            f"The data directory {directory} cannot be made: {error.strerror}. Choose another with --data-dir."
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InsufficientStorageError(
            f"The data directory {directory} is read-only for this user. Correct its permissions, or choose another with --data-dir."
        )


def read_settings_text(file: Path) -> str:
    """Return the text of a settings file; empty text if there is no file. TOML knows no line that ends with CR alone.

    Raises:
        InvalidInputError: the file cannot be read, is too large, or is not text.
    """
    try:
        return _LONE_CR.sub("\n", read_text_file(file, MAX_FILE_BYTES, "Correct it or move it away."))
    except NotFoundError:
        return ""
