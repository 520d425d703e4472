"""Renders a run as one HTML file that opens offline, loads nothing and runs no script.

All text from a model or a person is escaped. This module draws the charts as SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING
from uuid import UUID

from tmde_core.benchmark.results.statistics import LEAST_QUESTIONS, SIGNIFICANT, decide_outcome
from tmde_core.errors import ConflictError, NotFoundError
from tmde_core.records.benchmark import BenchmarkResult, BenchmarkRun, Interval, PairedComparison, RunComparison

if TYPE_CHECKING:
    from tmde_core.benchmark.service import BenchmarkService

STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--soft:#60646c;--line:#d9d9e0;--fill:#3e63dd;--pale:#c1d0ff;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#edeef0;--soft:#b0b4ba;--line:#43484e;--fill:#849dff;--pale:#304384;--paper:#111113}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:960px;margin:0 auto;padding:24px}
h1{font-size:28px;margin:0 0 4px}h2{font-size:20px;margin:32px 0 8px}p,dd{margin:0 0 8px}.soft{color:var(--soft)}
.score{font-size:44px;font-weight:700;font-variant-numeric:tabular-nums}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:6px 8px;border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0;font:14px/1.45 ui-monospace,monospace}
details{border-bottom:1px solid var(--line);padding:6px 0}summary{cursor:pointer}svg text{fill:var(--ink);font:13px system-ui,sans-serif}
svg{display:block;max-width:100%;height:auto}table.figures td{width:50%}
.warn{border-left:4px solid #e5484d;padding-left:12px}
"""

RADIUS = 110
BAR = 360


async def report_html(benchmark: BenchmarkService, run_id: UUID) -> str:
    """Return the HTML report of a completed run.

    Raises:
        NotFoundError: The run does not exist.
        ConflictError: The run is not completed.
    """
    run = await benchmark.get(run_id)
    if run.status != "completed" or run.metrics is None:
        raise ConflictError(
            f"The benchmark {run_id} is {run.status}; a report is made of completed ones.", status=run.status
        )
    results, _ = await benchmark.results(run_id, limit=100_000)
    base = await _against_run(benchmark, run.baseline_run_id, run)
    before = await _against_run(benchmark, run.previous_run_id, run)
    return page(run, results, base, before)


async def _against_run(benchmark: BenchmarkService, other: UUID | None, run: BenchmarkRun) -> RunComparison | None:
    if other is not None:
        with suppress(NotFoundError):  # the other run has been deleted; this run's own figures are still valid
            return await benchmark.compare(other, run.id)
    return None


