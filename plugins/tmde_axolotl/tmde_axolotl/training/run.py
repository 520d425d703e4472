"""Prepare a run, let Axolotl train it through its own command, and publish the adapter."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import random
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import peft
import psutil
import torch
from safetensors.torch import save_file

from tmde_axolotl.configuration import (
    CONFIG_FILE,
    OUTPUT_DIR,
    PREPARED_DIR,
    TARGET_MODULES,
    TRAIN_FILE,
    VAL_FILE,
    Device,
    build,
    render,
)
from tmde_axolotl.fragment import read_fragment
from tmde_axolotl.training import state
from tmde_axolotl.training.options import Options
from tmde_axolotl.training.session import Session, begin, rows
from tmde_axolotl.training.state import State
from tmde_axolotl.training.tokens import load_tokenizer
from tmde_core.sdk.adapters import CONFIG_FILE as ADAPTER_CONFIG_FILE
from tmde_core.sdk.adapters import WEIGHTS_FILE
from tmde_core.sdk.files import write_atomic
from tmde_core.sdk.records import to_json
from tmde_core.sdk.training import FineTuneMetrics
from tmde_core.sdk.worker import (
    SOURCE_FILE,
    BaseIdentity,
    ConversationEncoder,
    EncodedExample,
    RunWorker,
    TrainingFailedError,
    identify_base_model,
    prepare_weights,
)

PLUGIN = "tmde_axolotl.training.plugin.TmdePlugin"


def train(worker: RunWorker, options: Options) -> None:
    """Train the job's adapter and publish it."""
    config = worker.config
    extra = {} if options.extra is None else read_fragment(options.extra)
    directory = prepare_weights(worker.job, worker.report_alive)
    tokenizer = load_tokenizer(directory)
    base = identify_base_model(directory, _name(worker, directory), tokenizer.chat_template)
    fingerprint = _fingerprint(worker, base, extra)
    resumed = Path(worker.job.resume_from) if worker.job.resume_from else None
    at = state.read(resumed) if resumed else State(fingerprint=fingerprint)
    if at.fingerprint != fingerprint:
        raise TrainingFailedError(
            "bad-checkpoint", "The checkpoint belongs to other data, settings or another base model."
        )
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
    _seed(config.seed, device)
    if device.cuda:
        torch.cuda.reset_peak_memory_stats()
    begin(session)
    try:
        _call_axolotl(session, path, personal=bool(extra))
        if session.best:
            state.put(session.best, session.weights())
        _publish(session, base, list(extra))
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
    worker.events.log(
        "WARNING: there is no NVIDIA card, so this run trains on the CPU because allow_cpu is set. It is much slower, "
        "and the base model is held in 32 bits. The backend `cpu` is faster here."
    )
    return Device(cuda=False)


def _write_examples(path: Path, examples: Sequence[EncodedExample]) -> None:
    write_atomic(path, b"".join(to_json(row) + b"\n" for row in rows(examples)))


def _publish(session: Session, base: BaseIdentity, extra: list[str]) -> None:
    worker, at, device = session.worker, session.at, session.device
    model = session.trainer.accelerator.unwrap_model(session.trainer.model)
    staging = worker.make_staging()
    lora = model.peft_config["default"]
    # A local path would mean nothing on another machine; other tools look for a repository.
    lora.base_model_name_or_path = getattr(worker.job, "base_model_source", "") or base.name
    lora.inference_mode = True
    lora.auto_mapping = None
    lora.save_pretrained(staging)
    settings = msgspec.json.decode((staging / ADAPTER_CONFIG_FILE).read_bytes())
    settings["target_modules"] = sorted(TARGET_MODULES)  # PEFT writes a set, in any order
    (staging / ADAPTER_CONFIG_FILE).write_bytes(
        msgspec.json.format(msgspec.json.encode(settings, order="sorted"), indent=2) + b"\n"
    )
    save_file(
        state.keep(peft.get_peft_model_state_dict(model, save_embedding_layers=False)),
        staging / WEIGHTS_FILE,
        {"format": "pt"},
    )
    metrics = FineTuneMetrics(
        final_train_loss=at.last_train_loss,
        final_val_loss=at.last_val_loss,
        best_val_loss=at.best_val_loss,
        total_steps=at.step,
        training_time_seconds=round(at.seconds, 3),
        peak_vram_gb=round(torch.cuda.max_memory_reserved() / 1024**3, 3) if device.cuda else None,
        peak_ram_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 3),
        perplexity=None if at.best_val_loss is None else math.exp(min(at.best_val_loss, 700.0)),
        tokens_per_second=round(at.supervised_tokens / at.seconds, 2) if at.seconds else None,
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
            "peakAllocatedGb": round(torch.cuda.max_memory_allocated() / 1024**3, 3) if device.cuda else None,
            "extra": extra,
            "versions": _versions(),
        },
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "axolotl", "transformers", "peft", "bitsandbytes")}


def _seed(seed: int, device: Device) -> None:
    """Fix what can be fixed. On a card, sums are still rounded in another order from run to run."""
    random.seed(seed)
    torch.manual_seed(seed)
    if not device.cuda:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count(logical=False) or 1))


def _name(worker: RunWorker, directory: Path) -> str:
    """Return the name of the base model for the manifest; empty if its files name it."""
    named: str = getattr(worker.job, "base_model_name", "")
    if named or Path(worker.job.base_model).is_absolute() or (directory / SOURCE_FILE).is_file():
        return named
    return worker.job.base_model


def _device_name(device: Device) -> str:
    with contextlib.suppress(Exception):
        return str(torch.cuda.get_device_name(0)) if device.cuda else "CPU"
    return "card"
