"""The kit for a training process: the run's examples, event log, heartbeat, checkpoints, cancellation and publication.

Import from this package. Its modules (`kit`, `examples`, `conversation`, `state` and the others) are private.
"""

from __future__ import annotations

from tmde_core.sdk.worker.base_identity import SOURCE_FILE, identify_base_model
from tmde_core.sdk.worker.conversation import IGNORED, ConversationEncoder, EncodedExample
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
from tmde_core.sdk.worker.loaded_model import (
    TARGET_MODULES,
    check_loaded_model,
    describe_no_card,
    log_no_card,
    require_card,
    seed_run,
)
from tmde_core.sdk.worker.measuring import Measurement
from tmde_core.sdk.worker.preview import ExaminedDataset, examine_dataset, write_preview
from tmde_core.sdk.worker.publishing import describe_metrics, measure_ram_peak, stage_adapter
from tmde_core.sdk.worker.schedule import PATIENCE, learning_rate, order_examples
from tmde_core.sdk.worker.state import (
    TrainingState,
    check_fingerprint,
    copy_weights,
    put_weights,
    read_state,
    record_validation,
    restore_optimizer,
    restore_weights,
    resume_state,
    save_state,
)
from tmde_core.sdk.worker.tokenizer import load_tokenizer, name_base_model
from tmde_core.sdk.worker.vitals import measure_memory
from tmde_core.sdk.worker.weights import find_weights, prepare_weights

__all__ = [
    "IGNORED",
    "PATIENCE",
    "SOURCE_FILE",
    "TARGET_MODULES",
    "BaseIdentity",
    "CancelledRunError",
    "ConversationEncoder",
    "EncodedExample",
    "ExaminedDataset",
    "Measurement",
    "PreparedExamples",
    "RunEvents",
    "RunWorker",
    "TrainingFailedError",
    "TrainingState",
    "UnusableExampleError",
    "check_fingerprint",
    "check_loaded_model",
    "check_loss",
    "copy_weights",
    "describe_failure",
    "describe_metrics",
    "describe_no_card",
    "examine_dataset",
    "find_weights",
    "identify_base_model",
    "learning_rate",
    "list_checkpoints",
    "load_tokenizer",
    "log_no_card",
    "measure_memory",
    "measure_ram_peak",
    "name_base_model",
    "order_examples",
    "prepare_examples",
    "prepare_weights",
    "put_weights",
    "read_state",
    "record_validation",
    "require_card",
    "restore_optimizer",
    "restore_weights",
    "resume_state",
    "save_state",
    "seed_run",
    "stage_adapter",
    "write_preview",
]
