"""Reads a run's examples and leaves out those that cannot be trained on. Private: import from `tmde_core.sdk.worker`.

One bad example never stops a run. It is left out, with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import from_json
from tmde_core.records.training import TrainingExample, UnusableExample, UnusableReason

__all__ = [
    "PreparedExamples",
    "UnusableExampleError",
    "describe_left_out",
    "prepare_examples",
]

T = TypeVar("T")

NAMED = 20
"""The most traces that a sentence names."""

_PHRASES: dict[UnusableReason, str] = {
    "too-long": "longer than the longest example (maxSeqLength)",
    "empty": "without an answer",
    "cannot-encode": "that cannot be turned into the model's tokens",
    "unreadable": "that cannot be read",
}


class UnusableExampleError(Exception):
    """An example cannot be trained on. `detail` is a sentence that says why."""

    def __init__(self, detail: str, reason: UnusableReason = "cannot-encode") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class PreparedExamples(Generic[T]):
    """The examples of one file in the form that a trainer needs, and those that are left out."""

    examples: tuple[T, ...]
    """What `encode` returned for each example."""
    left_out: tuple[UnusableExample, ...]
    """The other examples, and why they are left out."""

    @property
    def total(self) -> int:
        """The number of examples in the file."""
        return len(self.examples) + len(self.left_out)


def prepare_examples(
    file: Path,
    encode: Callable[[TrainingExample], T],
    split: Literal["train", "val"],
    *,
    max_tokens: int | None = None,
    tokens: Callable[[T], int] = len,  # type: ignore[assignment]  # the default fits a sequence of tokens
) -> PreparedExamples[T]:
    """Encode the examples of a file, and leave out those that cannot be trained on. A missing file has none.

    Args:
        file: the training or validation file of a job.
        encode: turns one example into what the trainer needs. An example for which this function raises an error is
            left out. `UnusableExampleError` gives the reason.
        split: which file it is.
        max_tokens: the most tokens of an example. A longer example is left out, because a cut answer teaches cutting.
            None: no limit.
        tokens: returns the number of tokens of an encoded example.
    """
    examples: list[T] = []
    left_out: list[UnusableExample] = []
    for line in _lines(file, split):
        if isinstance(line, UnusableExample):
            left_out.append(line)
            continue
        try:
            encoded = _encoded(line, encode)
            if max_tokens is not None and (count := tokens(encoded)) > max_tokens:
                raise UnusableExampleError(f"It has {count:,} tokens; maxSeqLength is {max_tokens:,}.", "too-long")
        except UnusableExampleError as error:
            left_out.append(
                UnusableExample(trace_id=line.trace_id, split=split, reason=error.reason, detail=error.detail)
            )
        else:
            examples.append(encoded)
    return PreparedExamples(tuple(examples), tuple(left_out))


def _lines(file: Path, split: Literal["train", "val"]) -> Iterator[TrainingExample | UnusableExample]:
    if not file.is_file():
        return
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield from_json(line, TrainingExample)
        except InvalidInputError as error:
            yield UnusableExample(
                trace_id=_trace_id(line),
                split=split,
                reason="unreadable",
                detail=f"{file.name}, line {number}: {error.detail}",
            )


class _Identified(msgspec.Struct, rename="camel"):
    trace_id: str = ""


def _trace_id(line: bytes) -> str:
    """Return the trace that a damaged line names; empty if it names none."""
    try:
        return msgspec.json.decode(line, type=_Identified).trace_id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _encoded(example: TrainingExample, encode: Callable[[TrainingExample], T]) -> T:
    if not example.messages or example.messages[-1].role != "assistant":
        raise UnusableExampleError("It does not end with an answer.", "empty")
    if not example.messages[-1].content.strip():
        raise UnusableExampleError("It has no answer.", "empty")
    try:
        return encode(example)
    except (UnusableExampleError, MemoryError):
        raise
    except BaseException as error:
        # A panic of the tokenizers library is no Exception. A cancelled run is none either, and must end.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = " ".join(str(error).split())[:300]
        raise UnusableExampleError(f"It cannot be encoded: {type(error).__name__}: {text}") from error


def describe_left_out(left_out: Iterable[UnusableExample]) -> str:
    """Return one sentence that counts the examples left out by reason and names the first of them, or an empty text."""
    listed = list(left_out)
    if not listed:
        return ""
    counts = Counter(one.reason for one in listed)
    groups = ", ".join(f"{count:,} {_PHRASES[reason]}" for reason, count in sorted(counts.items()))
    named = [one.trace_id for one in listed if one.trace_id][:NAMED]
    more = len(listed) - len(named)
    traces = f" Traces: {', '.join(named)}{f' and {more:,} more' if more else ''}." if named else ""
    why = next((one for one in listed if one.reason != "too-long"), listed[0])
    noun = "example" if len(listed) == 1 else "examples"
    return f"Left out {len(listed):,} {noun}: {groups}.{traces} The first reason: {why.detail}"
