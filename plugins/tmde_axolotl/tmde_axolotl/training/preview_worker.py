"""Examine a dataset before training: `python -m tmde_axolotl.training.preview_worker [OPTION …] RUN_DIR/job.json`.

Lengths and mask come from the model's own tokenizer and template. Memory and time are computed from the shape of the
model, and corrected by what earlier runs needed.
Nothing is measured here, because Axolotl takes many seconds to import.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tmde_axolotl.estimate import CPU, estimate_run
from tmde_axolotl.training.options import Options, parse, prepare_environment
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import FineTuneConfig, PreviewReport, TrainingJob
from tmde_core.sdk.worker import describe_no_card, examine_dataset, load_tokenizer, prepare_weights, write_preview


def preview(job: TrainingJob, options: Options) -> PreviewReport:
    """Return the report on the job's dataset."""
    directory = prepare_weights(job)
    found = examine_dataset(job, load_tokenizer(directory))
    device = options.device or CPU
    note = describe_no_card("Axolotl") if device == CPU and options.allow_cpu else ""
    report = msgspec.structs.replace(found.report, note=note)
    shape = Shape.read(directory)
    if shape is None:
        return report
    config = msgspec.convert(job.config, FineTuneConfig)
    lengths = [len(one) for one in found.training]
    made = estimate_run(Path(job.data_dir), shape, config, device, lengths, four_bit=options.four_bit)
    return msgspec.structs.replace(report, estimate=made.resources, calibrated=made.calibrated, basis=made.basis)


def main(options: Options) -> int:
    """Write the report, and return the exit code of the process."""
    prepare_environment()
    return write_preview(options.job, lambda job, _: preview(job, options))


if __name__ == "__main__":
    sys.exit(main(parse()))
