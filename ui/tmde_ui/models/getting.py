"""Get a model: what fits this machine, any model of the hub, and what is on this machine already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from nicegui import ui

from tmde_core.records.pulls import Pull, PullRequest
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, choice, field
from tmde_ui.kit.forms import on_submit
from tmde_ui.kit.tending import start_task
from tmde_ui.models.adding import AddForm
from tmde_ui.models.plan import PlanDialog
from tmde_ui.models.pulls import PullList
from tmde_ui.models.suggestions import SuggestionList

MAX_REFERENCE = 500

_FORMS = (
    ("auto", "what the repository has"),
    ("gguf", "a GGUF file, to answer with"),
    ("weights", "weights, to train from"),
)


class GetModel:
    """The part of the page that gets models.

    Args:
        services: pull and add models.
        changed: called when another model is here.
        wanted: what the address asks for, such as `Qwen/Qwen3-4B-GGUF:Q4_K_M`; empty: nothing.
    """

    def __init__(self, services: Services, changed: Callable[[], Awaitable[object]], wanted: str = "") -> None:
        self._services = services
        self._changed = changed
        self._wanted = wanted

    def build(self) -> None:
        """Draw the part."""
        self._pulls = PullList(self._services, self._changed)
        self._pulls.build()
        Tag("h3", "What fits this machine")
        self._suggestions = SuggestionList(self._services, self.ask)
        self._suggestions.build()
        Tag("h3", "Any other model")
        with Tag("form", classes="get-line", data_testid="pull-form") as form:
            field(
                "Repository on the hub, or the address of its page", "reference", required=True, autocomplete="off",
                spellcheck="false", maxlength=str(MAX_REFERENCE), placeholder="OWNER/NAME or OWNER/NAME:Q4_K_M",
                data_testid="pull-reference",
            )  # fmt: skip
            choice("Form", "form", _FORMS, "auto", data_testid="pull-form-choice")
            button("Look …", type_="submit", test="look", aria_haspopup="dialog")
        Tag("p", "TMDE shows sizes and licence first. Nothing is fetched before you agree.", "muted small")
        on_submit(form, self._look)
        AddForm(self._services, self._changed).build()
        self._dialogs = Tag("div", classes="maybe")
        start_task(self.refill, "see what fits this machine")
        if self._wanted:
            start_task(self._open_wanted, "show what the address asks for")

    async def refill(self) -> None:
        """Read again what fits: the memory and the models may have changed."""
        await self._suggestions.fill()

    def ask(self, request: PullRequest) -> None:
        """Show what a pull would fetch."""
        PlanDialog(self._services, self._dialogs, self._started).open(request)

    async def _look(self, fields: dict[str, str]) -> None:
        chosen = fields.get("form", "")
        form: Literal["auto", "weights", "gguf"] = (
            "weights" if chosen == "weights" else "gguf" if chosen == "gguf" else "auto"
        )
        self.ask(PullRequest(repository=fields.get("reference", "").strip()[:MAX_REFERENCE], form=form))

    async def _open_wanted(self) -> None:
        await ui.context.client.connected()
        self.ask(PullRequest(repository=self._wanted[:MAX_REFERENCE]))

    async def _started(self, _pull: Pull) -> None:
        await self._pulls.look()
        self._pulls.bring_into_view()
