"""Show one benchmark run while it runs and just after: progress, quality so far, cancel and resume."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tmde_core.errors import ConflictError
from tmde_core.records.benchmark import BenchmarkRun
from tmde_core.services import Services
from tmde_ui.benchmark.state import Answered, BenchmarkState
from tmde_ui.benchmark.words import (
    STATUS,
    domain_name,
    format_answer_count,
    format_number,
    format_run_time,
    kind,
    quality,
)
from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.names import name_of
from tmde_ui.kit.runs.panel import TIME_LEFT, RunPanel
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, score

GOING = ("pending", "running")


class BenchmarkPanel(RunPanel[BenchmarkRun]):
    """Builds the panel from the run's events, then follows them."""

    TITLE, KIND = "Benchmark", "benchmark"
    FIGURES = ("Answers", "Quality", TIME_LEFT, "Without verdict", "Failed")

    def __init__(
        self,
        services: Services,
        live: ServerStatus,
        run: BenchmarkRun,
        resumed: Callable[[BenchmarkRun], Awaitable[None]],
        ended: Callable[[], Awaitable[None]],
        *,
        elsewhere: bool = True,
    ) -> None:
        """Extend `RunPanel`. `elsewhere`: the answers are on another page, and the result links to that page."""
        super().__init__(services.benchmark, live, run, resumed, ended)
        self._services = services
        self.state = BenchmarkState(run.answer_count, run.completed_answers)
        self._elsewhere = elsewhere

    @property
    def over(self) -> bool:
        """See `RunPanel`."""
        return self.run.status not in GOING

    @property
    def resumable(self) -> bool:
        """See `RunPanel`."""
        return self.run.status != "completed"

    async def _look(self) -> None:
        self.run = await self._services.benchmark.get(self.run.id)
        self.state.counted(self.run.completed_answers, self.run.answer_count)

    async def _follow(self) -> None:
        try:
            events = await self._services.benchmark.events(self.run.id)
        except ConflictError:
            return  # the run is in another process; its row holds the number of answers
        async for event in events.follow():
            self.state.apply(event)
            self._soon.ask()

    def _draw_more(self) -> None:
        self._about.say(f"{kind(self.run.type, self.run.mode)}: {name_of(self.run.adapter_id)}")
        with Tag("details", data_testid="benchmark-answers"):
            Tag("summary", "Answers so far")
            self._said = Tag("pre", classes="log", tabindex="0", aria_label="Answers so far")

    def _paint_state(self) -> None:
        state, metrics = self.state, self.run.metrics
        word, colour = STATUS[self.run.status]
        self._chip.say(word).classes(replace=f"chip {colour}")
        waits = not self.over and not state.done
        share = 1.0 if self.run.status == "completed" else state.share or 0.0
        self._paint_share(None if waits else share, self._words_now(share), word)
        mean = metrics.avg_quality_score if self.over and metrics else state.mean
        eta = state.eta_seconds if state.done < state.total else None
        self._paint_figures(
            {
                "Answers": f"{state.done:,} of {state.total:,}",
                "Quality": "–" if mean is None else f"{format_number(mean)} of 10",
                TIME_LEFT: "–" if eta is None else format_milliseconds(max(eta, 1) * 1000),
                "Without verdict": f"{metrics.unscored if metrics else state.unscored:,}",
                "Failed": f"{metrics.failed if metrics else state.failed:,}",
            }
        )
        self._said.say("\n".join(map(_line, reversed(state.answers))) or "No answers yet.")

    def _words_now(self, share: float) -> str:
        if self.over:
            return f"It took {format_run_time(self.run)}."
        if not self.state.done:
            return "The first answers are being written. New debates have priority."
        if self.state.done >= self.state.total:
            return f"All answers arrived after {format_run_time(self.run)}. The results are being computed."
        return f"{int(100 * share)} % after {format_run_time(self.run)}"

    def _ask(self) -> None:
        # From the events, like the figures above: the row may lag behind.
        there = f"{self.state.done:,} of {count(self.state.total, 'answer')}"
        self._ask_cancel(f"{there} are finished. They are kept, and you can resume the run later.", "Keep running")

    def _draw_result(self) -> None:
        run = self.run
        if run.status == "completed" and run.metrics is not None:
            with Tag("p", classes="notice good"):
                total = format_number(run.metrics.tmde_score)
                Tag("span", f"TMDE score {total}, quality {quality(run.metrics.intervals.quality)}. ")
                if self._elsewhere:
                    link("See every answer", f"/benchmark/{run.id}", data_testid="to-answers")
        elif run.status == "failed":
            reason = run.error_message or "The run failed without giving a reason."
            Tag("p", reason, "notice bad", data_testid="benchmark-failure")
        else:
            Tag(
                "p",
                f"{STATUS[run.status][0].capitalize()} after {format_answer_count(run)}. These answers are kept.",
                "notice warm",
            )
        if self._elsewhere and run.status != "completed":
            # The run's own page and the results of a completed run show the warnings themselves.
            for warning in run.warnings:
                Tag("p", warning, "notice warm")


def _line(answer: Answered) -> str:
    verdict = {"failed": "no answer", "unscored": "no verdict"}.get(answer.status, f"{score(answer.score)} of 10")
    return f"{answer.question_id} ({domain_name(answer.domain)}): {verdict}"


def answers_words(run: BenchmarkRun) -> str:
    """Return how many answers have no verdict or failed; empty if there are none."""
    metrics = run.metrics
    if metrics is None:
        return ""
    parts = [f"{count(metrics.unscored, 'answer')} without verdict"] if metrics.unscored else []
    parts += [f"{metrics.failed:,} failed"] if metrics.failed else []
    return ", ".join(parts)
