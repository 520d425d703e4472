"""The list of training runs, and the details of one run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.records.finetune import FineTuneRun
from tmde_core.records.traces import Trace
from tmde_core.services import Services
from tmde_ui.finetune.words import BY, format_run_time, format_trace_count, status_of
from tmde_ui.kit.elements import Tag, button, chip, facts, link
from tmde_ui.kit.hyperparameters import NAMES, figure_of, loss
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.times import age, exact
from tmde_ui.kit.words import count, score, sentence, snippet

PER_PAGE = 10
TRACES_PER_PAGE = 25


class RunTable:
    """Shows the runs, newest first, one page at a time."""

    def __init__(
        self, services: Services, live: ServerStatus, resumed: Callable[[FineTuneRun], Awaitable[None]]
    ) -> None:
        self._services = services
        self._live = live
        self._resumed = resumed
        self._offset = 0
        self._shown: tuple[object, ...] = ()
        self._clocks: list[tuple[FineTuneRun, Tag, Tag]] = []
        """The elements of each run's age and duration."""
        self._box = Tag("div", data_testid="runs")

    async def show(self) -> None:
        """Load the runs and redraw the list if more than the times has changed."""
        runs, total = await self._services.finetune.list(limit=PER_PAGE, offset=self._offset)
        going = {run.id for run in runs if await asyncio.to_thread(self._services.finetune.can_resume, run)}
        shown = (self._offset, total, tuple(runs), going)
        if shown == self._shown:
            self._tell_time()
            return
        self._shown = shown
        self._clocks.clear()
        self._box.clear()
        with self._box:
            if not total:
                _no_runs_yet()
                return
            with Tag("ul", classes="rows"):
                for run in runs:
                    with Tag("li", classes="run", data_testid="run"):
                        self._row(run, run.id in going)
            if total > PER_PAGE:
                self._pager(len(runs), total)
        self._tell_time()

    def _tell_time(self) -> None:
        for run, begun, lasted in self._clocks:
            begun.say(age(run.started_at).capitalize())
            lasted.say("" if run.status == "pending" else format_run_time(run))

    def _row(self, run: FineTuneRun, resumable: bool) -> None:
        word, kind = status_of(run)
        complaint = Tag("p", classes="notice bad", role="alert").show(visible=False)
        with Tag("div", classes="run-line"):
            chip(word, kind)
            with Tag("span", classes="lead"):
                begun = link("", f"/finetune/{run.id}", title=exact(run.started_at))
                Tag("span", run.name, data_testid="run-name")
                Tag("span", BY.get(run.triggered_by, f"by {run.triggered_by}"), "muted small")
            Tag("span", format_trace_count(run), "cell")
            Tag("span", _loss(run), "cell", data_testid="run-loss")
            self._clocks.append((run, begun, Tag("span", classes="cell")))
            with Tag("span", classes="cell last"):
                if run.status == "completed":
                    link(
                        "adapter",
                        f"/finetune/versions?adapter={run.id}",
                        title=f"{run.name} ({run.id})",
                        aria_label=f"adapter of {run.name}",
                        data_testid="run-adapter",
                    )
                elif resumable:
                    again = button("Resume", test="resume", aria_label=f"Resume the run of {exact(run.started_at)}")
                    again.on("click", lambda: self._resume(run, again, complaint), args=[])
        if run.error_message:
            Tag("p", run.error_message, "reason", data_testid="run-reason")

    def _pager(self, number: int, total: int) -> None:
        with Tag("nav", classes="pager", aria_label="Pages of runs"):
            newer = button("Newer", disabled=not self._offset)
            Tag("span", f"{self._offset + 1:,}–{self._offset + number:,} of {total:,}", "muted small tabular")
            older = button("Older", disabled=self._offset + number >= total)
        newer.on("click", lambda: self._turn(-PER_PAGE), args=[])
        older.on("click", lambda: self._turn(PER_PAGE), args=[])

    async def _turn(self, by: int) -> None:
        self._offset = max(0, self._offset + by)
        await self.show()

    async def _resume(self, run: FineTuneRun, control: Tag, complaint: Tag) -> None:
        control.put(disabled=True)
        try:
            going = await self._services.finetune.resume(run.id)
        except TmdeError as error:
            control.put(disabled=False)
            complaint.say(sentence(error)).show()
            return
        self._live.nudge()
        await self.show()
        await self._resumed(going)


