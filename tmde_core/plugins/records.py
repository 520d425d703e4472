"""What is known about a plugin: what it provides and what is wrong with it."""

from __future__ import annotations

from typing import Literal

import msgspec

from tmde_core.records.base import Record

Stage = Literal["import", "register", "hook", "conflict", "event"]


class Provision(Record):
    """One thing that a plugin provides."""

    kind: str
    name: str
    summary: str


class PluginProblem(Record):
    """Something wrong with a plugin, in a sentence."""

    stage: Stage
    detail: str


class PluginInfo(Record):
    """One plugin: where it comes from, what it provides, what is wrong with it."""

    name: str
    module: str
    distribution: str | None
    version: str | None
    status: Literal["ok", "degraded", "broken"]
    provides: tuple[Provision, ...]
    problems: tuple[PluginProblem, ...]


class Entry(msgspec.Struct):
    """What is being learnt about a plugin while it is loaded."""

    name: str
    module: str
    distribution: str | None = None
    version: str | None = None
    provides: list[Provision] = msgspec.field(default_factory=list)
    problems: list[PluginProblem] = msgspec.field(default_factory=list)

    def fail(self, stage: Stage, detail: str) -> None:
        """Record a problem, once."""
        problem = PluginProblem(stage=stage, detail=detail)
        if problem not in self.problems:
            self.problems.append(problem)

    def origin(self) -> str:
        """Where the plugin comes from, for a sentence."""
        return f"the package {self.distribution!r}" if self.distribution else f"the module {self.module!r}"

    def info(self) -> PluginInfo:
        """The plugin as it stands now."""
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
    """Name an exception and its message on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
