"""Examine a dataset in the process of a preview: lengths, mask, and examples left out. Private: import from `tmde_core.sdk.worker`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.records.base import from_json, to_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.training import PREVIEW_FILE, ExampleTokens, MaskedPiece, PreviewReport, TrainingJob
from tmde_core.sdk.worker.conversation import ConversationEncoder, EncodedExample
from tmde_core.sdk.worker.examples import prepare_examples
from tmde_core.sdk.worker.kit import TrainingFailedError
from tmde_core.storage.durable import write_atomic

__all__ = ["ExaminedDataset", "examine_dataset", "write_preview"]

NO_MEMORY = "There is not enough memory to load the base model. Close other programs, or choose a smaller one.\n"


@dataclass(frozen=True)
class ExaminedDataset:
    """What the tokens of a job's dataset say."""

    report: PreviewReport
    """Lengths, mask and the examples left out. The estimate is still missing."""
    training: Sequence[EncodedExample]
    """The training examples that fit into `maxSeqLength`."""
    validation: Sequence[EncodedExample]
    """The validation examples that fit."""


def examine_dataset(job: TrainingJob, tokenizer: Any) -> ExaminedDataset:
    """Encode the examples of a job as a run does, and describe them.

    Args:
        job: the job.
        tokenizer: the tokenizer of the base model, from `load_tokenizer`.
    """
    longest = msgspec.convert(job.config, FineTuneConfig).max_seq_length
    encode = ConversationEncoder(tokenizer).encode
    train = prepare_examples(Path(job.train_file), encode, "train")
    val = prepare_examples(Path(job.val_file), encode, "val")
    fitting, held_out = ([one for one in part.examples if len(one) <= longest] for part in (train, val))
    report = PreviewReport(
        examples=(*_lengths(train.examples, "train"), *_lengths(val.examples, "val")),
        first_example=_pieces((fitting or train.examples)[0], tokenizer) if train.examples else (),
        left_out=(*train.left_out, *val.left_out),
    )
    return ExaminedDataset(report, fitting, held_out)


def write_preview(
    job_path: Path, preview: Callable[[TrainingJob, Callable[[PreviewReport], object]], PreviewReport]
) -> int:
    """Write the report of a preview, and return the exit code of the process. On failure, print one sentence.

    Args:
        job_path: the file of the job.
        preview: returns the report. Its second argument is a function that writes a report which is not complete yet,
            such as one without an estimate.
    """
    try:
        job = from_json(job_path.read_bytes(), TrainingJob)
        file = Path(job.run_dir) / PREVIEW_FILE

        def write(report: PreviewReport) -> None:
            write_atomic(file, to_json(report))

        write(preview(job, write))
    except (TrainingFailedError, TmdeError) as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    except MemoryError:
        sys.stderr.write(NO_MEMORY)
        return 1
    return 0


def _lengths(examples: Sequence[EncodedExample], split: Literal["train", "val"]) -> list[ExampleTokens]:
    return [
        ExampleTokens(trace_id=one.trace_id, split=split, total=len(one), supervised=one.supervised) for one in examples
    ]


def _pieces(example: EncodedExample, tokenizer: Any) -> tuple[MaskedPiece, ...]:
    """Return the example as the model sees it, with special tokens, in the two parts that the loss distinguishes."""
    read, learned = example.tokens[: example.answer_start], example.tokens[example.answer_start :]
    return tuple(
        MaskedPiece(text=tokenizer.decode(part, clean_up_tokenization_spaces=False), supervised=supervised)
        for part, supervised in ((read, False), (learned, True))
    )
