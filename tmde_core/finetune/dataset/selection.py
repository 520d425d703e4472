"""Selects the dataset of a training run from traces, splits it, and freezes it in the run's directory.

Only the question of an example decides whether it is trained on or held out: the hash of the normalised question, mixed
with a constant. The split is therefore the same on every machine. No example ever moves from validation to training,
whichever traces are added, withdrawn or rated, and whichever seed a run has. As a consequence, the share of 10 % is
only an average. A small dataset may have no validation example at all. An example that was forced into validation would
move later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec

from tmde_core.errors import InsufficientTracesError
from tmde_core.finetune.dataset.leaks import LeakCheck
from tmde_core.finetune.dataset.same_question import normalise_question
from tmde_core.prompts import proposer_opening, with_earlier
from tmde_core.records.base import Record, to_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import Dataset, FineTuneConfig, LeftOut
from tmde_core.records.traces import Trace
from tmde_core.records.training import TrainingExample
from tmde_core.sdk.thoughts import split
from tmde_core.storage.durable import storage_errors, sync_directory

VALIDATION_SHARE = 0.1
SPLIT_SEED = "tmde-split-1"
"""Part of the split's hash. Never change it, because examples would move from validation to training. The same is true
of `normalise_question`: plain ASCII text must keep its normal form."""

TRAIN_FILE, VAL_FILE = "train.jsonl", "val.jsonl"
ALPACA_FILE = "dataset.jsonl"
RECORD_FILE = "dataset.json"

NO_LEAKS = LeakCheck(())

Split = Literal["train", "val"]
TemplatesText = Callable[[Sequence[str]], str]
"""Returns the text that the Proposer sees for the names of a trace's templates."""


