"""When a training process counts as hung, and how often a run is tried again."""

from __future__ import annotations

from tmde_core.records.base import Record


class Limits(Record):
    """What the supervisor judges by. Tests shorten the times."""

    step_seconds: float = 600.0
    """A process that lives but reports nothing for so long hangs…"""
    step_medians: float = 20.0
    """…or for so many times its median step, where that is longer."""
    silent_seconds: float = 300.0
    """Without a heartbeat; it beats every two seconds, so only a process that was stopped, or a machine that swaps, is late."""
    orphan_seconds: float = 10.0
    """Without a heartbeat, when the trainer has let go of its lock: it is dead and something it left holds the leash."""
    look_seconds: float = 1.0
    """Between two looks at a running process."""
    floor_bytes: int = 100 * 1024**2
    """Free disk below which a run is ended, so that the database and the runs' records still have room."""
    tries: int = 3
    """Processes for one run before it fails, begun by themselves after the first: counted for deaths and for memory apart."""
