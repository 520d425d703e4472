"""Adapters of every kind that the installed PEFT saves, as files: plain LoRA answers as PEFT computes it, the rest is refused."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import pytest_asyncio

from tests import warm
from tests.core.lora.archive import peft_kinds
from tests.core.lora.archive.archives import pieces
from tests.tmde_cpu.gguf.test_gguf_lora import llama_server
from tmde_core.errors import AdapterInvalidError
from tmde_core.plugins import Plugins
from tmde_core.services import Services, open_services
from tmde_core.settings import load_settings
from tmde_cpu.gguf.convert import convert

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

IDS = [5, 40, 41, 99, 7]
VOCABULARY = 259

FLOAT_NOISE = 2e-3
"""The largest difference of log-probabilities: both sides compute with 32 bits, in another order."""
HALF_NOISE = 0.05
"""The same for matrices of 16 bits, with which PEFT computes in 16 bits."""

PLAIN = (
    *("lora", "gaussian", "orthogonal", "mica", "eva", "loraplus", "dropout", "half", "broken-alpha", "no-task"),
    *("all-linear", "expression", "one-layer", "one-number-of-a-layer", "without-some", "same-patterns"),
    *("rank-pattern", "alpha-pattern", "patterns", "rslora", "rslora-rank-pattern"),
    *("weighted-sum", "concatenated", "loha-as-lora"),
    *("converted-pissa", "converted-olora", "converted-corda", "converted-lora_ga"),
)

OTHER_LORAS = {
    "dora": "is DoRA",
    "qalora": "is QALoRA",
    "bdlora": "is BD-LoRA",
    "kasa": "is KaSA",
    "velora": "is VeLoRA",
    "monteclora": "is MonteCLoRA",
    "alora": "is aLoRA",
    "arrow_router": "is an Arrow router",
    "lora-bias": "has biases in its B matrices",
    "bias-all": "changes biases of the base model (bias is all)",
    "bias-lora-only": "changes biases of the base model (bias is lora_only)",
    "modules-to-save": "replaces whole modules of the base model (modules_to_save is ['lm_head'])",
    "saved-embedding": "replaces whole modules of the base model (modules_to_save is ['embed_tokens'])",
    "embedding": "changes token embeddings",
    "tokens": "changes token embeddings",
    "output": "lm_head.base_layer.weight",
    "output-alone": "has no matrix for base_model.model.lm_head",
    "layer-replication": "repeats layers",
    "target-parameters": "changes parameters outside of linear layers",
    "pissa": "began with 'pissa'",
    "pissa-fast": "began with 'pissa_niter_2'",
    "olora": "began with 'olora'",
    "corda": "began with 'corda'",
    "lora_ga": "began with 'lora_ga'",
    "loftq": "began with 'loftq'",
    "lora-for-classes": "its task is 'FEATURE_EXTRACTION'",
    "several": "deeper than one folder",
    "arrow": "deeper than one folder",
}
"""Name in `peft_kinds` → what the reason says."""


class Made:
    """What PEFT saved."""

    def __init__(self, directory: Path, told: dict[str, Any]) -> None:
        self.directory = directory
        self.logits: dict[str, list[float] | None] = told["kinds"]
        self.failed: dict[str, str] = told["failed"]

    def archive(self, name: str) -> bytes:
        """The adapter's folder, as `tar czf` packs it."""
        folder = self.directory / name
        for inner in (folder / "sum", self.directory / "arrow" / name):
            folder = inner if inner.is_dir() else folder
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(folder, name)
        return packed.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Made:
    """One adapter of each kind."""
    directory = tmp_path_factory.mktemp("kinds")
    base = Path(shutil.copytree(tiny_model, directory / "tiny"))
    done = warm.run([sys.executable, peft_kinds.__file__, str(base), str(directory / "out"), json.dumps(IDS)])
    assert done.returncode == 0, done.stderr[-2000:]
    return Made(directory / "out", json.loads(done.stdout))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> AsyncIterator[Services]:
    directory = tmp_path_factory.mktemp("importing") / "data"
    shutil.copytree(tiny_model, directory / "models" / "tiny")
    async with open_services(load_settings(directory, environ={}), Plugins.load()) as opened:
        yield opened


