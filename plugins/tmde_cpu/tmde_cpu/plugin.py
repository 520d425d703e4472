"""Define what this plugin provides: the embedded runtime and the CPU backend. The import loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.runtimes import Availability, ModelRuntime, RuntimeDescriptor
from tmde_core.sdk.training import BackendDescriptor, TrainingBackend
from tmde_cpu.environment import ENVIRONMENT, CpuSettings
from tmde_cpu.serving.options import EmbeddedSettings


@hookimpl
def tmde_model_runtimes() -> Sequence[RuntimeDescriptor]:
    """Describe the runtime `embedded`."""
    return [
        RuntimeDescriptor(
            name="embedded",
            summary="llama.cpp on this machine's CPU, with a small model that is always there",
            settings=EmbeddedSettings,
            default=True,
            create=_embedded,
            availability=_embedded_availability,
        )
    ]


@hookimpl
def tmde_training_backends() -> Sequence[BackendDescriptor]:
    """Describe the training backend `cpu`."""
    return [
        BackendDescriptor(
            name="cpu",
            summary="trains LoRA adapters on the CPU, in float32",
            settings=CpuSettings,
            environment_spec=ENVIRONMENT,
            default=True,
            create=_cpu_backend,
        )
    ]


def _embedded(context: PluginContext[EmbeddedSettings]) -> ModelRuntime:
    from tmde_cpu.serving.runtime import EmbeddedRuntime

    return EmbeddedRuntime(context)


def _embedded_availability(context: PluginContext[EmbeddedSettings]) -> Availability:
    from tmde_cpu.serving.runtime import availability

    return availability(context)


def _cpu_backend(context: PluginContext[CpuSettings]) -> TrainingBackend:
    from tmde_cpu.backend import CpuBackend

    return CpuBackend(context)
