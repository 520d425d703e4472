"""What happens to the embedded runtime's child processes, and to those who asked, when something dies."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tmde_core.errors import InvalidInputError, WorkerFailedError
from tmde_core.sdk.runtimes import ChatDelta
from tmde_core.testing import make_context
from tmde_core.testing.contracts.runtimes import answer, question
from tmde_cpu.embedded import EMBEDDED_FILE
from tmde_cpu.serving import served
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime, availability
from tmde_cpu.serving.served import ServedModel

pytestmark = pytest.mark.slow

STORY = question("Write a very long story about a dragon.", max_tokens=1500)


@pytest.fixture
def data_dir(tmp_path: Path, embedded_model: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / embedded_model.name).symlink_to(embedded_model)
    return tmp_path


@pytest.fixture
async def runtime(data_dir: Path) -> AsyncIterator[EmbeddedRuntime]:
    made = EmbeddedRuntime(make_context(EmbeddedSettings, str(data_dir)))
    await made.start()
    yield made
    await made.stop()


async def child_pid(runtime: EmbeddedRuntime) -> int:
    pid = (await runtime.status()).pid
    assert pid is not None
    return pid


async def kill_child(runtime: EmbeddedRuntime) -> ServedModel:
    """Kills the default model's child and returns once the runtime has seen it."""
    model = await runtime._model("")
    os.kill(await child_pid(runtime), signal.SIGKILL)
    while True:
        if model.state == "restarting":
            return model
        await asyncio.sleep(0)


async def test_a_crash_is_told_to_the_request_that_suffered_and_the_next_one_is_answered(
    runtime: EmbeddedRuntime, data_dir: Path
) -> None:
    pid = await child_pid(runtime)
    stream = runtime.chat(STORY)
    await anext(stream)
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(WorkerFailedError, match=r"signal 11 \(SIGSEGV\); its last log line: \S+"):
        async for _ in stream:
            pass
    assert (await runtime.status()).state == "restarting"
    text, _ = await answer(runtime, question())  # waits for the restart
    assert text
    status = await runtime.status()
    assert (status.state, status.restarts) == ("ready", 1)
    assert status.pid != pid
    assert "listening" in (data_dir / "logs" / "embedded.log").read_text()


async def test_restarts_back_off_and_a_request_is_told_when_the_next_one_is_far(
    runtime: EmbeddedRuntime,
) -> None:
    model = await runtime._model("")
    model._delay = 0.01
    for expected in (0.02, 0.04, 0.08):
        await kill_child(runtime)
        await answer(runtime, question(max_tokens=1))
        assert model._delay == expected
    assert (await runtime.status()).restarts == 3
    model._delay = 30.0
    await kill_child(runtime)
    with pytest.raises(WorkerFailedError, match="started again in 30 s"):
        await answer(runtime, question())


async def test_a_child_that_was_healthy_for_long_is_restarted_at_once(
    runtime: EmbeddedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "HEALTHY_SECONDS", 0.0)
    model = await runtime._model("")
    model._delay = 30.0
    await kill_child(runtime)
    assert model._delay == 2 * served.FIRST_DELAY_SECONDS
    await answer(runtime, question(max_tokens=1))


async def test_stopping_ends_the_child_and_the_requests_under_way(runtime: EmbeddedRuntime) -> None:
    pid = await child_pid(runtime)
    stream = runtime.chat(STORY)
    assert isinstance(await anext(stream), ChatDelta)
    await runtime.stop()
    assert not psutil.pid_exists(pid)
    with pytest.raises(WorkerFailedError):
        async for _ in stream:
            pass
    assert (await runtime.status()).state == "stopped"
    await runtime.start()  # and it can be started again
    await answer(runtime, question(max_tokens=1))


PARENT = """
import asyncio, sys
from tmde_core.testing import make_context
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime

async def main():
    runtime = EmbeddedRuntime(make_context(EmbeddedSettings, sys.argv[1]))
    await runtime.start()
    print((await runtime.status()).pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_no_child_outlives_a_parent_that_is_killed(data_dir: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    await parent.communicate()
    while True:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break  # a zombie is left only where nobody adopts orphans, as in some containers
        await asyncio.sleep(0.02)


async def test_the_key_is_in_no_command_line_or_environment_and_without_it_nobody_is_answered(
    runtime: EmbeddedRuntime,
) -> None:
    process = psutil.Process(await child_pid(runtime))
    async with (await runtime._model("")).lease(None) as generation:
        key = generation.child.client.headers["authorization"].removeprefix("Bearer ")
        assert len(key) > 30
        assert key not in " ".join(process.cmdline())
        assert key not in str(process.environ())
        refused = await generation.child.client.get("/slots", headers={"authorization": "Bearer wrong"})
    assert refused.status_code == 401
    assert [connection.laddr.ip for connection in process.net_connections("inet") if connection.status == "LISTEN"] == [
        "127.0.0.1"
    ]


@pytest.mark.parametrize(
    ("settings", "content", "told"),
    [
        ({"model": "absent.gguf"}, None, "absent.gguf is not there"),
        ({"model": "text.gguf"}, b"This is a text.", "text.gguf is no GGUF file, or is damaged"),
        ({"model": "cut.gguf"}, 3_000_000, "cut.gguf cannot be loaded"),
        ({}, b"GGUF", "is damaged.* Delete the file and run ./run setup"),
    ],
)
async def test_a_missing_or_damaged_model_is_named(
    tmp_path: Path, embedded_model: Path, settings: dict[str, str], content: bytes | int | None, told: str
) -> None:
    (tmp_path / "models").mkdir()
    if isinstance(content, int):
        with embedded_model.open("rb") as whole:
            content = whole.read(content)
    if content is not None:
        (tmp_path / "models" / settings.get("model", EMBEDDED_FILE)).write_bytes(content)
    context = make_context(EmbeddedSettings, str(tmp_path), **settings)
    made = EmbeddedRuntime(context)
    with pytest.raises(InvalidInputError, match=told):
        await made.start()
    assert (await made.status()).state == "stopped"
    if "cut" not in told:  # that one only shows when it is loaded
        assert not availability(context).ok
    await made.stop()
