"""Six everyday questions as a suite of TMDE's benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import msgspec

from tmde_core.sdk import hookimpl
from tmde_core.sdk.suites import Question, SuiteDescriptor


def questions() -> Sequence[Question]:
    """The questions, read when they are asked for."""
    lines = files(__name__).joinpath("questions.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Question) for line in lines if line.strip()]


@hookimpl
def tmde_benchmark_suites() -> Sequence[SuiteDescriptor]:
    """The suite."""
    return [
        SuiteDescriptor(
            name="everyday",
            summary="six everyday sums and bits of sense",
            questions=questions,
            quick=("everyday-change", "everyday-train", "everyday-note"),
        )
    ]
