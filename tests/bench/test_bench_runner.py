"""The runner of benchmarks: sections are replaced one by one, and a failing benchmark leaves what was known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

RUNNER = Path(__file__).parents[2] / "bench" / "run.py"


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The runner, on a folder with one good and one failing benchmark."""
    spec = importlib.util.spec_from_file_location("bench_run", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "RESULTS.md")
    (tmp_path / "good.py").write_text('def main() -> str:\n    return "1.02x"\n')
    (tmp_path / "bad.py").write_text('def main() -> str:\n    raise SystemExit("too slow")\n')
    (tmp_path / "_shared.py").write_text('def main() -> str:\n    return "no benchmark"\n')
    return module


def test_a_section_is_replaced_and_the_others_stay(runner: ModuleType):
    runner.RESULTS.write_text(runner.with_section(runner.with_section("", "other", "kept"), "good", "old"))
    assert runner.main(["good"]) == 0
    text = runner.RESULTS.read_text()
    assert text.index("## good") < text.index("## other")
    assert "1.02x" in text
    assert "kept" in text
    assert "\nold\n" not in text
    assert text.count("# What was measured") == 1
    assert "cores" in text


def test_a_benchmark_that_fails_is_reported_and_the_rest_is_measured(
    runner: ModuleType, capfd: pytest.CaptureFixture[str]
):
    assert runner.main([]) == 1
    assert "## good" in runner.RESULTS.read_text()
    assert "## bad" not in runner.RESULTS.read_text()
    assert "Failed: bad." in capfd.readouterr().err


def test_an_unknown_name_lists_the_known_ones(runner: ModuleType, capfd: pytest.CaptureFixture[str]):
    assert runner.main(["nope"]) == 2
    assert "there are bad, good" in capfd.readouterr().err


def test_a_benchmark_that_cannot_measure_here_is_no_failure_and_its_section_stays(runner: ModuleType):
    (runner.FOLDER / "idle.py").write_text('def main() -> str:\n    print("no card")\n    return ""\n')
    runner.RESULTS.write_text(runner.with_section("", "idle", "measured elsewhere"))
    assert runner.main(["idle"]) == 0
    assert "measured elsewhere" in runner.RESULTS.read_text()


def test_options_reach_the_benchmark_and_such_a_run_is_not_stored(
    runner: ModuleType, capfd: pytest.CaptureFixture[str]
):
    (runner.FOLDER / "told.py").write_text('import sys\n\ndef main() -> str:\n    return " ".join(sys.argv[1:])\n')
    assert runner.main(["told", "--tiny"]) == 0
    assert "--tiny" in capfd.readouterr().out
    assert not runner.RESULTS.exists()
