"""Finds the commands of plugins in the metadata of installed packages, without importing the packages.

`tmde --help` lists these commands, so this module imports only the standard library.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

COMMAND_GROUP = "tmde.commands"
WORD = re.compile(r"[a-z][a-z0-9-]{0,39}")
_KEYS = ("Name", "Version", "Summary")

BUILT_IN = frozenset(
    {
        "serve",
        "debate",
        "loop",
        "traces",
        "finetune",
        "worker",
        "lora",
        "backends",
        "bench",
        "notifications",
        "templates",
        "models",
        "plugins",
        "doctor",
    }
)
"""TMDE's own commands, which no plugin can replace. A test compares this list with the command line."""


class PluginCommand(NamedTuple):
    """One command of a plugin."""

    name: str
    """The word after `tmde`."""
    target: str
    """The command's function or `typer.Typer`, as `module:attribute`."""
    distribution: str
    version: str
    summary: str
    """The summary of the package."""
    problem: str = ""
    """Why the command cannot be used; empty if it can be used."""


class Described(NamedTuple):
    """What the metadata of an installed package says."""

    name: str
    version: str
    summary: str
    problem: str = ""
    """Why the metadata cannot be used; empty if it can be used."""


def describe_distribution(distribution: importlib.metadata.Distribution | None) -> Described:
    """Return what a package says about itself. A package with broken metadata gets the name of its metadata's folder."""
    if distribution is None:
        return Described("", "", "")
    folder = getattr(getattr(distribution, "_path", None), "name", "")
    fallback = str(folder).partition("-")[0]
    try:
        metadata: Mapping[str, str | None] = cast("Any", distribution.metadata)
        name, version, summary = (str(metadata[key] or "") if key in metadata else "" for key in _KEYS)
    except Exception as error:  # a package's metadata may be anything, and must not hide the other packages
        sentence = (
            f"The package {fallback!r} is damaged: its METADATA cannot be read ({type(error).__name__}). Reinstall it."
        )
        return Described(fallback, "", "", sentence)
    if not name:
        sentence = f"The package {fallback!r} is damaged: its METADATA cannot be read (it has no name). Reinstall it."
        return Described(fallback, version, "", sentence)
    return Described(name, version, " ".join(summary.split())[:120])


def find_commands() -> list[PluginCommand]:
    """Return the commands of all installed packages by name, then the commands that cannot be used, with the reason."""
    points = importlib.metadata.entry_points(group=COMMAND_GROUP)
    found: dict[str, PluginCommand] = {}
    refused: list[PluginCommand] = []
    for command in sorted(_read(points), key=lambda one: (one.name, one.distribution)):
        if command.problem:
            refused.append(command)
        elif (other := found.get(command.name)) is not None:
            sentence = (
                f"The command {command.name!r} is already provided by the package {other.distribution!r}; that of "
                f"{command.distribution!r} is left out. Uninstall one of them."
            )
            refused.append(command._replace(problem=sentence))
        else:
            found[command.name] = command
    return [*found.values(), *refused]


def _read(points: Iterable[importlib.metadata.EntryPoint]) -> Iterable[PluginCommand]:
    for point in points:
        problem = ""
        if point.name in BUILT_IN:
            problem = f"`tmde {point.name}` is a command of TMDE itself; the plugin's is left out. Rename it."
        elif not WORD.fullmatch(point.name):
            problem = f"{point.name[:60]!r} cannot be a command: a word is 1 to 40 of a–z, 0–9 and '-', and starts with a letter."
        package = describe_distribution(point.dist)
        yield PluginCommand(
            point.name, point.value, package.name, package.version, package.summary, problem or package.problem
        )
