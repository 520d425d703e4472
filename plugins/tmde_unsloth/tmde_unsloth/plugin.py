"""Define what this plugin provides: the training backend `unsloth`. The import loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.training import BackendDescriptor, TrainingBackend
from tmde_unsloth.environment import ENVIRONMENT
from tmde_unsloth.options import UnslothSettings


@hookimpl
def tmde_training_backends() -> Sequence[BackendDescriptor]:
    """Describe the training backend `unsloth`."""
    return [
        BackendDescriptor(
            name="unsloth",
            summary="trains LoRA adapters on an NVIDIA card with Unsloth, the base model in 4 bits",
            settings=UnslothSettings,
            environment_spec=ENVIRONMENT,
            preference=20,
            uses_card=True,
            create=_backend,
        )
    ]


def _backend(context: PluginContext[UnslothSettings]) -> TrainingBackend:
    from tmde_unsloth.backend import UnslothBackend

    return UnslothBackend(context)
