"""The dataset of a training run: chosen from traces, split, and frozen into the run's directory.

Whether an example is trained on or held out depends on its question alone: the hash of the normalised query, mixed
with a constant. So the split is the same on every machine, and no example ever moves from validation to training,
whatever traces are added, withdrawn or rated and whatever seed a run has. The price is that the share is 10 % only on
average: a small dataset may have no validation example at all, and forcing one would make it move later.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec

from tmde_core.errors import InsufficientTracesError
from tmde_core.finetune.dataset.leaks import LeakCheck
from tmde_core.prompts import proposer_opening
from tmde_core.records.base import Record, to_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import Dataset, FineTuneConfig, LeftOut
from tmde_core.records.traces import Trace
from tmde_core.records.training import TrainingExample
from tmde_core.storage.durable import storage_errors, sync_directory

VALIDATION_SHARE = 0.1
SPLIT_SEED = "tmde-split-1"
"""Mixed into the split's hash. Never change it: examples would move from validation to training."""

TRAIN_FILE, VAL_FILE = "train.jsonl", "val.jsonl"
ALPACA_FILE = "dataset.jsonl"
RECORD_FILE = "dataset.json"

NO_LEAKS = LeakCheck(())

Split = Literal["train", "val"]
TemplatesText = Callable[[Sequence[str]], str]
"""The names of a trace's templates → the text that the Proposer sees of them."""


class Selection(Record):
    """What would be trained on, what would be held out, and which traces are neither."""

    train: tuple[TrainingExample, ...]
    val: tuple[TrainingExample, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def trace_ids(self) -> list[str]:
        """The traces of all examples: training first, each part in the order of its file."""
        return [example.trace_id for example in (*self.train, *self.val)]

    def __len__(self) -> int:
        return len(self.train) + len(self.val)


class AlpacaLine(Record):
    """One line of `dataset.jsonl`, which other tools read."""

    instruction: str
    input: str
    output: str
    trace_id: str
    split: Split


def normalised(query: str) -> str:
    """The form in which two questions count as the same: case, blanks and the last full stop or question mark apart.

    Unicode is composed (NFC) but not folded further: NFKC would turn 2² into 22.
    """
    return " ".join(unicodedata.normalize("NFC", query).casefold().split()).rstrip(" ?.")


def query_hash(query: str) -> str:
    """SHA-256 of the normalised question, hex."""
    return hashlib.sha256(normalised(query).encode("utf-8", "surrogatepass")).hexdigest()


def split_of(query: str) -> Split:
    """Where the question's example belongs, for ever."""
    digest = hashlib.sha256(f"{SPLIT_SEED}:{query_hash(query)}".encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64 else "train"


def answer_of(trace: Trace) -> str:
    """What is trained on: a person's correction where there is one, else the final answer."""
    return (trace.corrected_answer or trace.final_answer).strip()


def select(
    traces: Iterable[Trace], templates_text: TemplatesText, leaks: LeakCheck = NO_LEAKS, withdrawn: Iterable[UUID] = ()
) -> Selection:
    """Choose one example for each question: the trace of highest quality, among equals the newest.

    Args:
        traces: those that may be trained on (`TraceService.eligible`).
        leaks: knows the benchmark's questions; a trace of one of them would make the benchmark lie.
        withdrawn: traces that would be good enough, but were withdrawn: said, not used.
    """
    best: dict[str, Trace] = {}
    left_out = [LeftOut(trace_id=one, reason="withdrawn", detail="It was withdrawn.") for one in withdrawn]
    for trace in sorted(traces, key=_preference, reverse=True):
        digest = query_hash(trace.query)
        if not answer_of(trace) or not normalised(trace.query):
            left_out.append(LeftOut(trace_id=trace.id, reason="empty", detail="It has no answer."))
        elif leak := leaks.of(trace.query):
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
        parts[split_of(trace.query)].append(example_of(trace, templates_text))
    return Selection(train=tuple(parts["train"]), val=tuple(parts["val"]), left_out=tuple(left_out))


def example_of(trace: Trace, templates_text: TemplatesText) -> TrainingExample:
    """The trace as a training example: what the Proposer would see, and what it should have said."""
    method, answer = templates_text(trace.templates_used), answer_of(trace)
    opening = proposer_opening(trace.query, method)
    return TrainingExample(
        instruction=trace.query,
        input=method,
        output=answer,
        messages=(*opening, Message(role="assistant", content=answer)),
        trace_id=str(trace.id),
    )


def require_enough(selection: Selection, config: FineTuneConfig) -> None:
    """Refuse a selection that is too small to train on.

    Raises:
        InsufficientTracesError: context has `current` and `required`.
    """
    current, required = len(selection), config.min_traces
    if current >= required and selection.train:
        return
    figures = (
        f"Training needs {required} different questions whose answers score {config.min_quality_score:g} or more; "
        f"there {'is' if current == 1 else 'are'} {current}"
    )
    if current >= required:
        raise InsufficientTracesError(
            f"{figures}, but the split keeps {'it' if current == 1 else 'all of them'} for validation. Debate some more.",
            current=0,
            required=1,
        )
    raise InsufficientTracesError(
        f"{figures}. Debate or rate more questions, or lower the minimum score or number in the fine-tuning settings.",
        current=current,
        required=required,
    )


def freeze(selection: Selection, run_dir: Path) -> Dataset:
    """Write the dataset into the run's directory and describe it; nothing changes it afterwards.

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
    """SHA-256 over both files, hex; where one ends and the other begins counts too."""
    digest = hashlib.sha256()
    for name, content in ((TRAIN_FILE, train), (VAL_FILE, val)):
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _preference(trace: Trace) -> tuple[float, float, str]:
    quality = trace.quality_score if trace.quality_score is not None else -1.0
    return quality, trace.created_at.timestamp(), str(trace.id)


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
