"""Show what each activation of an adapter changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from tmde_core.benchmark.results.report import difference_words
from tmde_core.errors import TmdeError
from tmde_ui.benchmark.compare.pairs import ActivationPair, Comparisons, Pair
from tmde_ui.benchmark.words import OUTCOMES, change, day, format_number
from tmde_ui.kit.elements import Tag, button, chip
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.words import sentence

SHOWN = 3
"""Number of newest activations in the list. The chart shows the others."""


class SwitchList:
    """Shows the newest activations and the change in quality."""

    def __init__(self, comparisons: Comparisons, chosen: Callable[[Pair], Awaitable[None]]) -> None:
        self._comparisons = comparisons
        self._chosen = chosen
        self._shown: object = None
        with Tag(
            "section", classes="stack tight", aria_label="Before and after", data_testid="switches"
        ) as self._section:
            Tag("h2", "Before and after an activation")
            self._box = Tag("div", classes="rows")
        self._section.show(visible=False)
        self._none = Tag(
            "p",
            "Nothing to compare yet. This needs an activation, and a benchmark of the versions before and after it.",
            "muted",
        )

    async def show(self, switches: Sequence[ActivationPair]) -> None:
        """Redraw the activations if they have changed."""
        newest = switches[:SHOWN]
        shown = [(one.event.id, one.before.run_id, one.after.run_id) for one in newest]
        if shown == self._shown:
            return
        self._shown = shown
        self._section.show(bool(newest))
        self._none.show(not newest)
        self._box.clear()
        for one in newest:
            with self._box, Tag("div", classes="activation", data_testid="switch"):
                await self._draw(one)

    async def _draw(self, switch: ActivationPair) -> None:
        event, before, after = switch.event, switch.before, switch.after
        with Tag("div", classes="stack tight"):
            Tag("p", capital(f"{name_of(event.adapter_id)} replaced {name_of(event.previous_adapter_id)}"))
            words = Tag("p", day(event.timestamp), "muted small")
        with Tag("div", classes="line"):
            Tag("span", f"{format_number(before.tmde_score)} → {format_number(after.tmde_score)}", "score")
            verdict = Tag("span", classes="line")
        look = button("Both answers", test="switch-answers")
        look.on("click", lambda: self._chosen(switch.pair), args=[])
        try:
            found = await self._comparisons.of(before.run_id, after.run_id)
        except TmdeError as error:
            words.say(f"{day(event.timestamp)}. {sentence(error)}")
            return
        words.say(f"{day(event.timestamp)}. Quality {difference_words(found.quality)}")
        with verdict:
            word, kind = OUTCOMES[found.quality.outcome]
            Tag("strong", change(found.score_difference, found.score_low, found.score_high), "tabular")
            chip(word, kind)
