"""Says which known models fit a machine, for answering and for training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from tmde_core.models.fit import (
    GB,
    compute_answer_bytes,
    compute_card_bytes,
    compute_cpu_bytes,
    estimate_answer_speed,
    estimate_cpu_seconds,
    find_largest_batch,
)
from tmde_core.models.known import KnownFile, KnownModel, find_known, list_known
from tmde_core.records.models import BaseModel
from tmde_core.records.suggestions import AnsweringFit, Best, Download, Suggestion, Suggestions, TrainingFit
from tmde_core.resources import Resources

CONTEXT, SLOTS = 4096, 4
"""What the embedded runtime takes unless the settings say otherwise."""
RANK = 16
"""The rank of an adapter unless the hyperparameters say otherwise."""
COMFORT = 0.85
"""The share of the free memory that a model may take. The rest is for what is not computed, and for other programs."""
HALF = 0.5
"""The share of the free RAM that the weights of a suggested model may take."""
USEFUL_SPEED = 5.0
"""Tokens a second; a person reads about as fast. A slower debate is waited for."""
CARD_SHARE = 0.95
"""The share of a card's free memory that training may take. A backend that runs out of memory takes smaller batches."""
EXAMPLE_LENGTHS = (4096, 2048, 1024)
"""The longest example that is tried, in tokens, the hyperparameters' default first."""
LONGEST_EXAMPLE = EXAMPLE_LENGTHS[0]
BATCH_LENGTH, MOST_BATCH = 1024, 16
RUN_TOKENS = 50 * 1000 * 3
"""The run whose time is told: 50 examples of 1,000 tokens, three epochs."""
LONGEST_RUN_SECONDS = 8 * 3600
"""A night."""

COMPUTED = (
    "The figures are computed from the sizes of the models; nothing was measured on this machine. Answering is for "
    f"{SLOTS} answers at a time of {CONTEXT:,} tokens each."
)
NO_CARD = (
    "No NVIDIA card was found (nvidia-smi). The memory of other cards is not known here; on a Mac, the card shares the "
    "memory that is counted."
)

NO_CARD_BACKEND = "No installed training backend uses the card, so training is computed for the processor."


class _Machine(NamedTuple):
    card: str | None
    card_free: int
    ram_free: int
    disk_free: int
    cores: int
    trains_on_card: bool = True


def suggest(
    resources: Resources,
    bases: Iterable[BaseModel] = (),
    *,
    cores: int | None = None,
    trains_on_card: bool = True,
    backend_to_install: str = "",
) -> Suggestions:
    """Return how each known model fits a machine, and which is the best one for answering and for training.

    Args:
        resources: what the machine has and what is free.
        bases: the base models that are here already.
        cores: the number of cores that compute; None: as many as the machine has processors.
        trains_on_card: whether a training backend uses the card.
        backend_to_install: the backend whose packages are missing for that; empty if none are.
    """
    card = max(resources.gpus, key=lambda one: one.total_bytes - one.used_bytes, default=None)
    machine = _Machine(
        card.name if card else None,
        max(0, card.total_bytes - card.used_bytes) if card else 0,
        resources.ram.available_bytes,
        resources.disk.available_bytes,
        max(1, cores or resources.cpu.count),
        trains_on_card,
    )
    remarks = [COMPUTED]
    if card is None:
        remarks.append(NO_CARD)
    elif card.used_bytes > (1 - COMFORT) * card.total_bytes:
        remarks.append(
            f"{_gb(card.used_bytes)} of the {_gb(card.total_bytes)} of the card {card.name} are in use now. Only the free "
            "rest is counted; end what uses it to see what would fit then."
        )
    if card is not None and not trains_on_card:
        remarks.append(NO_CARD_BACKEND)
    elif card is not None and backend_to_install:
        remarks.append(
            f"Training on the card needs packages that are not here yet: `tmde backends install {backend_to_install}`."
        )
    here = [(known.name, base) for base in bases if (known := _find_known(base)) is not None]
    items = tuple(
        _suggest(model, machine, [base for name, base in here if name == model.name]) for model in list_known()
    )
    return Suggestions(
        items=items,
        best_for_answering=_choose_for_answering(items, machine),
        best_for_training=_choose_for_training(items, machine),
        card=machine.card,
        card_available_bytes=machine.card_free,
        ram_available_bytes=machine.ram_free,
        disk_available_bytes=machine.disk_free,
        cores=machine.cores,
        remarks=tuple(remarks),
    )


def _find_known(base: BaseModel) -> KnownModel | None:
    names = (base.name, base.source, *base.aliases)
    return next(filter(None, map(find_known, filter(None, names))), None)


