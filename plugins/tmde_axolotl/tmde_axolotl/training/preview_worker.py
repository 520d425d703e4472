"""Examine a dataset before training: `python -m tmde_axolotl.training.preview_worker [OPTION …] RUN_DIR/job.json`.

Lengths and mask come from the model's own tokenizer and template. Memory is computed from the shape of the model;
nothing is measured, because Axolotl takes many seconds to import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from tmde_axolotl.memory import CONTEXT_BYTES, peak_bytes
from tmde_axolotl.training.options import Options, parse, prepare_environment
from tmde_axolotl.training.tokens import load_tokenizer
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
    ResourceEstimate,
    TrainingJob,
)
from tmde_core.sdk.worker import (
    ConversationEncoder,
    EncodedExample,
    TrainingFailedError,
    prepare_examples,
    prepare_weights,
)

CPU_WARNING = (
    "There is no NVIDIA card that PyTorch can use. Axolotl will train on the CPU because allow_cpu is set: much slower, and "
    "not in 4 bits. The backend `cpu` is faster here."
)


def preview(job: TrainingJob, options: Options) -> PreviewReport:
    """Return the report on the job's dataset."""
    import torch

    config = msgspec.convert(job.config, FineTuneConfig)
    directory = prepare_weights(job)
    tokenizer = load_tokenizer(directory)
    encode = ConversationEncoder(tokenizer).encode
    train = prepare_examples(Path(job.train_file), encode, "train")
    val = prepare_examples(Path(job.val_file), encode, "val")
    fitting = [one for one in train.examples if len(one) <= config.max_seq_length]
    on_card = torch.cuda.is_available()
    bits = 32 if not on_card else 4 if options.four_bit else 16
    return PreviewReport(
        examples=(*_lengths(train.examples, "train"), *_lengths(val.examples, "val")),
        first_example=_pieces((fitting or train.examples)[0], tokenizer) if train.examples else (),
        left_out=(*train.left_out, *val.left_out),
        estimate=_estimate(directory, config, fitting, bits) if fitting else ResourceEstimate(),
        note="" if on_card or not options.allow_cpu else CPU_WARNING,
    )


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


def _estimate(
    directory: Path, config: FineTuneConfig, examples: Sequence[EncodedExample], bits: int
) -> ResourceEstimate:
    """Return the memory for a batch of the longest examples."""
    shape = Shape.read(directory)
    if shape is None:
        return ResourceEstimate()
    tokens = min(config.batch_size, len(examples)) * max(map(len, examples))
    peak = CONTEXT_BYTES + peak_bytes(shape, config.lora_rank, tokens, bits)
    return ResourceEstimate(ram_bytes=peak) if bits == 32 else ResourceEstimate(vram_bytes=peak)


def main(options: Options) -> int:
    """Write the report. On failure, print one sentence to stderr and return 1."""
    prepare_environment()
    try:
        job = from_json(options.job.read_bytes(), TrainingJob)
        write_atomic(Path(job.run_dir) / PREVIEW_FILE, to_json(preview(job, options)))
    except (TrainingFailedError, TmdeError) as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(parse()))
