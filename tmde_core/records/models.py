"""Describes base models: one thing with several forms, which are served or trained."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from tmde_core.records.base import Record

MODEL_FILE = "model.json"
"""The name of the file that holds the `ModelNotes` of a base model's folder."""
WEIGHTS_FOLDER = "weights"
"""The folder, inside a base model's folder, that holds its safetensors, configuration and tokenizer."""


class FileNotes(Record):
    """What is known of one file of a base model."""

    size_bytes: int
    """Size in bytes."""
    sha256: str | None = None
    """SHA-256, hex; None: not computed."""


class ServerModel(Record):
    """The name of a base model on a server."""

    runtime: str
    """The name of the runtime, such as `ollama`."""
    model: str
    """The runtime's own name of the model."""


class ModelNotes(Record):
    """The content of `data/models/NAME/model.json`: what cannot be read from the files of a base model."""

    name: str
    """The name of the base model, and of its folder."""
    license: str = ""
    """The licence, as an SPDX identifier where there is one, such as `apache-2.0`. Empty: unknown."""
    parameters: int | None = None
    """Number of weights."""
    context_length: int | None = None
    """The most tokens that the model was trained for."""
    source: str = ""
    """The repository of the weights on a hub, such as `Qwen/Qwen3-4B`. Empty: unknown."""
    revision: str = ""
    """The revision (commit) of `source`. Empty: unknown."""
    gguf_source: str = ""
    """The repository of the GGUF file, where it differs from `source`."""
    gguf_revision: str = ""
    """The revision (commit) of `gguf_source`."""
    aliases: tuple[str, ...] = ()
    """Further names of the same model, such as its publisher's. Upper and lower case do not matter."""
    servers: tuple[ServerModel, ...] = ()
    """Its names on servers."""
    files: dict[str, FileNotes] = msgspec.field(default_factory=dict)
    """What is known of its files, by their path in the folder, such as `weights/model.safetensors`."""
    added_at: datetime | None = None
    """When it was pulled or added."""


class ServedForm(Record):
    """A form of a base model that a runtime serves."""

    runtime: str
    """The name of the runtime."""
    model: str
    """The runtime's own name of the model. A role's setting `model` takes it."""
    path: str | None = None
    """The path of the file or directory; None: it is on a server."""
    quantization: str = ""
    """How the weights are stored, such as `Q4_K_M`; empty: unknown."""
    size_bytes: int | None = None
    """Size; None: unknown."""
    sha256: str | None = None
    """SHA-256 of the file, hex; None: unknown or not computed."""
    context_length: int | None = None
    """The most tokens that a prompt and its answer may have together as it is served now."""
    default: bool = False
    """Whether the runtime serves this model to requests that name none."""
    loaded: bool = False
    """Whether it is in memory."""


class TrainableForm(Record):
    """Weights of a base model that a training backend can start from."""

    kind: Literal["safetensors", "gguf"]
    """`safetensors`: a directory as published; `gguf`: a GGUF file that is dequantised before training."""
    path: str
    """The directory or the file."""
    size_bytes: int | None = None
    """Size."""
    sha256: str | None = None
    """SHA-256 of the weights where they are one file, hex; None: unknown or not computed."""
    revision: str = ""
    """The hub's revision; empty: unknown."""


class BaseModel(Record):
    """A base model with all its forms on this machine and on the configured servers."""

    name: str
    """The name. Every command and page names the model by it."""
    license: str = ""
    """The licence; empty: unknown."""
    parameters: int | None = None
    """Number of weights; None: unknown."""
    context_length: int | None = None
    """The most tokens that the model was trained for; None: unknown."""
    architecture: str = ""
    """llama.cpp's or transformers' name of the architecture, such as `qwen3`; empty: unknown."""
    source: str = ""
    """The repository on a hub; empty: unknown."""
    revision: str = ""
    """The revision of `source`."""
    aliases: tuple[str, ...] = ()
    """Further names of the same model."""
    served: tuple[ServedForm, ...] = ()
    """The forms that can answer."""
    trainable: TrainableForm | None = None
    """The form that training starts from; None: there is none here."""
    why_not_trainable: str = ""
    """Why it cannot be trained, and what to do, in sentences. Empty if `trainable` is there."""
    embedded: bool = False
    """Whether it is the small model that TMDE brings."""
    folder: str | None = None
    """Its folder in `data/models`; None: TMDE keeps nothing for it."""
    roles: tuple[str, ...] = ()
    """The roles of the debate that it answers for now."""
    adapters: int = 0
    """Number of adapters on it."""
    size_bytes: int = 0
    """Bytes that its folder takes."""
