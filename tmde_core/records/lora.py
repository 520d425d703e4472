"""Adapters as versions: the manifest on disk, the pointer to the active one, and the audit trail."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from tmde_core.records.base import Record

Trigger = Literal["user", "api", "rollback", "gate"]
Operation = Literal["activate", "rollback", "deactivate", "import", "delete"]
Gate = Literal["candidate", "proven", "held-back", "forced"]

MANIFEST_VERSION = 1

TAG = re.compile(r"[A-Za-z0-9._-]{1,40}", re.ASCII)
STABLE = "stable"
"""The tag that protects from deletion."""
MAX_TAGS = 20


class Heading(Record):
    """The first part of a manifest: what the adapter is. Lists read only this part, because the lineage is long."""

    id: UUID
    """The adapter's id: that of the run that made it, or a new one for an import."""
    created_at: datetime
    """When it was published."""
    base_model: str
    """The base model, as the run named it."""
    base_model_sha256: str | None = None
    """SHA-256 of the base model's weights; None: unknown."""
    tokenizer_sha256: str | None = None
    """SHA-256 of the base model's tokenizer; None: unknown."""
    chat_template_sha256: str | None = None
    """SHA-256 of the base model's chat template; None: unknown."""
    traces_used: int = 0
    """How many traces it was trained on."""
    dataset_sha256: str | None = None
    """Hash of the dataset; None: unknown."""
    metrics: dict[str, Any] = msgspec.field(default_factory=dict)
    """`FineTuneMetrics` in its wire form."""
    tags: tuple[str, ...] = ()
    """Names that people gave it."""
    gate: Gate = "candidate"
    """What the benchmarks said of it."""
    size_bytes: int = 0
    """Size of all files together."""
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """The SHA-256 of every other file by its name, hex."""


class Manifest(Heading, frozen=True):
    """The file `manifest.json`: what the adapter is, where it came from, and the SHA-256 of every other file."""

    lineage: dict[str, Any] = msgspec.field(default_factory=dict)
    """Where it came from: `runId`, `traceIds`."""
    format: int = MANIFEST_VERSION
    """Version of the manifest's own format."""


class LoRAAdapter(Record):
    """One adapter, as it is listed. `is_active` is derived on reading."""

    id: UUID
    created_at: datetime
    base_model: str
    is_active: bool
    tags: tuple[str, ...]
    metrics: dict[str, Any]
    traces_used: int
    size_bytes: int
    sha256: str
    """Of adapter_model.safetensors, as the manifest has it."""
    path: str
    is_valid: bool
    invalid_reason: str | None
    gate: Gate


class ActivePointer(Record):
    """`active.json`: the only truth about which adapter answers."""

    adapter_id: UUID | None
    previous_adapter_id: UUID | None
    since: datetime


class LoRAActivationEvent(Record):
    """One row of the audit trail. `success` None: an intent that was never settled."""

    id: int
    timestamp: datetime
    adapter_id: UUID | None
    """None: the base model."""
    previous_adapter_id: UUID | None
    triggered_by: Trigger
    success: bool | None
    error_message: str | None = None
    operation: Operation = "activate"
    note: str | None = None
    """Why, where there is more to say than who: forced, rolled back by the gate, where an import came from."""


class AdapterDetails(LoRAAdapter, frozen=True):
    """One adapter with all that is known of where it came from."""

    base_model_sha256: str | None = None
    tokenizer_sha256: str | None = None
    chat_template_sha256: str | None = None
    dataset_sha256: str | None = None
    lineage: dict[str, Any] = msgspec.field(default_factory=dict)
    """`runId`, `traceIds`; of an import also where it came from."""
    training: dict[str, Any] = msgspec.field(default_factory=dict)
    """What training_args.json says: configuration, backend, versions."""
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """File name → SHA-256, hex."""
    history: tuple[LoRAActivationEvent, ...] = ()
    """What was done with it, newest first."""


class Verification(Record):
    """What reading every byte of an adapter found."""

    adapter_id: UUID
    is_valid: bool
    reasons: tuple[str, ...]
    """Everything that is wrong; empty when nothing is."""
    files: int
    bytes: int
    ms: float


class StorageFigures(Record):
    """What the adapters take of the disk."""

    adapters: int
    invalid: int
    bytes: int
    free_bytes: int


class FieldDifference(Record):
    """A field in which two adapters differ; None where one does not have it."""

    name: str
    a: Any = None
    b: Any = None


class Comparison(Record):
    """Two adapters side by side: from A to B."""

    a: LoRAAdapter
    b: LoRAAdapter
    config: tuple[FieldDifference, ...]
    """Hyperparameters and versions that differ."""
    metrics: tuple[FieldDifference, ...]
    """Every metric that one of them has."""
    same_dataset: bool
    traces_added: tuple[str, ...]
    """Ids of traces that B learned from and A did not."""
    traces_removed: tuple[str, ...]
    traces_shared: int
    benchmark: Any = None
    """Their newest comparable benchmark runs, compared; None when there are none."""


class LiveAt(Record):
    """What answered at a moment."""

    at: datetime
    adapter_id: UUID | None
    """None: the base model."""
    since: datetime | None = None
    """None: since ever."""
    until: datetime | None = None
    """None: to this day."""
