"""Why a process ended is read from its exit status; of its last lines only those count that give a reason."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tmde_core.finetune.supervision.supervisor import describe_exit
from tmde_core.sdk.last_words import describe_status, drop_noise, find_reason

FUTURE = [
    "/usr/lib/python3/site-packages/torch/x.py:120: FutureWarning: `torch.y` is deprecated.",
    "  warnings.warn(",
]

NOISE = [
    FUTURE,
    ["UserWarning: this is only said"],
    ["/a/b.py:3: DeprecationWarning: old"],
    ["WARNING: Retrying after connection broken"],
    ["[notice] A new release of pip is available: 24.0 -> 25.1"],
    ["WARNING:root:slow"],
    ["I0000 00:00:1 cpu_feature_guard.cc:210] optimized"],
    [" 53%|█████▎    | 53/100 [00:04<00:04, 11.30it/s]"],
    ["10%\r 100%"],
    ["", "   "],
]


@pytest.mark.parametrize("noise", NOISE)
def test_warnings_notices_and_progress_are_no_reason(noise: list[str]) -> None:
    assert find_reason(noise) == ""
    assert find_reason(["The file is damaged.", *noise]) == "The file is damaged."
    assert find_reason([*noise, "The file is damaged."]) == "The file is damaged."


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: bad value",
        "torch.OutOfMemoryError: CUDA out of memory.",
        "KeyboardInterrupt",
        "some.package.Strange: no word Error in its name",
    ],
)
def test_after_a_traceback_the_exceptions_line_is_the_reason(line: str) -> None:
    trace = ["Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "    raise x", line]
    assert find_reason(["before", *trace]) == line
    assert find_reason([*trace, *FUTURE]) == line
    assert find_reason([*trace, "sys:1: ResourceWarning: unclosed file"]) == line


def test_of_chained_tracebacks_the_last_exception_counts() -> None:
    lines = ["Traceback (most recent call last):", "  File", "KeyError: 'a'", ""]
    lines += ["During handling of the above exception, another exception occurred:", ""]
    lines += ["Traceback (most recent call last):", "  File", "RuntimeError: the end"]
    assert find_reason(lines) == "RuntimeError: the end"


def test_a_traceback_that_was_cut_off_gives_no_reason() -> None:
    assert find_reason(["Traceback (most recent call last):", '  File "a.py", line 1', "    f()"]) == ""


def test_a_message_that_only_mentions_a_warning_stays() -> None:
    assert drop_noise(["The dataset has no warnings at all."]) == ["The dataset has no warnings at all."]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (-signal.SIGKILL, "was killed by signal 9 (SIGKILL)"),
        (-signal.SIGSEGV, "was killed by signal 11 (SIGSEGV)"),
        (-99, "was killed by signal 99 (unknown)"),
        (3, "ended with exit status 3"),
        (None, "ended before it was done"),
    ],
)
def test_the_exit_status_tells_how_a_process_ended(status: int | None, told: str) -> None:
    assert describe_status(status) == told


@pytest.mark.parametrize("status", [-signal.SIGKILL, -signal.SIGTERM, 1, None])
def test_a_trainers_warning_is_never_its_reason(tmp_path: Path, status: int | None) -> None:
    (tmp_path / "worker.log").write_text("\n".join(FUTURE) + "\n")
    told = describe_exit(tmp_path, status)
    assert "Warning" not in told
    assert told.endswith("It left no message.")
    if status is not None:
        assert describe_status(status) in told


def test_a_trainers_exception_is_quoted_without_its_frames(tmp_path: Path) -> None:
    lines = ["epoch 1", "Traceback (most recent call last):", '  File "a"', "ValueError: bad", *FUTURE]
    (tmp_path / "worker.log").write_text("\n".join(lines) + "\n")
    told = describe_exit(tmp_path, 1)
    assert told == "The training process ended with exit status 1 before it was done. Its log ends: ValueError: bad"