def _suggest(model: KnownModel, machine: _Machine, here: Sequence[BaseModel]) -> Suggestion:
    answering = fit_answering(model, machine)
    files = sorted(model.gguf, key=lambda file: file.quantization != answering.quantization)
    return Suggestion(
        name=model.name,
        about=model.about,
        license=model.license,
        parameters=model.parameters,
        context_length=model.context_length,
        thinking=model.thinking,
        gated=model.gated,
        answers_here=any(base.served for base in here),
        trainable_here=any(base.trainable is not None for base in here),
        answering=answering,
        training=fit_training(model, machine),
        downloads=(*(_describe_file(model, file) for file in files), _describe_weights(model)),
    )


def _describe_file(model: KnownModel, file: KnownFile) -> Download:
    return Download(
        form="gguf",
        quantization=file.quantization,
        size_bytes=file.size_bytes,
        source=model.gguf_source,
        gated=False,  # the repositories of the GGUF files are open
        command=f"tmde models pull {model.gguf_source}:{file.file or file.quantization}",
    )


def _describe_weights(model: KnownModel) -> Download:
    return Download(
        form="weights",
        quantization="",
        size_bytes=model.weights_bytes,
        source=model.source,
        gated=model.gated,
        command=f"tmde models pull {model.source} --weights",
    )


# ----------------------------------------------------------------------------------------------- answering


def fit_answering(model: KnownModel, machine: _Machine) -> AnsweringFit:
    """Return where a model can answer: on the card if it fits there, else in RAM. The first quantisation that fits wins.

    In RAM, a quantisation also has to be fast enough to be useful if there is a smaller one.
    """
    tried = [
        _weigh(model, file, machine, on_card=on_card)
        for on_card in ((True, False) if machine.card else (False,))
        for file in model.gguf
    ]
    comfortable = [one for one in tried if one.verdict in ("card", "ram")]
    useful = [one for one in comfortable if one.place == "card" or one.tokens_per_second >= USEFUL_SPEED]
    tight = [one for one in tried if one.verdict == "tight"]
    fastest = sorted(comfortable, key=lambda one: -one.tokens_per_second)
    smallest = sorted(tried, key=lambda one: one.needed_bytes)
    return next(iter((*useful, *(one for one in tight if one.place == "card"), *fastest, *tight, *smallest)))


def _weigh(model: KnownModel, file: KnownFile, machine: _Machine, *, on_card: bool) -> AnsweringFit:
    shape, context = model.architecture, min(CONTEXT, model.context_length)
    needed = compute_answer_bytes(shape, file.size_bytes, context, SLOTS, on_card=on_card)
    free = machine.card_free if on_card else machine.ram_free
    speed = estimate_answer_speed(file.size_bytes, machine.cores, on_card=on_card)
    where = "on the card" if on_card else "in memory"
    figures = f"it needs {_gb(needed)} of the {_gb(free)} that are free"
    verdict: Literal["card", "ram", "tight", "no"] = "no"
    if needed <= COMFORT * free:
        verdict = "card" if on_card else "ram"
        told = f"Fits {where}: {figures}. About {_speed(speed, on_card)}."
    elif needed <= free:
        verdict = "tight"
        told = f"Only just fits {where}: {figures}. End other programs, or use a shorter context or fewer slots."
    else:
        told = f"Does not fit {where}: it needs {_gb(needed)}, and {_gb(free)} are free."
    return AnsweringFit(
        verdict=verdict,
        place="card" if on_card else "ram",
        quantization=file.quantization,
        needed_bytes=needed,
        available_bytes=free,
        tokens_per_second=round(speed, 1),
        sentence=told,
    )


def _speed(speed: float, on_card: bool) -> str:
    return f"{speed:.0f} tokens a second{' or more' if on_card else ''}" if speed >= 1 else "1 token a second or less"


# ------------------------------------------------------------------------------------------------ training


def fit_training(model: KnownModel, machine: _Machine) -> TrainingFit:
    """Return how an adapter can be trained: on the card if one example fits there, else on the processor."""
    on_card = _train_on_card(model, machine) if machine.trains_on_card else None
    return on_card or _train_on_cpu(model, machine)


def _train_on_card(model: KnownModel, machine: _Machine) -> TrainingFit | None:
    shape, free = model.architecture, int(CARD_SHARE * machine.card_free)
    for length in EXAMPLE_LENGTHS:
        needed = compute_card_bytes(shape, rank=RANK, batch=1, length=length).total_bytes
        if needed <= free:
            batch = find_largest_batch(shape, free, rank=RANK, length=BATCH_LENGTH, most=MOST_BATCH)
            return TrainingFit(
                verdict="card",
                needed_bytes=needed,
                available_bytes=machine.card_free,
                longest_example=length,
                batch=batch,
                sentence=f"Trains on the card in 4 bits: an example of {length:,} tokens needs {_gb(needed)} of the "
                f"{_gb(machine.card_free)} that are free. {_examples(batch)} of 1,000 tokens fit{'s' * (batch == 1)} at a time.",
            )
    return None


