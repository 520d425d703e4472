"""Draw what follows a finished answer: the judge's score and reasons, and a person's rating and correction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tmde_core.errors import TmdeError
from tmde_core.records.traces import Trace
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button
from tmde_ui.kit.forms import on_submit
from tmde_ui.kit.render import prose, render
from tmde_ui.kit.words import score, sentence


def score_line(value: float | None, judge: str | None, reasons: list[str] | tuple[str, ...]) -> None:
    """Draw the judge's score and reasons, or why there is no score."""
    with Tag("div", classes="stack tight", data_testid="score"):
        with Tag("div", classes="scoreline"):
            if value is None:
                Tag("span", "No verdict", "chip judge")
                Tag(
                    "span",
                    "This answer was not scored. This does not mean a score of 0. Rate the answer yourself.",
                    "muted small",
                )
            else:
                Tag("span", score(value), "figure")
                Tag("span", "of 10", "of")
                Tag("span", f"by the {judge} judge" if judge else "by the judge", "muted small")
        if reasons:
            with Tag("ul", classes="muted small", style="padding-left:1.2em"):
                for reason in reasons:
                    Tag("li", reason)


class Rating:
    """Lets a person rate an answer from 1 to 10 and correct it. Saves at once and says so."""

    def __init__(self, services: Services, trace: Trace, changed: Callable[[Trace], Awaitable[None]]) -> None:
        self._services = services
        self._changed = changed
        self.trace = trace
        with Tag("div", classes="stack", data_testid="rating"):
            with Tag("fieldset"):
                Tag("legend", "How good is it?", "small muted")
                self._scale = Tag("div", classes="scale")
            self._said = Tag("p", classes="small muted", role="status", data_testid="rating-said")
            with Tag("div", classes="line"):
                self._correct = button("Correct the answer", test="correct")
            self._form = self._correction()
        self._draw_scale()
        self._correct.on("click", self._open, args=[])
        self._say()

    def _draw_scale(self) -> None:
        self._scale.clear()
        with self._scale:
            for number in range(1, 11):
                with Tag("label", title=f"{number} of 10"):
                    radio = Tag(
                        "input", type="radio", name=f"rating-{self.trace.id}", value=str(number),
                        checked=self.trace.user_rating == number, aria_label=f"{number} of 10", data_testid=f"rate-{number}",
                    )  # fmt: skip
                    Tag("span", str(number))
                radio.on("change", lambda number=number: self._rate(number), args=[])

    def _correction(self) -> Tag:
        with Tag("form", classes="stack tight").show(visible=False) as form:
            with Tag("div", classes="field"):
                Tag("label", "The correct answer", for_="correction")
                self._typed = Tag(
                    "textarea", classes="input", id="correction", name="corrected", rows="6",
                    defaultValue=self.trace.corrected_answer or self.trace.final_answer, data_testid="correction",
                )  # fmt: skip
            with Tag("div", classes="line"):
                button("Save the correction", "primary", type_="submit", test="save-correction")
                button("Cancel", "quiet").on("click", self._close, args=[])
        on_submit(form, self._save)
        return form

    def _open(self) -> None:
        self._form.show()
        self._correct.show(visible=False)
        self._typed.run_method("focus")

    def _close(self) -> None:
        self._form.show(visible=False)
        self._correct.show()
        self._correct.run_method("focus")

    async def _rate(self, number: int) -> None:
        await self._write(self._services.traces.rate(self.trace.id, number))

    async def _save(self, fields: dict[str, str]) -> None:
        if await self._write(self._services.traces.correct(self.trace.id, fields.get("corrected", ""))):
            self._close()

    async def _write(self, change: Awaitable[Trace]) -> bool:
        try:
            self.trace = await change
        except TmdeError as error:
            self._said.say(sentence(error))
            return False
        self._say(saved=True)
        await self._changed(self.trace)
        return True

    def _say(self, *, saved: bool = False) -> None:
        trace, minimum = self.trace, self._services.traces.min_quality_score
        if trace.withdrawn_at is not None:
            text = "Withdrawn. This trace is never used for training."
        else:
            text = " ".join((*_rating_words(trace), _use_words(trace, minimum)))
        self._said.say(f"Saved. {text}" if saved else text)


def _rating_words(trace: Trace) -> tuple[str, ...]:
    return () if trace.user_rating is None else (f"You gave {trace.user_rating} of 10.",)


def _use_words(trace: Trace, minimum: float) -> str:
    """Return whether the answer becomes training data, as a sentence."""
    if trace.source == "benchmark":
        return "A benchmark asked this question, so the answer is never used for training."
    if trace.corrected_answer:
        return "Training uses your correction instead of the original answer."
    if trace.user_rating is None:
        return f"Answers rated {score(minimum)} or more become training data, and so do corrections."
    if trace.user_rating >= minimum:
        return "The answer may be used for training."
    return f"The answer is not used for training, which requires {score(minimum)} or more. You can correct it."


async def corrected_answer(trace: Trace) -> None:
    """Draw the person's correction if there is one."""
    if trace.corrected_answer:
        with Tag("div", classes="notice", data_testid="corrected"):
            used = "Withdrawn: not used for training" if trace.withdrawn_at else "Training uses this text"
            Tag("p", f"Corrected by you. {used}", "eyebrow")
            prose(await render(trace.corrected_answer))
