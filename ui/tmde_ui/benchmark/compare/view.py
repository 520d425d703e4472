"""Show two runs side by side: a table of their figures, and every question with both answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from tmde_core.benchmark.results.metrics import group_by_question, mean_quality
from tmde_core.benchmark.results.report import chance_words
from tmde_core.errors import TmdeError
from tmde_core.records.benchmark import (
    BenchmarkMetrics,
    BenchmarkRun,
    ComparisonOutcome,
    QuestionComparison,
    RunComparison,
)
from tmde_core.services import Services
from tmde_ui.benchmark.compare.answers import Drill
from tmde_ui.benchmark.compare.pairs import Comparisons, Pair
from tmde_ui.benchmark.words import NOTHING, OUTCOMES, change, day, domain_name, domain_place, format_number
from tmde_ui.kit.elements import Tag, button, choice, link
from tmde_ui.kit.names import name_of
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, score, sentence, snippet

SHOWN = 50
"""Number of questions listed at first."""

SAME = 0.05
"""Two scores that differ by less than this (in points of 10) count as the same."""

WHOLE = 100.0
"""Figures from this value on are shown without decimals."""

ALL_ANSWERS = 100_000


class ComparisonView:
    """Shows the choice of the other run, the table and the questions."""

    def __init__(self, services: Services, comparisons: Comparisons, title: str, *, folded: bool = False) -> None:
        self._services = services
        self._comparisons = comparisons
        self._pairs: Sequence[Pair] = ()
        self._shown: Pair | None = None
        self._asked = 0
        self._folded = folded
        """Whether the questions are folded until a person asks for them."""
        with Tag("section", classes="stack", aria_label=title, data_testid="comparison") as self._section:
            with Tag("div", classes="line spread"):
                Tag("h2", title)
                with Tag("div", classes="field against"):
                    self._select = choice("Compared with", "against", (), "", data_testid="against")
            self._box = Tag("div", classes="stack")
        self._select.on("change", self._chosen, js_handler="(event) => emit(event.target.value)")

    async def show(self, pairs: Sequence[Pair], key: str | None = None) -> None:
        """Offer these pairs and show the pair with `key`, else the pair already shown, else the first pair.

        A pair that is asked for by its key shows its questions too.
        """
        if key is not None:
            self._folded = False
            self._shown = None
        self._section.show(bool(pairs))
        if not pairs:
            self._shown = None
            return
        wanted = key or (self._shown.key if self._shown else None)
        chosen = next((pair for pair in pairs if pair.key == wanted), pairs[0])
        if list(pairs) != list(self._pairs):
            self._pairs = tuple(pairs)
            self._select.clear()
            with self._select:
                for pair in pairs:
                    Tag("option", pair.title, value=pair.key)
        self._select.put(value=chosen.key)
        await self._show(chosen)

    def into_view(self) -> None:
        """Scroll the comparison into view."""
        self._section.bring_into_view("start")

    async def _chosen(self, event: object) -> None:
        key = getattr(event, "args", None)
        chosen = next((pair for pair in self._pairs if pair.key == key), None)
        if chosen is not None:
            self._select.put(value=chosen.key)
            await self._show(chosen)

    async def _show(self, pair: Pair) -> None:
        self._asked += 1  # count every call, so that an earlier, slower choice never replaces this one.
        asked = self._asked
        if pair == self._shown:
            return
        try:
            if pair.a is None:
                run, rows = await self._alone(pair.b)
                found = None
            else:
                found = await self._comparisons.of(pair.a, pair.b)
                run, rows = found.b, list(found.questions)
        except TmdeError as error:
            if asked != self._asked:
                return
            self._shown = None
            self._box.clear()
            with self._box:
                Tag("p", sentence(error), "notice bad")
            return
        if asked != self._asked:
            return
        self._shown = pair
        self._box.clear()
        with self._box:
            if found is not None:
                _table(found)
            _Questions(Drill(self._services, pair.a, run.id), rows, alone=found is None, folded=self._folded)

    async def _alone(self, run_id: UUID) -> tuple[BenchmarkRun, list[QuestionComparison]]:
        run = await self._services.benchmark.get(run_id)
        results, _ = await self._services.benchmark.results(run_id, ALL_ANSWERS)
        rows = [
            QuestionComparison(name, answers[0].query, answers[0].domain, None, mean_quality(answers))
            for name, answers in group_by_question(results).items()
        ]
        return run, rows


# ---------------------------------------------------------------------------------------------- table


def _table(found: RunComparison) -> None:
    if not found.comparable:
        why = " ".join(found.differs)
        Tag(
            "p",
            f"These runs are only roughly comparable, so there is no outcome. {why}",
            "notice warm",
            data_testid="differs",
        )
    with Tag("div", classes="card table-card"), Tag("table", classes="table", data_testid="comparison-table"):
        with Tag("thead"), Tag("tr"):
            Tag("th", "Figure", scope="col")
            for run in (found.a, found.b):
                with Tag("th", scope="col"):
                    link(name_of(run.adapter_id), f"/benchmark/{run.id}", title=day(run.started_at))
            Tag("th", "Change", scope="col")
        with Tag("tbody"):
            for cells in _rows(found):
                _row(*cells)


Cells = tuple[str, str, str, str, ComparisonOutcome | None]


def _row(name: str, a: str, b: str, difference: str, outcome: ComparisonOutcome | None) -> None:
    with Tag("tr"):
        with Tag("th", scope="row"):
            Tag("span", name)
            if outcome is not None:
                word, kind = OUTCOMES[outcome]
                Tag("span", word, f"chip {kind}")
        Tag("td", a)
        Tag("td", b)
        Tag("td", difference, "change")


def _rows(found: RunComparison) -> Iterable[Cells]:
    a, b = found.a.metrics, found.b.metrics
    if a is None or b is None:
        return
    yield (
        "TMDE score of 100", format_number(a.tmde_score), format_number(b.tmde_score),
        change(found.score_difference, found.score_low, found.score_high), None,
    )  # fmt: skip
    quality = found.quality
    yield (
        "Quality of 10", format_number(quality.a), format_number(quality.b),
        change(quality.difference, quality.low, quality.high) + chance_words(quality), quality.outcome,
    )  # fmt: skip
    for one in sorted(found.domains, key=lambda one: domain_place(one.domain)):
        told = one.quality
        outcome = told.outcome if found.comparable and told.outcome != "inconclusive" else None
        yield (
            domain_name(one.domain), format_number(told.a), format_number(told.b),
            change(told.difference, told.low, told.high) + chance_words(told), outcome,
        )  # fmt: skip
    yield from _plain(a, b, debate=found.b.mode == "debate")


def _plain(a: BenchmarkMetrics, b: BenchmarkMetrics, *, debate: bool) -> Iterable[Cells]:
    """Return the rows of figures that have no outcome."""
    before, after = a.avg_response_time_ms, b.avg_response_time_ms
    yield (
        "Response time",
        format_milliseconds(before) or NOTHING,
        format_milliseconds(after) or NOTHING,
        _times(before, after),
        None,
    )
    pairs = [("Tokens per second", a.avg_tokens_per_second, b.avg_tokens_per_second, 1.0, "")]
    if debate:
        pairs += [
            ("Rounds", a.avg_debate_rounds, b.avg_debate_rounds, 1.0, ""),
            ("Ended early", a.early_termination_rate, b.early_termination_rate, 100.0, " %"),
        ]
    for name, one, other, factor, unit in pairs:
        decimals = 0 if unit or max(one or 0.0, other or 0.0) >= WHOLE else 1
        first, second = (NOTHING if it is None else f"{it * factor:,.{decimals}f}{unit}" for it in (one, other))
        moved = None if one is None or other is None else (other - one) * factor
        yield (name, first, second, change(moved, decimals=decimals), None)
    for name, earlier, later in (("Without verdict", a.unscored, b.unscored), ("Failed", a.failed, b.failed)):
        if earlier or later:
            yield (name, f"{earlier:,}", f"{later:,}", change(float(later - earlier), decimals=0), None)


def _times(before: float | None, after: float | None) -> str:
    if not before or not after:
        return NOTHING
    return f"{after / before:.2f}×"


# ------------------------------------------------------------------------------------------ questions


class _Questions:
    """Lists the questions, the largest drops first. Each question opens to its answers."""

    def __init__(self, drill: Drill, rows: list[QuestionComparison], *, alone: bool, folded: bool) -> None:
        self._drill = drill
        self._alone = alone
        self._rows = sorted(rows, key=lambda row: (row.b is None, row.b or 0)) if alone else sorted(rows, key=_moved)
        with Tag("details", classes="stack tight", open=not folded, data_testid="questions"):
            with Tag("summary", classes="line spread"):
                Tag("h3", "Question by question")
                Tag("span", self._words(), "muted small tabular")
            self._list = Tag("div", classes="rows")
            self._more = Tag("div", classes="maybe")
        self._add(self._rows[:SHOWN])
        if rest := self._rows[SHOWN:]:
            with self._more:
                button(f"Show {count(len(rest), 'more question')}").on("click", lambda: self._all(rest), args=[])

    def _all(self, rest: Sequence[QuestionComparison]) -> None:
        self._more.clear()
        self._add(rest)

    def _words(self) -> str:
        if self._alone:
            return f"{count(len(self._rows), 'question')}, weakest first"
        moves = [row.b - row.a for row in self._rows if row.a is not None and row.b is not None]
        lower, higher = sum(move < -SAME for move in moves), sum(move > SAME for move in moves)
        return f"{lower:,} lower, {higher:,} higher, {len(self._rows) - lower - higher:,} the same or without verdict"

    def _add(self, rows: Sequence[QuestionComparison]) -> None:
        with self._list:
            for row in rows:
                self._row(row)

    def _row(self, row: QuestionComparison) -> None:
        with Tag("details", classes="answered", data_testid="question") as details:
            with Tag("summary"):
                Tag("span", snippet(row.query), "q")
                Tag("span", domain_name(row.domain), "domain")
                with Tag("span", classes="scores"):
                    if self._alone:
                        Tag("span", f"{score(row.b)} of 10" if row.b is not None else "no verdict")
                    else:
                        Tag("span", f"{score(row.a)} → {score(row.b)}")
                        if row.a is not None and row.b is not None and abs(row.b - row.a) > SAME:
                            Tag("span", change(row.b - row.a), f"chip {'good' if row.b > row.a else 'critical'}")
            body = Tag("div", classes="stack")
        opened: list[bool] = []

        async def open_() -> None:
            if not opened:
                opened.append(True)
                await self._drill.fill(body, row.question_id)

        details.on("toggle", open_, js_handler="(event) => event.target.open && emit()")


def _moved(row: QuestionComparison) -> tuple[int, float]:
    """Sort drops first (largest first), then gains (largest first), then unchanged and unscored questions."""
    if row.a is None or row.b is None:
        return 3, 0.0
    move = row.b - row.a
    return (0, move) if move < -SAME else (1, -move) if move > SAME else (2, 0.0)
