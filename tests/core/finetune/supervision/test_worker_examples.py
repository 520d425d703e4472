"""The examples of a training process: bad ones are left out with their reasons, for every backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.training import TrainingExample
from tmde_core.sdk.worker import CancelledRunError, RunWorker, UnusableExampleError, prepare_examples
from tmde_core.sdk.worker.examples import describe_left_out
from tmde_core.testing import times_tables, write_job

EXAMPLES = times_tables(range(2, 6))


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The kit takes the signals of its process."""
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def failing(error: BaseException) -> Callable[[TrainingExample], str]:
    """Encode every example but the fourth."""

    def encode(example: TrainingExample) -> str:
        if example.trace_id == EXAMPLES[3].trace_id:
            raise error
        return example.output

    return encode


def read(tmp_path: Path, encode: Callable[[TrainingExample], str], **config: int) -> tuple[RunWorker, list[dict]]:
    job = write_job(tmp_path, EXAMPLES[:12], EXAMPLES[12:], FineTuneConfig(**config))
    with RunWorker(job) as worker:
        worker.read_examples(encode)
    return worker, [json.loads(line) for line in (job.parent / "events.jsonl").read_text().splitlines()]


class PanicException(BaseException):
    """Stands for a panic of the tokenizers library, whose class has this name."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnusableExampleError("The vocabulary has no word for it."), "The vocabulary has no word for it."),
        (ValueError("bad\nindex"), "It cannot be encoded: ValueError: bad index"),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), "UnicodeEncodeError"),
        (PanicException("index out of bounds"), "PanicException: index out of bounds"),
    ],
)
def test_an_example_that_cannot_be_encoded_is_left_out_with_its_reason(tmp_path, error, said):
    _, events = read(tmp_path, failing(error))
    (left_out,) = events[0]["data"]["leftOut"]
    assert (left_out["traceId"], left_out["reason"]) == (EXAMPLES[3].trace_id, "cannot-encode")
    assert said in left_out["detail"]
    assert EXAMPLES[3].trace_id in events[0]["data"]["text"]


def test_lack_of_memory_and_a_cancelled_run_are_no_fault_of_an_example(tmp_path):
    job = write_job(tmp_path, EXAMPLES[:12], EXAMPLES[12:], FineTuneConfig())
    for error in (MemoryError(), CancelledRunError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            prepare_examples(job.parent / "train.jsonl", failing(error), "train")


def test_too_long_and_empty_examples_are_left_out(tmp_path):
    silent = msgspec.structs.replace(EXAMPLES[0], messages=EXAMPLES[0].messages[:2])
    job = write_job(tmp_path, [silent, *EXAMPLES[1:4]], [], FineTuneConfig())
    found = prepare_examples(job.parent / "train.jsonl", lambda one: one.instruction, "train", max_tokens=10)
    assert [(one.reason, one.detail) for one in found.left_out] == [
        ("empty", "It does not end with an answer."),
        *[("too-long", "It has 18 tokens; maxSeqLength is 10.")] * 3,
    ]
    assert found.total == 4


def test_a_damaged_line_is_left_out_and_named_by_its_number(tmp_path):
    job = write_job(tmp_path, EXAMPLES[:2], [], FineTuneConfig())
    file = job.parent / "train.jsonl"
    file.write_bytes(file.read_bytes() + b'\n{"traceId":"t7","instruction":"\xff"}\n{"traceId":"t8"}\nnull\n')
    found = prepare_examples(file, lambda one: one.instruction, "train")
    assert len(found.examples) == 2
    assert [(one.reason, one.detail.split(":")[0], one.trace_id) for one in found.left_out] == [
        ("unreadable", "train.jsonl, line 4", "t7"),
        ("unreadable", "train.jsonl, line 5", "t8"),
        ("unreadable", "train.jsonl, line 6", ""),
    ]


def test_a_run_is_refused_if_too_few_examples_are_left_and_only_then(tmp_path):
    encode = failing(ValueError("no"))
    _, events = read(tmp_path / "few", encode, min_traces=16)
    assert events[-1]["data"]["reason"] == "too-few-examples"
    assert events[-1]["data"]["detail"].startswith("Training needs 16 examples; 15 are left. Left out 1 example:")
    for number, least in enumerate((15, 17)):  # a job that had fewer from the start was wanted so
        _, events = read(tmp_path / str(number), encode, min_traces=least)
        assert events[-1]["data"]["detail"] == "The worker ended without publishing an adapter."


def test_a_run_without_any_training_example_is_refused_with_the_reason(tmp_path):
    def encode(example: TrainingExample) -> str:
        raise UnusableExampleError(f"The model cannot write {example.output!r}.")

    _, events = read(tmp_path, encode)
    assert events[-1]["data"]["reason"] == "no-trainable-tokens"
    assert "no training example is left" in events[-1]["data"]["detail"]
    assert "The model cannot write '2 times 2 is 4.'" in events[-1]["data"]["detail"]


def test_only_some_of_many_traces_are_named(tmp_path):
    job = write_job(tmp_path, EXAMPLES * 3, [], FineTuneConfig())
    found = prepare_examples(job.parent / "train.jsonl", lambda one: one.instruction, "train", max_tokens=1)
    assert " and 28 more. The first reason: It has 18 tokens" in describe_left_out(found.left_out)
