"""llama.cpp computes what PEFT computes, for a tiny random model of each family: with and without adapters."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests import warm
from tests.tmde_cpu.gguf import tiny_families
from tests.tmde_cpu.gguf.test_gguf_lora import llama_server
from tmde_cpu.gguf import families, lora
from tmde_cpu.gguf.adapter_form_worker import make
from tmde_cpu.gguf.convert import convert
from tmde_cpu.gguf.merge import merge
from tmde_cpu.serving.merge_check import compare_merged
from tmde_cpu.serving.server_log import ServerLog

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOISE = 1e-4
"""The largest difference of log-probabilities. Both sides compute with 32 bits, in another order."""
TABLE_NOISE = 5e-3
"""The same for gelu, whose values llama.cpp takes from a table of 16-bit numbers."""

FAMILIES = ("llama", "llama-3.2", "mistral", "qwen2", "qwen2-yarn", "qwen3", "smollm3", "gemma3", "phi3", "phi-4-mini")
ADAPTERS = ("plain", "rslora", "patterns")


class Served:
    """A family's tiny model on a server, with what transformers and PEFT said."""

    def __init__(self, directory: Path, told: dict[str, Any], client: httpx.Client, forms: int) -> None:
        self.directory = directory
        self._told = told
        self._client = client
        self._forms = forms
        self.tokens = told["tokens"]
        self.noise = TABLE_NOISE if directory.name == "gemma3" else NOISE

    def at(self, client: httpx.Client) -> Served:
        """The same, asked at a server without adapters."""
        return Served(self.directory, self._told, client, 0)

    def wanted(self, adapter: str) -> np.ndarray:
        logits = np.array(self._told["logits"][adapter])
        return logits - np.logaddexp.reduce(logits)

    def found(self, place: int | None) -> np.ndarray:
        """The log-probabilities of all tokens after the prompt, with the adapter at this place or none."""
        vocabulary = len(self._told["logits"]["base"])
        body = {
            "prompt": self._told["ids"],
            "n_predict": 1,
            "n_probs": vocabulary,
            "temperature": 0,
            "cache_prompt": False,
            "ignore_eos": False,
            "lora": [{"id": one, "scale": float(one == place)} for one in range(self._forms)],
            "grammar": "root ::= [a-zA-Z]+",  # half a letter, or an end, would come without probabilities
        }
        found = np.full(vocabulary, np.nan)
        reply = self._client.post("/completion", json=body).json()
        for one in reply["completion_probabilities"][0]["top_logprobs"]:
            found[one["id"]] = one["logprob"]
        return found

    def split(self, text: str) -> list[int]:
        reply = self._client.post("/tokenize", json={"content": text, "add_special": False, "parse_special": False})
        return list(reply.json()["tokens"])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("families")
    done = warm.run([sys.executable, tiny_families.__file__, "make", str(directory)])
    assert done.returncode == 0, done.stderr[-2000:]
    return directory, json.loads(done.stdout)


