"""What lies under `examples/` can be installed as it is, imports only the public package, and does what it says."""

from __future__ import annotations

import ast
import json
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from tests import warm
from tests.examples_environment import EXAMPLES, PACKAGES, Environment, make_environment
from tmde_core import testing
from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.events import DebateEnded
from tmde_core.sdk.records import from_json
from tmde_core.sdk.training import FineTuneConfig, TrainingBackend, TrainingJob
from tmde_core.sdk.worker import list_checkpoints
from tmde_core.testing import make_context

ALLOWED = {"tmde_core.sdk", "tmde_core.testing"}

ASK = """
import asyncio, sys
import msgspec
from tmde_core.benchmark.questions.custom import decode_question
from tmde_core.benchmark.running.scoring import Scorer
from tmde_core.debate.judging import Judges
from tmde_core.plugins import Plugins
from tmde_core.settings import LiveSettings, Settings
from tmde_core.workspace import Workspace

plugins = Plugins.load()
judges = Judges(Workspace(LiveSettings(Settings()), None, plugins))
suite = plugins.suites.get("everyday")

async def nobody():
    return None

async def main():
    found = []
    for question in suite.questions():
        decode_question(msgspec.to_builtins(question))
        score = await Scorer(judges, judges.checking, nobody).score(question, question.reference)
        found.append([question.id, question.id in suite.quick, score.score])
    sys.stdout.buffer.write(b"\\n" + msgspec.json.encode(found))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment into which pip has installed the examples."""
    return make_environment(tmp_path_factory.getbasetemp())


