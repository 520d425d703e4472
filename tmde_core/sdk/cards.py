"""What a training backend needs to train on an NVIDIA card: settings, availability, and the choice of one card.

On a machine with several cards, a run uses one: the card that has most free memory now, among those that are like the
one that the probe has examined. `CUDA_VISIBLE_DEVICES` of the server is respected. The estimate and the worker
use the same functions, so they mean the same card.

    environment = Environment.of(context, "mine", ENVIRONMENT)
    availability = card_availability(environment, context.settings)
    card = find_card(environment)
    WorkerCommand(argv=..., env={**environment.variables, **TRAINING_VARIABLES, **card_variables(card)})
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec

from tmde_core.records.runtimes import Availability
from tmde_core.sdk.environments import Environment, EnvironmentSettings

__all__ = [
    "Card",
    "CardSettings",
    "card_availability",
    "card_recommendation",
    "card_variables",
    "choose_card",
    "find_card",
    "parse_cards",
    "read_cards",
    "same_card_name",
    "short_card_name",
    "usable_cards",
]

NVIDIA_SMI_SECONDS = 5.0
"""The time limit for `nvidia-smi`, so that a hanging driver does not block the caller."""

MIB = 1024**2

QUERY = "--query-gpu=name,memory.total,memory.used,utilization.gpu,index,uuid"

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


@dataclass(frozen=True)
class Card:
    """A graphics card."""

    name: str
    """The name that the driver gives it."""
    total_bytes: int | None
    """All memory; None: unknown."""
    used_bytes: int = 0
    """Memory that is in use now."""
    utilization_percent: float | None = None
    """The busy share, 0–100. None: unknown."""
    index: str = ""
    """Its number in `nvidia-smi`. Empty: unknown."""
    uuid: str = ""
    """Its UUID, such as `GPU-5a1f…`. Empty: unknown."""
    visible_as: str = ""
    """What makes CUDA use this card alone, as the value of `CUDA_VISIBLE_DEVICES`. Empty: unknown."""

    @property
    def free_bytes(self) -> int:
        """Memory that is free now; 0 if it is unknown."""
        return (self.total_bytes or 0) - self.used_bytes


class CardSettings(EnvironmentSettings, frozen=True, kw_only=True):
    """Base of the settings of a backend that trains on a card, in an environment of its own."""

    allow_cpu: Annotated[
        bool,
        msgspec.Meta(
            title="Train without a card",
            description=(
                "Trains on the CPU where there is no NVIDIA card. Much slower, and the base model is not in 4 bits. "
                "The backend `cpu` is faster there."
            ),
        ),
    ] = False
    """Whether the backend may train without a card."""


def card_availability(environment: Environment, settings: CardSettings) -> Availability:
    """Return whether the environment is complete and has a card, from what its probe found.

    Args:
        environment: the environment of the backend.
        settings: its settings, which may allow to train without a card.
    """
    found = environment.availability()
    report = environment.report()
    if not found.ok or report is None or report.device == "cuda" or settings.allow_cpu:
        return Availability(ok=True) if found.ok and report is not None else found
    return Availability(
        ok=False,
        reason=(
            "There is no NVIDIA card that PyTorch can use. Train with the backend `cpu`, or set allow_cpu = true "
            f"in [backends.{environment.name}] to train here without a card, which is much slower."
        ),
    )


def card_recommendation(environment: Environment, settings: CardSettings) -> Availability:
    """Return whether `auto` should choose a backend that trains on a card: only with a card."""
    found = card_availability(environment, settings)
    report = environment.report()
    if not found.ok or report is None:
        return found
    if report.device != "cuda":
        return Availability(ok=False, reason="There is no card, and without one the backend `cpu` is faster.")
    return Availability(ok=True, reason=f"It trains on {report.device_name}.")


def find_card(environment: Environment) -> Card | None:
    """Return the card that a run uses if it starts now; None if the probe has found none.

    If `nvidia-smi` does not list a card of the name that the probe has found, the card is that of the probe. CUDA then
    chooses one.
    """
    report = environment.report()
    if report is None or report.device != "cuda":
        return None
    name = report.device_name or "the card"
    chosen = choose_card(usable_cards(read_cards()), name)
    if chosen is None or not report.device_name:
        return Card(name, report.memory_bytes)
    return replace(chosen, name=name)  # runs are compared by the name that PyTorch gives


def card_variables(card: Card | None) -> Mapping[str, str]:
    """Return the environment variables that make a worker use this card alone. Empty if CUDA has to choose."""
    return {VISIBLE: card.visible_as} if card is not None and card.visible_as else {}


def choose_card(cards: Iterable[Card], name: str = "") -> Card | None:
    """Return the card with the most free memory; None if there is none.

    Args:
        cards: the cards to choose from.
        name: only cards of this name. Empty: any card.
    """
    alike = [card for card in cards if not name or same_card_name(card.name, name)]
    return max(alike, key=lambda card: card.free_bytes, default=None)


def usable_cards(cards: Sequence[Card], environ: Mapping[str, str] | None = None) -> tuple[Card, ...]:
    """Return the cards that CUDA may use, as `CUDA_VISIBLE_DEVICES` says.

    Args:
        cards: all cards.
        environ: the environment variables; None: those of this process.
    """
    environ = os.environ if environ is None else environ
    wish = environ.get(VISIBLE)
    if wish is None:
        return tuple(replace(card, visible_as=card.uuid) for card in cards)
    # CUDA numbers unlike cards by their speed unless it is told otherwise. What a number means is then not known here.
    numbered = environ.get(ORDER) == "PCI_BUS_ID" or len({card.name for card in cards}) <= 1
    usable: list[Card] = []
    for word in (one.strip() for one in wish.split(",")):
        if (word.isdigit() and not numbered) or word.startswith("MIG-"):
            return tuple(cards)
        found = next((card for card in cards if _means(word, card)), None)
        if found is None:  # CUDA ignores what follows, too
            break
        usable.append(replace(found, visible_as=word))
    return tuple(usable)


def read_cards() -> tuple[Card, ...]:
    """Return the NVIDIA cards that `nvidia-smi` reports; empty if it is missing, fails or does not respond."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        done = subprocess.run(
            [tool, QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_cards(done.stdout)


def parse_cards(text: str) -> tuple[Card, ...]:
    """Parse lines of `name, total MiB, used MiB, percent, index, UUID`; skip lines whose memory is "[N/A]"."""
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        cells = [cell.strip() for cell in row]
        if len(cells) == 6 and cells[1].isdigit() and cells[2].isdigit():
            name, total, used, busy, index, uuid = cells
            percent = float(busy) if busy.isdigit() else None
            found.append(Card(name, int(total) * MIB, int(used) * MIB, percent, index, uuid))
    return tuple(found)


def same_card_name(one: str, other: str) -> bool:
    """Return whether two names mean the same kind of card. Drivers write or leave out the maker."""
    return short_card_name(one) == short_card_name(other)


def short_card_name(name: str) -> str:
    """Return the name of a card without its maker: `RTX 3090` of `NVIDIA GeForce RTX 3090`."""
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _means(word: str, card: Card) -> bool:
    """Return whether a word of `CUDA_VISIBLE_DEVICES` is the number of a card, or the beginning of its UUID."""
    return word == card.index if word.isdigit() else word.startswith("GPU-") and card.uuid.startswith(word)
