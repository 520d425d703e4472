"""Describes adapters as versions: the manifest on disk, the pointer to the active adapter, and the audit trail."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from tmde_core.records.base import Record

ActivationTrigger = Literal["user", "api", "rollback", "gate"]
Operation = Literal["activate", "rollback", "deactivate", "import", "delete"]
GateStatus = Literal["candidate", "proven", "held-back", "forced"]

MANIFEST_VERSION = 1

TAG = re.compile(r"[A-Za-z0-9._-]{1,40}", re.ASCII)
STABLE = "stable"
"""The tag that protects an adapter from deletion."""
MAX_TAGS = 20


class ManifestHeader(Record):
    """The first part of a manifest, which describes the adapter.

    Lists read only this part, because the lineage is long.
    """

    id: UUID
    """The adapter's id: the id of the run that trained it, or a new id for an imported adapter."""
    created_at: datetime
    """When the adapter was published."""
    base_model: str
    """The base model, as named by the run."""
    base_model_sha256: str | None = None
    """SHA-256 of the base model's weights; None: unknown."""
    tokenizer_sha256: str | None = None
    """SHA-256 of the base model's tokenizer; None: unknown."""
    chat_template_sha256: str | None = None
    """SHA-256 of the base model's chat template; None: unknown."""
    traces_used: int = 0
    """Number of traces that the adapter was trained on."""
    dataset_sha256: str | None = None
    """Hash of the dataset; None: unknown."""
    metrics: dict[str, Any] = msgspec.field(default_factory=dict)
    """`FineTuneMetrics` with its JSON names."""
    tags: tuple[str, ...] = ()
    """The tags that people gave the adapter."""
    gate: GateStatus = "candidate"
    """The gate's decision, based on benchmarks."""
    size_bytes: int = 0
    """Size of all files together."""
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """The SHA-256 of every other file by file name, hexadecimal."""
    name: str = ""
    """The adapter's name for people; empty: none was given, and a name is made from the date."""
    copied_size: Any = msgspec.field(default=None, name="size_bytes")
    """A copy of `sizeBytes` for other tools. TMDE never reads it."""
    copied_active: Any = msgspec.field(default=None, name="isActive")
    """Whether the adapter was active when the manifest was written, for other tools. TMDE never reads it: the pointer
    `active.json` decides."""


class Manifest(ManifestHeader, frozen=True):
    """The file `manifest.json`: the description and origin of the adapter, and the SHA-256 of every other file."""

    lineage: dict[str, Any] = msgspec.field(default_factory=dict)
    """The origin of the adapter: `runId`, `traceIds`."""
    format: int = MANIFEST_VERSION
    """Version of the manifest's file format."""


class AdapterBenchmark(Record):
    """What the benchmark says about an adapter: the run in progress, or else the newest completed run."""

    run_id: UUID
    status: Literal["running", "completed"]
    type: str
    mode: str
    tmde_score: float | None
    """0–100; None: the run is still in progress, or nothing was scored."""
    vs_baseline: float | None
    """Change of the score against the base model, in percent; None: not known."""
    completed_questions: int
    question_count: int


class LoRAAdapter(Record):
    """One adapter in a list. `is_active` is computed on reading."""

    id: UUID
    created_at: datetime
    base_model: str
    is_active: bool
    tags: tuple[str, ...]
    metrics: dict[str, Any]
    traces_used: int
    size_bytes: int
    sha256: str
    """SHA-256 of adapter_model.safetensors, from the manifest."""
    path: str
    is_valid: bool
    invalid_reason: str | None
    gate: GateStatus
    is_answering: bool = False
    """Whether debates are answered with the adapter: it is active and valid. The base model answers if the active adapter
    is damaged."""
    twin_of: UUID | None = None
    """The oldest adapter with the same weights and configuration; None: this one, or there is no other. Lists and imports
    fill it in."""
    name: str = ""
    """What people call the adapter: its own name, that of its training run, or the date."""
    benchmark: AdapterBenchmark | None = None
    """None: it was never measured."""


class ActivePointer(Record):
    """The file `active.json`, the only record of the active adapter."""

    adapter_id: UUID | None
    previous_adapter_id: UUID | None
    since: datetime


class LoRAActivationEvent(Record):
    """One row of the audit trail. `success` is None if the intent was never completed."""

    id: str
    timestamp: datetime
    adapter_id: UUID | None
    """None: the base model."""
    previous_adapter_id: UUID | None
    triggered_by: ActivationTrigger
    success: bool | None
    error_message: str | None = None
    operation: Operation = "activate"
    note: str | None = None
    """The reason, if there is one: forced, rolled back by the gate, or the origin of an import."""


class AdapterDetails(LoRAAdapter, frozen=True):
    """One adapter with everything known about its origin."""

    base_model_sha256: str | None = None
    tokenizer_sha256: str | None = None
    chat_template_sha256: str | None = None
    dataset_sha256: str | None = None
    lineage: dict[str, Any] = msgspec.field(default_factory=dict)
    """`runId`, `traceIds`; for an imported adapter also its origin."""
    training: dict[str, Any] = msgspec.field(default_factory=dict)
    """The content of training_args.json: configuration, backend, versions."""
    files: dict[str, str] = msgspec.field(default_factory=dict)
    """File name → SHA-256, hexadecimal."""
    history: tuple[LoRAActivationEvent, ...] = ()
    """The operations on the adapter, newest first."""


class Verification(Record):
    """The result of reading every byte of an adapter."""

    adapter_id: UUID
    is_valid: bool
    reasons: tuple[str, ...]
    """All problems found; empty if the adapter is valid."""
    files: int
    bytes: int
    ms: float


class StorageFigures(Record):
    """The disk space that adapters use."""

    adapters: int
    invalid: int
    bytes: int
    free_bytes: int


class FieldDifference(Record):
    """A field in which two adapters differ. A value is None if the adapter does not have the field."""

    name: str
    a: Any = None
    b: Any = None


class AdapterComparison(Record):
    """A comparison of two adapters, from A to B."""

    a: LoRAAdapter
    b: LoRAAdapter
    config: tuple[FieldDifference, ...]
    """Hyperparameters and versions that differ."""
    metrics: tuple[FieldDifference, ...]
    """Every metric that A or B has."""
    same_dataset: bool
    traces_added: tuple[str, ...]
    """Ids of the traces that only B learned from."""
    traces_removed: tuple[str, ...]
    traces_shared: int
    benchmark: Any = None
    """The comparison of their newest comparable benchmark runs; None if there are none."""


class LiveAt(Record):
    """The adapter that was active at a given time."""

    at: datetime
    adapter_id: UUID | None
    """None: the base model."""
    since: datetime | None = None
    """When it was activated; None: active from the start."""
    until: datetime | None = None
    """When it was replaced; None: still active."""


def full_name(identity: UUID | str, name: str | None) -> str:
    """Return `Fractions (1a2b3c4d)`, because two adapters may have the same name; without a name, the short id."""
    short = str(identity)[:8]
    if not name:
        return short
    return name if short in name else f"{name} ({short})"
