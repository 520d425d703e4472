"""How much of a model fits a card: a calculation, so no model is loaded here."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError
from tmde_core.sdk.gguf_header import GgufHeader, GgufTensor, read_header, read_tensors
from tmde_cpu.serving.memory import (
    FLOOR_CONTEXT,
    FLOOR_SLOTS,
    MOST_CONTEXT,
    MOST_SLOTS,
    RESERVE_BYTES,
    MemoryPlan,
    ModelSizes,
    Wish,
    card_bytes,
    fitting_layers,
    model_sizes,
    plan_memory,
)
from tmde_cpu.serving.options import CacheType

MIB, GIB = 1024**2, 1024**3

QWEN_8B = ModelSizes(
    layers=(121 * MIB,) * 36,
    output=490 * MIB,
    keys=(1024,) * 36,
    values=(1024,) * 36,
    windows=(0,) * 36,
    heads=32,
    width=4096,
    inner=12288,
    vocabulary=151_936,
    trained_context=40_960,
)
"""Qwen3-8B as Q4_K_M: 5.03 GB in the file."""

sizes = st.builds(
    lambda layers, output, cached, context: ModelSizes(
        layers=tuple(layers),
        output=output,
        keys=(cached,) * len(layers),
        values=(cached,) * len(layers),
        windows=(0,) * len(layers),
        heads=8,
        width=1024,
        inner=4096,
        vocabulary=32_000,
        trained_context=context,
    ),
    st.lists(st.integers(1, 400 * MIB), min_size=1, max_size=60),
    st.integers(0, GIB),
    st.integers(0, 4096),
    st.sampled_from([0, 512, 2048, 8192, 131_072]),
)
cards = st.lists(st.integers(0, 48 * GIB), max_size=3)
wishes = st.builds(
    Wish,
    context=st.none() | st.integers(256, 65_536),
    slots=st.none() | st.integers(1, 16),
    batch=st.sampled_from([16, 512, 2048]),
    key_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    value_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
    flash_attention=st.booleans(),
    adapters=st.integers(0, 200 * MIB),
)


@given(sizes, cards, wishes)
def test_a_plan_never_takes_more_than_is_free(model: ModelSizes, free: list[int], wish: Wish) -> None:
    plan = plan_memory(model, free, wish)
    assert plan.card_bytes <= sum(free)
    assert 0 <= plan.layers <= model.all_layers
    assert plan.context > 0
    assert plan.slots > 0


@given(sizes, st.integers(0, 48 * GIB), st.integers(0, 8 * GIB), wishes)
def test_more_memory_never_gives_less(model: ModelSizes, free: int, more: int, wish: Wish) -> None:
    small, large = plan_memory(model, [free], wish), plan_memory(model, [free + more], wish)
    assert large.layers >= small.layers
    if small.layers:
        assert (large.context, large.slots) >= (small.context, small.slots)


@given(sizes, wishes)
def test_everything_fits_a_card_with_plenty(model: ModelSizes, wish: Wish) -> None:
    plan = plan_memory(model, [4096 * GIB], wish)
    assert plan.layers == model.all_layers
    assert plan.slots == (wish.slots or MOST_SLOTS)
    assert plan.context == (wish.context or min(model.trained_context or FLOOR_CONTEXT, MOST_CONTEXT))


@given(sizes, cards, wishes)
def test_what_a_person_sets_is_kept(model: ModelSizes, free: list[int], wish: Wish) -> None:
    plan = plan_memory(model, free, wish)
    assert wish.context in (None, plan.context)
    assert wish.slots in (None, plan.slots)


@given(sizes, cards, cards, wishes)
def test_a_later_server_keeps_context_and_slots(
    model: ModelSizes, before: list[int], now: list[int], wish: Wish
) -> None:
    plan = plan_memory(model, before, wish)
    later = fitting_layers(model, now, plan, wish)
    assert (later.context, later.slots) == (plan.context, plan.slots)
    assert later.layers <= plan.layers


@pytest.mark.parametrize(
    ("free", "layers", "slots", "context"),
    [
        ([48 * GIB], 37, 4, 32_768),
        ([32 * GIB], 37, 4, 16_384),
        ([24 * GIB], 37, 4, 8192),  # a second server fits beside
        ([12 * GIB], 37, 4, 8192),
        ([8 * GIB], 37, 4, 4096),
        ([7 * GIB], 37, 2, 4096),
        ([5 * GIB], 21, 2, 4096),
        ([600 * MIB], 0, 4, 4096),
        ([], 0, 4, 4096),
    ],
)
def test_an_eight_billion_model_on_cards_of_all_sizes(
    free: Sequence[int], layers: int, slots: int, context: int
) -> None:
    plan = plan_memory(QWEN_8B, free, Wish())
    assert (plan.layers, plan.slots, plan.context) == (layers, slots, context)


def test_a_smaller_type_of_the_cache_makes_room_for_more_context() -> None:
    contexts = [
        plan_memory(QWEN_8B, [24 * GIB], Wish(key_type=kind, value_type=kind)).context
        for kind in ("f16", "q8_0", "q4_0")
    ]
    assert contexts == [8192, 16_384, 32_768]


def test_two_cards_hold_what_one_cannot_and_each_keeps_its_reserve() -> None:
    assert plan_memory(QWEN_8B, [5 * GIB, 5 * GIB], Wish()).layers == 37
    assert plan_memory(QWEN_8B, [5 * GIB, RESERVE_BYTES], Wish()) == plan_memory(QWEN_8B, [5 * GIB], Wish())


def test_layers_that_a_person_sets_are_tried_though_they_may_not_fit() -> None:
    plan = plan_memory(QWEN_8B, [2 * GIB], Wish(layers=30))
    assert (plan.layers, plan.slots, plan.context) == (30, FLOOR_SLOTS, FLOOR_CONTEXT)
    assert plan.card_bytes > 2 * GIB
    assert plan_memory(QWEN_8B, [24 * GIB], Wish(layers=999)).layers == 37
    assert plan_memory(QWEN_8B, [24 * GIB], Wish(layers=0)) == MemoryPlan(0, 4096, 4, 0)


def test_without_flash_attention_the_scores_of_a_step_take_memory() -> None:
    with_it = card_bytes(QWEN_8B, 37, 32_768, 4, Wish())
    without = card_bytes(QWEN_8B, 37, 32_768, 4, Wish(flash_attention=False))
    assert without - with_it > GIB


def test_a_sliding_window_needs_no_cache_for_the_whole_context() -> None:
    windows = tuple(0 if place % 6 == 5 else 1024 for place in range(36))
    gemma = msgspec.structs.replace(QWEN_8B, windows=windows)
    assert card_bytes(gemma, 37, 32_768, 4, Wish()) < card_bytes(QWEN_8B, 37, 32_768, 4, Wish()) / 2


def tensor(*shape: int, size: int = 1000) -> GgufTensor:
    return GgufTensor(shape, 0, size)


@pytest.mark.parametrize(
    ("architecture", "tensors", "keys", "values"),
    [
        ("llama", {"attn_k.weight": tensor(256, 1024), "attn_v.weight": tensor(256, 1024)}, 256, 256),
        ("phi3", {"attn_qkv.weight": tensor(1536, 1024)}, 256, 256),  # 4 of 16 heads of 64 have keys and values
        ("deepseek2", {"attn_kv_a_mqa.weight": tensor(576, 1024)}, 576, 0),
        ("mamba", {"ssm_in.weight": tensor(2048, 1024)}, 0, 0),
    ],
)
def test_the_cache_of_each_family_is_read_from_its_tensors(
    architecture: str, tensors: dict[str, GgufTensor], keys: int, values: int
) -> None:
    header = GgufHeader(
        {
            "general.architecture": architecture,
            f"{architecture}.block_count": 1,
            f"{architecture}.embedding_length": 1024,
            f"{architecture}.attention.head_count": 16,
            f"{architecture}.attention.head_count_kv": 4,
        },
        0,
    )
    found = model_sizes(header, {f"blk.0.{name}": one for name, one in tensors.items()})
    assert (found.keys, found.values) == ((keys,), (values,))


def test_windows_are_known_for_the_families_that_do_not_write_them() -> None:
    metadata = {"general.architecture": "gemma3", "gemma3.block_count": 12, "gemma3.attention.sliding_window": 512}
    found = model_sizes(GgufHeader(metadata, 0), {})
    assert found.windows == (512, 512, 512, 512, 512, 0) * 2


def test_a_model_without_an_output_layer_of_its_own_copies_its_embedding() -> None:
    metadata = {"general.architecture": "llama", "llama.block_count": 1}
    own = {"token_embd.weight": tensor(50, 8, size=400), "output_norm.weight": tensor(8, size=32)}
    assert model_sizes(GgufHeader(metadata, 0), own).output == 432
    own["output.weight"] = tensor(50, 8, size=300)
    assert model_sizes(GgufHeader(metadata, 0), own).output == 332


@pytest.mark.parametrize(("kind", "mebibytes", "step"), [("f16", 360.0, 18.64), ("q8_0", 191.25, 18.67)])
def test_the_cache_is_as_large_as_a_real_llama_server_says(
    embedded_model: Path, kind: CacheType, mebibytes: float, step: float
) -> None:
    """Build 11434 with `-c 16384 -np 4 -ub 512 -fa on`: its lines `KV buffer size` and `compute buffer size`."""
    found = model_sizes(read_header(embedded_model), read_tensors(embedded_model))
    wish = Wish(key_type=kind, value_type=kind)
    weights = sum(found.layers) + found.output
    rest = card_bytes(found, found.all_layers, 4096, 4, wish) - weights
    bare = msgspec.structs.replace(found, keys=(0,) * 30, values=(0,) * 30)
    buffers = card_bytes(bare, found.all_layers, 4096, 4, wish) - weights
    assert (rest - buffers) / MIB == mebibytes
    assert buffers / MIB > step  # older builds take more


def test_the_sizes_of_a_real_file_are_read(embedded_model: Path) -> None:
    tensors = read_tensors(embedded_model)
    found = model_sizes(read_header(embedded_model), tensors)
    assert len(found.layers) == 30
    assert found.keys == found.values == (192,) * 30
    assert (found.vocabulary, found.width, found.inner, found.trained_context) == (49_152, 576, 1536, 8192)
    assert sum(found.layers) + found.output == sum(one.size for one in tensors.values())
    assert embedded_model.stat().st_size - sum(one.size for one in tensors.values()) < 2 * MIB


@given(st.integers(0, 1_500_000))
@settings(max_examples=25)
def test_a_file_that_is_cut_off_gives_an_error_or_sizes_and_nothing_else(
    embedded_model: Path, tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    file = tmp_path_factory.mktemp("cut") / "x.gguf"
    with embedded_model.open("rb") as whole:
        file.write_bytes(whole.read(kept))
    try:
        assert all(one.size >= 0 for one in read_tensors(file).values())
    except InvalidInputError as error:
        assert "x.gguf" in error.detail  # noqa: PT017 - both ends are right
