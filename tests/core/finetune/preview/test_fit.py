"""Whether a run fits into the memory that is free now, and what is proposed if it does not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.finetune.preview.fit import MARGIN, Memory, Wanted, describe_fits
from tmde_core.records.finetune import FineTuneConfig, MemoryFit
from tmde_core.records.training import ExampleTokens, MemoryParts, ResourceEstimate
from tmde_core.resources import Gpu

GB = 10**9
RTX = "NVIDIA GeForce RTX 3070"


def card(free: float, total: float = 8.0, name: str = RTX) -> Gpu:
    return Gpu(name=name, total_bytes=int(total * GB), used_bytes=int((total - free) * GB))


def memory(*cards: Gpu, given_back: float = 0, ram: float = 16.0) -> Memory:
    return Memory(32 * GB, int(ram * GB), cards, int(given_back * GB))


def parts(model: float, adapter: float, example: float, other: float = 0.5, bits: int | None = 4) -> MemoryParts:
    return MemoryParts(*(int(one * GB) for one in (model, adapter, example, other)), bits)


def wanted(made: MemoryParts | None = None, *, need: float = 5.1, device: str = RTX, **fields: object) -> Wanted:
    if made is not None:
        need = sum((made.model_bytes, made.adapter_bytes, made.example_bytes, made.other_bytes)) / GB
    lengths = [1000] * 60 + [4000] * 2
    examples = [ExampleTokens(trace_id=str(n), split="train", total=one, supervised=9) for n, one in enumerate(lengths)]
    estimate = ResourceEstimate(vram_bytes=int(need * GB), device=device, parts=made)
    return Wanted(FineTuneConfig(**fields), estimate, examples)  # type: ignore[arg-type]


def on_card(run: Wanted, found: Memory) -> MemoryFit:
    (fit,) = describe_fits(run, found)
    assert fit.place == "card"
    return fit


def test_it_says_how_much_of_which_free_memory_a_run_needs():
    fit = on_card(wanted(), memory(card(7.3)))
    assert (fit.verdict, fit.needed_bytes, fit.free_bytes) == ("fits", 5.1 * GB, 7.3 * GB)
    assert fit.text == "Fits: it needs about 5.1 GB of 7.3 GB free on RTX 3070."
    assert fit.remedies == ()


@pytest.mark.parametrize(
    ("free", "verdict"), [(6.2, "fits"), (6.1, "tight"), (5.2, "tight"), (5.0, "too-large"), (0, "too-large")]
)
def test_what_fits_only_by_less_than_the_error_of_an_estimate_is_tight(free, verdict):
    assert on_card(wanted(), memory(card(free))).verdict == verdict


def test_memory_that_paused_runtimes_give_back_counts_as_free_and_is_named():
    fit = on_card(wanted(), memory(card(3.0), given_back=4.5))
    assert fit.verdict == "fits"
    assert fit.text.endswith("of 7.5 GB free on RTX 3070, 4.5 GB of it after runtimes are paused.")


def test_runtimes_that_are_not_paused_because_the_run_fits_beside_them_do_not_count():
    assert on_card(wanted(need=1), memory(card(3.0), given_back=4.5)).free_bytes == 3 * GB


def test_of_several_cards_the_one_counts_that_the_backend_uses():
    other = card(20, 24, "NVIDIA GeForce RTX 3090")
    assert on_card(wanted(), memory(other, card(2))).verdict == "too-large"
    assert on_card(wanted(device=""), memory(other, card(2))).verdict == "fits"
    assert on_card(wanted(device="GeForce RTX 3070"), memory(other, card(2))).verdict == "too-large"


@pytest.mark.parametrize(("cards", "why"), [((), "does not answer"), ((card(7, name="Tesla T4"),), f"named {RTX}")])
def test_a_card_whose_free_memory_is_not_known_is_never_called_fitting(cards, why):
    fit = on_card(wanted(), memory(*cards))
    assert (fit.verdict, fit.free_bytes) == ("unknown", None)
    assert why in fit.text


def test_a_run_without_a_card_is_held_against_main_memory():
    run = Wanted(FineTuneConfig(), ResourceEstimate(ram_bytes=20 * GB))
    (fit,) = describe_fits(run, memory(ram=16))
    assert (fit.place, fit.verdict) == ("ram", "too-large")
    assert fit.text == "Does not fit: it needs about 20.0 GB of 16.0 GB free in main memory."
    assert "Close other programs: they hold 16.0 GB of the main memory." in fit.remedies
    assert any("the batch size" in remedy for remedy in fit.remedies)


def test_what_is_not_known_is_not_judged():
    assert describe_fits(Wanted(FineTuneConfig(), ResourceEstimate(seconds=3)), memory(card(7))) == ()


def test_long_examples_that_need_the_memory_are_to_be_left_out():
    fit = on_card(wanted(parts(3, 0.2, 4)), memory(card(6.5, 6.6)))
    (shorter, *others) = fit.remedies
    assert shorter == "Lower maxSeqLength to 1,664 tokens; 2 longer examples are then left out."
    assert not any("rank" in one for one in others)


def test_a_length_that_leaves_too_few_examples_is_not_proposed():
    fit = on_card(wanted(parts(3, 0.2, 4), min_traces=61), memory(card(6.5, 6.6)))
    assert not any("maxSeqLength" in one for one in fit.remedies)
    assert any("smaller base model" in one for one in fit.remedies)


def test_an_adapter_that_needs_the_memory_is_to_have_a_lower_rank():
    fit = on_card(wanted(parts(3, 4, 0.2), lora_rank=128), memory(card(6.5, 6.6)))
    assert "Lower the LoRA rank from 128 to 32." in fit.remedies


def test_a_model_that_alone_is_too_large_is_to_be_a_smaller_one():
    fit = on_card(wanted(parts(9, 0.2, 0.2)), memory(card(6.5, 6.6)))
    assert fit.remedies == (
        "Choose a smaller base model: this one takes 9.0 GB before it trains. `tmde models suggest` shows what fits.",
    )


def test_a_model_in_16_bits_on_a_card_is_to_be_held_in_4():
    fit = on_card(wanted(parts(9, 0.2, 0.2, bits=16)), memory(card(6.5, 6.6)))
    assert fit.remedies[0] == "Hold the base model in 4 bits. This saves up to 6.5 GB."


def test_another_program_on_the_card_and_another_backend_are_named():
    run = wanted(parts(3, 0.2, 0.2))._replace(others=["cpu"])
    fit = on_card(run, memory(card(2, 8)))
    assert fit.remedies[0] == "Free the card: other programs hold 6.0 GB of it. `nvidia-smi` lists them."
    assert fit.remedies[-1] == "Train with the backend `cpu`, which uses main memory. It is slower."


@given(
    st.tuples(*[st.floats(0.01, 30)] * 4),
    st.floats(0, 40),
    st.sampled_from([4, 8, 16, 128]),
)
def test_every_proposed_rank_and_length_really_fits_and_is_allowed(sizes, free, rank):
    made = parts(*sizes)
    fit = on_card(wanted(made, lora_rank=rank), memory(card(free, 40.0)))
    for remedy in fit.remedies:
        words = remedy.split()
        if remedy.startswith("Lower the LoRA rank from"):
            lower = int(words[-1].rstrip("."))
            saved = made.adapter_bytes * (1 - lower / rank)
            assert 4 <= lower < rank
        elif remedy.startswith("Lower maxSeqLength to"):
            length = int(words[3].replace(",", ""))
            saved = made.example_bytes * (1 - length / 4000)
            assert 512 <= length < 4000
        else:
            continue
        assert (fit.needed_bytes - saved) * MARGIN <= free * GB * 1.001 + 1
    assert msgspec.json.decode(msgspec.json.encode(fit), type=MemoryFit) == fit
