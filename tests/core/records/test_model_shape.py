"""The shape of a model is read from its configuration or from its GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

from tmde_core.sdk.model_shape import Shape

SMOL = Shape(hidden=576, inner=1536, layers=30, attention=576, keys=192, vocabulary=49_152, tied=True)


def test_the_shape_of_a_gguf_file_is_that_of_its_model(embedded_model: Path) -> None:
    assert Shape.read(embedded_model) == SMOL
    assert SMOL.linear + SMOL.embedding == 134_479_872, "without the norms, which are below 0.1 %"


def test_a_file_that_is_no_model_has_no_shape(tmp_path: Path) -> None:
    assert Shape.read(tmp_path) is None
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03")
    assert Shape.read(tmp_path / "x.gguf") is None
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "num_attention_heads": 0}))
    assert Shape.read(tmp_path) is None
