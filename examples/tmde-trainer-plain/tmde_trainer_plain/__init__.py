"""A training backend that plans a plain LoRA run. The worker module trains, in a process of its own."""

import sys
from importlib.util import find_spec
from pathlib import Path

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.training import Availability, BackendDescriptor, ResourceEstimate, TrainingJob, WorkerCommand

LIBRARIES = ("torch", "transformers", "peft", "safetensors")


class PlainBackend:
    def __init__(self, context: PluginContext[PluginSettings]) -> None:
        self._log = context.log

    def availability(self) -> Availability:
        missing = ", ".join(name for name in LIBRARIES if find_spec(name) is None)
        return Availability(ok=not missing, reason=f"Install {missing}." if missing else "")

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        weights = sum(file.stat().st_size for file in Path(job.base_model).glob("*.safetensors"))
        return ResourceEstimate(ram_bytes=500_000_000 + 3 * weights)  # the libraries; weights, gradients, activations

    def plan(self, job: TrainingJob) -> WorkerCommand:
        for name in ("config.json", "tokenizer.json", "*.safetensors"):
            if not job.base_model or not any(Path(job.base_model).glob(name)):
                raise InvalidInputError(f"Name a directory as the base model: {job.base_model!r} has no {name}.")
        argv = (sys.executable, "-m", "tmde_trainer_plain.worker", str(Path(job.run_dir) / "job.json"))
        return WorkerCommand(argv=argv, env={"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"})


@hookimpl
def tmde_training_backends() -> list[BackendDescriptor]:
    return [
        BackendDescriptor(name="plain", summary="a plain LoRA loop with transformers and peft", create=PlainBackend)
    ]
