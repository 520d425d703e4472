"""Define the settings table `[backends.unsloth]`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tmde_core.sdk.cards import CardSettings


class UnslothSettings(CardSettings, frozen=True, kw_only=True):
    """Settings of the Unsloth backend."""

    allow_16bit: Annotated[
        bool,
        Meta(
            title="16 bits where memory is plenty",
            description="Holds the base model in 16 bits if this fits with a whole batch. A third faster than 4 bits.",
        ),
    ] = False
    allow_no_checkpointing: Annotated[
        bool,
        Meta(
            title="No gradient checkpointing where memory is plenty",
            description="Keeps all activations of a step if they fit, instead of computing them twice.",
        ),
    ] = False
    micro_batch: Annotated[
        int,
        Meta(
            ge=0,
            le=512,
            title="Examples at once",
            description=(
                "How many examples of a step are computed at the same time. 0: as many as fit. The result is the same "
                "up to rounding."
            ),
        ),
    ] = 0
