"""Find a `llama-server` program, and ask it what it is: its version, its flags, and the graphics cards it can use.

The formats are those of llama.cpp's `common/arg.cpp` and `common/build-info.cpp.in`:

    version: 6150 (4850b52a)                              until 2026
    version: 0.6.0 (build 11434, commit 64fbe0f)          since then
    Available devices:
      CUDA0: NVIDIA GeForce RTX 3090 (24124 MiB, 23869 MiB free)
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tmde_core.sdk.errors import InvalidInputError, TmdeError, WorkerFailedError

ASK_SECONDS = 20.0
"""The time limit for one question. The first start of a CUDA or ROCm program loads gigabytes of libraries."""
MAX_OUTPUT = 1024 * 1024
"""A program that prints more than this is no llama-server. The help has 60 kB."""
MIB = 1024**2

NEEDED_FLAGS = (
    "--api-key-file",
    "--lora",
    "--lora-init-without-apply",
    "--jinja",
    "--chat-template-kwargs",
    "--parallel",
    "--gpu-layers",
    "--flash-attn",
    "--list-devices",
)
"""What this runtime relies on. `--chat-template-kwargs` came last, in July 2025."""

WHAT_TO_DO = "Install a build of 2025-07 or later, or leave runtimes.embedded.binary empty to use TMDE's own."

_VERSION = re.compile(r"^version: (?P<name>\S+) \((?:build (?P<build>\d+)|(?P<commit>[0-9a-z]+))", re.MULTILINE)
_DEVICE = re.compile(
    r"^ {2}(?P<name>[^\s:]+): (?P<what>.*) \((?P<total>\d+) MiB, (?P<free>\d+) MiB free\)\s*$", re.MULTILINE
)
_SOFTWARE = re.compile(r"llvmpipe|lavapipe|swiftshader", re.IGNORECASE)
"""Vulkan devices that are the processor under another name."""
_INTEGRATED = re.compile(
    r"\b(UHD|HD) Graphics\b|\bIris\b|Radeon(\(TM\))? (Vega \d+ )?Graphics|\b[678]\d0M\b|\bintegrated\b", re.IGNORECASE
)
"""Graphics inside a processor. They share its memory, which they report as theirs."""
_BACKEND = re.compile(r"^\D+")
"""The part of a device's name before its number: one card has a name in each backend of a program."""
_FLAG = re.compile(r"(?<![\w-])--?[a-zA-Z][\w-]*")
_OPTION_LINE = re.compile(r"^-")


class Device(msgspec.Struct, frozen=True):
    """A graphics card, by llama-server's own name."""

    name: str
    """Such as `CUDA0`, `Vulkan1`, `ROCm0` or `Metal`."""
    description: str
    total_bytes: int
    free_bytes: int


class Binary(msgspec.Struct, frozen=True):
    """A `llama-server` program that can be used."""

    path: Path
    version: str
    """What people call the version: `build 6150`, or the version's name."""
    flags: frozenset[str]
    """Every flag that the help lists."""
    flash_attention_value: bool
    """Whether `--flash-attn` takes `on`, `off` or `auto`. Until August 2025 the flag stood alone."""

    def knows(self, flag: str) -> bool:
        """Return whether the program has this flag."""
        return flag in self.flags


def open_binary(named: str) -> Binary:
    """Find and examine the program that the setting `binary` names. The answer is kept while the file is the same.

    Raises:
        InvalidInputError: there is no such program, it may not be run, it is no llama-server, or it is too old.
        WorkerFailedError: the program does not answer.
    """
    path = find_binary(named)
    found = path.stat()
    key = (path, found.st_size, found.st_mtime_ns)
    if key not in _examined:
        _examined[key] = _examine(path)
    return _examined[key]


_examined: dict[tuple[Path, int, int], Binary] = {}


def find_binary(named: str) -> Path:
    """Return the path of the program.

    Raises:
        InvalidInputError: there is no such program, or it may not be run.
    """
    if os.sep not in named and not named.startswith("~"):
        if (found := shutil.which(named)) is None:
            raise _refused(f"No program called {named} is on the PATH. Name the path of a llama-server.")
        return Path(found).absolute()
    path = Path(named).expanduser().absolute()
    if path.is_dir():
        raise _refused(f"{path} is a directory. Name the llama-server in it.")
    if not path.exists():
        raise _refused(f"The program {path} is not there. Name the path of a llama-server.")
    if not os.access(path, os.X_OK):
        raise _refused(f"The program {path} may not be run. Make it executable: chmod +x {path}")
    return path


