"""Directories of safetensors: served through a GGUF that passed the quality check, or refused with the reason."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests import warm
from tmde_core.errors import InvalidInputError
from tmde_core.testing import make_context
from tmde_core.testing.contracts.runtimes import answer, question
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime
from tmde_cpu.serving.simple_questions import measure_quality

pytestmark = pytest.mark.slow

LEAST_RIGHT = 19
"""Of 24: the embedded model gets 22 as Q4_1 and as F16; processors differ a little in their last digits."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A model with random weights; its tokenizer is given a merge that no text needs, as llama.cpp wants one."""
    made = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("tiny") / "model"))
    tokenizer = json.loads((made / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [["Ā", "Ā"]]
    (made / "tokenizer.json").write_text(json.dumps(tokenizer))
    return made


def runtime_of(data_dir: Path, **settings: object) -> EmbeddedRuntime:
    return EmbeddedRuntime(make_context(EmbeddedSettings, str(data_dir), **settings))


async def test_the_embedded_model_answers_simple_questions(tmp_path: Path, embedded_model: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / embedded_model.name).symlink_to(embedded_model)
    runtime = runtime_of(tmp_path)
    report = await measure_quality(runtime)
    await runtime.stop()
    assert report.right >= LEAST_RIGHT, report.wrong


async def test_a_directory_of_safetensors_is_converted_once_and_answers_as_well(
    tmp_path: Path, embedded_model: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from tmde_cpu.base_model import ensure_base_model; "
        "print(ensure_base_model(Path(sys.argv[1]), ''))"
    )
    made = warm.run([sys.executable, "-c", code, str(embedded_model.parents[1])])
    assert made.returncode == 0, made.stderr
    directory = Path(made.stdout.splitlines()[-1])
    runtime = runtime_of(tmp_path, model=str(directory))
    with capture_logs() as said:
        await runtime.start()
    (check,) = [line for line in said if line["event"] == "embedded.converted"]
    assert check["asked"] == 24
    assert check["right"] >= LEAST_RIGHT
    assert (await runtime.models())[0].name == directory.name
    await runtime.stop()
    converted = list((tmp_path / "models" / "converted").iterdir())
    assert [file.suffix for file in converted] == [".gguf"]
    before = converted[0].stat()
    again = runtime_of(tmp_path, model=str(directory))
    await answer(again, question(max_tokens=2))
    await again.stop()
    assert converted[0].stat() == before


async def test_a_model_that_knows_nothing_is_converted_and_then_not_used(tmp_path: Path, tiny: Path) -> None:
    runtime = runtime_of(tmp_path, model=str(tiny))
    with pytest.raises(InvalidInputError, match="answered only 0 of 24 simple questions"):
        await runtime.start()
    await runtime.stop()
    assert list((tmp_path / "models" / "converted").iterdir()) == []


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", {"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM; known are LlamaForCausalLM"),
        ("config.json", {"model_type": "mamba"}, "Models of the kind 'mamba' have no GGUF form here"),
        (
            "config.json",
            {"rope_parameters": {"rope_type": "dynamic"}},
            "scales its rotary positions in the way 'dynamic'",
        ),
        ("config.json", {"hidden_act": "relu"}, "computes with 'relu'"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "known are those of GPT-2, SmolLM, Llama 3"),
        ("tokenizer.json", {"model": {"type": "Unigram"}}, "no BPE"),
        ("tokenizer.json", None, "missing or damaged"),
        ("model.safetensors", None, "holds no \\*.safetensors"),
    ],
)
async def test_what_cannot_be_converted_is_refused_in_a_sentence(
    tmp_path: Path, tiny: Path, file: str, change: dict[str, object] | None, told: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for source in tiny.iterdir():
        (copy / source.name).write_bytes(source.read_bytes())
    if change is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | change))
    runtime = runtime_of(tmp_path, model=str(copy))
    with pytest.raises(InvalidInputError, match=told):
        await runtime.start()
    await runtime.stop()
