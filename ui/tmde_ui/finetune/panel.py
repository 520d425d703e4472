"""Show one training run while it runs and after: progress, losses, log, cancel and resume."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from nicegui import ui

from tmde_core.errors import TmdeError
from tmde_core.records.finetune import TRAINING_ENDED, FineTuneRun
from tmde_core.services import Services
from tmde_ui.finetune.state import TrainingState
from tmde_ui.finetune.words import format_run_time, status_of
from tmde_ui.kit.chart.lines import Series, chart
from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.hyperparameters import loss
from tmde_ui.kit.runs.panel import PAINT_SECONDS, TIME_LEFT, RunPanel
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, format_bytes

TAIL_LINES = 40


class TrainingPanel(RunPanel[FineTuneRun]):
    """Builds the panel from the run's event log, then follows the log."""

    TITLE, KIND = "Training", "run"
    FIGURES = ("Step", "Loss", "Validation loss", "Speed", TIME_LEFT, "Memory")

    def __init__(
        self,
        services: Services,
        live: ServerStatus,
        run: FineTuneRun,
        resumed: Callable[[FineTuneRun], Awaitable[None]],
        ended: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(services.finetune, live, run, resumed, ended)
        self._services = services
        self.state = TrainingState()
        self._drawn: tuple[int, int] = (-1, -1)
        self._tail = ""
        self._resumable = False

    @property
    def over(self) -> bool:
        """See `RunPanel`."""
        return self.run.status in TRAINING_ENDED

    @property
    def resumable(self) -> bool:
        """See `RunPanel`."""
        return self._resumable

    async def build(self) -> None:
        """See `RunPanel`."""
        await self._catch_up()
        await super().build()

    async def _catch_up(self) -> None:
        for task in self._tasks[:1]:
            task.cancel()  # follows the same events
        for event in await asyncio.to_thread(self._services.finetune.events(self.run.id).read, self.state.seen):
            self.state.apply(event)

    async def _look(self) -> None:
        run = await self._services.finetune.get(self.run.id)
        self._resumable = await asyncio.to_thread(self._services.finetune.can_resume, run)
        self.run = run
        with contextlib.suppress(TmdeError, NotImplementedError):
            self._tail = await self._services.finetune.log_tail(self.run.id, TAIL_LINES)

    async def _follow(self) -> None:
        while not self.over:
            with contextlib.suppress(OSError):
                async for event in self._services.finetune.events(self.run.id).follow(self.state.seen):
                    self.state.apply(event)
                    self._soon.ask()
            await asyncio.sleep(PAINT_SECONDS)  # the last event may not be final, because the run may be retried

    def _draw_more(self) -> None:
        self._chart = ui.html("", sanitize=False)
        self._attempts = Tag("ul", classes="attempts small", data_testid="attempts").show(visible=False)
        with Tag("details", data_testid="log"):
            Tag("summary", "Log")
            self._said = Tag("pre", classes="log", tabindex="0", aria_label="The run's log")

    def _paint_state(self) -> None:
        word, colour = status_of(self.run)
        self._chip.say(word).classes(replace=f"chip {colour}").show(self.over)
        share = 1.0 if self.run.status == "completed" else self.state.share
        if self.over and share is None:
            share = 0.0
        self._paint_share(share, self._words_now(share), word)
        self._paint_numbers()
        self._paint_chart()
        self._paint_attempts()
        self._said.say(self._log_text())

    def _words_now(self, share: float | None) -> str:
        if self.over:
            return f"It took {format_run_time(self.run)}."
        if self.run.queued:
            return self.run.notice
        if share is not None:
            return f"{int(100 * share)} % after {format_run_time(self.run)}"
        return self.run.notice or "The model is loading. The first step follows."

    def _paint_numbers(self) -> None:
        state, last, metrics = self.state, self.state.last, self.run.metrics
        speed = last.tokens_per_second if last else None
        memory = format_bytes(last.rss_bytes) if last and last.rss_bytes else "–"
        if self.over and metrics is not None:
            speed = metrics.tokens_per_second or speed
            peak = metrics.peak_vram_gb or metrics.peak_ram_gb
            memory = f"{peak:.1f} GB" if peak else memory
        self._paint_figures(
            {
                "Step": f"{last.step:,} of {last.total_steps:,}" if last else "–",
                "Loss": loss(state.train[-1][1] if state.train else None),
                "Validation loss": loss(state.eval[-1][1] if state.eval else None),
                "Speed": f"{speed:,.0f} tokens/s" if speed else "–",
                TIME_LEFT: format_milliseconds(last.eta_seconds * 1000)
                if last and last.eta_seconds is not None
                else "–",
                "Memory": memory,
            }
        )

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
                    Series(name="Loss on training examples", points=tuple(state.train), colour="proposer"),
                    Series(name="Loss on held-out examples", points=tuple(state.eval), colour="skeptic", dots=True),
                ),
                title="Loss by step",
                x_label="by step",
                x_span=(0, max(1, total)),
                nothing="Losses appear here after the first step." if not self.over else "No step was completed.",
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
            since = f", resumed from step {one.resumed_from_step:,}" if one.resumed_from_step else ""
            reason = f": {one.reason}" if one.reason else ""
            lines.append(f"Attempt {one.number} ({batch}{since}) {OUTCOMES.get(one.outcome, one.outcome)}{reason}")
        if [child.text for child in self._attempts if isinstance(child, Tag)] != lines:
            self._attempts.clear()
            with self._attempts:
                for line in lines:
                    Tag("li", line)

    def _log_text(self) -> str:
        said = "\n".join(f"step {one.step:>5}  {one.text}" if one.step else one.text for one in self.state.said)
        return "\n\n".join(part for part in (said, self._tail.strip()) if part) or "No messages yet."

    def _ask(self) -> None:
        saved = self.state.checkpoint
        kept = (
            f"You can resume the run from step {saved:,} later."
            if saved is not None
            else "There is no checkpoint yet, so the progress is lost."
        )
        self._ask_cancel(kept, "Keep training", "Stopping its processes …")

    def _draw_result(self) -> None:
        if self.run.status == "completed":
            with Tag("p", classes="notice good"):
                Tag("span", f"The adapter is ready after {format_run_time(self.run)}. ")
                there = f"/finetune/versions?adapter={self.run.id}"
                link("Show it in the adapter versions", there, data_testid="to-versions")
        elif self.run.status == "failed":
            Tag(
                "p",
                self.run.error_message or "The run failed without giving a reason.",
                "notice bad",
                data_testid="failure",
            )
        else:
            steps = count(self.state.last.step if self.state.last else 0, "step")
            Tag("p", f"Cancelled after {steps}. No adapter was created.", "notice warm")


OUTCOMES = {
    "running": "is running",
    "completed": "finished",
    "failed": "failed",
    "cancelled": "was cancelled",
    "killed": "was killed",
    "hung": "hung and was stopped",
    "out-of-memory": "ran out of memory",
    "paused": "was paused",
}
