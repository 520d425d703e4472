"""Define the findings on the things that a plugin provides, and the messages that carry them."""

from __future__ import annotations

from tmde_core.records.base import Record


class Target(Record):
    """One thing to check."""

    kind: str
    """`plugin`, or the kind as `tmde plugins` names it: `judge`, `training backend`, …"""
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Finding(Record):
    """The result of checking one thing."""

    kind: str
    name: str
    held: int
    """The number of rules that hold."""
    broken: tuple[str, ...] = ()
    """A sentence for each broken rule."""
    not_run: tuple[str, ...] = ()
    """A sentence for each reason why rules could not be tried."""
    not_tried: int = 0
    """The number of rules that could not be tried."""


class Report(Record):
    """The result of checking a plugin."""

    plugin: str
    ok: bool
    """True if no rule is broken."""
    things: tuple[Finding, ...]


class Begun(Record, tag_field="message", tag="begun"):
    """The process has started to check one thing."""

    target: Target


class Trying(Record, tag_field="message", tag="trying"):
    """The process has started to try one rule."""

    target: Target
    rule: str
    """The rule in words, as the name of its test says it."""


class Found(Record, tag_field="message", tag="found"):
    """The process has finished checking one thing."""

    finding: Finding


class Done(Record, tag_field="message", tag="done"):
    """All things were checked. If this message is missing, the plugin's code ended the process."""


Message = Begun | Trying | Found | Done
"""One line of the process's output."""

WRONG_USAGE = 2
"""The exit status for an unknown plugin. The process then writes one sentence to stderr."""
