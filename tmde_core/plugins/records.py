"""Stores what is known about a plugin: what it provides and which problems it has."""

from __future__ import annotations

from typing import Literal

import msgspec

from tmde_core.records.base import Record

Stage = Literal["import", "register", "hook", "conflict", "event"]


class PluginSetting(Record):
    """One setting of something that a plugin provides."""

    name: str
    """The dotted name in `tmde.toml`: `judges.length.per_point`."""
    default: str
    """The default, written as JSON."""
    help: str = ""


class Provision(Record):
    """One object that a plugin provides."""

    kind: str
    name: str
    summary: str
    settings: tuple[PluginSetting, ...] = ()


class PluginProblem(Record):
    """A problem of a plugin, described in a sentence."""

    stage: Stage
    detail: str


class PluginInfo(Record):
    """One plugin: its origin, what it provides, and its problems."""

    name: str
    module: str
    distribution: str | None
    version: str | None
    status: Literal["ok", "degraded", "broken"]
    provides: tuple[Provision, ...]
    problems: tuple[PluginProblem, ...]


class Entry(msgspec.Struct):
    """Collects information about a plugin while it is loaded."""

    name: str
    module: str
    distribution: str | None = None
    version: str | None = None
    provides: list[Provision] = msgspec.field(default_factory=list)
    problems: list[PluginProblem] = msgspec.field(default_factory=list)

    def fail(self, stage: Stage, detail: str) -> None:
        """Record a problem. A problem that is already recorded is ignored."""
        problem = PluginProblem(stage=stage, detail=detail)
        if problem not in self.problems:
            self.problems.append(problem)

    def origin(self) -> str:
        """Return where the plugin comes from, as a part of a sentence."""
        return f"the package {self.distribution!r}" if self.distribution else f"the module {self.module!r}"

    def info(self) -> PluginInfo:
        """Return the current information about the plugin."""
        status: Literal["ok", "degraded", "broken"] = "ok"
        if self.problems:
            status = "degraded" if self.provides else "broken"
        return PluginInfo(
            name=self.name,
            module=self.module,
            distribution=self.distribution,
            version=self.version,
            status=status,
            provides=tuple(self.provides),
            problems=tuple(self.problems),
        )


def describe_error(error: BaseException) -> str:
    """Return an exception's name and message on one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a plugin's exception may be unable to describe itself
        text = ""
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON cannot hold a lone surrogate
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
