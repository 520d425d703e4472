"""One line for newcomers: the embedded model is a toy, and which better model fits this machine."""

from __future__ import annotations

import asyncio

from tmde_core.records.models import BaseModel
from tmde_core.services import Services
from tmde_ui.kit.base_models import format_weights
from tmde_ui.kit.elements import Tag, icon, link
from tmde_ui.kit.script import call

PATIENCE_SECONDS = 0.3
"""The page does not wait longer for the Proposer's runtime. The embedded one answers in a few milliseconds."""


async def find_toy(services: Services) -> BaseModel | None:
    """Return the embedded model if it answers for the Proposer; None if another one does or its runtime is slow."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await services.models.find_toy()
    except TimeoutError:
        return None


def draw_toy_hint(toy: BaseModel) -> None:
    """Draw the line. A person can dismiss it; the browser remembers that."""
    size = f" of {format_weights(toy.parameters)} weights" if toy.parameters else ""
    with Tag("div", classes="notice toy", data_testid="toy") as hint:
        with Tag("p"):
            Tag("span", f"The embedded model is a toy{size}. ")
            link("Get a better one", "/models#get")
        with Tag("button", classes="icon-button", type="button", aria_label="Do not show this again") as cross:
            icon("close")
    cross.on("click", js_handler=f"() => {call('dismissHint', 'toy', hint.id)}")
