"""One line for newcomers: the embedded model is a toy, and which better model fits this machine."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlencode

import structlog

from tmde_core.records.models import BaseModel
from tmde_core.records.suggestions import Suggestions
from tmde_core.services import Services
from tmde_ui.kit.base_models import format_weights
from tmde_ui.kit.elements import Tag, icon, link
from tmde_ui.kit.script import call
from tmde_ui.kit.tending import start_task

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 5.0
"""The page does not wait longer for the default runtime. It is local: the first answer takes half a second on an idle
machine, and later ones a few milliseconds."""
KEPT_SECONDS = 60.0
"""How long the suggestion is kept: the free memory changes all the time, and a hint need not follow it."""


class ToyHint:
    """Draws the line while the embedded model answers for the Proposer. All pages share one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._found: Suggestions | None = None
        self._found_at = 0.0

    async def draw(self) -> None:
        """Draw the line, if there is something to tell. A person can dismiss it; the browser remembers that."""
        toy = await self._find_toy()
        if toy is None:
            return
        size = f" of {format_weights(toy.parameters)} weights" if toy.parameters else ""
        with Tag("div", classes="notice toy", data_testid="toy") as hint:
            with Tag("p"):
                Tag("span", f"The embedded model is a toy{size}. ")
                offer = Tag("span")
            with Tag("button", classes="icon-button", type="button", aria_label="Do not show this again") as cross:
                icon("close")
        cross.on("click", js_handler=f"() => {call('dismissHint', 'toy', hint.id)}")
        kept = self._found is not None and time.monotonic() - self._found_at < KEPT_SECONDS
        _draw_offer(offer, self._found if kept else None)
        if not kept:
            start_task(lambda: self._fill(offer), "see which model fits this machine")

    async def _find_toy(self) -> BaseModel | None:
        default = self._services.plugins.runtimes.default()
        role = self._services.workspace.settings.roles.proposer
        if default is not None and role.runtime != default.name:
            return None  # only the default runtime has a toy, and others may be slow
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self._services.models.find_toy()
        except TimeoutError:
            return None

    async def _fill(self, offer: Tag) -> None:
        try:
            self._found = await self._services.models.suggest()
        except Exception as error:  # the page is for questions, and does without the name of a model
            log.info("ui.no_suggestion", error=f"{type(error).__name__}: {error}")
            return
        self._found_at = time.monotonic()
        _draw_offer(offer, self._found)


def _draw_offer(offer: Tag, found: Suggestions | None) -> None:
    best = found.best_for_answering if found is not None else None
    form = next((one.downloads[0] for one in found.items if best and one.name == best.name), None) if found else None
    offer.clear()
    with offer:
        if best is None or form is None:
            link("Get a better one", "/models#get")
        elif not best.command:
            Tag("span", f"{best.name} is here and fits this machine: ")
            link("Use it", "/models")
        else:
            Tag("span", f"{best.name} fits this machine: ")
            wanted = f"{form.source}:{form.quantization}" if form.quantization else form.source
            link("Get it", f"/models?{urlencode({'get': wanted})}#get")
