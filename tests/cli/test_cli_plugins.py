"""`tmde plugins`: what is plugged in, and whether it keeps the rules of what it provides."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import Process, Ran
from tests.conftest import link_models

PLUGIN = """
import os, subprocess, sys
from tmde_core.sdk import hookimpl
from tmde_core.sdk.judges import JudgeDescriptor, Verdict

class Mine:
    async def score(self, item, model):
        print("I am on stdout")
        return Verdict(score=11, reasons=("So good.",))

class Leaving:
    async def score(self, item, model):
        os._exit(0)

class Hanging:
    async def score(self, item, model):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        open(os.environ["ACME_CHILD"], "w").write(str(child.pid))
        child.wait()

class Garbled:
    async def score(self, item, model):
        raise RuntimeError("a" + chr(0xDCFF) + "b")

@hookimpl
def tmde_judges():
    return [
        JudgeDescriptor(name="generous", summary="likes all", create=lambda _: Mine()),
        JudgeDescriptor(name="leaving", summary="likes none", create=lambda _: Leaving()),
        JudgeDescriptor(name="hanging", summary="likes to wait", create=lambda _: Hanging()),
        JudgeDescriptor(name="garbled", summary="likes noise", create=lambda _: Garbled()),
    ]
"""


@pytest.fixture
def broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken plugin is installed."""
    package = tmp_path / "site" / "acme-1.0.dist-info"
    package.mkdir(parents=True)
    (tmp_path / "site" / "acme.py").write_text(PLUGIN)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[tmde.plugins]\nacme = acme\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_the_list_needs_no_word_and_takes_the_data_directory(process: Process, tmp_path: Path) -> None:
    ran = process("plugins", "--data-dir", tmp_path / "elsewhere")
    assert ran.code == 0
    assert "judge verifier" in ran.out
    assert (tmp_path / "elsewhere").is_dir()


def test_one_thing_of_a_plugin_is_checked(process: Process) -> None:
    ran = process("plugins", "check", "judge:verifier")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("judge verifier: ")
    assert ran.out.endswith(" rules hold\n")


def test_what_is_not_there_is_wrong_usage_and_what_is_there_is_named(process: Process) -> None:
    ran = process("plugins", "check", "no-such")
    assert (ran.code, ran.out) == (2, "")
    assert "There is no plugin called 'no-such'; installed: axolotl, bench_default, cpu" in " ".join(ran.err.split())
    ran = process("plugins", "check", "judge:tmde-50")
    assert ran.code == 2
    assert "suite:tmde-50" in ran.err


def test_a_wrong_setting_is_named_and_is_no_broken_rule(process: Process, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.toml").write_text("[runtimes.embedded]\nslots = 0\n")
    ran = process("plugins", "check", "runtime:embedded")
    assert (ran.code, ran.out) == (1, "")
    assert "runtimes.embedded.slots" in ran.err


def test_a_broken_rule_is_told_in_a_sentence(process: Process, broken_plugin: None) -> None:
    ran = process("plugins", "check", "judge:generous")
    assert ran.code == 1
    first, *rest = ran.out.splitlines()
    assert first.startswith("judge generous: ")
    assert "1 broken" in first
    assert rest == [
        (
            "  wrong: The score 11 is not between 0 and 10. TMDE takes it for no verdict. "
            "Bring it onto the scale, or return None where there is no score."
        )
    ]
    told = process("plugins", "check", "judge:generous", "--json")
    assert told.code == 1
    assert told.json["ok"] is False
    assert told.json["things"][0]["name"] == "generous"
    assert len(told.json["things"][0]["broken"]) == 1


def test_a_plugin_that_ends_the_process_is_not_taken_for_sound(process: Process, broken_plugin: None) -> None:
    ran = process("plugins", "check", "judge:leaving")
    assert ran.code == 1
    assert "ended before it was done" in ran.err


def test_a_check_that_takes_too_long_is_ended_with_its_children(
    tmde: Callable[..., Ran], broken_plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "child"
    os.mkfifo(told)
    monkeypatch.setenv("ACME_CHILD", str(told))
    children: list[int] = []

    class WhenItHangs(threading.Thread):
        """A timer that runs out when the judge has begun to wait for its child."""

        def __init__(self, seconds: float, end: Callable[[], None]) -> None:
            super().__init__(daemon=True)
            self.seconds, self.end = seconds, end

        def run(self) -> None:
            assert self.seconds == 77
            children.append(int(told.read_text()))
            self.end()

        def cancel(self) -> None:
            """Do nothing: it has run out."""

    monkeypatch.setattr("tmde_core.cli.plugins.check.threading.Timer", WhenItHangs)
    ran = tmde("plugins", "check", "judge:hanging", "--timeout", "77")
    assert ran.code == 1
    assert "The check took longer than 77 s and was ended while it tried the rule '" in ran.err
    assert "on the judge hanging. Give it more time with --timeout SECONDS." in ran.err
    (child,) = children
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_an_exception_that_json_cannot_hold_is_told(process: Process, broken_plugin: None) -> None:
    ran = process("plugins", "check", "judge:garbled", "--json")
    assert ran.code == 1
    assert any("RuntimeError: a?b" in sentence for sentence in ran.json["things"][0]["broken"])


def test_without_pytest_it_says_what_to_install(tmde: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmde_core.cli.plugins.check.importlib.util.find_spec", lambda _: None)
    ran = tmde("plugins", "check", "judge:verifier")
    assert ran.code == 1
    assert ran.err == "Error: Checking a plugin needs pytest. Install it with: pip install 'tmde[testing]'\n"


@pytest.mark.slow
def test_the_shipped_judges_and_questions_keep_every_rule(process: Process) -> None:
    report = process("plugins", "check", "bench_default", "--json").json
    assert report["ok"], report
    assert [(thing["name"], thing["notTried"]) for thing in report["things"]] == [
        ("bench_default", 0),
        ("tmde-50", 0),
        ("rubric", 0),
        ("panel", 0),
        ("verifier", 0),
    ]


@pytest.mark.slow
def test_the_shipped_http_runtimes_keep_every_rule_that_needs_no_server(process: Process) -> None:
    report = process("plugins", "check", "runtime_http", "--json").json
    assert report["ok"], report
    plugin, ollama, openai = report["things"]
    assert plugin["notTried"] == 0
    assert "Ollama does not answer" in ollama["notRun"][0]
    assert "No server is configured" in openai["notRun"][0]


@pytest.mark.slow
def test_the_shipped_runtime_and_trainer_keep_every_rule(
    process: Process, tmp_path: Path, tiny_model: Path, embedded_model: Path
) -> None:
    link_models(tmp_path / "data")
    report = process("plugins", "check", "cpu", "--base-model", tiny_model, "--json", timeout=500).json
    assert report["ok"], report
    assert [(thing["name"], thing["notTried"]) for thing in report["things"]] == [
        ("cpu", 0),
        ("embedded", 0),
        ("cpu", 2),  # llama.cpp serves no tokenizer like that of the tiny model: nothing is merged, nor converted back
    ]
