"""What fits this machine, for answering and for training, with a button that gets it."""

from __future__ import annotations

from collections.abc import Callable

from tmde_core.records.pulls import PullRequest
from tmde_core.records.suggestions import Best, Download, Suggestion, Suggestions
from tmde_core.services import Services
from tmde_ui.kit.base_models import format_weights
from tmde_ui.kit.elements import Tag, button, chip
from tmde_ui.kit.tending import draw_part
from tmde_ui.kit.words import count, format_bytes, plain


class SuggestionList:
    """The known models that fit this machine: the best ones at once, the others folded.

    Args:
        services: know what fits.
        get: shows what a pull would fetch.
    """

    def __init__(self, services: Services, get: Callable[[PullRequest], None]) -> None:
        self._services = services
        self._get = get

    def build(self) -> None:
        """Draw the place of the list."""
        with Tag("div", data_testid="suggestions") as self._box:
            Tag("p", "Looking at this machine …", "muted")

    async def fill(self) -> None:
        """Read what fits and draw it."""
        await draw_part(self._fill(), self._box)

    async def _fill(self) -> None:
        found = await self._services.models.suggest()
        self._box.clear()
        with self._box:
            self._draw(found)

    def _draw(self, found: Suggestions) -> None:
        best = {one.name for one in (found.best_for_answering, found.best_for_training) if one is not None}
        fitting = [one for one in found.items if one.fits]
        if not fitting:
            Tag("p", "None of the known models fits in the memory that is free now.", "muted")
        first = sorted(
            (one for one in fitting if one.name in best), key=lambda one: not _is_best(found.best_for_answering, one)
        )
        if first:
            with Tag("ul", classes="rows"):
                for one in first:
                    self._row(one, found)
        rest = [one for one in fitting if one.name not in best]
        with Tag("details"):
            Tag("summary", f"{count(len(rest), 'more model')} that {'fits' if len(rest) == 1 else 'fit'}")
            if rest:
                with Tag("ul", classes="rows"):
                    for one in rest:
                        self._row(one, found)
            for remark in found.remarks:
                Tag("p", plain(remark), "muted small")

    def _row(self, one: Suggestion, found: Suggestions) -> None:
        with Tag("li"), Tag("article", classes="model", aria_label=one.name, data_testid="suggestion"):
            with Tag("div", classes="line spread"):
                with Tag("div", classes="line grow"):
                    Tag("h3", one.name)
                    if _is_best(found.best_for_answering, one):
                        chip("best for answering here", "good")
                    if _is_best(found.best_for_training, one):
                        chip("best for training here", "good")
                with Tag("div", classes="line actions"):
                    self._buttons(one)
            terms = " · its publisher asks you to accept terms for the weights" if one.gated else ""
            Tag("p", f"{format_weights(one.parameters)} weights · {one.license}{terms}. {one.about}", "muted small")
            Tag("p", f"{plain(one.answering.sentence)} {plain(one.training.sentence)}", "small")

    def _buttons(self, one: Suggestion) -> None:
        gguf = next((form for form in one.downloads if form.form == "gguf"), None)
        weights = next((form for form in one.downloads if form.form == "weights"), None)
        if one.answers_here:
            chip("answers here", "accent")
        elif gguf is not None and one.answering.verdict != "no":
            self._button(one, gguf, "Get")
        if one.trainable_here:
            chip("trainable here", "accent")
        elif weights is not None and one.training.verdict != "no":
            self._button(one, weights, "Get to train")

    def _button(self, one: Suggestion, form: Download, label: str) -> None:
        press = button(
            f"{label} ({format_bytes(form.size_bytes)}) …", test="get-suggestion", aria_haspopup="dialog",
            aria_label=f"{label} ({format_bytes(form.size_bytes)}) …: {one.name}",
        )  # fmt: skip
        press.on("click", lambda: self._get(request_for(form)), args=[])


def _is_best(best: Best | None, one: Suggestion) -> bool:
    return best is not None and best.name == one.name


def request_for(form: Download) -> PullRequest:
    """Return the request that fetches a form of a known model."""
    return PullRequest(repository=form.source, form=form.form, quantization=form.quantization)
