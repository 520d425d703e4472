"""What models need, computed from their sizes, held against what was measured and published."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.models import fit
from tmde_core.models.fit import Architecture
from tmde_core.models.known import list_known

GIB = 2**30

MEASURED = Architecture(blocks=16, width=2048, feed_forward=8192, heads=32, key_heads=8, head_size=64, vocabulary=49152)
"""The shape of 1.07 billion weights with which the figures of an H100 were measured."""
EMBEDDED = Architecture(blocks=30, width=576, feed_forward=1536, heads=9, key_heads=3, head_size=64, vocabulary=49152)
LLAMA_8B = Architecture(
    blocks=32,
    width=4096,
    feed_forward=14336,
    heads=32,
    key_heads=8,
    head_size=128,
    vocabulary=128256,
    tied_head=False,
)

shapes = st.sampled_from([MEASURED, EMBEDDED, LLAMA_8B, *(one.architecture for one in list_known())])
counts = st.integers(1, 64)
lengths = st.integers(256, 32768)


@pytest.mark.parametrize(("batch", "measured"), [(4, 1.30), (16, 2.46)])
def test_training_in_4_bits_with_unsloth_needs_what_was_measured(batch: int, measured: float) -> None:
    need = fit.compute_card_bytes(MEASURED, rank=16, batch=batch, length=1004)
    assert need.reserved_bytes / GIB == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("options", "measured"),
    [
        ({"batch": 16, "four_bit": False, "checkpointing": False}, 18.1),
        ({"batch": 4, "unsloth": False}, 3.41),
    ],
)
def test_other_ways_of_training_are_estimated_on_the_safe_side(options: dict[str, int], measured: float) -> None:
    need = fit.compute_card_bytes(MEASURED, rank=16, length=1004, **options)  # type: ignore[arg-type]
    assert measured < need.reserved_bytes / GIB < 1.2 * measured


@pytest.mark.parametrize(("card", "longest"), [(8, 2972), (12, 21848), (16, 40724), (24, 78475)])
def test_the_context_lengths_that_unsloth_publishes_for_llama_8b_fill_the_card(card: int, longest: int) -> None:
    need = fit.compute_card_bytes(LLAMA_8B, rank=32, batch=1, length=longest)
    assert need.total_bytes / GIB == pytest.approx(card, rel=0.1)


def test_the_embedded_model_takes_about_the_memory_that_was_measured_for_its_server() -> None:
    assert fit.compute_answer_bytes(EMBEDDED, 98_000_000, 4096, 4) == pytest.approx(541e6, rel=0.2)
    assert fit.compute_cache_bytes(EMBEDDED, 4096, 4) == pytest.approx(380e6, rel=0.02)


def test_training_the_embedded_model_on_the_processor_needs_what_was_measured() -> None:
    assert fit.compute_cpu_bytes(EMBEDDED) == pytest.approx(1.37e9, rel=0.1)


def test_the_speed_of_the_embedded_model_is_the_one_that_was_measured() -> None:
    assert fit.estimate_answer_speed(98_000_000, 2) == pytest.approx(98.9, rel=0.05)


def test_an_adapter_of_rank_16_on_eight_billion_weights_has_42_million() -> None:
    assert fit.count_lora_weights(LLAMA_8B, 16) == 41_943_040


def test_rows_that_do_not_fill_a_superblock_are_stored_with_more_bits() -> None:
    odd = msgspec.structs.replace(MEASURED, width=2048 + 32)
    assert fit.compute_gguf_bytes(odd, "Q4_K_M") > 1.1 * fit.compute_gguf_bytes(MEASURED, "Q4_K_M")


def test_sixteen_bits_take_two_bytes_a_weight() -> None:
    assert fit.compute_gguf_bytes(MEASURED, "F16") == pytest.approx(2 * MEASURED.parameters, rel=0.01)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="IQ2_XXS"):
        fit.compute_gguf_bytes(MEASURED, "IQ2_XXS")


@given(shapes, counts, counts, lengths)
def test_more_context_or_more_slots_never_need_less(shape: Architecture, slots: int, more: int, context: int) -> None:
    needed = fit.compute_answer_bytes(shape, 10**9, context, slots)
    assert needed > 10**9
    assert fit.compute_answer_bytes(shape, 10**9, context, slots + more) > needed
    assert fit.compute_answer_bytes(shape, 10**9, context + more, slots) > needed
    assert fit.compute_answer_bytes(shape, 10**9, context, slots, on_card=True) > needed


@given(shapes, counts, counts, lengths, st.booleans(), st.booleans(), st.booleans())
def test_training_needs_more_for_more_and_never_less_than_the_weights(
    shape: Architecture,
    rank: int,
    batch: int,
    length: int,
    four_bit: bool,
    checkpointing: bool,
    unsloth: bool,
) -> None:
    def need(rank: int, batch: int, length: int) -> int:
        return fit.compute_card_bytes(
            shape,
            rank=rank,
            batch=batch,
            length=length,
            four_bit=four_bit,
            checkpointing=checkpointing,
            unsloth=unsloth,
        ).reserved_bytes

    least = need(rank, batch, length)
    assert least > shape.block_weights * (0.5 if four_bit else 2) + 2 * shape.table_weights
    assert need(rank + 1, batch, length) > least
    assert need(rank, batch + 1, length) >= least
    assert need(rank, batch, length + 1) >= least


@given(shapes, st.integers(0, 40), lengths)
def test_the_largest_batch_fits_and_one_more_does_not(shape: Architecture, gigabytes: int, length: int) -> None:
    batch = fit.find_largest_batch(shape, gigabytes * 10**9, rank=16, length=length, most=8)

    def need(batch: int) -> int:
        return fit.compute_card_bytes(shape, rank=16, batch=batch, length=length).total_bytes

    assert batch == 0 or need(batch) <= gigabytes * 10**9
    assert batch == 8 or need(batch + 1) > gigabytes * 10**9


@given(shapes, counts, counts, st.integers(1, 10**7))
def test_more_cores_are_never_slower(shape: Architecture, cores: int, more: int, tokens: int) -> None:
    assert fit.estimate_cpu_seconds(shape, tokens, cores + more) < fit.estimate_cpu_seconds(shape, tokens, cores)
    assert fit.estimate_answer_speed(10**9, cores + more) >= fit.estimate_answer_speed(10**9, cores)