@pytest.fixture(scope="module")
def read(told: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """What each family's GGUF file is when it is read for training."""
    directory, families = told
    for family in families:
        convert(directory / family / "model", directory / family / "model.gguf", np.float32)
    done = warm.run([sys.executable, tiny_families.__file__, "read", str(directory)])
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def served(told: tuple[Path, dict[str, Any]], request: pytest.FixtureRequest) -> Iterator[Served]:
    """One family. Besides its adapters, the server has their forms without the order of rows and without the scale."""
    family = request.param
    directory = told[0] / family
    convert(directory / "model", directory / "model.gguf", np.float32)
    forms = []
    for name in ADAPTERS:
        assert make(directory / name, directory / "model").reasons == ()
        forms.append(directory / name / "adapter.gguf")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, module, changed, replaced in (
            ("plain", families, "permute", lambda rows, heads: rows),
            ("rslora", lora, "scale_of", lambda config, module: config["lora_alpha"] / config["r"]),
            ("patterns", lora, "scale_of", lambda config, module: config["lora_alpha"] / config["r"]),
        ):
            with patch.context() as changing:
                changing.setattr(module, changed, replaced)
                wrong = directory / f"wrong-{name}.gguf"
                lora.write_gguf_lora(directory / name, directory / "model", wrong)
                forms.append(wrong)
        client = stack.enter_context(llama_server(directory / "model.gguf", *forms))
        yield Served(directory, told[1][family], client, len(forms))


@pytest.mark.parametrize("served", FAMILIES, indirect=True)
def test_a_family_answers_and_reads_as_in_transformers_with_every_adapter(served: Served) -> None:
    bare = served.found(None)
    assert np.abs(bare - served.wanted("base")).max() < served.noise
    for place, name in enumerate(ADAPTERS):
        found = served.found(place)
        assert np.abs(found - served.wanted(name)).max() < served.noise, name
        assert np.abs(found - bare).max() > 20 * served.noise, f"{name} changes nothing, so it proves nothing"
    for place, name in enumerate(ADAPTERS, len(ADAPTERS)):
        same = np.abs(served.found(place) - served.wanted(name)).max() < served.noise
        ordered = name != "plain" or families.FAMILIES[_kind(served)].interleaved
        assert same != ordered, f"the wrong form of {name}"
    assert [served.split(text) for text in tiny_families.STRINGS] == served.tokens


@pytest.mark.parametrize("served", FAMILIES, indirect=True)
@pytest.mark.parametrize("adapter", ["patterns"])
def test_base_model_and_adapter_in_one_file_answer_as_they_do_apart(served: Served, adapter: str) -> None:
    form, target = served.directory / adapter / "adapter.gguf", served.directory / "merged.gguf"
    merge(served.directory / "model.gguf", form, target, "base", name="x", tell=lambda done, size: None)
    with llama_server(target) as client:
        found = served.at(client).found(None)
    assert np.abs(found - served.wanted(adapter)).max() < served.noise


@pytest.mark.parametrize("served", ["llama"], indirect=True)
def test_the_worker_compares_the_merged_file_with_what_was_merged(served: Served, tmp_path: Path) -> None:
    base, target = served.directory / "model.gguf", tmp_path / "merged.gguf"
    arguments = [str(tmp_path), str(served.directory / "plain"), str(base), str(target), "F16"]
    done = warm.run([sys.executable, "-m", "tmde_cpu.serving.merge_worker", *arguments])
    assert done.returncode == 0, done.stderr[-2000:]
    heard = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["step"] for one in heard if one["share"] in (0.0, 1.0)][-1] == "done"
    result = heard[-1]["result"]
    assert (result["reasons"], result["quality"]["flaws"]) == ([], [])
    assert result["quality"]["positions"] > 50
    assert target.stat().st_size == result["sizeBytes"]


@pytest.mark.parametrize("served", ["llama"], indirect=True)
async def test_a_file_that_lost_the_adapter_is_found_out(served: Served, tmp_path: Path) -> None:
    base, form = served.directory / "model.gguf", served.directory / "plain" / "adapter.gguf"
    quality = await compare_merged(base, form, base, ServerLog(tmp_path / "log"), lambda _: None)
    assert any("lost much of the adapter" in flaw for flaw in quality.flaws)
    assert quality.difference == pytest.approx(quality.effect, rel=0.05)


@pytest.mark.parametrize("served", FAMILIES, indirect=True)
def test_the_form_is_the_same_whether_the_base_model_is_a_directory_or_a_gguf_file(served: Served) -> None:
    for name in ADAPTERS:
        form = served.directory / name / "adapter.gguf"
        by_directory = form.read_bytes()
        assert make(served.directory / name, served.directory / "model.gguf").reasons == ()
        assert form.read_bytes() == by_directory


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "smollm3"])
def test_a_gguf_file_is_trained_on_as_what_it_serves(
    told: tuple[Path, dict[str, Any]], read: dict[str, Any], family: str
) -> None:
    made = told[1][family]
    assert "refused" not in read[family]
    assert np.abs(np.array(read[family]["logits"]) - np.array(made["logits"]["base"])).max() < NOISE
    assert read[family]["tokens"] == made["tokens"]


def test_a_gguf_file_of_a_family_that_cannot_be_read_is_refused_with_what_to_use_instead(read: dict[str, Any]) -> None:
    assert read["smollm3"]["refused"].endswith(
        "cannot be read from GGUF here; use a directory of the model's safetensors."
    )


def _kind(served: Served) -> str:
    return str(json.loads((served.directory / "model" / "config.json").read_text())["model_type"])
