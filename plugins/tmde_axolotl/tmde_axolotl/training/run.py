"""Prepare a run, let Axolotl train it through its own command, and publish the adapter."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from tmde_axolotl.configuration import (
    CONFIG_FILE,
    OUTPUT_DIR,
    PREPARED_DIR,
    TRAIN_FILE,
    VAL_FILE,
    Device,
    build,
    render,
)
from tmde_axolotl.estimate import BACKEND, CPU, computed_pace, computed_peak, weight_bits
from tmde_axolotl.fragment import read_fragment
from tmde_axolotl.training.options import Options
from tmde_axolotl.training.session import Session, begin, rows
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.files import write_atomic
from tmde_core.sdk.measured_runs import keep_measured_run
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.records import to_json
from tmde_core.sdk.worker import (
    TARGET_MODULES,
    BaseIdentity,
    ConversationEncoder,
    EncodedExample,
    RunWorker,
    TrainingFailedError,
    describe_metrics,
    identify_base_model,
    load_tokenizer,
    log_no_card,
    name_base_model,
    prepare_weights,
    put_weights,
    resume_state,
    seed_run,
    stage_adapter,
)

PLUGIN = "tmde_axolotl.training.plugin.TmdePlugin"


def train(worker: RunWorker, options: Options) -> None:
    """Train the job's adapter and publish it."""
    config = worker.config
    extra = {} if options.extra is None else read_fragment(options.extra)
    directory = prepare_weights(worker.job, worker.report_alive)
    tokenizer = load_tokenizer(directory)
    base = identify_base_model(directory, name_base_model(worker.job, directory), tokenizer.chat_template)
    at = resume_state(worker, _fingerprint(worker, base, extra))
    resumed = Path(worker.job.resume_from) if worker.job.resume_from else None
    training, validation = worker.read_examples(ConversationEncoder(tokenizer).encode)
    device = _find_device(worker, options)
    session = Session(worker, device, training, validation, at, resumed)
    _write_examples(worker.run_dir / TRAIN_FILE, training)
    _write_examples(worker.run_dir / VAL_FILE, validation)
    path = worker.run_dir / CONFIG_FILE
    made = build(config, directory, worker.run_dir, device, extra, validates=bool(validation))
    write_atomic(path, render(made, sys.executable, path).encode())
    worker.events.log(
        f"{len(training)} training and {len(validation)} validation examples, {session.total_steps} steps of "
        f"{config.batch_size * config.gradient_accumulation_steps} examples, {config.batch_size} at a time, on "
        f"{_device_name(device)}, base model in {device.quantisation}"
        + (f", with your own {', '.join(extra)}" if extra else "")
        + (f", going on after step {at.step}" if resumed else ""),
        device="cuda" if device.cuda else "cpu",
        quantisation=device.quantisation,
        microBatch=config.batch_size,
        configuration=str(path),
    )
    seed_run(config.seed)
    begin(session)
    try:
        _call_axolotl(session, path, personal=bool(extra))
        put_weights(session.best, session.weights())
        _publish(session, base, list(extra))
        _keep_measured(session, base, directory)
    finally:
        for name in (OUTPUT_DIR, PREPARED_DIR):  # the adapter is published, and the rest is the base model's
            shutil.rmtree(worker.run_dir / name, ignore_errors=True)


def _call_axolotl(session: Session, path: Path, *, personal: bool) -> None:
    """Run Axolotl's command `train` in this process, with TMDE's plugin."""
    # Axolotl goes on without a plugin that it cannot import, so it is imported here first.
    from axolotl.cli.train import do_cli
    from pydantic import ValidationError

    import tmde_axolotl.training.plugin  # noqa: F401

    sys.argv = sys.argv[:1]  # Axolotl reads the command line too
    more: dict[str, Any] = {"plugins": [PLUGIN]}
    if session.resumed is not None:
        more["resume_from_checkpoint"] = str(session.resumed)
    try:
        do_cli(str(path), **more)
    except (ValidationError, ValueError) as error:
        if session.trainer is not None or not personal:
            raise
        why = " ".join(str(error).split())[:400]
        raise TrainingFailedError(
            "bad-extra",
            f"Axolotl refuses the configuration {path}: {why} Correct your own YAML (`extra` in [backends.axolotl]).",
        ) from error
    if session.trainer is None:
        raise TrainingFailedError("crash", "Axolotl trained without TMDE's plugin, so the result cannot be used.")


def _fingerprint(worker: RunWorker, base: BaseIdentity, extra: dict[str, Any]) -> str:
    whole = worker.fingerprint(base)
    if not extra:
        return whole
    return hashlib.sha256(f"{whole} {msgspec.json.encode(extra, order='sorted').decode()}".encode()).hexdigest()


def _find_device(worker: RunWorker, options: Options) -> Device:
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device(cuda=True, bf16=bf16, four_bit=options.four_bit)
    log_no_card(worker)
    return Device(cuda=False)


def _write_examples(path: Path, examples: Sequence[EncodedExample]) -> None:
    write_atomic(path, b"".join(to_json(row) + b"\n" for row in rows(examples)))


def _publish(session: Session, base: BaseIdentity, extra: list[str]) -> None:
    worker, at, device = session.worker, session.at, session.device
    model = session.trainer.accelerator.unwrap_model(session.trainer.model)
    stage_adapter(worker, model, base)
    measurement = session.measurement
    reserved, allocated = (None, None) if measurement is None else measurement.card_peaks()
    metrics = describe_metrics(
        at,
        peak_vram_gb=None if reserved is None else round(reserved / 1024**3, 3),
        device=_device_name(device),
        quantisation=device.quantisation,
        micro_batch=worker.config.batch_size,
    )
    worker.publish(
        metrics,
        base,
        {
            "targetModules": list(TARGET_MODULES),
            "stoppedEarly": at.stopped_early,
            "gradientCheckpointing": bool(session.trainer.args.gradient_checkpointing),
            "peakAllocatedGb": None if allocated is None else round(allocated / 1024**3, 3),
            "extra": extra,
            "versions": _versions(),
        },
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "axolotl", "transformers", "peft", "bitsandbytes")}


def _keep_measured(session: Session, base: BaseIdentity, directory: Path) -> None:
    """Keep what the run needed, for the next estimate."""
    shape = Shape.read(directory)
    if shape is None or session.measurement is None:
        return
    name, rank = _device_name(session.device), session.worker.config.lora_rank
    bits = weight_bits(name, four_bit=session.device.four_bit)
    measured = session.measurement.describe(
        backend=BACKEND,
        device=name,
        base_model=base.name,
        weights=shape.weights,
        quantisation=f"{bits}-bit",
        lora_rank=rank,
        micro_batch=session.worker.config.batch_size,
        computed_peak=lambda tokens: computed_peak(shape, rank, tokens, bits),
        computed_pace=lambda _passes, _tokens: computed_pace(shape, name),
    )
    if measured is not None:
        # The adapter is published. A full disk must not turn the run into a failed one.
        with contextlib.suppress(TmdeError):
            keep_measured_run(session.worker.run_dir, measured)


def _device_name(device: Device) -> str:
    with contextlib.suppress(Exception):
        return str(torch.cuda.get_device_name(0)) if device.cuda else CPU
    return "card"
