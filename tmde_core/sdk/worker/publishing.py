"""Write a trained adapter of PEFT, and the metrics of a run. Private: import from `tmde_core.sdk.worker`."""

from __future__ import annotations

import math
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.sdk.adapters import CONFIG_FILE, WEIGHTS_FILE
from tmde_core.sdk.worker.kit import BaseIdentity, RunWorker
from tmde_core.sdk.worker.loaded_model import TARGET_MODULES
from tmde_core.sdk.worker.state import TrainingState, copy_weights

__all__ = ["describe_metrics", "measure_ram_peak", "stage_adapter"]


def stage_adapter(worker: RunWorker, model: Any, base: BaseIdentity, modules: Sequence[str] = TARGET_MODULES) -> Path:
    """Write the adapter of a model of PEFT, and return the directory that `RunWorker.publish` publishes.

    Two runs with the same weights give the same files.

    Args:
        worker: the run.
        model: the model of PEFT, with one adapter.
        base: the base model.
        modules: the names of the modules that the adapter changes. A library may have written a pattern instead.
    """
    import peft
    from safetensors.torch import save_file

    staging = worker.make_staging()
    lora = model.peft_config["default"]
    # A local path would mean nothing on another machine; other tools look for a repository.
    lora.base_model_name_or_path = worker.job.base_model_source or base.name
    lora.inference_mode = True
    lora.auto_mapping = None  # may name classes that other programs lack
    lora.save_pretrained(staging)
    settings = msgspec.json.decode((staging / CONFIG_FILE).read_bytes())
    settings["target_modules"] = sorted(modules)  # PEFT writes a set, in any order
    (staging / CONFIG_FILE).write_bytes(
        msgspec.json.format(msgspec.json.encode(settings, order="sorted"), indent=2) + b"\n"
    )
    weights = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(copy_weights(weights), staging / WEIGHTS_FILE, {"format": "pt"})
    return staging


def describe_metrics(state: TrainingState, **more: Any) -> FineTuneMetrics:
    """Return the metrics of a finished run: what the state says, and the peak of main memory.

    Args:
        state: the last state.
        more: further fields of `FineTuneMetrics`, such as `device` and `peak_vram_gb`.
    """
    return FineTuneMetrics(
        final_train_loss=state.last_train_loss,
        final_val_loss=state.last_val_loss,
        best_val_loss=state.best_val_loss,
        total_steps=state.step,
        training_time_seconds=round(state.seconds, 3),
        peak_ram_gb=round(measure_ram_peak() / 1024**3, 3),
        perplexity=None if state.best_val_loss is None else math.exp(min(state.best_val_loss, 700.0)),
        tokens_per_second=round(state.supervised_tokens / state.seconds, 2) if state.seconds else None,
        **more,
    )


def measure_ram_peak() -> int:
    """Return the largest main memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