def _train_on_cpu(model: KnownModel, machine: _Machine) -> TrainingFit:
    shape = model.architecture
    needed, seconds = compute_cpu_bytes(shape), estimate_cpu_seconds(shape, RUN_TOKENS, machine.cores)
    run = f"about {_duration(seconds)} for 50 examples of 1,000 tokens and three epochs"
    if needed > COMFORT * machine.ram_free:
        told = (
            f"Cannot be trained: on the processor it needs {_gb(needed)}, more than {COMFORT:.0%} of the "
            f"{_gb(machine.ram_free)} that are free."
        )
        if machine.card and machine.trains_on_card:
            least = compute_card_bytes(shape, rank=RANK, batch=1, length=EXAMPLE_LENGTHS[-1]).total_bytes
            told += f" On a card it needs {_gb(least)}; {_gb(machine.card_free)} are free."
    elif seconds > LONGEST_RUN_SECONDS:
        told = f"Training on the processor would take longer than a night: {run}."
    else:
        return TrainingFit(
            verdict="cpu",
            needed_bytes=needed,
            available_bytes=machine.ram_free,
            seconds=round(seconds),
            sentence=f"Trains on the processor: it needs {_gb(needed)} of the {_gb(machine.ram_free)} that are free, and "
            f"{run}.",
        )
    return TrainingFit(
        verdict="no",
        needed_bytes=needed,
        available_bytes=machine.ram_free,
        seconds=round(seconds),
        sentence=told,
    )


# ------------------------------------------------------------------------------------------------ choosing


def _choose_for_answering(items: Sequence[Suggestion], machine: _Machine) -> Best | None:
    fetchable = [one for one in items if _has_room(one.downloads[0], one.answers_here, machine)]
    found = [one for one in fetchable if one.answering.verdict == "card"]
    reason = f"It is the largest without terms to accept that leaves {1 - COMFORT:.0%} of the card free."
    if not found:
        found = [
            one
            for one in fetchable
            if one.answering.verdict == "ram"
            and _answers_well(one)
            and one.downloads[0].size_bytes <= HALF * machine.ram_free
        ]
        reason = f"It is the largest without terms to accept that fits in half of the free memory and writes {USEFUL_SPEED:g} tokens a second or more."
    if not found:
        return None
    # A newcomer has no account, and nobody should accept terms only to try something.
    best = max([one for one in found if not one.gated or one.answers_here] or found, key=_size)
    return Best(name=best.name, reason=reason, command="" if best.answers_here else best.pull)


def _choose_for_training(items: Sequence[Suggestion], machine: _Machine) -> Best | None:
    for place, where in (("card", "on the card, in 4 bits"), ("cpu", "on the processor in a night")):
        found = [
            one
            for one in items
            if one.training.verdict == place
            and one.answering.verdict != "no"  # an adapter is of no use if its model cannot answer
            and _has_room(one.downloads[-1], one.trainable_here, machine)
        ]
        easy = [one for one in found if _answers_well(one) and one.training.longest_example in (None, LONGEST_EXAMPLE)]
        if found:
            reason = f"It is the largest without terms to accept that answers well and can be trained {where}."
            if not easy:
                reason = f"It is the largest without terms to accept that can be trained {where}, but it answers slowly or only just fits."
            easy = easy or found
            best = max([one for one in easy if not one.gated or one.trainable_here] or easy, key=_size)
            return Best(name=best.name, reason=reason, command="" if best.trainable_here else best.pull_weights)
    return None


def _answers_well(one: Suggestion) -> bool:
    return one.answering.verdict == "card" or (
        one.answering.verdict == "ram" and one.answering.tokens_per_second >= USEFUL_SPEED
    )


def _size(one: Suggestion) -> tuple[int, bool, bool]:
    """Sort by size. Of two of one size, the one that answers without thinking first is quicker to debate with."""
    return one.parameters, not one.thinking, not one.gated


def _has_room(download: Download, here: bool, machine: _Machine) -> bool:
    return here or download.size_bytes <= machine.disk_free


# --------------------------------------------------------------------------------------------------- words


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB"


def _examples(count: int) -> str:
    return "One example" if count == 1 else f"{count} examples"


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"
