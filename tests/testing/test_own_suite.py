"""The contracts in a plugin author's own test suite: with and without an asyncio plugin, and with nothing loaded in vain."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import tmde_core.testing

SUITE = """
from contextlib import asynccontextmanager

import pytest

from tests.testing.broken import REGISTRIES, RUNTIMES, SUITES, Backend
from tmde_core.sdk.judges import Verdict
from tmde_core.testing.contracts import (
    JudgeContract, RegistryContract, RuntimeContract, ServedModelContract, SuiteContract, TrainingBackendContract,
)


class LengthJudge:
    async def score(self, item, model):
        reason = f"It has {len(item.answer)} characters."
        return Verdict(score=max(0.0, 10 - len(item.answer) / 100), reasons=(reason,), judge="length")


class TestJudge(JudgeContract):
    def judge(self):
        return LengthJudge()


@pytest.fixture(scope="module")
def described():
    return RUNTIMES["good"].descriptor


class TestRuntime(ServedModelContract):
    def runtime(self, described, tmde_data_dir):
        assert tmde_data_dir.is_dir()
        return described.create(None)


class TestRuntimeBesideItsServer(RuntimeContract):
    @asynccontextmanager
    async def runtime(self):
        yield RUNTIMES["good"].descriptor.create(None)


class TestSuite(SuiteContract):
    def suite(self):
        return SUITES["good"].descriptor


class TestRegistry(RegistryContract):
    def registry(self):
        return REGISTRIES["good"].descriptor.create(None)


class TestBackend(TrainingBackendContract):
    def backend(self):
        return Backend()


def test_the_fixtures(tmde_context, tmde_data_dir, tmde_base_model):
    assert tmde_context().data_dir == tmde_data_dir
    assert list(tmde_data_dir.iterdir()) == []
    assert tmde_base_model == "good" or tmde_base_model is None
