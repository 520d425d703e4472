"""A training backend that plans a plain LoRA run. The module `worker` trains in a subprocess."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import BackendDescriptor, ResourceEstimate, TrainingJob, WorkerCommand

LIBRARIES = ("torch", "transformers", "peft", "safetensors")
# Threads that spin while they wait slow each other down when the machine is busy.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}


class PlainSettings(PluginSettings):
    targets: Annotated[tuple[str, ...], Meta(title="Modules to adapt")] = ("q_proj", "v_proj")


class PlainBackend:
    def __init__(self, context: PluginContext[PlainSettings]) -> None:
        self._targets = context.settings.targets

    def availability(self) -> Availability:
        missing = ", ".join(name for name in LIBRARIES if find_spec(name) is None)
        return Availability(ok=not missing, reason=f"Install {missing}." if missing else "")

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        weights = sum(file.stat().st_size for file in Path(job.base_model).glob("*.safetensors"))
        return ResourceEstimate(ram_bytes=500_000_000 + 3 * weights)  # libraries, model, gradients

    def plan(self, job: TrainingJob) -> WorkerCommand:
        for name in ("config.json", "tokenizer.json", "*.safetensors"):
            if not job.base_model or not any(Path(job.base_model).glob(name)):
                raise InvalidInputError(f"The base model {job.base_model!r} has no {name}.")
        worker = (sys.executable, "-m", "tmde_trainer_plain.worker")
        job_file = str(Path(job.run_dir) / "job.json")
        return WorkerCommand(argv=(*worker, job_file, *self._targets), env=ENVIRONMENT)


@hookimpl
def tmde_training_backends() -> list[BackendDescriptor]:
    return [
        BackendDescriptor(
            name="plain", summary="a plain LoRA loop", settings=PlainSettings, create=PlainBackend
        )
    ]
