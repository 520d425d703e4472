"""The `[runtimes.embedded]` table of the settings."""

from __future__ import annotations

import os
from typing import Annotated

import psutil
from msgspec import Meta

from tmde_core.sdk.context import PluginSettings

DEFAULT_CONTEXT = 4096
"""Tokens in each slot unless the settings say otherwise, or the model was trained on fewer. Four slots of the embedded
model then take 380 MB beside its weights; its full 8192 would take twice that."""


class EmbeddedSettings(PluginSettings, frozen=True, kw_only=True):
    """How the embedded runtime serves. Every field may be left out."""

    model: str = ""
    """The default model: a file's name in the models directory, the absolute path of a GGUF, or of a directory of
    safetensors. Empty: the embedded model."""
    models: tuple[str, ...] = ()
    """Further ones, as above, that a role may name. Each gets a server of its own when it is first asked."""
    context: Annotated[int, Meta(ge=256, le=1_048_576)] | None = None
    """Tokens that one prompt and its answer may have together."""
    slots: Annotated[int, Meta(ge=1, le=64)] = 4
    """How many answers are generated at the same time."""
    threads: Annotated[int, Meta(ge=1, le=512)] | None = None
    """None: one for each physical core that this process may use."""
    batch: Annotated[int, Meta(ge=1, le=2048)] = 16
    """Prompt tokens read in one step. A cancelled request is noticed between steps: 16 take 0.1 s with the embedded
    model on two cores. 64 read a prompt a sixth faster and notice after 0.4 s."""

    @property
    def thread_count(self) -> int:
        """Threads that compute."""
        return self.threads or usable_cores()


def usable_cores() -> int:
    """Physical cores, but no more than this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))