"""


def run_pytest(directory: Path, *arguments: str, text: str = SUITE) -> dict[str, str]:
    """Run a suite with plain pytest and the given arguments; returns each test with what it failed or was skipped for."""
    (directory / "test_mine.py").write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    results = directory / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", f"--junitxml={results}", *arguments]
    done = subprocess.run([*command, directory], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for case in ET.parse(results).iter("testcase"):
        wrong = [f"{one.tag}: {one.get('message')}" for one in case]
        found[f"{str(case.get('classname')).rpartition('.')[2]}.{case.get('name')}"] = " ".join(wrong)
    return found


PLUGIN = ("-p", "tmde_core.testing.plugin")
ASYNCIO = ("-p", "pytest_asyncio.plugin")


@pytest.mark.parametrize(
    "arguments",
    [
        PLUGIN,
        (*PLUGIN, *ASYNCIO, "-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function"),
        (*PLUGIN, *ASYNCIO, "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"),
    ],
    ids=["plain", "strict", "auto"],
)
def test_the_contracts_hold_under_any_asyncio_mode(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = run_pytest(tmp_path, *arguments)
    assert len(found) > 70
    assert {name: wrong for name, wrong in found.items() if "failure" in wrong or "error" in wrong} == {}
    not_run = {name: wrong for name, wrong in found.items() if wrong}
    assert all(name.startswith("TestBackend.") for name in not_run), not_run
    assert "no base model was given" in not_run["TestBackend.test_a_run_ends_with_an_adapter"]


def test_a_base_model_on_the_command_line_is_trained(tmp_path: Path) -> None:
    found = run_pytest(tmp_path, *PLUGIN, "--tmde-base-model", "good", "-k", "run_ends or fixtures")
    assert found == {"TestBackend.test_a_run_ends_with_an_adapter": "", "test_mine.test_the_fixtures": ""}


PLUGINS = {
    "heavy": (
        "import numpy\nfrom tmde_core.sdk import hookimpl\n@hookimpl\ndef tmde_judges():\n    return []\n",
        "importing_it_and_calling",
        "loads numpy. Every start of TMDE",
    ),
    "missing": ("import no_such_module\n", "importing_it_and_calling", "cannot be imported: ModuleNotFoundError"),
    "late": (
        (
            "from tmde_core.sdk import hookimpl\nfrom tmde_core.sdk.judges import JudgeDescriptor\n"
            "def create(context):\n    import numpy\n"
            "@hookimpl\ndef tmde_judges():\n    return [JudgeDescriptor(name='m', summary='m', create=create)]\n"
        ),
        "making_what_it_describes",
        "judge m loads numpy",
    ),
    "needy": (
        (
            "from tmde_core.sdk import hookimpl\nfrom tmde_core.sdk.judges import JudgeDescriptor\n"
            "def create(context):\n    raise ValueError('Give me a key.')\n"
            "@hookimpl\ndef tmde_judges():\n    return [JudgeDescriptor(name='m', summary='m', create=create)]\n"
        ),
        "can_be_made_with_default_settings",
        "judge m: ValueError: Give me a key",
    ),
    "bare": (
        (
            "from typing import Annotated\nfrom msgspec import Meta\n"
            "from tmde_core.sdk import hookimpl\nfrom tmde_core.sdk.context import PluginSettings\n"
            "from tmde_core.sdk.judges import JudgeDescriptor\n"
            "class Mine(PluginSettings):\n    depth: int = 3\n    width: int = 3\n    '''How wide.'''\n    height: Annotated[int, Meta(title='Height')] = 3\n"
            "@hookimpl\ndef tmde_judges():\n"
            "    return [JudgeDescriptor(name='m', summary='m', settings=Mine, create=lambda _: 1)]\n"
        ),
        "its_settings_are_described",
        "say nothing about themselves: depth, width. The",
    ),
    "mute": (
        (
            "from tmde_core.sdk import hookimpl\nfrom tmde_core.sdk.judges import JudgeDescriptor\n"
            "@hookimpl\ndef tmde_judges():\n    return [JudgeDescriptor(name='m', summary=' ', create=lambda _: 1)]\n"
        ),
        "summary_of_one_line",
        "judge 'm' has no summary",
    ),
    "misspelt": (
        "from tmde_core.sdk import hookimpl\n@hookimpl\ndef tmde_judgse():\n    return []\n",
        "it_has_no_problems",
        "No hook is called tmde_judgse",
    ),
    "observing": (
        "from tmde_core.sdk import hookimpl\n@hookimpl\ndef tmde_event(event, context):\n    context.data_dir / event.run_id\n",
        "its_observer_takes_every_event",
        "tmde_event() with a DebateEnded raised AttributeError",
    ),
    "knowing": (
        (
            "from tmde_core.sdk import hookimpl\nfrom tmde_core.sdk.events import Event\n"
            "from typing import get_args\n"
            "@hookimpl\ndef tmde_event(event):\n    assert type(event) in get_args(Event)\n"
        ),
        "its_observer_takes_every_event",
        "an event of an unknown kind raised AssertionError",
    ),
    "waiting": (
        "from tmde_core.sdk import hookimpl\n@hookimpl\nasync def tmde_event(event, context):\n    pass\n",
        "its_observer_takes_every_event",
        "tmde_event() is asynchronous",
    ),
    "commanding": (
        "",
        "its_commands_can_be_imported",
        "The command `tmde acme-word` cannot be imported from acme_word",
    ),
}
"""Module → its text, the rule that it breaks, and what its author is told."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the authors of `PLUGINS` are told."""
    site, suite = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("suite")
    lines = [
        "import sys",
        f"sys.path.insert(0, {str(site)!r})",
        "from tmde_core.testing.contracts import PluginContract",
    ]
    for name, (text, _, __) in PLUGINS.items():
        (site / f"acme_{name}.py").write_text(text)
        module = "" if name == "commanding" else f"acme_{name}"
        lines.append(f"class Test_{name}(PluginContract):\n    module, distribution = {module!r}, 'acme-{name}'")
    package = site / "acme_commanding-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-commanding\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[tmde.commands]\nacme-word = acme_word:command\n")
    before = os.environ.get("PYTHONPATH", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{site}{os.pathsep}{before}")
        return run_pytest(suite, *PLUGIN, text="\n".join(lines))


@pytest.mark.parametrize("name", PLUGINS)
def test_the_author_of_a_plugin_is_told_what_is_wrong_with_it(told: dict[str, str], name: str) -> None:
    _, rule, words = PLUGINS[name]
    wrong = {test: said for test, said in told.items() if test.startswith(f"Test_{name}.") and said}
    assert any(rule in test and words in said for test, said in wrong.items()), wrong
    if name not in ("missing", "misspelt"):
        assert len(wrong) == 1, wrong


def test_the_pytest_plugin_loads_nothing_of_tmde_and_adds_only_names_with_tmde(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    ours = sorted(name for name in sys.modules if name.partition('.')[0].startswith('tmde'))\n"
        "    assert ours == ['tmde_core', 'tmde_core.testing', 'tmde_core.testing.plugin'], ours\n"
        "    assert not {'msgspec', 'httpx', 'structlog', 'numpy'} & sys.modules.keys()\n"
    )
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *PLUGIN,
        "--rootdir",
        str(tmp_path),
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, tmp_path], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    listed = subprocess.run(
        [*command, "--fixtures", "-v", tmp_path], env=environment, capture_output=True, text=True, check=True
    )
    ours = [line for line in listed.stdout.splitlines() if "tmde_core" in line or "testing/plugin.py" in line]
    assert ours
    assert all("tmde" in line.split()[0] for line in ours if not line.startswith("-")), ours


def test_every_name_of_the_package_can_be_imported_and_no_other() -> None:
    assert all(getattr(tmde_core.testing, name) is not None for name in tmde_core.testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tmde_core.testing.nothing  # noqa: B018