def _loss(run: FineTuneRun) -> str:
    metrics = run.metrics
    if metrics is None or metrics.final_train_loss is None:
        return "–"
    held_out = metrics.best_val_loss if metrics.best_val_loss is not None else metrics.final_val_loss
    return f"loss {loss(metrics.final_train_loss)}" + (f", held out {loss(held_out)}" if held_out is not None else "")


def _no_runs_yet() -> None:
    with Tag("div", classes="card empty", data_testid="no-runs"):
        Tag("h3", "No training run yet")
        Tag(
            "p",
            "A run trains an adapter on your best debates. Press Run Now to preview the training data, "
            "or wait for the schedule.",
        )


def record(run: FineTuneRun) -> None:
    """Draw all recorded details of a run."""
    metrics = run.metrics
    with Tag("section", classes="card stack", aria_label="Record", data_testid="record"):
        Tag("h2", "Record")
        facts(
            (
                ("Name", run.name),
                ("Run", str(run.id)),
                ("Started", f"{exact(run.started_at)}, {BY.get(run.triggered_by, f'by {run.triggered_by}')}"),
                ("Ended", exact(run.completed_at) if run.completed_at else ""),
                ("Took", format_run_time(run) if run.completed_at else ""),
                (
                    "Examples",
                    f"{count(run.train_examples, 'example')} trained on, {run.val_examples:,} held out, from {format_trace_count(run)}",
                ),
                ("Base model", run.base_model or "the embedded model"),
                ("Final loss", _measured(metrics.final_train_loss if metrics else None)),
                ("Best loss on held-out examples", _measured(metrics.best_val_loss if metrics else None)),
                ("Perplexity", _measured(metrics.perplexity if metrics else None)),
                ("Steps", f"{metrics.total_steps:,}" if metrics and metrics.total_steps else ""),
                ("Dataset", run.dataset_hash or ""),
                ("Adapter", run.lora_path or ""),
            )
        )
        with Tag("details"):
            Tag("summary", "Hyperparameters")
            with Tag("div", style="padding-top:12px"):
                values = msgspec.to_builtins(run.config)
                facts([(NAMES.get(name, name), figure_of(value) or "–") for name, value in values.items()])


def _measured(value: float | None) -> str:
    return "" if value is None else loss(value)


class UsedTraces:
    """Shows the traces that a run was trained on, one page at a time."""

    def __init__(self, run: FineTuneRun, traces: Sequence[Trace]) -> None:
        self._run = run
        self._traces = traces
        self._first = 0
        with Tag("section", classes="stack tight", aria_label="Traces used", data_testid="used-traces"):
            Tag("h2", "Traces used")
            Tag("p", self._words(), "muted small")
            self._box = Tag("div")
        self._show()

    def _words(self) -> str:
        gone = self._run.traces_used - len(self._traces)
        words = f"{count(len(self._traces), 'trace')}, one example each."
        return f"{words} {count(gone, 'more trace has', 'more traces have')} been deleted since." if gone > 0 else words

    def _show(self) -> None:
        self._box.clear()
        total = len(self._traces)
        shown = self._traces[self._first : self._first + TRACES_PER_PAGE]
        with self._box:
            with Tag("ul", classes="rows"):
                for trace in shown:
                    with Tag("li"), Tag("a", classes="row brief", href=f"/traces/{trace.id}", data_testid="used-trace"):
                        with Tag("div", classes="lead"):
                            Tag("span", snippet(trace.query), "q")
                            Tag("span", snippet(trace.corrected_answer or trace.final_answer), "a")
                        if trace.withdrawn_at is not None:
                            chip("withdrawn since", "major")
                        else:
                            Tag("span", score(trace.quality_score), "cell score")
                        Tag("span", age(trace.created_at), "cell when", title=exact(trace.created_at))
            if total > TRACES_PER_PAGE:
                with Tag("nav", classes="pager", aria_label="Pages of traces"):
                    newer = button("Earlier", disabled=not self._first)
                    last = self._first + len(shown)
                    Tag("span", f"{self._first + 1:,}–{last:,} of {total:,}", "muted small tabular")
                    older = button("Later", disabled=last >= total)
                newer.on("click", lambda: self._turn(-TRACES_PER_PAGE), args=[])
                older.on("click", lambda: self._turn(TRACES_PER_PAGE), args=[])

    def _turn(self, by: int) -> None:
        self._first = max(0, self._first + by)
        self._show()