class Selection(Record):
    """The examples to train on, the examples to hold out, and the traces that are left out."""

    train: tuple[TrainingExample, ...]
    val: tuple[TrainingExample, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def trace_ids(self) -> list[str]:
        """The traces of all examples: training examples first, both parts in the order of their files."""
        return [example.trace_id for example in (*self.train, *self.val)]

    def __len__(self) -> int:
        return len(self.train) + len(self.val)


class AlpacaLine(Record):
    """One line of `dataset.jsonl`, a file for other tools."""

    instruction: str
    input: str
    output: str
    trace_id: str
    split: Split


def query_hash(query: str) -> str:
    """Return the SHA-256 of the normalised question, hexadecimal."""
    return hashlib.sha256(normalise_question(query).encode("utf-8", "surrogatepass")).hexdigest()


def assign_split(query: str) -> Split:
    """Return the part to which the question's example belongs. It never changes."""
    digest = hashlib.sha256(f"{SPLIT_SEED}:{query_hash(query)}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64 else "train"


def choose_answer(trace: Trace) -> str:
    """Return the answer to train on: a person's correction if there is one, else the final answer.

    A thought within either is not part of the answer. Traces that were stored before TMDE kept thoughts apart may hold
    one, and a person may have pasted one with a correction.
    """
    return split(trace.corrected_answer or trace.final_answer).answer.strip()


def select(
    traces: Iterable[Trace], templates_text: TemplatesText, leaks: LeakCheck = NO_LEAKS, withdrawn: Iterable[UUID] = ()
) -> Selection:
    """Select one example for each question: the trace with the highest quality, and among equals the newest.

    Args:
        traces: the traces that may be trained on (`TraceService.list_eligible`).
        templates_text: returns the text of a trace's templates.
        leaks: detects benchmark questions. Training on these would make the benchmark's result wrong.
        withdrawn: traces with a sufficient score that were withdrawn. They are reported but not used.
    """
    best: dict[str, Trace] = {}
    left_out = [LeftOut(trace_id=one, reason="withdrawn", detail="It was withdrawn.") for one in withdrawn]
    for trace in sorted(traces, key=_preference, reverse=True):
        asked = with_earlier(trace.query, trace.earlier)
        digest = query_hash(asked)
        if not choose_answer(trace) or not normalise_question(trace.query):
            left_out.append(LeftOut(trace_id=trace.id, reason="empty", detail="It has no answer."))
        elif not _is_text(asked + choose_answer(trace)):
            detail = "It holds half of a character, which no file can store."
            left_out.append(LeftOut(trace_id=trace.id, reason="cannot-encode", detail=detail))
        elif leak := leaks.of(asked):
            left_out.append(LeftOut(trace_id=trace.id, reason="leak", detail=leak))
        elif digest in best:
            kept = best[digest].id
            left_out.append(
                LeftOut(trace_id=trace.id, reason="duplicate", detail=f"The same question as trace {kept}.")
            )
        else:
            best[digest] = trace
    chosen = sorted(best.values(), key=lambda trace: (trace.created_at, trace.id))
    parts: dict[Split, list[TrainingExample]] = {"train": [], "val": []}
    for trace in chosen:
        parts[assign_split(with_earlier(trace.query, trace.earlier))].append(make_example(trace, templates_text))
    return Selection(train=tuple(parts["train"]), val=tuple(parts["val"]), left_out=tuple(left_out))


def make_example(trace: Trace, templates_text: TemplatesText) -> TrainingExample:
    """Return the trace as a training example: the Proposer's input and the right answer."""
    method, answer = templates_text(trace.templates_used), choose_answer(trace)
    asked = with_earlier(trace.query, trace.earlier)
    opening = proposer_opening(asked, method)
    return TrainingExample(
        instruction=asked,
        input=method,
        output=answer,
        messages=(*opening, Message(role="assistant", content=answer)),
        trace_id=str(trace.id),
    )


def require_enough(selection: Selection, config: FineTuneConfig) -> None:
    """Raise an error if a selection is too small to train on.

    Raises:
        InsufficientTracesError: there are too few examples; context has `current` and `required`.
    """
    current, required = len(selection), config.min_traces
    if current >= required and selection.train:
        return
    figures = (
        f"Training needs {required} different questions whose answers score {config.min_quality_score:g} or more, or are "
        f"corrected; there {'is' if current == 1 else 'are'} {current}"
    )
    if current >= required:
        raise InsufficientTracesError(
            f"{figures}, but the split keeps {'it' if current == 1 else 'all of them'} for validation. Debate some more.",
            current=0,
            required=1,
        )
    raise InsufficientTracesError(
        f"{figures}. Debate, rate or correct more questions, or lower the minimum score or number in the fine-tuning settings.",
        current=current,
        required=required,
    )


def freeze(selection: Selection, run_dir: Path) -> Dataset:
    """Write the dataset to the run's directory and return its description.

    The files never change afterwards.

    Raises:
        InsufficientStorageError: the disk is full or read-only.
    """
    train, val = _lines(selection.train), _lines(selection.val)
    dataset = Dataset(
        sha256=content_hash(train, val),
        trace_ids=tuple(UUID(trace_id) for trace_id in selection.trace_ids),
        train_examples=len(selection.train),
        val_examples=len(selection.val),
        left_out=selection.left_out,
    )
    alpaca = [_alpaca(example, "train") for example in selection.train]
    alpaca += [_alpaca(example, "val") for example in selection.val]
    with storage_errors(run_dir):
        for name, content in (
            (TRAIN_FILE, train),
            (VAL_FILE, val),
            (ALPACA_FILE, _lines(alpaca)),
            (RECORD_FILE, msgspec.json.format(to_json(dataset), indent=2) + b"\n"),
        ):
            _write(run_dir / name, content)
        sync_directory(run_dir)
    return dataset


def content_hash(train: bytes, val: bytes) -> str:
    """Return the SHA-256 of both files, hexadecimal. The hash also depends on the boundary between the files."""
    digest = hashlib.sha256()
    for name, content in ((TRAIN_FILE, train), (VAL_FILE, val)):
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _is_text(text: str) -> bool:
    """Return whether a text can be written in UTF-8. Half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _preference(trace: Trace) -> tuple[bool, float, float, str]:
    """Return the sort key of a trace among traces with the same question. The last one is trained on."""
    quality = trace.quality_score if trace.quality_score is not None else -1.0
    return bool(trace.corrected_answer), quality, trace.created_at.timestamp(), str(trace.id)


def _alpaca(example: TrainingExample, split: Split) -> AlpacaLine:
    return AlpacaLine(
        instruction=example.instruction,
        input=example.input,
        output=example.output,
        trace_id=example.trace_id,
        split=split,
    )


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(to_json(record) + b"\n" for record in records)


def _write(file: Path, content: bytes) -> None:
    with file.open("xb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
