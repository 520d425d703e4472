"""The two halves of fine-tuning: training, and the adapters that came of it."""

from __future__ import annotations

from tmde_ui.kit.elements import Tag, link

TABS = (("Training", "/finetune"), ("Adapter versions", "/finetune/versions"))


def tabs(here: str) -> None:
    """Links to both, with the one marked that is shown."""
    with Tag("nav", classes="tabs", aria_label="Fine-tuning"):
        for name, address in TABS:
            link(name, address, aria_current="page" if address == here else None)
