"""Pulls base models from a hub that speaks the protocol of Hugging Face."""

from __future__ import annotations

from tmde_core.models.pulling.limits import PullLimits
from tmde_core.models.pulling.service import PullService

__all__ = ["PullLimits", "PullService"]
