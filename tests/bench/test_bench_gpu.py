"""The benchmark on a card, where there is none: it says so, its data is as long as it claims, and its report is whole."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tmde_core.sdk.measured_runs import MeasuredRun

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_card_it_says_so_in_one_sentence_and_changes_nothing(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin-without-nvidia-smi")
    before = (BENCH / "RESULTS.md").read_bytes()
    done = subprocess.run([sys.executable, BENCH / "run.py", "gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "== gpu",
        "There is no NVIDIA card here (`nvidia-smi` finds none), so nothing was measured.",
    ]
    assert (BENCH / "RESULTS.md").read_bytes() == before


def test_with_a_card_but_without_unsloth_it_says_what_to_install(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "read_gpus", lambda: ("a card",))
    monkeypatch.setattr(gpu, "find_python", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="tmde backends install unsloth"):
        gpu.main()


def test_the_part_that_runs_elsewhere_imports_only_what_that_environment_has():
    tree = ast.parse((BENCH / "_gpu_parts.py").read_text(encoding="utf-8"))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    ours = {name for name in imported if name.startswith("tmde")}
    assert ours <= {"tmde_core.sdk.worker"} | {name for name in ours if name.startswith("tmde_unsloth.training")}
    top = {node.names[0].name for node in tree.body if isinstance(node, ast.Import)}
    assert not top & {"torch", "transformers", "unsloth", "trl", "peft"}, "each part imports its own libraries"


def test_every_chat_has_exactly_the_length_that_the_report_names(gpu):
    for conditions in (gpu.REAL, gpu.TINY):
        examples = gpu.make_examples(conditions)
        assert len(examples) == conditions.train + conditions.val
        for one in examples:
            question, answer = (message.content for message in one.messages)
            # With the template, and the control token at the end of the answer.
            assert gpu.TEMPLATE_TOKENS - 1 + len(question) + len(answer) + 1 == conditions.tokens
            assert len(answer) + 1 == conditions.tokens - gpu.PROMPT_TOKENS
            assert f"{question}{answer}".isascii()
        assert len({one.output for one in examples}) == len(examples)


def test_the_model_has_the_size_of_the_measured_one(gpu):
    assert gpu._weights(gpu.REAL) == pytest.approx(1.07e9, rel=0.01)


def test_the_last_step_of_an_epoch_is_smaller(gpu, tmp_path):
    bench = gpu.Bench(tmp_path, sys.executable, gpu.REAL, tiny=False)
    assert [bench._size_of(step) for step in range(1, 9)] == [16, 16, 16, 2] * 2


MEASURED = MeasuredRun(
    backend="unsloth", device="NVIDIA H200", base_model="llama", weights=10**9, quantisation="4-bit", lora_rank=16,
    micro_batch=16, longest=1004, computed_bytes=10 * 2**28, peak_bytes=11 * 2**28, allocated_bytes=2**30,
    computed_tokens_per_second=1.0, tokens_per_second=1.0, start_seconds=44.0, measured_at=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def figures(**changes: Any) -> dict[str, Any]:
    first = {
        "metrics": {"microBatch": 16, "trainingTimeSeconds": 6.0, "finalValLoss": 9.0},
        "losses": {1: 10.0, 2: 9.5}, "tokensPerSecond": 29_000.0, "halved": [], "measured": MEASURED,
    }  # fmt: skip
    plain = {"stepSeconds": [3.0, *[1.1] * 11], "trainingSeconds": 15.0, "allocated": 1, "reserved": 2, "valLoss": 9.05}
    found = {
        "wall": 61.0, "first": first, "again": first, "equal": {**first, "tokensPerSecond": 11_500.0}, "plain-trl": plain,
        "memory": {**first, "losses": {1: 10.0, 2: 9.501}, "halved": [8]}, "apart": {"again": 0.0018, "resumed": 0.00007},
        "unsloth": {"plain-unsloth": plain, "machine": {"versions": {"torch": "2.11"}, "card": "NVIDIA H200",
                                                        "memory": 2**37, "capability": "9.0"}},
    }  # fmt: skip
    return {**found, **changes}


def report(gpu: ModuleType, tmp_path: Path, **changes: Any) -> str:
    bench = gpu.Bench(tmp_path, sys.executable, gpu.REAL, tiny=False)
    bench.figures = figures(**changes)
    text: str = gpu.report(bench, gpu.REAL, 250.0)
    return text


def test_the_report_holds_every_figure_against_its_limit(gpu, tmp_path):
    text = report(gpu, tmp_path)
    for line in (
        "| TMDE with Unsloth | 29,000 | 6.0 s | 1.00 GiB | 2.75 GiB | 9.000 |",
        "| from start to adapter, import and load included | 61 s | < 120 s | yes |",
        "| largest memory against the estimate of 2.50 GiB | 10.000% | ± 20 % | yes |",
        "| validation loss against plain TRL | 0.552% | ≤ 1 % | yes |",
        "| a resumed run, of the adapter's norm | 0.007% | the line above but one | yes |",
        "fell 16 → 8, the run went on, and its losses differ by 1.0e-03 at most.",
        "NVIDIA H200, 128 GiB, compute capability 9.0; torch 2.11.",
    ):
        assert line in text, text
    assert "**no**" not in text


def test_what_misses_its_limit_or_was_not_measured_is_said(gpu, tmp_path):
    slow = {**figures()["first"], "tokensPerSecond": 12_000.0}
    assert "≥ 2.5 | **no** |" in report(gpu, tmp_path, first=slow)
    text = report(gpu, tmp_path, unsloth={}, apart={}, memory=None, **{"plain-trl": None})
    assert "| tokens/s against the plain Unsloth script | not measured |" in text
    assert "Lack of memory was not measured: no time was left." in text
    assert "| two equal runs, of the adapter's norm | not measured |" in text
    other = msgspec.structs.replace(MEASURED, longest=1003)
    with pytest.raises(SystemExit, match="1003 tokens and not 1004"):
        report(gpu, tmp_path, first={**figures()["first"], "measured": other})


def test_a_trial_names_every_part_that_gave_no_result(gpu):
    assert gpu.find_missing(figures()) == []
    failed = {**figures(), "unsloth": {"plain-unsloth": {"error": "x"}}, "apart": {"again": 0.0}, "plain-trl": None}
    assert gpu.find_missing(failed) == ["a plain Unsloth script", "plain TRL", "a resumed run"]
