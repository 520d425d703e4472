"""Define what this plugin provides."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_bench_default.judges.panel import PanelJudge
from tmde_bench_default.judges.rubric import RubricJudge
from tmde_bench_default.judges.verifier import RULES as VERIFIER_RULES
from tmde_bench_default.judges.verifier import VerifierJudge
from tmde_bench_default.suite import suites
from tmde_core.sdk import hookimpl
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.suites import SuiteDescriptor


@hookimpl
def tmde_judges() -> Sequence[JudgeDescriptor]:
    """Describe the judges."""
    return [
        JudgeDescriptor(
            name="rubric",
            summary="a model grades the answer; the mean over its probabilities of the grades counts (G-Eval)",
            create=lambda _context: RubricJudge(),
            needs_model=True,
            default=True,
        ),
        JudgeDescriptor(
            name="panel",
            summary="several models, or one asked in three ways, grade the answer; the mean counts and the disagreement is told",
            create=lambda _context: PanelJudge(),
            needs_model=True,
        ),
        JudgeDescriptor(
            name="verifier",
            summary="checks by rule: an answer against its reference, and criteria by their checks, code in a sandbox",
            create=lambda _context: VerifierJudge(),
            checks=True,
            rules=VERIFIER_RULES,
        ),
    ]


@hookimpl
def tmde_benchmark_suites() -> Sequence[SuiteDescriptor]:
    """Describe the suite of fifty questions."""
    return suites()