def list_devices(binary: Binary) -> tuple[Device, ...]:
    """Return the cards that the program can use, with their free memory at this moment.

    Raises:
        WorkerFailedError: the program does not answer.
    """
    _, told = _ask(binary.path, "--list-devices")
    return parse_devices(told)


def parse_devices(told: str) -> tuple[Device, ...]:
    """Return the cards in what `--list-devices` prints. Libraries without memory of their own, such as BLAS, are none."""
    return tuple(
        Device(found["name"], found["what"], int(found["total"]) * MIB, int(found["free"]) * MIB)
        for found in _DEVICE.finditer(told)
        if int(found["total"])
    )


def best_devices(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Return the cards that are used if the settings name none: those of the first backend, without software ones.

    Graphics inside the processor are used only if there is no card. llama-server chooses in the same way, but does not
    say which devices it has chosen.
    """
    real = [device for device in devices if not _SOFTWARE.search(device.description)]
    first = [device for device in real if _backend(device) == _backend(real[0])]
    cards = [device for device in first if not _INTEGRATED.search(device.description)]
    return tuple(cards or first)


def _backend(device: Device) -> str:
    found = _BACKEND.match(device.name)
    return found[0] if found else ""


def parse_version(told: str) -> str:
    """Return the version in what `--version` prints; empty if this is no llama-server."""
    if (found := _VERSION.search(told)) is None:
        return ""
    number = found["build"] or (found["name"] if found["name"].isdigit() else "")
    return f"build {number}" if number and int(number) else found["name"]  # a build outside git counts as 0


def parse_flags(told: str) -> frozenset[str]:
    """Return the flags in what `--help` prints. Explanations are indented, lines that begin an option are not."""
    flags: set[str] = set()
    for line in told.splitlines():
        if _OPTION_LINE.match(line):
            flags.update(_FLAG.findall(re.split(r"\s{3,}(?=[a-z(\[])", line, maxsplit=1)[0]))
    return frozenset(flags)


def _examine(path: Path) -> Binary:
    code, told = _ask(path, "--version")
    version = parse_version(told)
    if not version:
        last = next((line.strip() for line in reversed(told.splitlines()) if line.strip()), "")
        why = f"it says {last[:200]!r}" if last else f"it ended with code {code} and said nothing"
        if code and ("shared librar" in told or "image not found" in told or "Library not loaded" in told):
            raise _refused(f"The program {path} cannot be started: {last[:200]}. Install what it lacks.")
        raise _refused(f"The program {path} is no llama-server: asked for its version, {why}.")
    _, help_text = _ask(path, "--help")
    flags = parse_flags(help_text)
    if missing := [flag for flag in NEEDED_FLAGS if flag not in flags]:
        raise _refused(f"The llama-server {path} ({version}) is too old: it has no {missing[0]}. {WHAT_TO_DO}")
    return Binary(
        path=path,
        version=version,
        flags=flags,
        flash_attention_value=re.search(r"--flash-attn[ ,]+(?:\[|<|FA|on)", help_text) is not None,
    )


def _refused(sentence: str) -> TmdeError:
    return InvalidInputError(sentence, field="binary")


def _ask(path: Path, question: str) -> tuple[int, str]:
    """Run the program with one argument, and return its exit code and what it printed."""
    try:
        process = subprocess.Popen(
            [str(path), question],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise _refused(
            f"The program {path} cannot be started: {error.strerror}. Name a llama-server for this machine."
        ) from None
    with process:
        try:
            printed = _read(process, time.monotonic() + ASK_SECONDS)
            code = process.wait(timeout=ASK_SECONDS)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise WorkerFailedError(
                f"The program {path} did not answer {question} within {ASK_SECONDS:.0f} s. Run it by hand to see why."
            ) from None
        finally:
            _end(process)
    return code, printed.decode("utf-8", "replace")


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    assert process.stdout is not None
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(printed) < MAX_OUTPUT:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            if not (block := os.read(process.stdout.fileno(), 65536)):
                return printed
            printed += block
    _end(process)
    return printed


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and what it started. A wrapper script may have ended before the program that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
