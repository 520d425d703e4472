"""Examine a dataset before training: `python -m tmde_cpu.training.preview_worker RUN_DIR/job.json`.

The worker writes a `PreviewReport`. Lengths and loss mask come from the model's own tokenizer and template. Time and
memory come from a measurement of this machine with this model, which takes some seconds and is stored
(`tmde_cpu.training.calibration`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.files import write_atomic
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
    order_examples,
    prepare_examples,
)
from tmde_cpu.base_model import base_name, ensure_base_model, identify, load_tokenizer
from tmde_cpu.training.calibration import Calibration, load_or_measure
from tmde_cpu.training.packing import Pack, pack_all
from tmde_cpu.training.trainer import pack_limit

START_SECONDS = 12.0
"""The time for loading libraries and model, and writing the adapter."""
VALIDATION_SHARE = 0.35
"""The cost of validation relative to a training pass, because validation runs forward only."""
ADAPTER_COPIES = 4
"""Weights, gradients and AdamW's two moments."""


def preview(job: TrainingJob, early: Callable[[PreviewReport], object] = lambda _: None) -> PreviewReport:
    """Return the report on the job's dataset.

    Args:
        job: the job.
        early: is called with what the tokens say, before the measurement begins.
    """
    config = msgspec.convert(job.config, FineTuneConfig)
    directory = ensure_base_model(Path(job.data_dir), job.base_model)
    tokenizer = load_tokenizer(directory)
    encode = ConversationEncoder(tokenizer).encode
    train = prepare_examples(Path(job.train_file), encode, "train")
    val = prepare_examples(Path(job.val_file), encode, "val")
    lengths = [_lengths(one, "train") for one in train.examples] + [_lengths(one, "val") for one in val.examples]
    fitting, held_out = ([one for one in part.examples if len(one) <= config.max_seq_length] for part in (train, val))
    report = PreviewReport(
        examples=tuple(lengths),
        first_example=_pieces((fitting or train.examples)[0], tokenizer) if train.examples else (),
        left_out=(*train.left_out, *val.left_out),
    )
    if not fitting:
        return report
    early(report)
    packs, longest = _work(fitting, held_out, config)
    found = load_or_measure(Path(job.data_dir), directory, identify(directory, base_name(job)), config, longest)
    return msgspec.structs.replace(report, estimate=_estimated(found, packs, longest, config), calibrated=True)


def _lengths(example: EncodedExample, split: Any) -> ExampleTokens:
    return ExampleTokens(
        trace_id=example.trace_id, split=split, total=len(example.tokens), supervised=example.supervised
    )


def _pieces(example: EncodedExample, tokenizer: Any) -> tuple[MaskedPiece, ...]:
    """Return the example as the model sees it, with special tokens, in the two parts that the loss distinguishes."""
    read, learned = example.tokens[: example.answer_start], example.tokens[example.answer_start :]
    return tuple(
        MaskedPiece(text=tokenizer.decode(part, clean_up_tokenization_spaces=False), supervised=supervised)
        for part, supervised in ((read, False), (learned, True))
    )


def _work(train: Sequence[EncodedExample], val: Sequence[EncodedExample], config: FineTuneConfig) -> tuple[float, Pack]:
    """Return the tokens that a run computes, including validation at equal cost, and the run's longest pack."""
    limit = pack_limit(config)
    step = config.batch_size * config.gradient_accumulation_steps
    packs: list[Pack] = []
    order = order_examples(len(train), config.seed, 0)
    for first in range(0, len(order), step):
        packs += pack_all([train[index] for index in order[first : first + step]], limit)
    validation = sum(pack.size for pack in pack_all(val, limit)) * VALIDATION_SHARE
    steps = -(-len(train) // step)
    validations = 1 + (steps // config.eval_steps if config.eval_steps else 0)
    tokens = config.epochs * (sum(pack.size for pack in packs) + validation * validations)
    return tokens, max(packs, key=lambda pack: pack.size)


def _estimated(found: Calibration, tokens: float, longest: Pack, config: FineTuneConfig) -> ResourceEstimate:
    adapter = found.adapter_bytes_per_rank * config.lora_rank
    return ResourceEstimate(
        ram_bytes=int(found.loaded_bytes + found.bytes_per_token * longest.size + ADAPTER_COPIES * adapter),
        seconds=round(START_SECONDS + tokens * found.seconds_per_token, 1),
    )


def main(job_path: Path) -> int:
    """Write the report. On failure, print one sentence to stderr and return 1."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    try:
        job = from_json(job_path.read_bytes(), TrainingJob)
        file = Path(job.run_dir) / PREVIEW_FILE
        write_atomic(file, to_json(preview(job, lambda report: write_atomic(file, to_json(report)))))
    except (TrainingFailedError, TmdeError) as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    except MemoryError:
        sys.stderr.write(
            "There is not enough memory to load the base model. Close other programs, or choose a smaller one.\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
