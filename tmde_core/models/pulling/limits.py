"""How long a pull waits, and how often it tries."""

from __future__ import annotations

from tmde_core.records.base import Record


class PullLimits(Record):
    """How long a pull waits, and how often it tries."""

    tries: int = 6
    """How often a request is sent that fails without bringing a byte."""
    first_pause_seconds: float = 0.5
    """The pause after the first failure. Each further pause is twice as long: 15 s in all with six tries."""
    longest_wait_seconds: float = 300.0
    """The longest time that a busy hub may ask to wait. A longer one ends the pull with a message."""
    timeout_seconds: float = 30.0
    """How long a silent connection is kept."""