def page(
    run: BenchmarkRun,
    results: Sequence[BenchmarkResult],
    base: RunComparison | None = None,
    before: RunComparison | None = None,
) -> str:
    """Return the whole HTML file.

    Args:
        base: The comparison with the run's baseline.
        before: The comparison with the previous run.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>TMDE benchmark {escape(str(run.id)[:8])}</title><style>{STYLE}</style></head><body>"
        f"{_head(run)}{_figures(run)}{_against('the base model', base)}{_against('the run before it', before)}"
        f"{_domains(run, base)}{_answers(results, base)}</body></html>\n"
    )


def _head(run: BenchmarkRun) -> str:
    assert run.metrics is not None
    who = f"adapter {run.adapter_id}" if run.adapter_id else "the base model"
    score = "—" if run.metrics.tmde_score is None else f"{run.metrics.tmde_score:.1f}"
    how = "whole debates" if run.mode == "debate" else "the Proposer alone"
    warnings = "".join(f'<p class="warn">{escape(warning)}</p>' for warning in run.warnings)
    return (
        f"<h1>Benchmark of {escape(who)}</h1>"
        f'<p class="soft">{escape(run.type)} run of {escape(run.suite)}, {how}, {run.started_at:%Y-%m-%d %H:%M} UTC, '
        f"base model {escape(run.base_model)}, judge {escape(run.judge)}</p>"
        f'<p><span class="score">{score}</span> TMDE score of 100 · quality {interval_words(run.metrics.intervals.quality)} of 10'
        f"</p>{warnings}"
    )


def _figures(run: BenchmarkRun) -> str:
    metrics = run.metrics
    assert metrics is not None
    rows = [
        ("Quality, 0–10", interval_words(metrics.intervals.quality)),
        ("Response time", interval_words(metrics.intervals.response_time_ms, 1 / 1000, "s")),
        ("Tokens a second", interval_words(metrics.intervals.tokens_per_second)),
        ("Rounds", interval_words(metrics.intervals.debate_rounds)),
        ("Ended early", interval_words(metrics.intervals.early_termination_rate, 100, "%")),
        ("Answers", str(metrics.questions)),
        ("Without verdict", str(metrics.unscored)),
        ("Failed", str(metrics.failed)),
        ("Efficiency against the reference, 0–1", "—" if metrics.efficiency is None else f"{metrics.efficiency:.2f}"),
        ("Weight of quality in the score", f"{metrics.quality_weight:.2f}"),
        ("Questions' hash", escape(run.suite_sha256[:16])),
    ]
    cells = "".join(f'<tr><td>{name}</td><td class="n">{value}</td></tr>' for name, value in rows)
    return f'<h2>Figures</h2><p class=soft>Means with their 95 % intervals.</p><table class="figures">{cells}</table>'


def _against(name: str, found: RunComparison | None) -> str:
    if found is None:
        return ""
    words = difference_words(found.quality)
    if found.score_difference is not None and found.score_low is not None and found.score_high is not None:
        words += f" TMDE score {found.score_difference:+.1f} ({found.score_low:+.1f} to {found.score_high:+.1f})."
    fallen = [one.domain for one in found.domains if one.quality.outcome == "worse"]
    notes = [*found.differs, *(f"Significantly worse in {domain}." for domain in fallen)]
    return f"<h2>Against {name}</h2><p>{escape(words)}</p>" + "".join(
        f'<p class="warn">{escape(note)}</p>' for note in notes
    )


def _domains(run: BenchmarkRun, against: RunComparison | None) -> str:
    assert run.metrics is not None
    base = {one.domain: one.quality.a for one in against.domains} if against else {}
    rows = [(one.domain, one.quality, base.get(one.domain)) for one in run.metrics.domains]
    return f"<h2>By domain</h2>{_radar(rows)}{_bars(rows)}"


Row = tuple[str, Interval, float | None]


def _radar(rows: Sequence[Row]) -> str:
    if len(rows) < 3:
        return ""

    def point(index: int, value: float) -> str:
        angle = 2 * math.pi * index / len(rows) - math.pi / 2
        reach = RADIUS * max(0.0, min(10.0, value)) / 10
        return f"{200 + reach * math.cos(angle):.1f},{150 + reach * math.sin(angle):.1f}"

    rings = "".join(
        f'<polygon points="{" ".join(point(i, level) for i in range(len(rows)))}" fill="none" stroke="var(--line)"/>'
        for level in (2.5, 5, 7.5, 10)
    )
    shape = " ".join(point(i, row[1].mean or 0.0) for i, row in enumerate(rows))
    base = ""
    if all(row[2] is not None for row in rows):
        corners = " ".join(point(i, row[2] or 0.0) for i, row in enumerate(rows))
        base = f'<polygon points="{corners}" fill="none" stroke="#e5484d" stroke-width="2" stroke-dasharray="4 3"/>'
    labels = "".join(
        f'<text x="{point(i, 12.4).split(",")[0]}" y="{point(i, 12.4).split(",")[1]}" text-anchor="middle">{escape(row[0])}</text>'
        for i, row in enumerate(rows)
    )
    return (
        '<svg viewBox="0 0 400 310" width="400" role="img" aria-label="Quality by domain, 0 in the middle to 10 outside">'
        f'{rings}<polygon points="{shape}" fill="var(--pale)" fill-opacity=".5" stroke="var(--fill)" stroke-width="2"/>'
        f"{base}{labels}</svg>"
    )


def _bars(rows: Sequence[Row]) -> str:
    lines = []
    for number, (domain, quality, base) in enumerate(rows):
        y = 10 + number * 30
        width = BAR * (quality.mean or 0.0) / 10
        whisker = ""
        if quality.low is not None and quality.high is not None:
            low, high = 120 + BAR * quality.low / 10, 120 + BAR * quality.high / 10
            whisker = f'<path d="M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 4}v10M{high:.1f} {y + 4}v10" stroke="var(--ink)"/>'
        mark = ""
        if base is not None:
            x = 120 + BAR * base / 10
            mark = f'<path d="M{x:.1f} {y - 3}v24" stroke="#e5484d" stroke-width="2"><title>base model {base:.1f}</title></path>'
        value = "no verdict" if quality.mean is None else f"{quality.mean:.1f}"
        lines.append(
            f'<text x="0" y="{y + 13}">{escape(domain)}</text>'
            f'<rect x="120" y="{y}" width="{width:.1f}" height="18" fill="var(--fill)"/>{whisker}{mark}'
            f'<text x="{120 + BAR + 12}" y="{y + 13}">{value}</text>'
        )
    note = '<p class="soft">The red line is the base model.</p>' if any(row[2] is not None for row in rows) else ""
    return (
        f'<svg viewBox="0 0 560 {len(rows) * 30 + 10}" width="560" role="img" aria-label="Quality by domain with intervals">'
        f"{''.join(lines)}</svg>{note}"
    )


def _answers(results: Sequence[BenchmarkResult], base: RunComparison | None) -> str:
    before = {one.question_id: one for one in base.questions} if base else {}
    blocks = []
    for result in results:
        score = "failed" if result.status == "failed" else "no verdict"
        if result.quality_score is not None:
            score = f"{result.quality_score:.1f}"
        reasons = "".join(f"<li>{escape(reason)}</li>" for reason in result.reasons)
        text = result.error if result.status == "failed" else result.final_answer
        other = before.get(result.question_id)
        compared = ""
        if other is not None:
            score += f" · base model {'no verdict' if other.a is None else f'{other.a:.1f}'}"
            compared = f'<p class="soft">The base model answered:</p><pre>{escape(other.a_answer)}</pre>'
        blocks.append(
            f"<details><summary>{escape(result.question_id)} · {escape(result.domain)}, {escape(result.difficulty)} · "
            f"<b>{score}</b></summary><pre>{escape(result.query)}</pre><pre>{escape(text or '')}</pre><ul>{reasons}</ul>{compared}</details>"
        )
    return f"<h2>Answers</h2>{''.join(blocks)}"


def interval_words(found: Interval, factor: float = 1.0, unit: str = "") -> str:
    """Return the mean and its interval, such as `6.2 (5.1 to 7.0)`, or a dash if there is no mean."""
    if found.mean is None:
        return "—"
    after = f" {unit}" if unit else ""
    if found.low is None or found.high is None:
        return f"{found.mean * factor:.2f}{after}"
    return f"{found.mean * factor:.2f} ({found.low * factor:.2f} to {found.high * factor:.2f}){after}"


def difference_words(found: PairedComparison) -> str:
    """Return a sentence about a difference and its outcome.

    An example: `+3.1 ± 5.7 points of 10 over 12 questions, p 0.31: not yet distinguishable; some 40 questions would
    tell a difference of this size.`
    """
    if found.difference is None:
        return "No question has a verdict in both runs."
    span = "" if found.low is None or found.high is None else f" ± {(found.high - found.low) / 2:.1f}"
    questions = f"{found.n} question" + "s" * (found.n != 1)
    if found.difference == 0 and not found.low and not found.high:
        return f"No difference over {questions}."
    words = {"better": "better", "worse": "worse", "inconclusive": "not yet distinguishable"}[found.outcome]
    more = ""
    if decide_outcome(found.low, found.high, found.deciding_p) != found.outcome:
        words = "no verdict, for the two runs cannot decide one"
    elif found.n < LEAST_QUESTIONS:
        more = f"; fewer than {LEAST_QUESTIONS} questions never tell"
    elif found.outcome == "inconclusive" and found.questions_needed and found.questions_needed > found.n:
        more = f"; some {found.questions_needed:,} questions would tell a difference of this size"
    return f"{found.difference:+.1f}{span} points of 10 over {questions}{chance_words(found)}: {words}{more}."


def chance_words(found: PairedComparison) -> str:
    """Return the deciding p-value, such as `, p 0.31`, or an empty text if no p-value can decide the outcome."""
    p = found.deciding_p
    return "" if p is None or found.n < LEAST_QUESTIONS else f", {p_words(p)}"


def p_words(p: float) -> str:
    """Return a p-value such as `p 0.31`, `p 0.049` or `p below 0.001`, never rounded across the 0.05 that decides."""
    if p < 0.001:
        return "p below 0.001"
    return f"p {p:.2f}" if p >= 0.1 else f"p {p:.3f}" if round(p, 3) != SIGNIFICANT else f"p {p:.4f}"
