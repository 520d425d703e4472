"""`tmde models pull` against a played hub, as a person types it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Ran, command_line, environment
from tests.core.models.pulling.hub_files import gguf, gguf_repository, weights_repository, write
from tmde_core.testing.fake_hub import FakeHub, playing

Pulling = Callable[..., Ran]


@pytest.fixture
def hub(tmp_path: Path) -> FakeHub:
    weights_repository(tmp_path / "hub/acme/Tiny")
    gguf_repository(tmp_path / "hub/acme/Tiny-GGUF", "acme/Tiny")
    return FakeHub(tmp_path / "hub")


@pytest.fixture
def surroundings(hub: FakeHub, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a person who uses the played hub."""
    with playing(hub) as url:
        kept = {name: value for name, value in environment().items() if not name.startswith("HF_")}
        yield {**kept, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def pull(surroundings: dict[str, str], tmp_path: Path) -> Pulling:
    """Run `tmde models pull …`."""

    def ran(*arguments: str) -> Ran:
        line = command_line(tmp_path / "data", "models", "pull", *arguments)
        done = subprocess.run(line, capture_output=True, text=True, env=surroundings, timeout=120, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    return ran


def test_it_tells_what_it_will_fetch_fetches_it_and_has_nothing_to_do_the_second_time(pull: Pulling) -> None:
    first = pull("acme/Tiny")
    assert first.code == 0
    assert "apache-2.0" in first.out
    assert "600 kB  model.safetensors" in first.out
    assert "free disk" in first.out
    assert "pytorch_model.bin: it may be a pickle" in first.out
    assert "Done: Tiny has its weights" in first.out
    assert "600 kB of 600 kB" in first.err
    again = pull("acme/Tiny")
    assert (again.code, "is here already" in again.out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "quantization"),
    [
        (("acme/Tiny-GGUF",), "Q4_K_M"),
        (("acme/Tiny-GGUF:q8_0",), "Q8_0"),
        (("acme/Tiny-GGUF", "--gguf", "Q2_K"), "Q2_K"),
    ],
)
def test_a_quantisation_can_be_named_in_three_ways(
    pull: Pulling, tmp_path: Path, arguments: tuple[str, ...], quantization: str
) -> None:
    assert pull(*arguments).code == 0
    assert (tmp_path / f"data/models/Tiny/Tiny-{quantization}.gguf").exists()


def test_json_tells_the_plan_and_then_each_step(pull: Pulling) -> None:
    plan, *steps = pull("acme/Tiny", "--json").json_lines
    assert plan["plan"]["repository"] == "acme/Tiny"
    assert steps[-1]["pull"]["state"] == "done"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nonsense",), 2, "Give OWNER/NAME"),
        (("acme/Tiny", "--weights", "--gguf"), 2, "either --weights or --gguf"),
        (("acme/Tiny", "--name", "../x"), 2, "cannot be the name"),
        (("acme/Nope",), 1, "has no model acme/Nope"),
        (("acme/Tiny", "--gguf"), 1, "has no GGUF files"),
        (("--discard", "Nope", "--yes"), 1, "no unfinished pull"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_one_sentence(
    pull: Pulling, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = pull(*arguments)
    assert ran.code == code
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_a_failed_pull_says_so_is_listed_and_can_be_discarded(pull: Pulling, hub: FakeHub) -> None:
    hub.faults.replace("wrong-hash")
    failed = pull("acme/Tiny-GGUF")
    assert failed.code == 1
    assert "Error: Tiny-Q4_K_M.gguf arrived twice" in failed.err
    assert "failed" in pull().out
    assert pull("--discard", "Tiny", "--yes").code == 0
    assert "Nothing was pulled lately" in pull().err


def test_ctrl_c_says_that_the_same_command_goes_on_and_it_does(
    pull: Pulling, surroundings: dict[str, str], hub: FakeHub, tmp_path: Path
) -> None:
    write(hub.folder / "acme/Wide-GGUF", {"Wide-Q4_K_M.gguf": gguf(1_000_000)})
    hub.faults.replace("drip=300000")
    line = command_line(tmp_path / "data", "models", "pull", "acme/Wide-GGUF")
    main, side = pty.openpty()
    process = subprocess.Popen(line, stdin=side, stdout=side, stderr=side, env=surroundings, start_new_session=True)
    os.close(side)
    seen = b""
    while b"/s" not in seen:  # the speed is known, so bytes have arrived
        seen += os.read(main, 4096)
    process.send_signal(2)
    while process.poll() is None:
        seen += read(main)
    seen += read(main)
    os.close(main)
    assert process.returncode == 130
    assert b"the same command goes on from there" in seen
    hub.faults.replace()
    hub.bytes_sent.clear()
    after = pull("acme/Wide-GGUF")
    assert after.code == 0
    assert "are here" in after.out
    assert hub.bytes_sent["Wide-Q4_K_M.gguf"] < 1_000_000


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end of a terminal is closed
        return b""


def test_a_large_pull_asks_first_and_no_is_no(
    surroundings: dict[str, str], hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys, tmde_core.cli.models_pull as module\n"
        "module.ASK_ABOVE_BYTES = 1000\n"
        "from tmde_core.cli.app import run\n"
        f"run({command_line(tmp_path / 'data', 'models', 'pull', 'acme/Tiny')[3:]!r})"
    )
    main, side = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=side, stdout=side, stderr=side, env=surroundings)
    os.close(side)
    seen = b""
    while b"Fetch 600 kB?" not in seen:
        seen += os.read(main, 4096)
    os.write(main, b"n\n")
    while process.poll() is None:
        seen += read(main)
    seen += read(main)
    os.close(main)
    assert process.returncode == 1
    assert b"Nothing was fetched" in seen
    assert hub.bytes_sent.total() == 0


def test_neither_the_help_nor_the_core_loads_the_library_of_the_hub() -> None:
    helped = "from tmde_core.cli.app import run\ntry: run(['models', 'pull', '--help'])\nexcept SystemExit: pass"
    for statement in ("import tmde_core.models.pulling, tmde_core.cli.models_pull", helped):
        code = f"{statement}\nimport sys; assert 'huggingface_hub' not in sys.modules"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
