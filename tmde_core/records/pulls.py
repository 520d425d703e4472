"""Describes pulls: fetching a base model from a hub into `data/models`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from tmde_core.records.base import Record

PullForm = Literal["weights", "gguf"]
"""What is fetched: the weights that training starts from, or a GGUF file that runtimes serve."""

PullState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
"""`queued`: its process has not reported yet. `interrupted`: its process died. Everything that was fetched is kept, and
pulling the same model again continues from there."""

PULL_ENDED = frozenset({"done", "failed", "cancelled", "interrupted"})
"""The states in which nothing is transferred."""


class PullRequest(Record):
    """What a person asks to fetch."""

    repository: str
    """`owner/name`, also with `:FILE` or `:QUANTIZATION` behind it, or the address of the model's page."""
    file: str = ""
    """A GGUF file of the repository. Empty: see `form`."""
    form: Literal["auto", "weights", "gguf"] = "auto"
    """`auto`: the weights if the repository has safetensors, otherwise one GGUF file."""
    quantization: str = ""
    """The quantisation of the GGUF file, such as `Q4_K_M`. Empty: Q4_K_M, or the nearest there is."""
    revision: str = ""
    """A branch, a tag or a commit. Empty: `main`."""
    name: str = ""
    """The name of the base model here. Empty: derived from the repository."""


class PullFile(Record):
    """One file of a pull."""

    path: str
    """Its path in the repository."""
    target: str
    """Its path in the base model's folder."""
    size_bytes: int
    """Size in bytes."""
    sha256: str | None = None
    """The SHA-256 that the hub names, hex; None: the file is small and has a `git_sha1`."""
    git_sha1: str | None = None
    """The git blob id that the hub names, hex; None: unknown."""
    bytes_done: int = 0
    """Bytes that are on this disk."""


class LeftOutFile(Record):
    """A file of the repository that is not fetched."""

    path: str
    """Its path in the repository."""
    reason: str
    """Why, as a part of a sentence."""


class GgufChoice(Record):
    """A GGUF model of a repository; one that is split into parts counts once."""

    quantization: str
    """Such as `Q4_K_M`; empty: unknown."""
    path: str
    """The path of the file, or of its first part."""
    size_bytes: int
    """The size of all parts."""
    parts: int = 1
    """Number of files."""


class PullPlan(Record):
    """What a pull will fetch, told before anything is fetched."""

    name: str
    """The name of the base model here."""
    repository: str
    """The repository, `owner/name`."""
    endpoint: str
    """The address of the hub."""
    revision: str
    """The revision that was asked for."""
    commit: str
    """The commit that the revision names now."""
    form: PullForm
    """What is fetched."""
    quantization: str = ""
    """The quantisation of the GGUF file; empty for weights."""
    license: str = ""
    """The licence; empty: the repository names none."""
    gated: bool = False
    """Whether the publisher asks for an agreement before the files can be fetched."""
    files: tuple[PullFile, ...] = ()
    """The files to fetch."""
    total_bytes: int = 0
    """The size of all files."""
    present_bytes: int = 0
    """Bytes of them that are on this disk, from an interrupted pull or an earlier one."""
    free_bytes: int = 0
    """Free disk space."""
    left_out: tuple[LeftOutFile, ...] = ()
    """The files that are not fetched."""
    choices: tuple[GgufChoice, ...] = ()
    """All GGUF models of the repository."""
    aliases: tuple[str, ...] = ()
    """Further names of the model."""
    weights_repository: str = ""
    """The repository of the original weights, as the page of the repository names it; empty: unknown."""
    parameters: int | None = None
    """Number of weights as the hub tells it; None: unknown."""
    notes: tuple[str, ...] = ()
    """What a person should know, in sentences."""
    merges: bool = False
    """Whether a base model of this name is here already and gets another form, or other files."""
    here: bool = False
    """Whether every file is in the base model's folder already."""

    @property
    def missing_bytes(self) -> int:
        """The bytes that still have to be fetched."""
        return max(0, self.total_bytes - self.present_bytes)


class Pull(Record):
    """A pull that was started."""

    id: str
    """The id."""
    name: str
    """The name of the base model."""
    repository: str
    """The repository on the hub."""
    commit: str
    """The commit."""
    form: PullForm
    """What is fetched."""
    state: PullState
    """How it goes."""
    started_at: datetime
    """When it was started."""
    ended_at: datetime | None = None
    """When it ended; None: not yet, or unknown."""
    bytes_done: int = 0
    """Bytes on this disk."""
    bytes_total: int = 0
    """The size of all files."""
    bytes_per_second: float | None = None
    """The speed of the last seconds; None: not known yet."""
    eta_seconds: float | None = None
    """The expected time until everything is fetched; None: not known yet."""
    file: str = ""
    """The file that is being fetched."""
    message: str = ""
    """What happens now, such as waiting for a busy hub; empty while bytes flow."""
    files: tuple[PullFile, ...] = ()
    """The files."""
    error: str | None = None
    """Why it failed or stopped, and what to do, in sentences."""


class PartialPull(Record):
    """What an unfinished pull left on the disk."""

    id: str
    """The id of the last pull; `discard` takes it."""
    name: str
    """The name of the base model."""
    repository: str
    """The repository on the hub; empty: its notes cannot be read."""
    form: PullForm
    """What was fetched."""
    bytes_done: int
    """Bytes on this disk."""
    bytes_total: int
    """The size of all files."""
    changed_at: datetime
    """When it last got bytes."""
