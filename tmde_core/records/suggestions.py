"""Describes which known models fit this machine, before anything is fetched."""

from __future__ import annotations

from typing import Literal

from tmde_core.records.base import Record


class AnsweringFit(Record):
    """Whether a model can answer on this machine."""

    verdict: Literal["card", "ram", "tight", "no"]
    """`card` and `ram`: it fits there; `tight`: it fits with almost nothing left; `no`: it does not fit."""
    place: Literal["card", "ram"]
    """The memory that the figures are about."""
    quantization: str
    """The quantisation that the figures are about."""
    needed_bytes: int
    """Weights, cache and buffers, computed."""
    available_bytes: int
    """What is free now."""
    tokens_per_second: float
    """About how fast one answer is written, computed. On a card it is what a small one reaches."""
    sentence: str
    """All of this in words."""


class TrainingFit(Record):
    """Whether an adapter can be trained on this machine."""

    verdict: Literal["card", "cpu", "no"]
    """`card`: in 4 bits on the card; `cpu`: in 32 bits on the processor; `no`: it does not fit, or takes longer than
    a night."""
    needed_bytes: int
    """For one example at a time, computed."""
    available_bytes: int
    """What is free now."""
    longest_example: int | None = None
    """Tokens of the longest example that fits on the card; None: not on the card."""
    batch: int | None = None
    """How many examples of 1,024 tokens fit on the card at a time, at most 16; None: not on the card."""
    seconds: float | None = None
    """About how long 50 examples of 1,000 tokens take in three epochs on the processor; None: on a card."""
    sentence: str = ""
    """All of this in words."""


class Download(Record):
    """One form of a model that can be fetched."""

    form: Literal["gguf", "weights"]
    """`gguf`: a file to answer with; `weights`: safetensors to train from."""
    quantization: str
    """How the weights are stored; empty for safetensors."""
    size_bytes: int
    """As published or computed; about right."""
    source: str
    """The repository on the hub."""
    gated: bool
    """Whether the publisher wants its terms to be accepted first."""
    command: str
    """The command that fetches it."""


class Suggestion(Record):
    """One known model and how it fits this machine."""

    name: str
    """The name of the base model."""
    about: str
    """What it is good for."""
    license: str
    """SPDX identifier, or the publisher's own name of the licence."""
    parameters: int
    """Number of weights."""
    context_length: int
    """The most tokens that the model was trained for."""
    thinking: bool
    """Whether it thinks before it answers."""
    gated: bool
    """Whether the publisher wants its terms to be accepted before the weights for training can be fetched."""
    answers_here: bool
    """Whether a runtime serves it already."""
    trainable_here: bool
    """Whether weights for training are here already."""
    answering: AnsweringFit
    training: TrainingFit
    downloads: tuple[Download, ...]
    """Its forms; the first is the one that the answering figures are about."""

    @property
    def fits(self) -> bool:
        """Whether it can answer or be trained here."""
        return self.answering.verdict != "no" or self.training.verdict != "no"

    @property
    def pull(self) -> str:
        """The command that fetches the form to answer with."""
        return self.downloads[0].command

    @property
    def pull_weights(self) -> str:
        """The command that fetches the weights to train from."""
        return next(one.command for one in self.downloads if one.form == "weights")


class Best(Record):
    """The model to take."""

    name: str
    reason: str
    """Why it is this one."""
    command: str
    """The command that fetches it; empty: it is here."""


class Suggestions(Record):
    """The known models, the smallest first, and what this machine has."""

    items: tuple[Suggestion, ...]
    best_for_answering: Best | None
    """None: nothing of the list fits."""
    best_for_training: Best | None
    """None: nothing of the list fits."""
    card: str | None
    """The name of the card with the most free memory; None: no NVIDIA card was found."""
    card_available_bytes: int
    ram_available_bytes: int
    disk_available_bytes: int
    cores: int
    """Number of processor cores."""
    remarks: tuple[str, ...] = ()
    """What one should know about the figures."""
