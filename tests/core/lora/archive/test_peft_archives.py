"""The `peft` library loads what is exported, and what it saves comes in: plain `tar` in both directions, on a tiny model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm
from tests.core.lora.archive.archives import packed, peft_files, pieces
from tmde_core.errors import AdapterInvalidError
from tmde_core.plugins import Plugins
from tmde_core.services import open_services
from tmde_core.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SAVE = """
import json, sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
base, adapter, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
torch.manual_seed(3)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(
    r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    init_lora_weights=False, task_type="CAUSAL_LM"))
model.save_pretrained(adapter)
with torch.no_grad():
    json.dump(model.eval()(torch.tensor([ids])).logits[0, -1].tolist(), sys.stdout)
"""

LOAD = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, ids, adapters = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
found = []
with torch.no_grad():
    for adapter in (None, *adapters):
        model = AutoModelForCausalLM.from_pretrained(base)
        model = PeftModel.from_pretrained(model, adapter) if adapter else model
        found.append(model.eval()(torch.tensor([ids])).logits[0, -1].tolist())
json.dump(found, sys.stdout)
"""
IDS = [5, 40, 41, 99, 7]


def python(script: str, *arguments: str | Path) -> Any:
    done = warm.run([sys.executable, "-c", script, *map(str, arguments)])
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def tar(*arguments: str | Path) -> None:
    subprocess.run(["tar", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A data directory with a model of a few thousand parameters."""
    directory = tmp_path_factory.mktemp("peft") / "data"
    shutil.copytree(tiny_model, directory / "models" / "tiny")
    return directory


async def test_what_peft_saves_comes_in_and_what_goes_out_it_loads_with_the_same_results(
    data_dir: Path, tmp_path: Path
) -> None:
    base = data_dir / "models" / "tiny"
    wanted = python(SAVE, base, tmp_path / "saved", json.dumps(IDS))
    archive = tmp_path / "saved.tar.gz"
    tar("czf", archive, "-C", tmp_path, "saved")

    folders = []
    async with open_services(load_settings(data_dir, environ={}), Plugins.load()) as services:
        adapter = await services.archives.import_archive(pieces(archive.read_bytes()))
        assert adapter.is_valid
        kept = services.stores.adapters.path(adapter.id)
        saved = tmp_path / "saved"
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            assert (kept / name).read_bytes() == (saved / name).read_bytes()
        assert (kept / "adapter.gguf").is_file(), "its base model is here, so it has a form that can be served"
        base.rename(tmp_path / "tiny")
        early = await services.archives.import_archive(pieces(archive.read_bytes()))
        assert not (services.stores.adapters.path(early.id) / "adapter.gguf").exists()
        (tmp_path / "tiny").rename(base)
        late = await services.archives.export(early.id, "gguf")
        assert b"".join([piece async for piece in late.chunks]) == (kept / "adapter.gguf").read_bytes()
        for form in ("peft", "peft-bin"):
            export = await services.archives.export(adapter.id, form)  # type: ignore[arg-type]
            file = tmp_path / export.filename
            file.write_bytes(b"".join([piece async for piece in export.chunks]))
            (tmp_path / form).mkdir()
            tar("xzf", file, "-C", tmp_path / form, "--strip-components=1")
            folders.append(tmp_path / form)
    assert (folders[1] / "adapter_model.bin").stat().st_size > 0
    (folders[1] / "adapter_model.safetensors").unlink()  # else PEFT reads that

    plain, *loaded = python(LOAD, base, json.dumps(IDS), *folders)
    assert loaded == [wanted, wanted]
    assert plain != wanted


async def test_matrices_of_other_shapes_than_the_base_models_are_refused(data_dir: Path) -> None:
    async with open_services(load_settings(data_dir, environ={}), Plugins.load()) as services:
        with pytest.raises(AdapterInvalidError) as error:
            await services.archives.import_archive(pieces(packed(peft_files(base_model_name_or_path="tiny"))))
        assert "wrong shape for the base model tiny" in error.value.context["reasons"][0]
        assert not list(services.stores.adapters.directory.glob(".staging-*"))
