"""A merged file is the base model plus scale · B · A, whatever the types, and everything else in it is the base model's."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from tmde_cpu.gguf import merge as merging
from tmde_cpu.gguf.layout import Layout
from tmde_cpu.gguf.merge import MergeError, NoRoomError, merge

T = gguf.GGMLQuantizationType
ROWS, WIDTH, RANK, ALPHA = 96, 256, 4, 6.0
CHANGED, KEPT, NORM, NARROW = (
    "blk.0.attn_q.weight",
    "token_embd.weight",
    "blk.0.attn_norm.weight",
    "blk.0.ffn_up.weight",
)
TOLERANCE = {"F32": 1e-6, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2, "Q5_1": 0.12, "Q5_0": 0.2, "Q4_1": 0.25, "Q4_0": 0.4}
"""The largest error of one weight by type; the weights are about 1."""


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def raw_weights(kind: T) -> np.ndarray:
    """A matrix in this type, as bytes. What cannot be written here gets harmless bytes."""
    if kind in merging.WRITABLE:
        return quantize(draw(ROWS, WIDTH), kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 50, (ROWS, WIDTH // block * size)).astype(np.uint8)
    blocks = raw.reshape(-1, size)
    place = {T.Q6_K: slice(208, 210), T.Q4_K: slice(0, 4), T.Q5_K: slice(0, 4), T.IQ4_NL: slice(0, 2)}[kind]
    blocks[:, place] = np.frombuffer(np.full((place.stop - place.start) // 2, 0.01, np.float16).tobytes(), np.uint8)
    return raw


def write_base(path: Path, kind: T = T.F32, *, alignment: int = 0, parts: int = 0) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_file_type(2)
    writer.add_token_list(["<s>", "ä", "b" * 300])
    writer.add_token_scores([0.0, -1.5, 2.0])
    writer.add_chat_template("{{ messages }}")
    if alignment:
        writer.add_custom_alignment(alignment)
    if parts:
        writer.add_uint16("split.count", parts)
    writer.add_tensor(CHANGED, raw_weights(kind), raw_dtype=kind)
    writer.add_tensor(KEPT, raw_weights(kind), raw_dtype=kind)
    writer.add_tensor(NORM, draw(WIDTH))
    writer.add_tensor(NARROW, draw(7, 20))  # rows that are no whole blocks
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_adapter(
    path: Path,
    *,
    architecture: str = "llama",
    target: str = CHANGED,
    rows: int = ROWS,
    kind: str = "lora",
    loud: float = 1,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", ALPHA)
    writer.add_tensor(f"{target}.lora_a", draw(RANK, WIDTH, seed=1) * np.float32(loud))
    writer.add_tensor(f"{target}.lora_b", draw(rows, RANK, seed=2))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def delta() -> np.ndarray:
    return ALPHA / RANK * draw(ROWS, RANK, seed=2) @ draw(RANK, WIDTH, seed=1)


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def merged(tmp_path: Path, kind: T = T.F32, quantization: Any = "base", **fields: Any) -> tuple[Any, Path, Path]:
    base, adapter = write_base(tmp_path / "base.gguf", kind, **fields), write_adapter(tmp_path / "adapter.gguf")
    target = tmp_path / "merged.gguf"
    told = merge(base, adapter, target, quantization, name="an adapter", tell=lambda done, size: None)
    assert told.size == target.stat().st_size
    return told, base, target


@pytest.mark.parametrize("kind", merging.WRITABLE)
def test_the_changed_matrix_is_the_sum_in_its_own_type_and_the_others_keep_their_bytes(tmp_path: Path, kind: T) -> None:
    told, base, target = merged(tmp_path, kind)
    before, after = tensors(base), tensors(target)
    assert after.keys() == before.keys()
    assert after[CHANGED].tensor_type == kind
    wanted = dequantize(before[CHANGED].data, kind) + delta()
    error = np.abs(dequantize(after[CHANGED].data, kind) - wanted).max()
    assert error < TOLERANCE[kind.name] * np.abs(wanted).max() / 3
    for name in (KEPT, NORM, NARROW):
        assert after[name].tensor_type == before[name].tensor_type
        assert after[name].data.tobytes() == before[name].data.tobytes()
    assert told.requantized == {}


@pytest.mark.parametrize("kind", [T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL])
def test_a_type_that_cannot_be_written_becomes_q8_0_where_the_adapter_changes_it_and_this_is_told(
    tmp_path: Path, kind: T
) -> None:
    told, base, target = merged(tmp_path, kind)
    before, after = tensors(base), tensors(target)
    assert after[CHANGED].tensor_type == T.Q8_0
    wanted = dequantize(before[CHANGED].data, kind) + delta()
    assert np.abs(dequantize(after[CHANGED].data, T.Q8_0) - wanted).max() < 0.01 * np.abs(wanted).max()
    assert after[KEPT].data.tobytes() == before[KEPT].data.tobytes()
    assert told.requantized == {kind.name: 1}


@pytest.mark.parametrize(("quantization", "kind"), [("Q8_0", T.Q8_0), ("F16", T.F16)])
def test_every_matrix_gets_the_type_that_was_asked_for_and_norms_stay_exact(
    tmp_path: Path, quantization: str, kind: T
) -> None:
    told, base, target = merged(tmp_path, T.Q4_1, quantization)
    before, after = tensors(base), tensors(target)
    assert [after[name].tensor_type for name in (CHANGED, KEPT, NORM, NARROW)] == [kind, kind, T.F32, T.F16]
    kept = dequantize(before[KEPT].data, T.Q4_1)
    assert np.abs(dequantize(after[KEPT].data, kind) - kept).max() < 0.01 * np.abs(kept).max()
    reader = gguf.GGUFReader(target)
    assert reader.get_field("general.file_type").contents() == {"Q8_0": 7, "F16": 1}[quantization]
    assert told.types["F32"] == 1


def test_tokenizer_template_and_licence_are_copied_and_the_name_tells_the_adapter(tmp_path: Path) -> None:
    _, base, target = merged(tmp_path)
    before, after = Layout(base).entries, Layout(target).entries
    changed = {key for key, entry in before.items() if after.get(key) != entry}
    assert changed == {"general.name"}
    reader = gguf.GGUFReader(target)
    assert reader.get_field("general.name").contents() == "Tiny with an adapter"
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["<s>", "ä", "b" * 300]
    assert reader.get_field("general.license").contents() == "apache-2.0"


def test_the_alignment_of_the_base_model_is_kept(tmp_path: Path) -> None:
    _, _, target = merged(tmp_path, alignment=256)
    reader = gguf.GGUFReader(target)
    assert all(tensor.data_offset % 256 == 0 for tensor in reader.tensors)
    assert np.allclose(reader.tensors[0].data, raw_weights(T.F32).view(np.float32) + delta(), atol=1e-5)


def test_piece_by_piece_the_file_is_the_same_as_at_once_and_the_progress_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base, target = merged(tmp_path, T.Q4_1)
    whole, heard = target.read_bytes(), []
    monkeypatch.setattr(merging, "PIECE_VALUES", 1000)
    merge(base, tmp_path / "adapter.gguf", target, "base", name="an adapter", tell=lambda *told: heard.append(told))
    assert target.read_bytes() == whole
    assert heard == sorted(heard)
    assert len(heard) > 40
    done, size = heard[-1]
    assert 0.9 < done / size <= 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "qwen2"}, "is for qwen2 models"),
        ({"target": "blk.7.attn_q.weight"}, "do not fit"),
        ({"target": NORM}, "do not fit"),
        ({"rows": ROWS + 1}, "do not fit"),
        ({"kind": "invocation"}, "no LoRA adapter"),
        ({"loud": 5e37}, "is no number"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    base, adapter = write_base(tmp_path / "base.gguf"), write_adapter(tmp_path / "adapter.gguf", **changes)
    with pytest.raises(MergeError, match=says):
        merge(base, adapter, tmp_path / "merged.gguf", "base", name="x", tell=lambda done, size: None)


def test_weights_that_are_too_large_for_16_bits_are_refused_rather_than_made_infinite(tmp_path: Path) -> None:
    base, adapter = write_base(tmp_path / "base.gguf"), write_adapter(tmp_path / "adapter.gguf", loud=1e5)
    with pytest.raises(MergeError, match="F16 cannot hold"):
        merge(base, adapter, tmp_path / "merged.gguf", "F16", name="x", tell=lambda done, size: None)


def test_one_part_of_a_split_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="llama-gguf-split --merge"):
        merged(tmp_path, parts=3)


def test_a_file_that_is_cut_short_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    whole = write_base(tmp_path / "base.gguf").read_bytes()
    adapter, target = write_adapter(tmp_path / "adapter.gguf"), tmp_path / "merged.gguf"
    for size in (10, 100, 400, len(whole) - 200):
        (tmp_path / "base.gguf").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut short|damaged"):
            merge(tmp_path / "base.gguf", adapter, target, "base", name="x", tell=lambda done, size: None)
        assert not target.exists()


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(NoRoomError, match="free space"):
        merged(tmp_path)
    assert not (tmp_path / "merged.gguf").exists()
