"""Repeats what failed in a way that may pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tmde_core.errors import TmdeError
from tmde_core.models.pulling.limits import PullLimits

T = TypeVar("T")


class TransientError(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, error: TmdeError, pause_seconds: float | None = None, *, restart: bool = False) -> None:
        """Wrap an error.

        Args:
            error: the error to raise if it does not pass.
            pause_seconds: the time that the hub asked to wait.
            restart: whether the hub cannot continue the file, so that it has to be fetched from its first byte.
        """
        super().__init__(error.detail)
        self.error = error
        self.pause_seconds = pause_seconds
        self.restart = restart


def retried(action: Callable[[], T], limits: PullLimits, tell: Callable[[str], None] = lambda _: None) -> T:
    """Return the result of an action; repeat it while it fails with a `TransientError`.

    Raises:
        TmdeError: the last error.
    """
    for attempt in range(1, limits.tries + 1):
        try:
            return action()
        except TransientError as failure:
            if attempt == limits.tries:
                raise failure.error from None
            pause(failure, attempt, limits, tell)
    raise AssertionError("unreachable")


def pause(failure: TransientError, attempt: int, limits: PullLimits, tell: Callable[[str], None]) -> None:
    """Wait after a failure: as long as the hub asks, otherwise twice as long as the last time.

    Raises:
        TmdeError: the hub asks to wait too long.
    """
    seconds = limits.first_pause_seconds * 2 ** (attempt - 1)
    if failure.pause_seconds is not None:
        if failure.pause_seconds > limits.longest_wait_seconds:
            raise failure.error
        seconds = max(failure.pause_seconds, limits.first_pause_seconds)
    tell(f"{failure.error.detail} Tries again in {seconds:.0f} s." if seconds >= 1 else failure.error.detail)
    time.sleep(seconds)
