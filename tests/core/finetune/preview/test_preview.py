"""What a run would do, told beforehand by a real worker process that pretends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from tests.core.finetune.conftest import make_trace, settings_on, stand_in_plugins
from tests.core.finetune.preview.looking import Looking, looking_plugins
from tmde_core.errors import InvalidInputError, PluginUnavailableError
from tmde_core.finetune.preview.process import BEGUN
from tmde_core.finetune.preview.service import COMPUTED, LOOKING, MEASURED, MEASURING, NOT_LOOKED_AT, histogram
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.questions import Question
from tmde_core.records.training import WorkerCommand
from tmde_core.services import open_services


@pytest.fixture
def looking(monkeypatch):
    def tell(told: str) -> None:
        monkeypatch.setattr(Looking, "told", told)

    return tell


@pytest.fixture
async def services(data_dir: Path):
    async with open_services(settings_on(data_dir), looking_plugins(stand_in_plugins())) as opened:
        for number in range(20):
            await opened.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
        yield opened


def config(**changes) -> FineTuneConfig:
    return FineTuneConfig(backend="looking", min_traces=5, batch_size=2, gradient_accumulation_steps=2, **changes)


async def test_a_preview_counts_what_a_run_would_learn_and_leaves_nothing_behind(services, data_dir):
    before = sorted(path.name for path in data_dir.iterdir())
    found = await services.previews.preview(config(epochs=2))
    assert (found.examples, found.train_examples, found.val_examples, found.refusal) == (20, 17, 3, None)
    assert (found.total_tokens, found.supervised_tokens, found.longest) == (17 * 40, 17 * 9, 40)
    assert found.total_steps == 10  # seventeen examples in steps of four, twice
    assert [(piece.text, piece.supervised) for piece in found.first_example] == [("Q", False), ("A", True)]
    assert (found.estimated_seconds, found.estimated_ram_bytes, found.calibrated) == (12.5, 7, True)
    assert sum(bucket.examples for bucket in found.histogram) == 20
    assert sorted(path.name for path in data_dir.iterdir()) == before
    assert await services.finetune.list() == ([], 0)


def put_card(directory: Path, monkeypatch, name: str, total: int, used: int) -> None:
    """Stand in for `nvidia-smi` on a machine with one card; sizes in MiB."""
    directory.mkdir()
    tool = directory / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{name}, {total}, {used}, 3, 0, GPU-1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


NEEDS_CARD = """{"calibrated": false, "basis": "It is computed.", "estimate": {"vramBytes": 5100000000, "seconds": 90, "device": "RTX",
    "parts": {"modelBytes": 2000000000, "adapterBytes": 100000000, "exampleBytes": 2400000000, "otherBytes": 600000000}}}"""


async def test_it_says_whether_the_run_fits_the_card_as_it_is_now(services, looking, tmp_path, monkeypatch):
    looking(NEEDS_CARD)
    put_card(tmp_path / "bin", monkeypatch, "RTX", 8192, 1024)
    found = await services.previews.preview(config())
    assert [(fit.place, fit.verdict) for fit in found.fits] == [("card", "fits")]
    assert found.fits[0].text == "Fits: it needs about 5.1 GB of 7.5 GB free on RTX."
    assert (found.basis, found.calibrated, found.refusal) == ("It is computed.", False, None)


async def test_if_it_does_not_fit_the_preview_says_what_to_change_and_still_refuses_nothing(
    services, looking, tmp_path, monkeypatch
):
    looking(NEEDS_CARD)
    put_card(tmp_path / "bin", monkeypatch, "RTX", 8192, 6000)
    found = await services.previews.preview(config())
    (fit,) = found.fits
    assert fit.verdict == "too-large"
    assert fit.remedies[0].startswith("Free the card: other programs hold 6.3 GB of it.")
    assert fit.remedies[-1] == "Train with the backend `stand-in`, which uses main memory. It is slower."
    assert found.refusal is None


async def test_without_nvidia_smi_it_says_that_the_free_memory_is_not_known(services, looking, tmp_path, monkeypatch):
    looking(NEEDS_CARD)
    monkeypatch.setattr("tmde_core.resources.shutil.which", lambda _: None)
    (fit,) = (await services.previews.preview(config())).fits
    assert fit.verdict == "unknown"


async def test_a_run_without_a_card_is_held_against_main_memory_and_measured_figures_are_called_so(services, looking):
    found = await services.previews.preview(config())
    assert [(fit.place, fit.verdict) for fit in found.fits] == [("ram", "fits")]
    assert found.basis == MEASURED
    looking('{"calibrated": false}')
    assert (await services.previews.preview(config())).basis == COMPUTED
    looking('{"estimate": {}}')
    unknown = await services.previews.preview(config())
    assert (unknown.basis, unknown.fits) == ("", ())


async def test_a_backend_that_cannot_look_at_tokens_is_held_against_the_card_too(
    services, data_dir, tmp_path, monkeypatch
):
    (data_dir / "needs-card").touch()
    put_card(tmp_path / "bin", monkeypatch, "RTX", 8192, 6000)
    found = await services.previews.preview(FineTuneConfig(backend="stand-in", min_traces=5))
    assert [fit.verdict for fit in found.fits] == ["too-large"]
    assert found.estimated_vram_bytes == 6_000_000_000


async def test_whatever_is_left_out_is_said_with_its_reason(services, looking):
    looking('{"What is 19 times 7?": 600}')
    same = make_trace("what is  3 times 7", "Twenty-one.", minutes=99, auto_score=8.5)
    leak = make_trace("Tell me: why is the sea salt?", minutes=99)
    gone = make_trace("What is 88 times 7?", minutes=99)
    asked = make_trace("Who asked?", minutes=99, source="benchmark")
    poor, unscored = make_trace("Poor?", auto_score=3.25), make_trace("Unscored?", auto_score=None)
    cut = make_trace("Where does it stop?", finish_reason="length")
    for one in (
        cut,
        same,
        leak,
        gone,
        asked,
        unscored,
        poor,
        make_trace("Poor too?", source="benchmark", auto_score=3.0),
    ):
        await services.traces.add(one)
    await services.traces.withdraw(gone.id, "It is wrong.")
    found = await services.previews.preview(config(max_seq_length=512))
    assert found.left_out_by_reason == {
        "too-long": 1, "withdrawn": 1, "duplicate": 1, "leak": 1, "benchmark": 1, "low-score": 2, "cut": 1,
    }  # fmt: skip
    told = {one.reason: one for one in reversed(found.left_out)}
    assert (told["benchmark"].trace_id, told["benchmark"].detail) == (asked.id, "A benchmark asked for it.")
    assert [(one.trace_id, one.detail) for one in found.left_out if one.reason == "low-score"] == [
        (poor.id, "Its score is 3.25; 8 is the least."), (unscored.id, "It has no score."),
    ]  # fmt: skip
    assert (told["cut"].trace_id, told["cut"].detail) == (
        cut.id, "Its answer was cut off, and you have not rated or corrected it.",
    )  # fmt: skip
    used = await services.previews.preview(config(max_seq_length=512, cut_answers="use"))
    assert (used.examples, "cut" in used.left_out_by_reason) == (20, False)
    assert "suite/seas" in told["leak"].detail
    assert told["leak"].trace_id == leak.id
    assert told["too-long"].detail == "It has 600 tokens; maxSeqLength is 512."
    assert (found.examples, found.longest) == (19, 600)


async def test_own_benchmark_questions_are_protected_too(services):
    await services.benchmark.add_question(Question(id="own", query="What is 5 times 7?", domain="mathematics"))
    found = await services.previews.preview(config())
    assert [one.detail for one in found.left_out] == ["It equals the benchmark question custom/own."]


async def test_what_a_run_would_be_refused_for_is_shown_and_not_raised(services, looking):
    few = await services.previews.preview(FineTuneConfig(backend="looking", min_traces=50))
    assert (few.examples, few.required) == (20, 50)
    assert "needs 50 different questions" in few.refusal
    looking('{"supervised": 0}')
    assert "Not a single token" in (await services.previews.preview(config())).refusal
    looking('{"fail": "The chat template is strange."}')
    strange = await services.previews.preview(config())
    assert strange.refusal == "The chat template is strange."
    assert strange.total_tokens is None


@pytest.mark.parametrize(
    ("told", "note"),
    [
        ('{"fail": 7}', "The preview's process ended with exit status 7, so lengths are not known."),
        ('{"fail": 1, "warn": 1}', "The preview's process ended with exit status 1, so lengths are not known."),
        ('{"kill": 9}', "The preview's process was killed by signal 9 (SIGKILL), so lengths are not known."),
        ('{"supervised": {}}', "The backend's preview wrote no report that can be read, so lengths are not known."),
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)), so lengths are not known."),
    ],
)  # fmt: skip
async def test_a_preview_that_breaks_hides_nothing_that_is_known_without_it(services, looking, told, note):
    looking(told)
    found = await services.previews.preview(config())
    assert (found.examples, found.refusal, found.total_tokens) == (20, None, None)
    assert found.note.endswith(note)


async def test_a_preview_process_that_cannot_be_started_or_hangs_is_said_and_leaves_no_process(
    services, data_dir, monkeypatch
):
    monkeypatch.setattr(Looking, "preview", lambda _, job: WorkerCommand(argv=("/no/such/program",)))
    assert "'/no/such/program' cannot be started" in (await services.previews.preview(config())).note
    pid = data_dir / "pid"
    hang = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(Looking, "preview", lambda _, job: WorkerCommand(argv=(sys.executable, "-c", hang)))
    monkeypatch.setattr("tmde_core.finetune.preview.process.SECONDS", 0.5)
    assert "took longer than" in (await services.previews.preview(config())).note
    assert not psutil.pid_exists(int(pid.read_text()))


async def test_the_counts_are_known_at_once_then_the_tokens_then_time_and_memory(services, looking, tmp_path):
    go = tmp_path / "go"
    looking(f'{{"early": "{go}"}}')
    parts = services.previews.parts(config())
    counts = await anext(parts)
    assert (counts.examples, counts.total_tokens, counts.note) == (20, None, LOOKING)
    tokens = await anext(parts)
    assert (tokens.total_tokens, tokens.estimated_seconds, tokens.note) == (17 * 40, None, MEASURING)
    go.touch()
    (whole,) = [part async for part in parts]
    assert (whole.total_tokens, whole.estimated_seconds, whole.note) == (17 * 40, 12.5, "")


async def test_counts_alone_need_no_process(services, monkeypatch):
    monkeypatch.setattr(Looking, "preview", None)
    found = await services.previews.preview(config(), counts_only=True)
    assert (found.examples, found.total_tokens, found.note) == (20, None, NOT_LOOKED_AT)


async def test_a_preview_that_takes_too_long_keeps_what_it_found(services, looking, monkeypatch):
    looking('{"early": "/no/such/file"}')
    monkeypatch.setattr("tmde_core.finetune.preview.process.SECONDS", 1.0)
    found = await services.previews.preview(config())
    assert (found.total_tokens, found.estimated_seconds) == (17 * 40, None)
    assert "took longer than 1 s" in found.note


async def test_a_run_that_begins_ends_the_preview_and_its_process(services, looking, data_dir):
    looking('{"early": "/no/such/file"}')
    parts = services.previews.parts(config())
    await anext(parts)
    await anext(parts)  # its worker runs
    run = await services.finetune.start(FineTuneConfig(backend="stand-in", base_model="endless", min_traces=5))
    try:
        (last,) = [part async for part in parts]
        assert last.note == BEGUN
        assert last.total_tokens == 17 * 40
        assert not [
            one for one in psutil.Process().children() if "-c" in one.cmdline() and "job.json" in str(one.cmdline())
        ]
    finally:
        await services.finetune.cancel(run.id)


async def test_a_preview_that_nobody_wants_any_more_leaves_no_process_and_no_files(services, looking, data_dir):
    looking('{"early": "/no/such/file"}')
    parts = services.previews.parts(config())
    await anext(parts)
    await anext(parts)
    await parts.aclose()
    assert not list(data_dir.glob(".preview-*"))
    assert not [one for one in psutil.Process().children() if "job.json" in str(one.cmdline())]


async def test_a_preview_runs_at_normal_priority(services, monkeypatch, data_dir):
    nice = "import os, sys; sys.exit(f'Its nice value is {os.nice(0)}.')"
    monkeypatch.setattr(Looking, "preview", lambda _, job: WorkerCommand(argv=(sys.executable, "-c", nice)))
    assert (await services.previews.preview(config())).refusal == f"Its nice value is {os.nice(0)}."


async def test_many_left_out_are_counted_and_some_are_named(services, monkeypatch):
    monkeypatch.setattr("tmde_core.finetune.preview.service.LISTED", 2)
    for number in range(5):
        await services.traces.add(make_trace("What is 3 times 7?", str(number), minutes=number, auto_score=8.5))
        await services.traces.add(make_trace(f"Poor {number}?", auto_score=float(number)))
    found = await services.previews.preview(config())
    assert found.left_out_by_reason == {"duplicate": 5, "low-score": 5}
    assert [one.reason for one in found.left_out] == ["duplicate", "duplicate", "low-score", "low-score"]


async def test_examples_that_are_too_long_and_leave_too_few_refuse_a_run(services, looking):
    looking('{"What is 19 times 7?": 600}')
    found = await services.previews.preview(FineTuneConfig(backend="looking", min_traces=20, max_seq_length=512))
    assert found.refusal == (
        "Of 20 examples 19 can be trained on, fewer than the 20 that a run needs. "
        "1 is longer than maxSeqLength (512 tokens). Raise it, or debate some more."
    )


async def test_an_example_that_the_backend_cannot_encode_is_left_out_with_its_reason(services, looking):
    looking('{"What is 19 times 7?": "The model has no word for it."}')
    found = await services.previews.preview(config())
    assert (found.refusal, found.examples, found.left_out_by_reason) == (None, 19, {"cannot-encode": 1})
    assert found.left_out[0].detail == "The model has no word for it."
    looking('{"What is 19 times 7?": "The model has no word for it."}')
    few = await services.previews.preview(FineTuneConfig(backend="looking", min_traces=20))
    assert "1 cannot be used, for example: The model has no word for it." in (few.refusal or "")


async def test_while_a_run_is_in_progress_no_second_model_is_loaded(services, monkeypatch):
    monkeypatch.setattr(Looking, "preview", None)
    run = await services.finetune.start(FineTuneConfig(backend="stand-in", base_model="endless", min_traces=5))
    try:
        found = await services.previews.preview(config())
    finally:
        await services.finetune.cancel(run.id)
    assert (found.examples, found.total_tokens) == (20, None)
    assert f"run {run.id} is in progress" in found.refusal
    assert "no training run is in progress" in found.note


async def test_a_backend_that_cannot_look_is_previewed_without_tokens(services):
    found = await services.previews.preview(FineTuneConfig(backend="stand-in", min_traces=5))
    assert (found.examples, found.total_tokens, found.refusal) == (20, None, None)
    assert "cannot look at tokens" in found.note


async def test_a_preview_refuses_what_no_run_could_have(services):
    with pytest.raises(InvalidInputError, match="looking"):
        await services.previews.preview(FineTuneConfig(backend="nowhere"))
    with pytest.raises(PluginUnavailableError, match="It lacks a card"):
        await services.previews.preview(FineTuneConfig(backend="lacking"))
    with pytest.raises(InvalidInputError, match="loraRank"):
        await services.previews.preview(FineTuneConfig(lora_rank=3))


def test_a_histogram_has_a_dozen_bars_at_most_and_counts_everything_where_it_belongs():
    for lengths in ([], [7], list(range(1000)), [3, 12_000]):
        bars = histogram(lengths)
        assert len(bars) <= 12
        assert [bar.examples for bar in bars] == [sum(bar.low <= one < bar.high for one in lengths) for bar in bars]
        assert sum(bar.examples for bar in bars) == len(lengths)


async def test_what_a_killed_preview_left_behind_goes_at_the_next_start(services, data_dir):
    left, young = data_dir / ".preview-old", data_dir / ".preview-young"
    for directory in (left, young):
        directory.mkdir()
    os.utime(left, (1, 1))
    services.previews.sweep()
    assert (left.exists(), young.exists()) == (False, True)
