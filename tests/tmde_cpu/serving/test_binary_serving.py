"""The embedded runtime with a `llama-server` program: a stand-in that takes its flags and serves the real model."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.tmde_cpu.serving.test_runtime_serving import (
    first_logprobs,
    make_adapter,
    make_data_dir,
    until_slots_are,
)
from tmde_core.errors import AdapterInvalidError, InvalidInputError
from tmde_core.testing import make_context
from tmde_core.testing.contracts.runtimes import answer, question
from tmde_cpu.serving import binary_child
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime
from tmde_cpu.testing import LlamaServerFile, write_llama_server

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

PLENTY = {"CUDA0": 20_000}
LONG = question("Write a very long story about a dragon.", max_tokens=1500)


def runtime_of(directory: Path, file: Path, program: LlamaServerFile, **settings: object) -> EmbeddedRuntime:
    data_dir = make_data_dir(directory / "data", file)
    return EmbeddedRuntime(make_context(EmbeddedSettings, str(data_dir), binary=str(program.path), **settings))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> LlamaServerFile:
    return write_llama_server(tmp_path_factory.mktemp("program"), cards=PLENTY)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(
    tmp_path_factory: pytest.TempPathFactory, embedded_model: Path, program: LlamaServerFile
) -> AsyncIterator[EmbeddedRuntime]:
    made = runtime_of(tmp_path_factory.mktemp("served"), embedded_model, program)
    await made.start()
    yield made
    await made.stop()


async def test_status_and_models_say_where_the_model_runs(runtime: EmbeddedRuntime, embedded_model: Path) -> None:
    told = "all 31 layers on CUDA0 (NVIDIA GeForce RTX 3090); 4 answers at a time, 8,192 tokens each; "
    told += "llama-server build 11434"
    status = await runtime.status()
    assert (status.state, status.detail) == ("ready", f"{embedded_model.name}: {told}")
    assert status.vram_bytes is not None
    assert embedded_model.stat().st_size < status.vram_bytes < 2_000_000_000  # 720 MiB of cache, and the weights
    (model,) = await runtime.models()
    assert (model.detail, model.context_length) == (told, 8192)
    assert await runtime.context_length() == 8192


async def test_the_key_is_nowhere_for_others_to_read_and_needed(
    runtime: EmbeddedRuntime, program: LlamaServerFile
) -> None:
    pid = (await runtime.status()).pid
    process = psutil.Process(pid)
    async with (await runtime._model("")).lease(None) as generation:
        key = generation.child.key
        refused = await generation.child.client.get("/slots", headers={"authorization": "Bearer wrong"})
    assert refused.status_code == 401
    launcher = process.parent()
    assert launcher is not None
    for one in (process, launcher):
        assert key not in " ".join(one.cmdline())
        assert key not in str(one.environ())
    command = program.starts()[-1]
    key_file = Path(command[command.index("--api-key-file") + 1])
    assert not key_file.parent.exists()  # the program has read it
    assert {one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"} == {"127.0.0.1"}


async def test_it_answers_by_a_schema_and_counts_tokens(runtime: EmbeddedRuntime) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    text, _ = await answer(runtime, question("Name a colour.", json_schema=schema, max_tokens=40))
    assert msgspec.json.decode(text)["colour"] in ("red", "blue")
    assert await runtime.count_tokens(["hello world"]) == [2]


async def test_each_request_names_its_adapter_wherever_that_lies(runtime: EmbeddedRuntime, tmp_path: Path) -> None:
    bare = await first_logprobs(runtime, None)
    one, two = make_adapter(tmp_path / 'with, comma and "quotes"', 1), make_adapter(tmp_path / "2", 2)
    await runtime.load_adapter(one)
    with_one, with_two = await first_logprobs(runtime, one), await first_logprobs(runtime, two)
    assert await first_logprobs(runtime, None) == bare
    assert with_one != bare != with_two != with_one
    assert set((await runtime.status()).adapters) == {"adapter-1", "adapter-2"}
    pid = (await runtime.status()).pid
    with pytest.raises(AdapterInvalidError, match=r"adapter-3 cannot be served by .*: "):
        await runtime.load_adapter(make_adapter(tmp_path / "3", 3, width=64))
    assert (await runtime.status()).pid == pid


async def test_leaving_a_stream_frees_its_slot(runtime: EmbeddedRuntime) -> None:
    async with aclosing(runtime.chat(LONG)) as stream:
        await anext(stream)
        assert await runtime.busy_slots() == 1
    await until_slots_are(runtime, 0)


async def test_a_killed_program_is_started_again(runtime: EmbeddedRuntime) -> None:
    status = await runtime.status()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    model = await runtime._model("")
    while model.state != "restarting":
        await asyncio.sleep(0.01)
    text, _ = await answer(runtime, question())
    assert text
    after = await runtime.status()
    assert (after.state, after.restarts) == ("ready", status.restarts + 1)
    assert after.pid != status.pid


async def test_if_the_launcher_is_killed_nothing_of_a_wrapper_script_stays(
    tmp_path: Path, embedded_model: Path, program: LlamaServerFile
) -> None:
    wrapper = tmp_path / "my server"
    wrapper.write_text(f'#!/bin/sh\n"{program.path}" "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    made = runtime_of(tmp_path, embedded_model, LlamaServerFile(wrapper))
    await made.start()
    status = await made.status()
    script = psutil.Process(status.pid)
    inner, launcher = script.children()[0].pid, script.parent()
    assert launcher is not None
    launcher.kill()
    model = await made._model("")
    while model.state != "restarting":
        await asyncio.sleep(0.01)
    while psutil.pid_exists(inner) and psutil.Process(inner).status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.01)
    assert (await answer(made, question(max_tokens=1)))[1].completion_tokens == 1
    await made.stop()


@pytest.mark.parametrize(("most", "layers"), [(20, 15), (0, 0)])
async def test_a_card_that_is_fuller_than_it_says_gets_fewer_layers_and_at_last_none(
    tmp_path: Path, embedded_model: Path, most: int, layers: int
) -> None:
    program = write_llama_server(tmp_path, cards=PLENTY, most_layers=most)
    made = runtime_of(tmp_path, embedded_model, program)
    with capture_logs() as said:
        await made.start()
    tried = [command[command.index("--gpu-layers") + 1] for command in program.starts()]
    assert tried == ["31", "23", "15", "0"][: 3 if layers else 4]
    assert [line["next"] for line in said if line["event"] == "embedded.card_full"] == [23, 15, 0][: len(tried) - 1]
    detail = (await made.status()).detail
    where = "15 of 31 layers on CUDA0" if layers else "on the processor"
    assert f": {where}" in detail
    assert ((await made.status()).vram_bytes is None) == (layers == 0)
    assert f"The memory was too little for {tried[-2]} layers on the card, so {layers or 'none'} are there." in detail
    await made.stop()


async def test_adapters_are_switched_in_turn_if_no_second_program_fits_the_card(
    tmp_path: Path, embedded_model: Path
) -> None:
    program = write_llama_server(tmp_path, cards=PLENTY)
    made = runtime_of(tmp_path, embedded_model, program)
    await made.start()
    program.play(cards={"CUDA0": 700})  # the running program holds the rest
    old = (await made.status()).pid
    assert old is not None
    async with aclosing(made.chat(question("Write a story.", max_tokens=60))) as stream:
        await anext(stream)
        loading = asyncio.create_task(made.load_adapter(make_adapter(tmp_path / "1", 1)))
        while (await made._model(""))._current is not None:
            await asyncio.sleep(0.01)
        program.play(cards=PLENTY)
        waiting = asyncio.create_task(answer(made, question(max_tokens=2)))
        pieces = [item async for item in stream]  # the answer under way is finished first
    await loading
    assert len(pieces) > 30
    assert (await waiting)[0]
    assert not psutil.pid_exists(old)
    assert (await made.status()).adapters == ("adapter-1",)
    program.play(cards={"CUDA0": 700})
    with pytest.raises(AdapterInvalidError):
        await made.load_adapter(make_adapter(tmp_path / "2", 2, width=64))
    assert (await made.status()).adapters == ("adapter-1",)  # the program before is back
    await made.stop()


async def test_a_program_that_died_of_a_full_card_is_started_with_fewer_layers(
    tmp_path: Path, embedded_model: Path
) -> None:
    program = write_llama_server(tmp_path, cards=PLENTY)
    made = runtime_of(tmp_path, embedded_model, program)
    await made.start()
    async with (await made._model("")).lease(None) as generation:
        generation.child._lines.add(b"CUDA error: out of memory")  # as the program logs before it aborts
    pid = (await made.status()).pid
    assert pid is not None
    os.kill(pid, signal.SIGABRT)
    await generation.child.exited
    await answer(made, question(max_tokens=1))
    detail = (await made.status()).detail
    assert "23 of 31 layers on CUDA0" in detail
    assert "The card was full while the model answered" in detail
    await made.stop()


async def test_a_port_that_another_program_has_taken_is_left_to_it(
    tmp_path: Path, embedded_model: Path, program: LlamaServerFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    taken, free = stranger.sockets[0].getsockname()[1], binary_child._free_port()
    ports = iter([taken, free])
    monkeypatch.setattr(binary_child, "_free_port", lambda: next(ports))
    made = runtime_of(tmp_path, embedded_model, program)
    await made.start()
    async with (await made._model("")).lease(None) as generation:
        assert generation.child.address == f"http://127.0.0.1:{free}"
    await made.stop()
    stranger.close()


@pytest.mark.parametrize(
    ("damage", "settings", "field", "told"),
    [
        ("cut", {}, "model", r"SmolLM2.* cannot be loaded by .*llama-server \("),
        ("", {"extra_args": ["--bogus"]}, "extra_args", r"refuses its arguments \(.*--bogus\). Check extra_args"),
    ],
)
async def test_what_the_program_refuses_is_told_with_its_own_words(
    tmp_path: Path, embedded_model: Path, damage: str, settings: dict[str, object], field: str, told: str
) -> None:
    model = embedded_model
    if damage:
        model = tmp_path / "SmolLM2-cut.gguf"
        with embedded_model.open("rb") as whole:
            model.write_bytes(whole.read(3_000_000))
    program = write_llama_server(tmp_path / "program", cards=PLENTY)
    made = runtime_of(tmp_path, model, program, model=model.name, **settings)
    with pytest.raises(InvalidInputError, match=told) as caught:
        await made.start()
    assert caught.value.context["field"] == field
    assert (await made.status()).state == "stopped"
    await made.stop()


PARENT = """
import asyncio, sys
from tmde_core.testing import make_context
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime

async def main():
    runtime = EmbeddedRuntime(make_context(EmbeddedSettings, sys.argv[1], binary=sys.argv[2]))
    await runtime.start()
    print("pid", (await runtime.status()).pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_no_program_outlives_a_tmde_that_is_killed(
    tmp_path: Path, embedded_model: Path, program: LlamaServerFile
) -> None:
    data_dir = make_data_dir(tmp_path / "data", embedded_model)
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(data_dir), str(program.path)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = 0
    try:
        async for line in parent.stdout:  # log lines come before
            if line.startswith(b"pid "):
                pid = int(line[4:])
                break
        assert psutil.pid_exists(pid)
    finally:
        parent.kill()
    await parent.communicate()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.02)
