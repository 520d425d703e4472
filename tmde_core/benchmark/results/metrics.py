"""Computes the figures of a run, and the TMDE score that combines them.

    TMDE score = 100 · (Q / 10)^w · E^(1 − w)

Q is the mean quality (0–10), w is the weight of quality (0.8), and E is the mean of three ratios against a reference.
Each ratio is clipped to 0–1: response time (reference / measured), rounds (reference / measured) and early terminations
(measured / reference). The reference is stored with the baseline; a run without a baseline is its own reference. A run
that is faster than the reference gains nothing, so that speed cannot replace quality. Q = 0 gives 0, and Q = 10 at the
reference's pace gives 100. In proposer mode there are no rounds, and E is the ratio of the response time alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from tmde_core.benchmark.results.statistics import mean_interval
from tmde_core.records.benchmark import (
    BenchmarkMetrics,
    BenchmarkMode,
    BenchmarkResult,
    DomainMetrics,
    EfficiencyReference,
    Interval,
    MetricIntervals,
)
from tmde_core.records.judging import Criterion

QUALITY_WEIGHT = 0.8
MAX_UNSCORED = 0.1
"""The largest share of unscored or failed answers; above this share a run is inconclusive."""
ENOUGH_WEIGHT = 0.5
"""The share of the criteria's weight that must be scored for the answer to count.

With a smaller share, the score would describe a different question.
"""


def tmde_score(quality: float, efficiency: float, quality_weight: float = QUALITY_WEIGHT) -> float:
    """Return the TMDE score, 0–100; the module's docstring has the formula.

    Args:
        quality: Q, 0–10.
        efficiency: E, 0–1.
        quality_weight: w, 0.5–1.
    """
    share = min(1.0, max(0.0, quality / 10))
    return float(100 * share**quality_weight * min(1.0, max(0.0, efficiency)) ** (1 - quality_weight))


def efficiency(
    response_ms: float | None,
    rounds: float | None,
    early_rate: float | None,
    reference: EfficiencyReference,
    mode: BenchmarkMode,
) -> float:
    """Return E of the module's docstring, 0–1; an unknown figure counts as equal to the reference."""
    ratios = [_ratio(reference.response_time_ms, response_ms)]
    if mode == "debate":
        ratios += [_ratio(reference.rounds, rounds), _ratio(early_rate, reference.early_termination_rate)]
    return fmean(ratios)


def _ratio(best: float | None, actual: float | None) -> float:
    if best is None or actual is None or actual <= 0:
        return 1.0
    return min(1.0, max(0.0, best / actual))


def weighted_mean(criteria: Sequence[Criterion], scores: Mapping[str, float | None]) -> float | None:
    """Return the weighted mean of the known scores, 0–10, or None if they hold less than half of the weight."""
    total = sum(criterion.weight for criterion in criteria)
    known = [(criterion.weight, score) for criterion in criteria if (score := scores.get(criterion.name)) is not None]
    weight = sum(share for share, _ in known)
    if not known or weight < ENOUGH_WEIGHT * total:
        return None
    return round(sum(share * score for share, score in known) / weight, 4)


def group_by_question(results: Iterable[BenchmarkResult]) -> dict[str, list[BenchmarkResult]]:
    """Group the answers by question id."""
    found: dict[str, list[BenchmarkResult]] = defaultdict(list)
    for result in results:
        found[result.question_id].append(result)
    return dict(found)


def mean_quality(answers: Sequence[BenchmarkResult]) -> float | None:
    """Return the mean score of one question's answers, or None if no answer has a score."""
    scores = [answer.quality_score for answer in answers if answer.quality_score is not None]
    return fmean(scores) if scores else None


def percent_change(before: float | None, after: float | None) -> float | None:
    """Return by how many percent `after` is larger than `before`, or None if there is no such percentage."""
    if before is None or after is None or before == 0:
        return None
    return round(100 * (after - before) / before, 2)


def make_reference(metrics: BenchmarkMetrics) -> EfficiencyReference:
    """Return the reference for later runs that have this run as their baseline."""
    return EfficiencyReference(
        response_time_ms=metrics.avg_response_time_ms,
        rounds=metrics.avg_debate_rounds,
        early_termination_rate=metrics.early_termination_rate,
    )


def measure(
    results: Sequence[BenchmarkResult],
    mode: BenchmarkMode,
    quality_weight: float = QUALITY_WEIGHT,
    reference: EfficiencyReference | None = None,
    judge_drift: float | None = None,
) -> BenchmarkMetrics:
    """Return the figures of a run.

    A question's repeated answers are averaged first, because they are not independent of each other.

    Args:
        reference: The baseline's reference; None if this run is its own reference.
    """
    questions = group_by_question(results)
    answered = [result for result in results if result.status != "failed"]
    quality = _interval(questions, lambda answer: answer.quality_score)
    time = _interval(questions, lambda answer: answer.response_time_ms)
    debate = mode == "debate"
    rounds = _interval(questions, lambda answer: float(answer.debate_rounds)) if debate else Interval(mean=None)
    early = _interval(questions, lambda answer: float(answer.early_stopped)) if debate else Interval(mean=None)
    own = EfficiencyReference(response_time_ms=time.mean, rounds=rounds.mean, early_termination_rate=early.mean)
    reference = reference or own
    e = efficiency(time.mean, rounds.mean, early.mean, reference, mode)
    unscored = sum(result.quality_score is None for result in answered)
    speed = _interval(questions, lambda answer: answer.tokens_per_second)
    domains = _domains(results)
    return BenchmarkMetrics(
        tmde_score=None if quality.mean is None else round(tmde_score(quality.mean, e, quality_weight), 3),
        avg_quality_score=quality.mean,
        avg_response_time_ms=time.mean,
        avg_tokens_per_second=speed.mean,
        avg_debate_rounds=rounds.mean,
        early_termination_rate=early.mean,
        domain_scores={one.domain: one.quality.mean for one in domains if one.quality.mean is not None},
        intervals=MetricIntervals(
            quality=quality,
            response_time_ms=time,
            tokens_per_second=speed,
            debate_rounds=rounds,
            early_termination_rate=early,
        ),
        domains=domains,
        questions=len(results),
        unscored=unscored,
        failed=len(results) - len(answered),
        conclusive=bool(results) and unscored + len(results) - len(answered) <= MAX_UNSCORED * len(results),
        efficiency=round(e, 4),
        quality_weight=quality_weight,
        judge_drift=judge_drift,
        reference=reference,
    )


def _interval(questions: dict[str, list[BenchmarkResult]], figure: object) -> Interval:
    assert callable(figure)
    means = []
    for answers in questions.values():
        known = [value for answer in answers if answer.status != "failed" and (value := figure(answer)) is not None]
        if known:
            means.append(fmean(known))
    return mean_interval(means)


def _domains(results: Sequence[BenchmarkResult]) -> tuple[DomainMetrics, ...]:
    domains: dict[str, list[BenchmarkResult]] = defaultdict(list)
    for result in results:
        domains[result.domain].append(result)
    return tuple(
        DomainMetrics(
            domain=domain,
            quality=_interval(group_by_question(answers), lambda answer: answer.quality_score),
            unscored=sum(answer.status == "unscored" for answer in answers),
            failed=sum(answer.status == "failed" for answer in answers),
        )
        for domain, answers in domains.items()
    )
