"""What this package offers to TMDE."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_bench_default.rubric import RubricJudge
from tmde_bench_default.verifier import VerifierJudge
from tmde_core import hookimpl
from tmde_core.ports import JudgeDescriptor


@hookimpl
def tmde_judges() -> Sequence[JudgeDescriptor]:
    """The judges."""
    return [
        JudgeDescriptor(
            name="rubric",
            summary="a model grades the answer; the mean over its probabilities of the grades counts (G-Eval)",
            create=RubricJudge,
            needs_model=True,
        ),
        JudgeDescriptor(
            name="verifier",
            summary="compares the answer with a reference: number, choice, exact, contains or regex",
            create=VerifierJudge,
        ),
    ]
