"""One training run on the page: how far it is, its losses, what it says, cancel and resume; while it runs and after."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from nicegui import ui

from tmde_core.errors import TmdeError
from tmde_core.finetune.records import ENDED, FineTuneRun
from tmde_core.services import Services
from tmde_ui.chart import Series, chart
from tmde_ui.elements import Modal, Tag, button, link
from tmde_ui.finetune_state import TrainingState
from tmde_ui.finetune_words import loss, status_of, took
from tmde_ui.live import Live
from tmde_ui.tending import Soon, begin, look_again
from tmde_ui.words import count, duration, sentence, size

PAINT_SECONDS = 0.5
"""However fast a run reports, the page changes at most this often."""

LOOK_SECONDS = 1.0
"""How often the run's row is looked at, which says what the events do not: attempts, and the end of a dead worker."""

TAIL_LINES = 40
ANNOUNCED = 10
"""A screen reader hears of every so many percent."""

FIGURES = ("Step", "Loss", "Validation loss", "Speed", "Time left", "Memory")


class TrainingPanel:
    """Builds itself from the run's event log, then follows it for as long as the page is open."""

    def __init__(
        self,
        services: Services,
        live: Live,
        run: FineTuneRun,
        changed: Callable[[], None] = lambda: None,
        resumed: Callable[[FineTuneRun], Awaitable[None]] | None = None,
        ended: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._services = services
        self._live = live
        self.run = run
        self.state = TrainingState()
        self._changed = changed
        self._resumed = resumed
        self._ended = ended
        self._soon = Soon(self._paint, PAINT_SECONDS)
        self._tasks: list[asyncio.Task[None]] = []
        self._drawn: tuple[int, int] = (-1, -1)
        self._tail = ""
        self._finished = False
        self._resumable = False

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.run.status in ENDED

    async def build(self) -> None:
        """Draw the run as it stands, and follow it if it goes on."""
        events = self._services.finetune.events(self.run.id)
        for event in await asyncio.to_thread(events.read):
            self.state.apply(event)
        self._draw()
        await self._look()
        self._paint()
        if not self.over:
            self._tasks = [
                begin(self._follow, "follow a training run"),
                begin(self._watch, "look at a training run"),
            ]

    def stop(self) -> None:
        """Follow no further."""
        for task in self._tasks:
            # One of them may be here, telling of the end to a page that shows the next run at once.
            if task is not asyncio.current_task():
                task.cancel()
        self._soon.stop()

    # -------------------------------------------------------------------------------------- looking

    async def _follow(self) -> None:
        while not self.over:
            with contextlib.suppress(OSError):
                async for event in self._services.finetune.events(self.run.id).follow(self.state.seen):
                    self.state.apply(event)
                    self._soon.ask()
            await asyncio.sleep(PAINT_SECONDS)  # its last word may not be the run's: it may be tried again

    async def _watch(self) -> None:
        await look_again(self._look, "a training run", every=LOOK_SECONDS, until=lambda: self.over)
        self._tasks[0].cancel()
        for event in await asyncio.to_thread(self._services.finetune.events(self.run.id).read, self.state.seen):
            self.state.apply(event)
        self._live.nudge()
        self._paint()
        if self._ended is not None:
            await self._ended()

    async def _look(self) -> None:
        run = await self._services.finetune.get(self.run.id)
        self._resumable = await asyncio.to_thread(self._services.finetune.resumable, run)
        self.run = run
        with contextlib.suppress(TmdeError, NotImplementedError):
            self._tail = await self._services.finetune.log_tail(self.run.id, TAIL_LINES)
        self._soon.ask()

    # -------------------------------------------------------------------------------------- drawing

    def _draw(self) -> None:
        with Tag(
            "section", classes="card stack training", aria_label="Training run", data_testid="training-progress"
        ) as self._card:
            with Tag("div", classes="line spread"):
                with Tag("div", classes="line"):
                    Tag("h2", "Training")
                    self._chip = Tag("span", classes="chip", data_testid="run-status")
                self._actions = Tag("div", classes="line")
            self._bar = Tag("progress", max="100", aria_label="How much of the run is done")
            self._words = Tag("p", classes="muted small tabular", data_testid="progress-words")
            self._spoken = Tag("p", classes="visually-hidden", role="status", aria_live="polite")
            with Tag("dl", classes="figures", data_testid="figures"):
                self._figures: dict[str, Tag] = {}
                for name in FIGURES:
                    with Tag("div") as pair:
                        Tag("dt", name)
                        self._figures[name] = Tag("dd", "–")
                    if name == "Time left":
                        self._time_left = pair
            self._result = Tag("div", classes="maybe", role="status", data_testid="run-result")
            self._chart = ui.html("", sanitize=False)
            self._attempts = Tag("ul", classes="attempts small", data_testid="attempts").show(visible=False)
            with Tag("details", data_testid="log"):
                Tag("summary", "What it says")
                self._said = Tag("pre", classes="log", tabindex="0", aria_label="The run's log")
        self._draw_actions()

    def _paint(self) -> None:
        self._soon.stop()
        word, kind = status_of(self.run)
        self._chip.say(word).classes(replace=f"chip {kind}").show(self.over)
        self._paint_progress()
        self._paint_figures()
        self._paint_chart()
        self._paint_attempts()
        self._said.say(self._log_text())
        if self.over:
            self._finish()
        self._changed()

    def _paint_progress(self) -> None:
        state, run = self.state, self.run
        share = 1.0 if run.status == "completed" else state.share
        waits = share is None and not self.over
        self._bar.put(value=None if waits else f"{100 * (share or 0):.1f}").show(not self.over)
        percent = int(100 * (share or 0))
        self._words.say(f"It took {took(run)}." if self.over else f"{percent} % after {took(run)}")
        if waits:
            self._words.say(
                "It waits until a worker takes it."
                if run.queued
                else "The model is being loaded; the first step follows."
            )
        if self.over:
            self._spoken.say(f"Training {status_of(run)[0]}.")
        elif share is not None:
            self._spoken.say(f"Training {percent // ANNOUNCED * ANNOUNCED} % done.")

    def _paint_figures(self) -> None:
        state, last = self.state, self.state.last
        metrics = self.run.metrics
        speed = last.tokens_per_second if last else None
        if self.over and metrics and metrics.tokens_per_second:
            speed = metrics.tokens_per_second
        memory = size(last.rss_bytes) if last and last.rss_bytes else "–"
        if self.over and metrics and (metrics.peak_vram_gb or metrics.peak_ram_gb):
            memory = f"{metrics.peak_vram_gb or metrics.peak_ram_gb:.1f} GB"
        left = duration(last.eta_seconds * 1000) if last and last.eta_seconds is not None else "–"
        for name, words in {
            "Step": f"{last.step:,} of {last.total_steps:,}" if last else "–",
            "Loss": loss(state.train[-1][1] if state.train else None),
            "Validation loss": loss(state.eval[-1][1] if state.eval else None),
            "Speed": f"{speed:,.0f} tokens/s" if speed else "–",
            "Time left": left,
            "Memory": memory,
        }.items():
            self._figures[name].say(words)
        self._time_left.show(not self.over)

    def _paint_chart(self) -> None:
        state = self.state
        drawn = (state.seen, len(state.train) + len(state.eval))
        if drawn == self._drawn:
            return
        self._drawn = drawn
        total = state.last.total_steps if state.last else 1
        self._chart.set_content(
            chart(
                (
                    Series(name="Loss on the training examples", points=tuple(state.train), colour="proposer"),
                    Series(name="on those held out", points=tuple(state.eval), colour="skeptic", dots=True),
                ),
                title="Loss by step",
                x_label="by step",
                x_span=(0, max(1, total)),
                nothing="The losses appear here with the first step." if not self.over else "No step was finished.",
            )
        )

    def _paint_attempts(self) -> None:
        attempts = self.run.attempts
        self._attempts.show(len(attempts) > 1)
        if len(attempts) < 2:
            return
        lines = []
        for one in attempts:
            batch = f"batch {one.batch_size} × {one.gradient_accumulation_steps}"
            since = f", on from step {one.resumed_from_step:,}" if one.resumed_from_step else ""
            reason = f": {one.reason}" if one.reason else ""
            lines.append(f"Attempt {one.number} ({batch}{since}) {OUTCOMES.get(one.outcome, one.outcome)}{reason}")
        if [child.text for child in self._attempts if isinstance(child, Tag)] != lines:
            self._attempts.clear()
            with self._attempts:
                for line in lines:
                    Tag("li", line)

    def _log_text(self) -> str:
        said = "\n".join(f"step {one.step:>5}  {one.text}" if one.step else one.text for one in self.state.said)
        return "\n\n".join(part for part in (said, self._tail.strip()) if part) or "Nothing so far."

    # -------------------------------------------------------------------------------- cancel, resume

    def _draw_actions(self) -> None:
        self._actions.clear()
        with self._actions:
            if not self.over:
                button("Cancel", "danger", test="cancel-run").on("click", self._ask, args=[])
            elif self._resumable:
                self._resume_button = button("Resume", test="resume-run").on("click", self._resume, args=[])

    def _ask(self) -> None:
        with self._card:
            dialog = Modal("Cancel this run?", test="cancel-dialog")
        dialog.on("close", dialog.delete, args=[])
        kept = (
            f"It can be resumed from step {self.state.checkpoint:,} later."
            if self.state.checkpoint is not None
            else "There is no checkpoint yet, so nothing of it is kept."
        )
        with dialog.body:
            Tag("p", kept, "muted")
            complaint = Tag("p", classes="notice bad", role="alert").show(visible=False)
            with Tag("div", classes="line"):
                confirm = button("Cancel the run", "primary", test="confirm-cancel")
                button("Keep training").on("click", js_handler=f"() => getHtmlElement({dialog.id}).close()")

        async def cancel() -> None:
            confirm.say("Ending its processes …").put(disabled=True)
            try:
                await self._services.finetune.cancel(self.run.id)
            except TmdeError as error:
                complaint.say(sentence(error)).show()
                return
            with self._card:
                dialog.close()

        confirm.on("click", cancel, args=[])
        dialog.open()

    async def _resume(self) -> None:
        self._resume_button.put(disabled=True)
        try:
            run = await self._services.finetune.resume(self.run.id)
        except TmdeError as error:
            with self._result:
                Tag("p", sentence(error), "notice bad", role="alert")
            return
        self._live.nudge()
        if self._resumed is not None:
            await self._resumed(run)

    def _finish(self) -> None:
        """Once: a button that is drawn again while somebody presses it is not pressed."""
        if self._finished:
            return
        self._finished = True
        self._draw_actions()
        self._result.clear()
        with self._result:
            if self.run.status == "completed":
                with Tag("p", classes="notice good"):
                    Tag("span", f"The adapter is ready after {took(self.run)}. ")
                    there = f"/finetune/versions?adapter={self.run.id}"
                    link("See it among the versions", there, data_testid="to-versions")
            elif self.run.status == "failed":
                Tag("p", self.run.error_message or "It failed and gave no reason.", "notice bad", data_testid="failure")
            else:
                steps = count(self.state.last.step if self.state.last else 0, "step")
                Tag("p", f"Cancelled after {steps}; no adapter was made.", "notice warm")


OUTCOMES = {
    "running": "is running",
    "completed": "finished",
    "failed": "failed",
    "cancelled": "was cancelled",
    "killed": "was killed",
    "hung": "hung and was ended",
    "out-of-memory": "ran out of memory",
}
