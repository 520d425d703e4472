"""The kit for a training process: the run's examples, event log, heartbeat, checkpoints, cancellation and publication.

Import from this package. Its modules (`kit`, `examples`, `vitals`, `run_files`) are private.
"""

from __future__ import annotations

from tmde_core.sdk.worker.examples import PreparedExamples, UnusableExampleError, prepare_examples
from tmde_core.sdk.worker.kit import (
    BaseIdentity,
    CancelledRunError,
    RunEvents,
    RunWorker,
    TrainingFailedError,
    describe_failure,
    list_checkpoints,
)
from tmde_core.sdk.worker.vitals import measure_memory

__all__ = [
    "BaseIdentity",
    "CancelledRunError",
    "PreparedExamples",
    "RunEvents",
    "RunWorker",
    "TrainingFailedError",
    "UnusableExampleError",
    "describe_failure",
    "list_checkpoints",
    "measure_memory",
    "prepare_examples",
]
