"""A training backend that can look at a dataset beforehand: a real process that says what it is told to."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.core.finetune.conftest import StandInBackend
from tmde_core.plugins import Plugins
from tmde_core.records.questions import Question
from tmde_core.records.training import TrainingJob, WorkerCommand
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.sdk.training import BackendDescriptor

REPORT = """
import json, os, sys, time
from pathlib import Path
told = json.loads(sys.argv[2])
if "warn" in told:
    sys.stderr.write("x.py:1: FutureWarning: old\\n  warnings.warn(\\n")
if "fail" in told:
    sys.exit(told["fail"])
if "kill" in told:
    os.kill(os.getpid(), told["kill"])
job = json.loads(Path(sys.argv[1]).read_text())
examples, left_out = [], []
for split in ("train", "val"):
    for line in Path(job[split + "File"]).read_text().splitlines():
        one = json.loads(line)
        total = told.get(one["instruction"], 40)
        if isinstance(total, str):
            left_out.append({"traceId": one["traceId"], "split": split, "reason": "cannot-encode", "detail": total})
            continue
        examples.append({"traceId": one["traceId"], "split": split, "total": total, "supervised": told.get("supervised", 9)})
if "early" in told:
    Path(job["runDir"], "preview.json").write_text(json.dumps({"examples": examples}))
    while not Path(told["early"]).exists():
        time.sleep(0.01)
report = {"examples": examples, "firstExample": [{"text": "Q", "supervised": False}, {"text": "A", "supervised": True}],
          "estimate": told.get("estimate", {"seconds": 12.5, "ramBytes": 7}), "calibrated": told.get("calibrated", True),
          "basis": told.get("basis", ""), "leftOut": left_out}
Path(job["runDir"], "preview.json").write_text(json.dumps(report))
"""


class Looking(StandInBackend):
    """Answers what `told` says: tokens (or why it is left out) by question, `supervised` of each, or a sentence to `fail` with."""

    told = "{}"

    def preview(self, job: TrainingJob) -> WorkerCommand:
        return WorkerCommand(argv=(sys.executable, "-c", REPORT, str(Path(job.run_dir) / "job.json"), self.told))


def looking_plugins(plugins: Plugins) -> Plugins:
    """With the backend `looking`, and the suite `suite` of one question."""
    plugins.backends.add(BackendDescriptor(name="looking", summary="looks", create=lambda _: Looking()), "tests")
    question = Question(id="seas", query="Why is the sea salt?", domain="science")
    plugins.suites.add(SuiteDescriptor(name="suite", summary="", questions=lambda: (question,)), "tests")
    return plugins