def left_behind(services: Services) -> list[str]:
    """The names of what lies among the adapters."""
    directory = services.stores.adapters.directory  # the first import makes it
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


async def refusal(services: Services, made: Made, name: str) -> str:
    """The one sentence with which an archive is refused, which leaves nothing behind."""
    before = left_behind(services)
    with pytest.raises(AdapterInvalidError) as error:
        await services.archives.import_archive(pieces(made.archive(name)))
    assert left_behind(services) == before
    (reason,) = error.value.context["reasons"]
    assert error.value.detail == f"The archive was refused and nothing was kept. {reason}"
    return str(reason)


async def test_peft_makes_every_kind_and_each_one_is_tried_here(made: Made) -> None:
    kinds = {name for name in made.logits if not name.isupper()}
    assert made.failed == {}
    assert kinds == set(PLAIN) | set(OTHER_LORAS) - {"arrow_router"}
    assert len(made.logits) - len(kinds) > 40


async def test_what_is_plain_lora_is_taken_and_the_server_computes_with_it_what_peft_does(
    made: Made, services: Services, tiny_model: Path, tmp_path: Path
) -> None:
    forms = []
    for name in PLAIN:
        adapter = await services.archives.import_archive(pieces(made.archive(name)))
        assert adapter.is_valid, name
        forms.append(services.stores.adapters.path(adapter.id) / "adapter.gguf")
    model = tmp_path / "tiny.gguf"
    base = Path(shutil.copytree(tiny_model, tmp_path / "tiny"))
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [["Ā", "Ā"]]  # llama.cpp wants a merge; no text needs this one
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    convert(base, model)
    with llama_server(model, *forms) as client:
        bare = ask(client, None)
        served = {name: ask(client, place) for place, name in enumerate(PLAIN)}
    for name, found in served.items():
        logits = made.logits[name]
        assert logits is not None, name
        wanted = np.array(logits) - np.logaddexp.reduce(logits)
        noise = HALF_NOISE if name == "half" else FLOAT_NOISE
        assert np.abs(found - wanted).max() < noise, name
        assert np.abs(found - bare).max() > 4 * noise, f"{name} changes nothing, so it proves nothing"


def ask(client: httpx.Client, adapter: int | None) -> np.ndarray[Any, Any]:
    """The log-probabilities of all tokens after `IDS`, with one of the adapters or none."""
    body = {
        "prompt": IDS,
        "n_predict": 1,
        "n_probs": VOCABULARY,
        "temperature": 0,
        "cache_prompt": False,
        "grammar": "root ::= [a-z]+",  # half a letter, or an end, would come without probabilities
    }
    scales = [] if adapter is None else [{"id": adapter, "scale": 1.0}]
    reply = client.post("/completion", json={**body, "lora": scales}).json()
    found = np.full(VOCABULARY, np.nan)
    for one in reply["completion_probabilities"][0]["top_logprobs"]:
        found[one["id"]] = one["logprob"]
    return found


@pytest.mark.parametrize(("name", "said"), OTHER_LORAS.items())
async def test_a_relative_of_lora_is_refused_in_one_sentence_that_names_it(
    made: Made, services: Services, name: str, said: str
) -> None:
    assert said in (await refusal(services, made, name)).replace("The adapter's task", "its task")


async def test_every_other_kind_is_refused_in_one_sentence_that_names_it(made: Made, services: Services) -> None:
    for kind in [name for name in made.logits if name.isupper()]:
        config = msgspec.json.decode((made.directory / kind / "adapter_config.json").read_bytes())
        assert config["peft_type"] == kind
        assert f"of the kind {kind!r}" in await refusal(services, made, kind)