@pytest.fixture
def trainer_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the training backend, imported from its folder."""
    monkeypatch.syspath_prepend(EXAMPLES / "tmde-trainer-plain")
    import tmde_trainer_plain

    return tmde_trainer_plain


# --------------------------------------------------------------------------------------------- all of them


def test_tmde_plugins_shows_every_example_without_a_problem(environment: Environment, tmp_path: Path):
    shown = environment.tmde("plugins", "--json", data_dir=tmp_path)
    assert shown.returncode == 0, shown.stderr
    infos = {info["name"]: info for info in json.loads(shown.stdout)}
    provided = {}
    for package in PACKAGES:
        project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        (name,) = project["entry-points"]["tmde.plugins"]
        assert (infos[name]["status"], infos[name]["problems"]) == ("ok", [])
        assert (infos[name]["distribution"], infos[name]["version"]) == (package.name, project["version"])
        provided[name] = [(item["kind"], item["name"]) for item in infos[name]["provides"]]
    assert provided == {
        "judge_length": [("judge", "length")],
        "observer_notify": [("observer", "observer_notify"), ("command", "events")],
        "questions_everyday": [("benchmark suite", "everyday")],
        "runtime_echo": [("model runtime", "echo")],
        "trainer_plain": [("training backend", "plain")],
    }


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_an_example_imports_nothing_of_the_core_but_the_public_package(package: Path):
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                if name.split(".")[0] == "tmde_core":
                    assert ".".join(name.split(".")[:2]) in ALLOWED, (file, name)
                    assert not name.startswith("tmde_core.testing") or file.parent.name == "tests"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_an_example_is_small_and_has_a_page_of_five_lines(package: Path):
    lines = (package / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("package", [package for package in PACKAGES if (package / "tests").exists()])
def test_the_own_tests_of_an_example_pass(package: Path, environment: Environment, tmp_path: Path):
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(package / "pyproject.toml"), str(package))
    done = environment.run(*words, data_dir=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


# --------------------------------------------------------------------------------------------- each of them


def test_the_reference_answer_of_each_question_is_right(environment: Environment, tmp_path: Path):
    done = environment.run("-c", ASK, data_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    questions = json.loads(done.stdout.splitlines()[-1])
    assert len(questions) == 6
    assert sum(quick for _, quick, _ in questions) == 3
    assert {name: score for name, _, score in questions if score != 10} == {}


def test_the_echo_runtime_and_the_judge_of_length_hold_a_debate(environment: Environment, tmp_path: Path):
    roles = "".join(f'[roles.{role}]\nruntime = "echo"\n' for role in ("proposer", "skeptic", "synthesizer", "judge"))
    (tmp_path / "tmde.toml").write_text(f'[debate]\njudge = "length"\nmax_rounds = 1\n{roles}', encoding="utf-8")
    done = environment.tmde("debate", "--json", "What is 6 times 7?", data_dir=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What is 6 times 7?" in done.stdout


def test_the_observer_writes_events_and_its_command_prints_them(environment: Environment, tmp_path: Path):
    early = environment.tmde("events", data_dir=tmp_path)
    assert (early.returncode, early.stdout) == (1, "")
    assert "No event was seen yet" in early.stderr
    roles = "".join(f'[roles.{role}]\nruntime = "echo"\n' for role in ("proposer", "skeptic", "synthesizer", "judge"))
    (tmp_path / "tmde.toml").write_text(f'[debate]\njudge = "length"\nmax_rounds = 1\n{roles}', encoding="utf-8")
    assert environment.tmde("debate", "--json", "What is 6 times 7?", data_dir=tmp_path).returncode == 0
    printed = environment.tmde("events", data_dir=tmp_path)
    (line,) = printed.stdout.splitlines()
    assert json.loads(line)["event"] == "DebateEnded"
    assert from_json(json.dumps(json.loads(line)["facts"]), DebateEnded).status == "completed"
    assert "events" in environment.tmde("--help", data_dir=tmp_path).stdout


# --------------------------------------------------------------------------------------------- the training backend

WORKER = EXAMPLES / "tmde-trainer-plain" / "tmde_trainer_plain" / "worker.py"


def write_job(tmp_path: Path, base: Path, *, times: int = 1, **values: object) -> Path:
    """A run of the backend, ready to be trained."""
    examples = testing.times_tables(range(2, 8)) * times
    resume_from = values.pop("resume_from", None)
    fields = {"lora_rank": 4, "batch_size": 4, "gradient_accumulation_steps": 1, "epochs": 2, "learning_rate": 1e-3}
    config = FineTuneConfig(base_model=str(base), **{**fields, **values})
    return testing.write_job(tmp_path, examples[4:], examples[:4], config, resume_from=resume_from)


def train(job: Path) -> int:
    done = warm.run([sys.executable, str(WORKER), str(job), "q_proj", "v_proj"])
    (job.parent / "worker.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return done.returncode


def events(job: Path) -> list[dict]:
    return [json.loads(line) for line in (job.parent / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def adapter(job: Path) -> Path:
    return job.parents[2] / "lora-adapters" / job.parent.name


@pytest.mark.slow
def test_the_plan_of_the_backend_trains_in_the_environment(
    environment: Environment, trainer_module, tiny_model: Path, tmp_path: Path
):
    backend = trainer_module.PlainBackend(make_context(trainer_module.PlainSettings, targets=["q_proj"]))
    assert isinstance(backend, TrainingBackend)
    assert backend.availability().ok
    job = write_job(tmp_path, tiny_model)
    planned = backend.plan(from_json(job.read_bytes(), TrainingJob))
    variables = {**environment.variables(tmp_path), **planned.env}
    argv = [str(environment.python), *planned.argv[1:]]
    done = subprocess.run(argv, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    kinds = [event["type"] for event in events(job)]
    assert (kinds.count("progress"), kinds.count("eval"), kinds[-1]) == (16, 2, "complete")
    losses = [event["data"]["loss"] for event in events(job) if event["type"] == "progress"]
    assert losses[-1] < losses[0]
    names = {"adapter_model.safetensors", "adapter_config.json", "training_args.json", "metrics.json", "manifest.json"}
    assert {file.name for file in adapter(job).iterdir()} == names


REFUSES_A_SYSTEM_MESSAGE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start>{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<start>model: {% endif %}"
)


@pytest.mark.slow
def test_the_backend_trains_a_model_whose_template_refuses_a_system_message(tiny_model: Path, tmp_path: Path):
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = REFUSES_A_SYSTEM_MESSAGE
    (base / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (base / "chat_template.jinja").write_text(REFUSES_A_SYSTEM_MESSAGE, encoding="utf-8")
    job = write_job(tmp_path, base)
    assert train(job) == 0, (job.parent / "worker.log").read_text(encoding="utf-8")
    assert len([event for event in events(job) if event["type"] == "progress"]) == 16


@pytest.mark.slow
def test_the_adapter_changes_the_model_when_peft_loads_it(tiny_model: Path, tmp_path: Path):
    job = write_job(tmp_path, tiny_model)
    assert train(job) == 0, (job.parent / "worker.log").read_text(encoding="utf-8")
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "from peft import PeftModel\n"
        "base = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = torch.arange(20)[None]\n"
        "before = base(ids).logits\n"
        "after = PeftModel.from_pretrained(base, sys.argv[2])(ids).logits\n"
        "assert (before - after).abs().max() > 1e-4\n"
    )
    done = warm.run([sys.executable, "-c", script, str(tiny_model), str(adapter(job))])
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_weights(tiny_model: Path, tmp_path: Path):
    whole = write_job(tmp_path / "whole", tiny_model)
    assert train(whole) == 0, (whole.parent / "worker.log").read_text(encoding="utf-8")
    first, _ = list_checkpoints(whole.parent)
    again = write_job(tmp_path / "again", tiny_model, resume_from=first)
    assert train(again) == 0, (again.parent / "worker.log").read_text(encoding="utf-8")
    assert next(event for event in events(again) if event["type"] == "progress")["data"]["step"] == 9
    weights = [(adapter(job) / "adapter_model.safetensors").read_bytes() for job in (whole, again)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_cancelled_run_leaves_no_adapter(tiny_model: Path, tmp_path: Path):
    job = write_job(tmp_path, tiny_model, times=8, epochs=10, batch_size=1)
    (job.parent / "cancel").touch()
    assert train(job) == 128 + signal.SIGTERM
    assert events(job)[-1]["type"] == "cancelled"
    assert list((tmp_path / "lora-adapters").iterdir()) == []


@pytest.mark.parametrize("base_model", ["", "no-such-directory"])
def test_the_backend_refuses_a_base_model_that_is_not_there(trainer_module, base_model: str, tmp_path: Path):
    job = from_json(write_job(tmp_path, Path("x")).read_bytes(), TrainingJob)
    job = msgspec.structs.replace(job, base_model=base_model)
    with pytest.raises(InvalidInputError, match=r"config\.json"):
        trainer_module.PlainBackend(make_context(trainer_module.PlainSettings)).plan(job)
