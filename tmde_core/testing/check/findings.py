"""What was found out about each thing that a plugin provides."""

from __future__ import annotations

from tmde_core.records.base import Record


class Target(Record):
    """One thing to be checked."""

    kind: str
    """`plugin`, or what `tmde plugins` calls it: `judge`, `training backend`, …"""
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Finding(Record):
    """What was found out about one thing."""

    kind: str
    name: str
    held: int
    """How many rules hold."""
    broken: tuple[str, ...] = ()
    """A sentence for each broken rule."""
    not_run: tuple[str, ...] = ()
    """A sentence for each reason why rules could not be tried."""
    not_tried: int = 0
    """How many rules these are."""


class Report(Record):
    """What was found out about a plugin."""

    plugin: str
    ok: bool
    """No rule is broken."""
    things: tuple[Finding, ...]


class Begun(Record, tag_field="message", tag="begun"):
    """The process has begun with one thing."""

    target: Target


class Found(Record, tag_field="message", tag="found"):
    """The process has ended with one thing."""

    finding: Finding


class Done(Record, tag_field="message", tag="done"):
    """All things were checked. Without this message the process was ended by what it checked."""


Message = Begun | Found | Done
"""One line of the process's output."""

WRONG_USAGE = 2
"""Exit status of the process when it knows no such plugin; it then writes one sentence to stderr."""
