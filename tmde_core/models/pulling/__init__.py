"""Pulls base models from a hub that speaks the protocol of Hugging Face.

The names are imported when they are first used: the processes that talk to the hub need neither, and start faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmde_core.models.pulling.limits import PullLimits
    from tmde_core.models.pulling.service import PullService

__all__ = ["PullLimits", "PullService"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tmde_core.models.pulling import limits, service

    return getattr(service if name == "PullService" else limits, name)
