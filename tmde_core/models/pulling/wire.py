"""Carries errors from the processes that talk to a hub to the process that asked them."""

from __future__ import annotations

from typing import Any

import msgspec

from tmde_core import errors
from tmde_core.errors import TmdeError, WorkerFailedError
from tmde_core.records.base import Record

KEPT = "Everything that was fetched is kept: the same command goes on from there."


class WireError(Record):
    """An error of TMDE as data."""

    kind: str
    """The name of its class."""
    detail: str
    context: dict[str, Any] = msgspec.field(default_factory=dict)


def pack(error: TmdeError) -> WireError:
    """Return an error as data."""
    return WireError(kind=type(error).__name__, detail=error.detail, context=error.context)


def unpack(error: WireError) -> TmdeError:
    """Return the error that another process raised."""
    kind = getattr(errors, error.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, TmdeError)):
        kind = WorkerFailedError
    found: TmdeError = kind(error.detail)
    found.context = dict(error.context)
    return found
