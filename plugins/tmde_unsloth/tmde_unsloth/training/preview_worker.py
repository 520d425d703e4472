"""Examine a dataset before training: `python -m tmde_unsloth.training.preview_worker [OPTION …] RUN_DIR/job.json`.

Lengths and mask come from the model's own tokenizer and template. Memory and time are computed from the shape of the
model, and corrected by what earlier runs needed. Nothing is measured here, because Unsloth takes half a minute to
import. PyTorch is not asked for the card, because that takes memory of the card.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import FineTuneConfig, PreviewReport, TrainingJob
from tmde_core.sdk.worker import describe_no_card, examine_dataset, load_tokenizer, prepare_weights, write_preview
from tmde_unsloth.estimate import CPU, Device, Lengths, estimate_run
from tmde_unsloth.training.options import Options, parse


def preview(job: TrainingJob, options: Options) -> PreviewReport:
    """Return the report on the job's dataset."""
    directory = prepare_weights(job)
    found = examine_dataset(job, load_tokenizer(directory))
    device = Device(options.device or CPU, options.device_bytes or None, options.cores)
    note = "" if device.is_card or not options.allow_cpu else describe_no_card("Unsloth")
    report = msgspec.structs.replace(found.report, note=note)
    shape = Shape.read(directory)
    if shape is None:
        return report
    config = msgspec.convert(job.config, FineTuneConfig)
    lengths = Lengths([len(one) for one in found.training], [len(one) for one in found.validation])
    made = estimate_run(Path(job.data_dir), shape, config, device, lengths, options.micro_batch)
    return msgspec.structs.replace(report, estimate=made.resources, calibrated=made.calibrated, basis=made.basis)


def main(options: Options) -> int:
    """Write the report, and return the exit code of the process."""
    return write_preview(options.job, lambda job, _: preview(job, options))


if __name__ == "__main__":
    sys.exit(main(parse()))
