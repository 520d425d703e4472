"""Compares two runs, paired by question.

Each domain is compared too, with Holm's correction. The outcome takes the noise into account: a difference that chance
can explain is inconclusive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import msgspec

from tmde_core.benchmark.results.metrics import efficiency, group_by_question, mean_quality, tmde_score, weighted_mean
from tmde_core.benchmark.results.statistics import (
    adjust_holm,
    bootstrap_interval,
    decide_outcome,
    paired_difference,
    questions_needed,
)
from tmde_core.records.benchmark import (
    BenchmarkResult,
    BenchmarkRun,
    DomainComparison,
    EfficiencyReference,
    PairedComparison,
    QuestionComparison,
    RunComparison,
)
from tmde_core.records.questions import Question

Answers = Mapping[str, Sequence[BenchmarkResult]]


def explain_differences(a: BenchmarkRun, b: BenchmarkRun) -> tuple[str, ...]:
    """Return the reasons why two runs cannot be compared, one sentence each; empty if they can be compared."""
    found = []
    if a.suite_sha256 != b.suite_sha256:
        found.append("They asked different questions.")
    if a.mode != b.mode:
        found.append(f"One asked {_whom(a)}, the other {_whom(b)}.")
    if a.judge != b.judge:
        found.append(f"Different judges scored them: {a.judge} and {b.judge}.")
    elif judge_models(a) != judge_models(b):
        found.append(f"Different models judged them: {judge_models(a)} and {judge_models(b)}.")
    if (a.settings.get("judgeRules") or {}) != (b.settings.get("judgeRules") or {}):
        found.append("Different versions of the judge's rules scored them.")
    if a.repeats != b.repeats:
        found.append(f"They asked each question {a.repeats} and {b.repeats} times.")
    return tuple(found)


def judge_models(run: BenchmarkRun) -> str:
    """Return the models that scored the criteria without a check, each as `runtime:model`.

    Returns:
        The models separated by commas; empty if no model was asked, or if the run does not record the models.
    """
    judge = (run.settings.get("roles") or {}).get("judge") or {}
    if not judge or run.settings.get("judgeNeedsModel") is False:
        return ""
    panel = (run.settings.get("benchmark") or {}).get("panel") or ()
    return ", ".join([f"{judge.get('runtime')}:{judge.get('model')}".removesuffix(":"), *panel])


def _whom(run: BenchmarkRun) -> str:
    return "whole debates" if run.mode == "debate" else "the Proposer alone"


def compare(
    a: BenchmarkRun,
    b: BenchmarkRun,
    of_a: Sequence[BenchmarkResult],
    of_b: Sequence[BenchmarkResult],
    questions: Sequence[Question],
) -> RunComparison:
    """Compare run B with run A, question by question.

    The comparison takes half a second; call this function in a thread.

    Runs that asked different questions are compared on the questions they share; `comparable` is False then, because
    such a comparison means little.
    """
    differs = explain_differences(a, b)
    asked = {question.id: question for question in questions}
    answers_a, answers_b = group_by_question(of_a), group_by_question(of_b)
    rows = [_row(name, asked.get(name), answers_a[name], answers_b[name]) for name in answers_a if name in answers_b]
    both = [row for row in rows if row.a is not None and row.b is not None]
    quality = _paired(both)
    decides = not differs and all(run.metrics is None or run.metrics.conclusive for run in (a, b))
    if not decides:
        quality = msgspec.structs.replace(quality, outcome="inconclusive")
    score = _score(a, b, answers_a, answers_b, both) if quality.n > 1 else None
    return RunComparison(
        a=a,
        b=b,
        comparable=not differs,
        differs=differs,
        quality=quality,
        score_difference=score[0] if score else None,
        score_low=score[1] if score else None,
        score_high=score[2] if score else None,
        domains=_domains(both, decides),
        questions=tuple(rows),
    )


def _row(
    name: str, question: Question | None, a: Sequence[BenchmarkResult], b: Sequence[BenchmarkResult]
) -> QuestionComparison:
    """Return both scores of one question, over the criteria that were scored in both runs.

    Criteria that were scored in only one run are left out, so that both scores measure the same thing.
    """
    score_a, score_b = mean_quality(a), mean_quality(b)
    if question is not None and question.criteria:
        open_ = {name for answer in (*a, *b) for name, score in answer.criteria.items() if score is None}
        if open_ and len(open_) < len(question.criteria):
            score_a, score_b = _over(question, a, open_), _over(question, b, open_)
    return QuestionComparison(
        question_id=name,
        query=a[0].query,
        domain=a[0].domain,
        a=score_a,
        b=score_b,
        a_answer=a[0].final_answer,
        b_answer=b[0].final_answer,
    )


def _over(question: Question, answers: Sequence[BenchmarkResult], without: set[str]) -> float | None:
    scores = [
        score
        for answer in answers
        if answer.status != "failed"
        and (score := weighted_mean(question.criteria, {**answer.criteria, **dict.fromkeys(without)})) is not None
    ]
    return fmean(scores) if scores else None


def _paired(rows: Sequence[QuestionComparison]) -> PairedComparison:
    before = [row.a for row in rows if row.a is not None]
    after = [row.b for row in rows if row.b is not None]
    if not rows:
        return PairedComparison(n=0, a=None, b=None, difference=None)
    found = paired_difference(before, after)
    bounded = found.questions > 1
    return PairedComparison(
        n=found.questions,
        a=found.before,
        b=found.after,
        difference=found.difference,
        low=found.low if bounded else None,
        high=found.high if bounded else None,
        p=found.p,
        outcome=found.outcome,
        questions_needed=questions_needed([second - first for first, second in zip(before, after, strict=True)]),
    )


def _domains(rows: Sequence[QuestionComparison], decides: bool) -> tuple[DomainComparison, ...]:
    """Return the comparison of each domain; every outcome is inconclusive unless `decides` is True.

    The p-values are adjusted with Holm's method: otherwise five domains would show a difference by chance more often
    than one.
    """
    groups: dict[str, list[QuestionComparison]] = defaultdict(list)
    for row in rows:
        groups[row.domain].append(row)
    found = {domain: _paired(group) for domain, group in groups.items()}
    adjusted = dict(
        zip(found, adjust_holm([one.p if one.p is not None else 1.0 for one in found.values()]), strict=True)
    )
    return tuple(
        DomainComparison(
            domain=domain,
            quality=msgspec.structs.replace(
                one,
                p_adjusted=adjusted[domain],
                outcome=decide_outcome(one.low, one.high, adjusted[domain]) if decides else "inconclusive",
            ),
        )
        for domain, one in found.items()
    )


def _score(
    a: BenchmarkRun, b: BenchmarkRun, answers_a: Answers, answers_b: Answers, rows: Sequence[QuestionComparison]
) -> tuple[float, float, float] | None:
    """Return B's TMDE score minus A's, with its interval.

    Both scores use A's reference. The interval is resampled by question.

    Returns:
        The difference and the low and high end of its interval; None if a run has no metrics or no question has a score
            in both runs.
    """
    if a.metrics is None or b.metrics is None or not rows:
        return None
    import numpy as np

    reference = a.metrics.reference or EfficiencyReference()
    weight = b.metrics.quality_weight
    debate = a.mode == "debate"

    def figures(answers: Answers) -> list[list[float]]:
        return [
            [_mean(answers[row.question_id], "response_time_ms") for row in rows],
            [_mean(answers[row.question_id], "debate_rounds") for row in rows],
            [_mean(answers[row.question_id], "early_stopped") for row in rows],
        ]

    samples = tuple(
        np.asarray(column, dtype=float)
        for column in (
            [row.a for row in rows],
            *figures(answers_a),
            [row.b for row in rows],
            *figures(answers_b),
        )
    )

    def scores(quality: float, time: float, rounds: float, early: float) -> float:
        e = efficiency(time, rounds if debate else None, early if debate else None, reference, a.mode)
        return tmde_score(quality, e, weight)

    def statistic(*columns: object, axis: int = -1) -> object:
        means = [np.nanmean(column, axis=axis) for column in columns]  # type: ignore[call-overload]
        flat = np.broadcast_arrays(*means)
        return np.vectorize(lambda *m: scores(*m[4:]) - scores(*m[:4]))(*flat)

    difference = float(statistic(*samples))  # type: ignore[arg-type]
    if all(np.ptp(column) == 0 for column in samples):
        return difference, difference, difference
    low, high = bootstrap_interval(samples, statistic)
    return difference, low, high


def _mean(answers: Sequence[BenchmarkResult], name: str) -> float:
    known = [
        float(value) for answer in answers if (value := getattr(answer, name)) is not None and answer.status != "failed"
    ]
    return fmean(known) if known else 0.0
