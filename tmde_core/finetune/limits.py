"""Defines when a training process counts as hung, and how often a run is tried again."""

from __future__ import annotations

from tmde_core.records.base import Record


class Limits(Record):
    """The limits that the supervisor applies. Tests use shorter times."""

    step_seconds: float = 600.0
    """A living process that makes no step for this time counts as hung, seconds. `step_medians` may extend this
    time."""
    step_medians: float = 20.0
    """The process may also take this many times its median step, if that is longer than `step_seconds`."""
    silent_seconds: float = 300.0
    """The longest time without a heartbeat, seconds. The process writes one every two seconds, so only a stopped
    process or a swapping machine is late."""
    orphan_seconds: float = 10.0
    """The longest time without a heartbeat after the trainer's lock was released, seconds. The trainer is then dead,
    and a process that it left behind holds the leash."""
    look_seconds: float = 1.0
    """The time between two checks of a running process, seconds."""
    pause_seconds: float = 40.0
    """The time that a run has to write a checkpoint when its worker ends, seconds. Then its processes are ended. The
    time limit for stopping a container must be longer."""
    floor_bytes: int = 100 * 1024**2
    """A run is ended if less disk space is free, so that the database and the records of runs still have room."""
    tries: int = 3
    """The most processes for one run before it fails. Deaths and lack of memory are counted separately, and the
    count starts again when a person starts or resumes the run."""
