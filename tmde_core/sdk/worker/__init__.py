"""The kit for a training process: the run's examples, event log, heartbeat, checkpoints, cancellation and publication.

Import from this package. Its modules (`kit`, `examples`, `conversation`, `schedule`, `base_identity`, `weights`, `vitals`, `run_files`) are private.
"""

from __future__ import annotations

from tmde_core.sdk.worker.base_identity import SOURCE_FILE, identify_base_model
from tmde_core.sdk.worker.conversation import ConversationEncoder, EncodedExample
from tmde_core.sdk.worker.examples import PreparedExamples, UnusableExampleError, prepare_examples
from tmde_core.sdk.worker.kit import (
    BaseIdentity,
    CancelledRunError,
    RunEvents,
    RunWorker,
    TrainingFailedError,
    check_loss,
    describe_failure,
    list_checkpoints,
)
from tmde_core.sdk.worker.schedule import PATIENCE, learning_rate, order_examples
from tmde_core.sdk.worker.vitals import measure_memory
from tmde_core.sdk.worker.weights import find_weights, prepare_weights

__all__ = [
    "PATIENCE",
    "SOURCE_FILE",
    "BaseIdentity",
    "CancelledRunError",
    "ConversationEncoder",
    "EncodedExample",
    "PreparedExamples",
    "RunEvents",
    "RunWorker",
    "TrainingFailedError",
    "UnusableExampleError",
    "check_loss",
    "describe_failure",
    "find_weights",
    "identify_base_model",
    "learning_rate",
    "list_checkpoints",
    "measure_memory",
    "order_examples",
    "prepare_examples",
    "prepare_weights",
]
