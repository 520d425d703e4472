"""The models that TMDE knows by name: which forms they have, under which licence, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tmde_core.models.fit import Architecture
from tmde_core.models.names import make_bare
from tmde_core.records.base import Record, from_json

KNOWN_FILE = Path(__file__).with_name("known.json")


class KnownFile(Record):
    """One GGUF form of a known model."""

    quantization: str
    """How the weights are stored, such as `Q4_K_M`."""
    size_bytes: int
    """Size in bytes, as published or computed; about right."""
    file: str = ""
    """The name of the file in the repository `gguf_source`; empty: not known for certain."""


class KnownModel(Record):
    """A model that TMDE can suggest."""

    name: str
    """The name of the base model and of its folder."""
    about: str
    """What it is good for, in one sentence."""
    license: str
    """SPDX identifier, or the publisher's own name of the licence."""
    parameters: int
    """Number of weights."""
    context_length: int
    """The most tokens that the model was trained for."""
    source: str
    """The repository of the weights on the Hugging Face hub."""
    weights_bytes: int
    """Size of the safetensors."""
    blocks: int
    """Number of layers."""
    width: int
    """Size of the hidden state."""
    feed_forward: int
    """Size of the feed-forward layer."""
    heads: int
    """Number of attention heads."""
    key_heads: int
    """Number of heads of keys and values."""
    head_size: int
    """Numbers in one head."""
    vocabulary: int
    """Number of tokens of the vocabulary."""
    tied_head: bool
    """Whether the output layer shares the weights of the embedding."""
    gguf_source: str = ""
    """The repository of the GGUF files; empty: none is known."""
    gguf: tuple[KnownFile, ...] = ()
    """The GGUF files, the recommended one first."""
    ollama: tuple[str, ...] = ()
    """Its names in Ollama's library."""
    gated: bool = False
    """Whether the publisher wants its terms to be accepted before the weights can be fetched."""
    thinking: bool = False
    """Whether it thinks before it answers."""

    @property
    def architecture(self) -> Architecture:
        """The sizes that decide how much memory it needs."""
        return Architecture(
            blocks=self.blocks,
            width=self.width,
            feed_forward=self.feed_forward,
            heads=self.heads,
            key_heads=self.key_heads,
            head_size=self.head_size,
            vocabulary=self.vocabulary,
            tied_head=self.tied_head,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the model."""
        return tuple(filter(None, (self.name, self.source, self.gguf_source, *self.ollama)))


class _KnownFile(Record):
    note: str = ""
    models: tuple[KnownModel, ...] = ()


@cache
def list_known() -> Sequence[KnownModel]:
    """Return the known models, the smallest first."""
    return from_json(KNOWN_FILE.read_bytes(), _KnownFile).models


def find_known(name: str) -> KnownModel | None:
    """Return the known model that a publisher's, file's or Ollama's name means, or None."""
    bare = make_bare(name)
    if not bare:
        return None
    for one in list_known():
        joined = one.source.replace("/", "_")  # some converters name their files OWNER_NAME
        if bare in {make_bare(known) for known in (*one.names, joined, *(file.file for file in one.gguf))}:
            return one
    return None
