"""What is asked of a `llama-server` program before it serves anything. No model is loaded here."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError, TmdeError, WorkerFailedError
from tmde_core.testing import make_context
from tmde_cpu.serving import binary, binary_host
from tmde_cpu.serving.binary import (
    MIB,
    NEEDED_FLAGS,
    Device,
    best_devices,
    list_devices,
    open_binary,
    parse_devices,
    parse_flags,
    parse_version,
)
from tmde_cpu.serving.binary_host import BinaryHost, read_sizes
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import availability
from tmde_cpu.serving.server_log import LastLines, ServerLog
from tmde_cpu.testing import LlamaServerFile, write_llama_server


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("version: 6150 (4850b52a)\nbuilt with cc (Debian 12.2.0) for x86_64-linux-gnu\n", "build 6150"),
        ("version: 0.6.0-dev (build 11434, commit 64fbe0f)\nbuilt with GNU 12.2.0 for Linux x86_64\n", "build 11434"),
        ("version: 0.6.0-dev (build 0, commit unknown)\n", "0.6.0-dev"),
        ("ggml_cuda_init: found 1 CUDA devices:\nversion: 4500 (abc)\n", "build 4500"),
        ("nginx version: nginx/1.22.1\n", ""),
        ("ls (GNU coreutils) 9.1\n", ""),
        ("", ""),
    ],
)
def test_the_version_is_read_in_old_and_new_builds(told: str, version: str) -> None:
    assert parse_version(told) == version


def test_every_kind_of_card_is_read_and_libraries_without_memory_are_none() -> None:
    told = """ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 3090, compute capability 8.6, VMM: yes
Available devices:
  CUDA0: NVIDIA GeForce RTX 3090 (24124 MiB, 23869 MiB free)
  Vulkan1: AMD Radeon RX 7900 XTX (RADV NAVI31) (24560 MiB, 24000 MiB free)
  Metal: Apple M2 (10922 MiB, 10916 MiB free)
  BLAS: OpenBLAS (0 MiB, 0 MiB free)
"""
    assert parse_devices(told) == (
        Device("CUDA0", "NVIDIA GeForce RTX 3090", 24_124 * MIB, 23_869 * MIB),
        Device("Vulkan1", "AMD Radeon RX 7900 XTX (RADV NAVI31)", 24_560 * MIB, 24_000 * MIB),
        Device("Metal", "Apple M2", 10_922 * MIB, 10_916 * MIB),
    )
    assert parse_devices("Available devices:\n  (none)\n") == ()


def card(name: str, description: str) -> Device:
    return Device(name, description, 8000 * MIB, 8000 * MIB)


@pytest.mark.parametrize(
    ("devices", "used"),
    [
        ([], ()),
        ([card("CUDA0", "RTX 3090"), card("CUDA1", "RTX 3060")], ("CUDA0", "CUDA1")),
        (
            [card("CUDA0", "RTX 3090"), card("Vulkan0", "RTX 3090"), card("Vulkan1", "Intel(R) UHD Graphics 770")],
            ("CUDA0",),
        ),
        ([card("Vulkan0", "Intel(R) UHD Graphics 770"), card("Vulkan1", "AMD Radeon RX 7900 XTX")], ("Vulkan1",)),
        ([card("Vulkan0", "AMD Radeon 780M (RADV PHOENIX)")], ("Vulkan0",)),
        ([card("Vulkan0", "llvmpipe (LLVM 15.0.6, 256 bits)")], ()),
        ([card("Metal", "Apple M2")], ("Metal",)),
    ],
)
def test_each_card_is_used_once_and_graphics_in_the_processor_only_without_a_card(
    devices: list[Device], used: tuple[str, ...]
) -> None:
    assert tuple(device.name for device in best_devices(devices)) == used


@given(st.text(max_size=300))
def test_no_output_breaks_what_reads_it(told: str) -> None:
    parse_version(told)
    parse_devices(told)
    parse_flags(told)
    LastLines().add(told.encode())


def test_flags_are_read_from_the_lines_that_begin_an_option_and_not_from_explanations() -> None:
    told = """----- common params -----

