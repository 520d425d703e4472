"""Define the settings table `[runtimes.embedded]`."""

from __future__ import annotations

import os
from typing import Annotated

import psutil
from msgspec import Meta

from tmde_core.sdk.context import PluginSettings

DEFAULT_CONTEXT = 4096
"""The default number of tokens in each slot, or fewer if the model was trained on fewer. Four slots of the embedded
model then take 380 MB in addition to the weights; its full 8192 would take twice as much."""


class EmbeddedSettings(PluginSettings, frozen=True, kw_only=True):
    """The settings of the embedded runtime. Every field is optional."""

    model: Annotated[
        str,
        Meta(
            title="Default model",
            description=(
                "The default model: a file in `data/models/`, the absolute path of a GGUF file, or of a directory of "
                "safetensors. Empty: the embedded model."
            ),
        ),
    ] = ""
    models: Annotated[
        tuple[str, ...],
        Meta(
            title="Further models",
            description="Further ones that a role may name. Each gets a server of its own when it is first asked.",
        ),
    ] = ()
    context: (
        Annotated[
            int,
            Meta(
                ge=256,
                le=1_048_576,
                title="Context",
                description=(
                    "Tokens that a prompt and its answer may have together; unset: 4096, or what the model was trained on "
                    "if that is less."
                ),
                extra={"unit": "tokens"},
            ),
        ]
        | None
    ) = None
    slots: Annotated[
        int,
        Meta(ge=1, le=64, title="Answers at a time", description="How many answers are generated at the same time."),
    ] = 4
    threads: (
        Annotated[int, Meta(ge=1, le=512, title="Threads", description="Unset: one for each physical core.")] | None
    ) = None
    # A cancelled request is noticed between steps. 16 tokens take 0.1 s with the embedded model on two cores. With 64,
    # a prompt is read a sixth faster, and a cancellation is noticed after 0.4 s.
    batch: Annotated[
        int,
        Meta(
            ge=1,
            le=2048,
            title="Tokens in a step",
            description="Prompt tokens read in one step. More reads faster and notices a cancellation later.",
        ),
    ] = 16

    @property
    def thread_count(self) -> int:
        """The number of threads that compute."""
        return self.threads or usable_cores()


def usable_cores() -> int:
    """Return the number of physical cores, but at most the cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))
