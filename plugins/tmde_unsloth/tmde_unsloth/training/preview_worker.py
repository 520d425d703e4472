"""Examine a dataset before training: `python -m tmde_unsloth.training.preview_worker [OPTION …] RUN_DIR/job.json`.

Lengths and mask come from the model's own tokenizer and template. Memory and time are computed from the shape of the
model, and corrected by what earlier runs needed. Nothing is measured here, because Unsloth takes half a minute to
import. PyTorch is not asked for the card, because that takes memory of the card.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.files import write_atomic
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.records import from_json, to_json
from tmde_core.sdk.training import (
    PREVIEW_FILE,
    ExampleTokens,
    FineTuneConfig,
    MaskedPiece,
    PreviewReport,
    TrainingJob,
)
from tmde_core.sdk.worker import (
    ConversationEncoder,
    EncodedExample,
    TrainingFailedError,
    prepare_examples,
    prepare_weights,
)
from tmde_unsloth.estimate import CPU, Device, Lengths, estimate_run
from tmde_unsloth.training.options import Options, parse
from tmde_unsloth.training.tokens import load_tokenizer

CPU_WARNING = (
    "There is no NVIDIA card that PyTorch can use. Unsloth will train on the CPU because allow_cpu is set: much slower, and "
    "not in 4 bits. The backend `cpu` is faster here."
)


def preview(job: TrainingJob, options: Options) -> PreviewReport:
    """Return the report on the job's dataset."""
    config = msgspec.convert(job.config, FineTuneConfig)
    directory = prepare_weights(job)
    tokenizer = load_tokenizer(directory)
    encode = ConversationEncoder(tokenizer).encode
    train = prepare_examples(Path(job.train_file), encode, "train")
    val = prepare_examples(Path(job.val_file), encode, "val")
    fitting, held_out = ([one for one in part.examples if len(one) <= config.max_seq_length] for part in (train, val))
    device = Device(options.device or CPU, options.device_bytes or None, options.cores)
    report = PreviewReport(
        examples=(*_lengths(train.examples, "train"), *_lengths(val.examples, "val")),
        first_example=_pieces((fitting or train.examples)[0], tokenizer) if train.examples else (),
        left_out=(*train.left_out, *val.left_out),
        note="" if device.is_card or not options.allow_cpu else CPU_WARNING,
    )
    shape = Shape.read(directory)
    if shape is None:
        return report
    lengths = Lengths([len(one) for one in fitting], [len(one) for one in held_out])
    found = estimate_run(Path(job.data_dir), shape, config, device, lengths, options.micro_batch)
    return msgspec.structs.replace(report, estimate=found.resources, calibrated=found.calibrated, basis=found.basis)


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


def main(options: Options) -> int:
    """Write the report. On failure, print one sentence to stderr and return 1."""
    try:
        job = from_json(options.job.read_bytes(), TrainingJob)
        write_atomic(Path(job.run_dir) / PREVIEW_FILE, to_json(preview(job, options)))
    except (TrainingFailedError, TmdeError) as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(parse()))
