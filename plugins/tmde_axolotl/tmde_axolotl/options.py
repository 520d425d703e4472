"""Define the settings table `[backends.axolotl]`."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tmde_core.sdk.cards import CardSettings


class AxolotlSettings(CardSettings, frozen=True, kw_only=True):
    """Settings of the Axolotl backend."""

    extra: Annotated[
        str,
        Meta(
            title="Your own YAML",
            description=(
                "The path of a YAML file whose keys are added to the Axolotl configuration of every run, absolute or in "
                "the data directory. Keys that TMDE sets itself are refused. Empty: none."
            ),
        ),
    ] = ""
    four_bit: Annotated[
        bool,
        Meta(
            title="Base model in 4 bits",
            description="Holds the base model in 4 bits on a card (QLoRA). Off: in 16 bits, which needs more memory.",
        ),
    ] = True
