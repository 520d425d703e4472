"""Six everyday questions as a suite of TMDE's benchmark."""

from collections.abc import Sequence
from importlib.resources import files

from tmde_core.sdk import hookimpl
from tmde_core.sdk.records import from_json
from tmde_core.sdk.suites import Question, SuiteDescriptor


def questions() -> Sequence[Question]:
    lines = files(__name__).joinpath("questions.jsonl").read_bytes().splitlines()
    return [from_json(line, Question) for line in lines if line.strip()]


@hookimpl
def tmde_benchmark_suites() -> list[SuiteDescriptor]:
    return [
        SuiteDescriptor(
            name="everyday",
            summary="six everyday sums and bits of sense",
            questions=questions,
            quick=("everyday-change", "everyday-train", "everyday-note"),
        )
    ]
