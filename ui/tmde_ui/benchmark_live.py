"""One benchmark run on the page: how far it is, how good so far, cancel and resume; while it runs and just after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tmde_core.benchmark.records import BenchmarkRun
from tmde_core.errors import ConflictError, TmdeError
from tmde_core.services import Services
from tmde_ui.benchmark_state import Answered, BenchmarkState
from tmde_ui.benchmark_words import STATUS, answerer, asked, domain_name, figure, kind, quality, took
from tmde_ui.elements import Modal, Tag, button, link
from tmde_ui.live import Live
from tmde_ui.tending import Soon, begin, look_again
from tmde_ui.words import count, duration, score, sentence

PAINT_SECONDS = 0.5
"""However fast answers come, the page changes at most this often."""

LOOK_SECONDS = 1.0
"""How often the run's row is looked at, which tells of a run in another process too."""

ANNOUNCED = 10
"""A screen reader hears of every so many percent."""

GOING = ("pending", "running")
FIGURES = ("Answers", "Quality", "Time left", "Without verdict", "Failed")


class BenchmarkPanel:
    """Builds itself from the run's events, then follows it for as long as the page is open."""

    def __init__(
        self,
        services: Services,
        live: Live,
        run: BenchmarkRun,
        resumed: Callable[[BenchmarkRun], Awaitable[None]],
        ended: Callable[[], Awaitable[None]],
        *,
        elsewhere: bool = True,
    ) -> None:
        """Ready to be built.

        Args:
            resumed, ended: told when the run goes on, and when it has ended.
            elsewhere: the run's answers are on another page, which the end links to.
        """
        self._services = services
        self._live = live
        self.run = run
        self.state = BenchmarkState(run.questions_total, run.questions_done)
        self._resumed = resumed
        self._ended = ended
        self._elsewhere = elsewhere
        self._soon = Soon(self._paint, PAINT_SECONDS)
        self._tasks: list[asyncio.Task[None]] = []
        self._finished = False

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.run.status not in GOING

    async def build(self) -> None:
        """Draw the run as it stands, and follow it if it goes on."""
        self._draw()
        await self._look()
        self._paint()
        if not self.over:
            self._tasks = [
                begin(self._follow, "follow a benchmark"),
                begin(self._watch, "look at a benchmark"),
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
        try:
            events = await self._services.benchmark.events(self.run.id)
        except ConflictError:
            return  # it runs in another process: the row tells how many answers there are
        async for event in events.follow():
            self.state.apply(event)
            self._soon.ask()

    async def _watch(self) -> None:
        await look_again(self._look, "a benchmark", every=LOOK_SECONDS, until=lambda: self.over)
        self._live.nudge()
        self._paint()
        await self._ended()

    async def _look(self) -> None:
        self.run = await self._services.benchmark.get(self.run.id)
        self.state.counted(self.run.questions_done, self.run.questions_total)
        self._soon.ask()

    # -------------------------------------------------------------------------------------- drawing

    def _draw(self) -> None:
        with Tag(
            "section", classes="card stack training", aria_label="Benchmark run", data_testid="benchmark-progress"
        ) as self._card:
            with Tag("div", classes="line spread"):
                with Tag("div", classes="line"):
                    Tag("h2", "Benchmark")
                    self._chip = Tag("span", classes="chip", data_testid="benchmark-status")
                    Tag("span", self._whom(), "muted small")
                self._actions = Tag("div", classes="line")
            self._bar = Tag("progress", max="100", aria_label="How much of the benchmark is done")
            self._words = Tag("p", classes="muted small tabular", data_testid="benchmark-words")
            self._spoken = Tag("p", classes="visually-hidden", role="status", aria_live="polite")
            with Tag("dl", classes="figures", data_testid="benchmark-figures"):
                self._figures: dict[str, Tag] = {}
                for name in FIGURES:
                    with Tag("div") as pair:
                        Tag("dt", name)
                        self._figures[name] = Tag("dd", "–")
                    if name == "Time left":
                        self._time_left = pair
            self._result = Tag("div", classes="stack tight maybe", role="status", data_testid="benchmark-result")
            with Tag("details", data_testid="benchmark-answers"):
                Tag("summary", "Answers as they come")
                self._said = Tag("pre", classes="log", tabindex="0", aria_label="Answers as they come")
        self._draw_actions()

    def _whom(self) -> str:
        return f"{kind(self.run.type, self.run.mode)}: {answerer(self.run.adapter_id)}"

    def _paint(self) -> None:
        self._soon.stop()
        word, chip = STATUS[self.run.status]
        self._chip.say(word).classes(replace=f"chip {chip}")
        self._paint_progress()
        self._paint_figures()
        self._said.say("\n".join(map(_line, reversed(self.state.answers))) or "None so far.")
        if self.over:
            self._finish()

    def _paint_progress(self) -> None:
        state = self.state
        share = 1.0 if self.run.status == "completed" else state.share
        waits = not self.over and not state.done
        self._bar.put(value=None if waits else f"{100 * (share or 0):.1f}").show(not self.over)
        percent = int(100 * (share or 0))
        if self.over:
            self._words.say(f"It took {took(self.run)}.")
            self._spoken.say(f"Benchmark {STATUS[self.run.status][0]}.")
        elif waits:
            self._words.say("The first answers are being written. Debates that arrive are served first.")
        elif state.done >= state.total:
            self._words.say(f"All answers are there after {took(self.run)}; they are being summed up.")
        else:
            self._words.say(f"{percent} % after {took(self.run)}")
            self._spoken.say(f"Benchmark {percent // ANNOUNCED * ANNOUNCED} % done.")

    def _paint_figures(self) -> None:
        state, metrics = self.state, self.run.metrics
        mean = metrics.avg_quality.mean if self.over and metrics else state.mean
        left = (
            duration(max(state.eta_seconds, 1) * 1000)
            if state.eta_seconds is not None and state.done < state.total
            else "–"
        )
        for name, words in {
            "Answers": f"{state.done:,} of {state.total:,}",
            "Quality": "–" if mean is None else f"{figure(mean)} of 10",
            "Time left": left,
            "Without verdict": f"{metrics.unscored if metrics else state.unscored:,}",
            "Failed": f"{metrics.failed if metrics else state.failed:,}",
        }.items():
            self._figures[name].say(words)
        self._time_left.show(not self.over)

    # -------------------------------------------------------------------------------- cancel, resume

    def _draw_actions(self) -> None:
        self._actions.clear()
        with self._actions:
            if not self.over:
                button("Cancel", "danger", test="cancel-benchmark").on("click", self._ask, args=[])
            elif self.run.status != "completed":
                self._resume_button = button("Resume", test="resume-benchmark").on("click", self._resume, args=[])

    def _ask(self) -> None:
        with self._card:
            dialog = Modal("Cancel this benchmark?", test="cancel-dialog")
        dialog.on("close", dialog.delete, args=[])
        with dialog.body:
            Tag("p", f"{asked(self.run)} are there. They are kept, and the rest can be asked later.", "muted")
            complaint = Tag("p", classes="notice bad", role="alert").show(visible=False)
            with Tag("div", classes="line"):
                confirm = button("Cancel the benchmark", "primary", test="confirm-cancel")
                button("Go on").on("click", js_handler=f"() => getHtmlElement({dialog.id}).close()")

        async def cancel() -> None:
            confirm.put(disabled=True)
            try:
                await self._services.benchmark.cancel(self.run.id)
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
            run = await self._services.benchmark.resume(self.run.id)
        except TmdeError as error:
            with self._result:
                Tag("p", sentence(error), "notice bad", role="alert")
            return
        self._live.nudge()
        await self._resumed(run)

    def _finish(self) -> None:
        """Once: a button that is drawn again while somebody presses it is not pressed."""
        if self._finished:
            return
        self._finished = True
        self._draw_actions()
        run = self.run
        self._result.clear()
        with self._result:
            if run.status == "completed" and run.metrics is not None:
                with Tag("p", classes="notice good"):
                    total = figure(run.metrics.tmde_score)
                    Tag("span", f"TMDE score {total}, quality {quality(run.metrics.avg_quality)}. ")
                    if self._elsewhere:
                        link("See every answer", f"/benchmark/{run.id}", data_testid="to-answers")
            elif run.status == "failed":
                reason = run.error_message or "It failed and gave no reason."
                Tag("p", reason, "notice bad", data_testid="benchmark-failure")
            else:
                Tag("p", f"{STATUS[run.status][0].capitalize()} after {asked(run)}, which are kept.", "notice warm")
            for warning in run.warnings:
                Tag("p", warning, "notice warm")


def _line(answer: Answered) -> str:
    verdict = {"failed": "no answer", "unscored": "no verdict"}.get(answer.status, f"{score(answer.score)} of 10")
    return f"{answer.question_id} ({domain_name(answer.domain)}): {verdict}"


def answers_words(run: BenchmarkRun) -> str:
    """How many answers lack something; nothing when none does."""
    metrics = run.metrics
    if metrics is None:
        return ""
    parts = [f"{count(metrics.unscored, 'answer')} without verdict"] if metrics.unscored else []
    parts += [f"{metrics.failed:,} failed"] if metrics.failed else []
    return ", ".join(parts)
