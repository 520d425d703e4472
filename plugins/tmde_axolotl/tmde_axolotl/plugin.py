"""Define what this plugin provides: the training backend `axolotl`. The import loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from tmde_axolotl.environment import ENVIRONMENT
from tmde_axolotl.options import AxolotlSettings
from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.training import BackendDescriptor, TrainingBackend


@hookimpl
def tmde_training_backends() -> Sequence[BackendDescriptor]:
    """Describe the training backend `axolotl`."""
    return [
        BackendDescriptor(
            name="axolotl",
            summary="trains LoRA adapters on an NVIDIA card with Axolotl, whose YAML you can extend",
            settings=AxolotlSettings,
            environment_spec=ENVIRONMENT,
            preference=10,
            uses_card=True,
            create=_backend,
        )
    ]


def _backend(context: PluginContext[AxolotlSettings]) -> TrainingBackend:
    from tmde_axolotl.backend import AxolotlBackend

    return AxolotlBackend(context)