-h,    --help, --usage                  print usage and exit
-tb,   --threads-batch N                number of threads (default: same as --threads)
                                        see also --never
--ui,  --webui, --no-ui, --no-webui     whether to enable the Web UI (default: enabled)
-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        use single unified KV buffer
--lora-init-without-apply               load LoRA adapters without applying them
"""
    words = "-h --help --usage -tb --threads-batch --ui --webui --no-ui --no-webui -kvu --kv-unified -no-kvu"
    assert parse_flags(told) == {*words.split(), "--no-kv-unified", "--lora-init-without-apply"}


def test_a_program_is_found_by_its_path_and_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = write_llama_server(tmp_path / "my tools")
    monkeypatch.setenv("PATH", f"{program.path.parent}{os.pathsep}{os.environ['PATH']}")
    for named in (str(program.path), "llama-server"):
        found = open_binary(named)
        assert (found.path, found.version) == (program.path, "build 11434")
        assert all(found.knows(flag) for flag in NEEDED_FLAGS)
    assert list_devices(found) == ()
    program.play(cards={"CUDA0": 20_000})
    assert [(card.name, card.free_bytes) for card in list_devices(found)] == [("CUDA0", 20_000 * MIB)]


def script(directory: Path, text: str) -> Path:
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def not_executable(directory: Path) -> Path:
    path = script(directory, "exit 0")
    path.chmod(0o644)
    return path


def no_program(directory: Path) -> Path:
    path = directory / "program"
    path.write_bytes(b"\x7fELF\x02 not for this machine")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda directory: directory / "absent", "absent is not there. Name the path of a llama-server"),
        (lambda directory: directory, "is a directory. Name the llama-server in it"),
        (lambda _: Path("no-such-llama-server"), "No program called no-such-llama-server is on the PATH"),
        (not_executable, r"may not be run. Make it executable: chmod \+x"),
        (no_program, "cannot be started: .*Name a llama-server for this machine"),
        (lambda directory: script(directory, "echo ollama version is 0.5"), "is no llama-server: .*ollama version"),
        (lambda directory: script(directory, "exit 3"), "is no llama-server: .*ended with code 3 and said nothing"),
        (lambda directory: script(directory, "yes version"), "is no llama-server"),
        (
            lambda directory: script(
                directory, "echo 'error while loading shared libraries: libcudart.so.12: cannot open' >&2; exit 127"
            ),
            "cannot be started: error while loading shared libraries: libcudart.so.12.*Install what it lacks",
        ),
        (
            lambda directory: (
                write_llama_server(directory / "old", version="4000 (abc)", lacks=["--lora-init-without-apply"]).path
            ),
            r"\(build 4000\) is too old: it has no --lora-init-without-apply. Install a build of",
        ),
    ],
)
def test_a_program_that_cannot_serve_is_refused_with_the_reason(
    tmp_path: Path, make: Callable[[Path], Path], told: str
) -> None:
    context = make_context(EmbeddedSettings, str(tmp_path), binary=str(make(tmp_path)))
    found = availability(context)
    assert not found.ok
    with pytest.raises(InvalidInputError, match=told) as caught:
        open_binary(context.settings.binary)
    assert found.reason == caught.value.detail


def test_a_program_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "ASK_SECONDS", 0.3)
    path = script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    with pytest.raises(WorkerFailedError, match="did not answer --version"):
        open_binary(str(path))
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_what_a_wrapper_script_leaves_behind_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "ASK_SECONDS", 0.3)
    path = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; exit 0")
    with pytest.raises(TmdeError):
        open_binary(str(path))
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((tmp_path / "pid").read_text())).wait(timeout=30)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"gpu_layers": 10}, "gpu_layers is for a graphics card and needs runtimes.embedded.binary"),
        ({"cache_type": "q8_0"}, "cache_type is for a graphics card"),
        ({"binary": "x", "gpu_layers": "most"}, "gpu_layers: cannot be 'most'"),
        ({"binary": "x", "gpu_layers": -1}, "gpu_layers: must be a whole number of at least 0"),
        ({"binary": "x", "cache_type": "q8_0", "flash_attention": "off"}, "q8_0 needs flash attention"),
        ({"binary": "x", "extra_args": ["--ctx-size", "5"]}, "--ctx-size is decided by the setting context"),
        ({"binary": "x", "extra_args": ["-ngl", "5"]}, "-ngl is decided by the setting gpu_layers"),
        ({"binary": "x", "extra_args": ["--gpu_layers", "5"]}, "--gpu_layers is decided by the setting gpu_layers"),
        ({"binary": "x", "extra_args": ["--port=5"]}, "--port=5 is decided by TMDE"),
        ({"binary": "x", "extra_args": ["--api-key", "mine"]}, "--api-key is decided by TMDE"),
        ({"binary": "x", "extra_args": ["--no-jinja"]}, "--no-jinja is decided by TMDE"),
        ({"binary": "x", "extra_args": ["--lora", "a.gguf"]}, "--lora is decided by TMDE"),
    ],
)
def test_settings_that_contradict_are_refused(table: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        make_context(EmbeddedSettings, table="runtimes.embedded", **table)


def test_other_arguments_and_negative_numbers_pass() -> None:
    arguments = ("--tensor-split", "3,1", "--no-mmap", "--rope-freq-scale", "-1")
    made = make_context(EmbeddedSettings, binary="x", extra_args=list(arguments))
    assert made.settings.extra_args == arguments


async def host_of(program: LlamaServerFile, model: Path, **settings: object) -> BinaryHost:
    options = make_context(EmbeddedSettings, binary=str(program.path), **settings).settings
    return await BinaryHost.open(model, options, ServerLog(program.path.with_name("log")))


async def test_the_command_says_what_was_calculated(tmp_path: Path, embedded_model: Path) -> None:
    program = write_llama_server(tmp_path, cards={"CUDA0": 9000, "CUDA1": 800})
    host = await host_of(program, embedded_model, device="CUDA1", cache_type="q8_0", extra_args=["--no-warmup"])
    said = " ".join(host._arguments())
    for part in (
        f"--model {embedded_model} --ctx-size {host.context * host.slots} --parallel {host.slots} ",
        "--batch-size 512 --ubatch-size 512 ",
        f"--gpu-layers {host._plan.layers} --device CUDA1 --cache-type-k q8_0 --cache-type-v q8_0 --flash-attn auto ",
        "--lora-init-without-apply --jinja --cache-ram 0 --fit off --slots --no-ui ",
    ):
        assert part in f"{said} "
    assert said.endswith(" --no-warmup")
    assert "of 31 layers on CUDA1 (NVIDIA GeForce RTX 3090), the others" in host.detail


async def test_an_older_build_gets_only_flags_that_it_knows(tmp_path: Path, embedded_model: Path) -> None:
    lacks = ["--cache-ram", "--fit", "--ui", "--no-ui", "[on|off|auto]"]
    program = write_llama_server(tmp_path, version="6000 (abc)", cards={"CUDA0": 9000}, lacks=lacks)
    plain = (await host_of(program, embedded_model))._arguments()
    assert not {"--cache-ram", "--fit", "--no-ui", "--flash-attn"} & set(plain)
    small = (await host_of(program, embedded_model, cache_type="q4_0"))._arguments()
    assert small[small.index("--flash-attn") + 1].startswith("--")  # the flag has no value in this build


@pytest.mark.parametrize(
    ("free", "settings", "told"),
    [
        ({}, {}, "on the processor: this llama-server finds no graphics card; 4 answers at a time, 4,096 tokens each"),
        ({"CUDA0": 400}, {}, "on the processor: no layer fits the 400 MiB that are free on CUDA0"),
        ({}, {"gpu_layers": 9}, "this llama-server finds no graphics card, so gpu_layers = 9 has no effect; "),
        ({"CUDA0": 400}, {"gpu_layers": 9}, "9 of 31 layers on CUDA0"),
        ({"CUDA0": 9000}, {"gpu_layers": 0}, "on the processor: the settings say so"),
        ({"CUDA0": 9000}, {"device": "none"}, "on the processor: the settings say so"),
        ({"CUDA0": 9000}, {"gpu_layers": 12}, "12 of 31 layers on CUDA0 (NVIDIA GeForce RTX 3090), the others on"),
        ({"CUDA0": 9000}, {}, "all 31 layers on CUDA0 (NVIDIA GeForce RTX 3090); 4 answers at a time, 8,192 tokens"),
        ({"CUDA0": 9000}, {"context": 1000, "slots": 7}, "7 answers at a time, 1,000 tokens each"),
        ({"CUDA0": 9000}, {"context": 1_000_000}, "8,192 tokens each"),
    ],
)
async def test_it_is_said_where_the_model_runs(
    tmp_path: Path, embedded_model: Path, free: dict[str, int], settings: dict[str, object], told: str
) -> None:
    host = await host_of(write_llama_server(tmp_path, cards=free), embedded_model, **settings)
    assert told in host.detail
    assert host.detail.endswith("; llama-server build 11434")


async def test_free_memory_is_asked_again_for_a_later_server(
    tmp_path: Path, embedded_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = write_llama_server(tmp_path, cards={"CUDA0": 9000})
    host = await host_of(program, embedded_model)
    program.play(cards={"CUDA0": 900})
    assert (await host._plan_now(())).layers == 31  # the server starts right after the reading
    later = await host._plan_now(())
    assert 0 < later.layers < 31
    assert (later.context, later.slots) == (host.context, host.slots) == (8192, 4)
    program.play(cards={"CUDA0": 9000})
    assert (await host._plan_now(())).layers == 31
    stale = await host_of(program, embedded_model)
    monkeypatch.setattr(binary_host, "FRESH_SECONDS", 0.0)
    program.play(cards={})
    assert (await stale._plan_now(())).layers == 0


async def test_a_card_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, embedded_model: Path) -> None:
    program = write_llama_server(tmp_path, cards={"Vulkan0": 9000})
    with pytest.raises(InvalidInputError, match="finds no card CUDA0; there are: Vulkan0"):
        await host_of(program, embedded_model, device="CUDA0")


def test_the_parts_of_a_split_model_are_counted_together(tmp_path: Path, embedded_model: Path) -> None:
    whole = read_sizes(embedded_model)
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").symlink_to(embedded_model)
    assert read_sizes(tmp_path / "m-00001-of-00002.gguf") == whole
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(TmdeError, match=r"m-00002-of-00002\.gguf is not there"):
        read_sizes(tmp_path / "m-00001-of-00002.gguf")


PARENT = """
import asyncio, json, os, sys
async def main():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tmde_cpu.serving.binary_launcher",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )
    job = {"command": sys.argv[1:], "key": "secret", "adapters": [], "parent": os.getpid()}
    process.stdin.write(json.dumps(job).encode() + b"\\n")
    print((await process.stdout.readline()).decode(), end="", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("wrapped", [False, True])
async def test_neither_a_program_nor_what_a_wrapper_started_outlives_a_killed_parent(
    tmp_path: Path, wrapped: bool
) -> None:
    inner = "sleep 1000 & echo $! > inner; wait" if wrapped else "echo $$ > inner; exec sleep 1000"
    program = script(tmp_path, f'cd {tmp_path}; cp "$2" seen; {inner}')
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(program)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pids = [msgspec.json.decode(await parent.stdout.readline())["pid"]]
    while not (text := (tmp_path / "inner").read_text() if (tmp_path / "inner").exists() else ""):
        await asyncio.sleep(0.01)
    pids.append(int(text))
    assert (tmp_path / "seen").read_text() == "secret\n"
    os.kill(parent.pid, signal.SIGKILL)
    await parent.communicate()
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        await asyncio.sleep(0.02)
