"""What lies under examples/ can be installed as it is and does what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

ASK = """
import asyncio, sys
import msgspec
from tmde_core.benchmark.questions.custom import question_from
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
        question_from(msgspec.to_builtins(question))
        score = await Scorer(judges, judges.checking, nobody).score(question, question.reference)
        found.append([question.id, question.id in suite.quick, score.score])
    sys.stdout.buffer.write(b"\\n" + msgspec.json.encode(found))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed the example pack."""
    target = tmp_path_factory.mktemp("examples")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", target, EXAMPLES / "tmde-questions-everyday"], check=True)
    return target


def test_the_question_pack_is_found_and_each_reference_answer_is_right(installed: Path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, check=True)
    questions = json.loads(done.stdout.splitlines()[-1])
    assert len(questions) == 6
    assert sum(quick for _, quick, _ in questions) == 3
    assert {name: score for name, _, score in questions if score != 10} == {}
