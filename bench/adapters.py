"""Measures how fast adapters are listed, verified, activated, exported and imported, and how much memory this takes.

The adapters have random weights, and the model answers from a script. The time that the model takes to load is
therefore not measured.
"""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import cast
from uuid import UUID, uuid4

import msgspec

from tmde_core.lora.archive.layout import ArchiveFormat
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.base import to_json
from tmde_core.records.chat import ChatRequest, TokenAlternative, TokenLogprob
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import Reply, ScriptedRuntime, scripted_plugins, scripted_settings

ADAPTERS = 1_000
LARGE_BYTES = 200_000_000
RUNS = 7
LIST_LIMIT_MS = 50.0
ACTIVATION_LIMIT_S = 1.0
RANK = 16
SIZE = 4096
MODULES = LARGE_BYTES // 2 // (2 * RANK * SIZE * 4)
"""Half of the adapter's size are the weights, the other half is its GGUF form."""
PIECE = 1024 * 1024
GROWTH_LIMIT_MB = 16.0
"""How much more memory the export or import of 200 MB may take than that of 20 MB; the memory should be constant."""


def made(data_dir: Path, modules: int = 1) -> UUID:
    """Publish an adapter with this number of modules and a GGUF form of the same size."""
    directory, identity = data_dir / "lora-adapters", uuid4()
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "scripted-1", "r": RANK,
        "lora_alpha": 32, "target_modules": ["q_proj"],
    }  # fmt: skip
    (staging / "adapter_config.json").write_bytes(msgspec.json.encode(config))
    (staging / "training_args.json").write_bytes(b'{"backend": "none"}')
    (staging / "metrics.json").write_bytes(b"{}")
    size = _weights(staging / "adapter_model.safetensors", modules)
    with (staging / "adapter.gguf").open("wb") as file:
        for _ in range(max(1, size // PIECE)):
            file.write(os.urandom(min(PIECE, size)))
    manifest = Manifest(
        id=identity,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        base_model="scripted-1",
        traces_used=100,
        metrics={"finalTrainLoss": 0.5, "perplexity": 2.0, "totalSteps": 60},
        lineage={"runId": str(uuid4()), "traceIds": [str(uuid4()) for _ in range(100)]},
    )
    publish(staging, directory, manifest)
    return identity


def _weights(file: Path, modules: int) -> int:
    """Write random finite float32 values as a safetensors file and return its size."""
    header, end = {}, 0
    for number in range(modules):
        for side, shape in (("A", (RANK, SIZE)), ("B", (SIZE, RANK))):
            name = f"base_model.model.model.layers.{number}.self_attn.q_proj.lora_{side}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (end, end + RANK * SIZE * 4)}
            end += RANK * SIZE * 4
    text = msgspec.json.encode(header)
    with file.open("wb") as output:
        output.write(len(text).to_bytes(8, "little") + text)
        for _ in range(2 * modules):
            # The lower half of the bits are random, the upper half are those of 1.0. They compress as weights do.
            block = bytearray(os.urandom(RANK * SIZE * 4))
            block[3::4] = b"\x3f" * (RANK * SIZE)
            block[2::4] = bytes(value & 0x7F for value in block[2::4])
            output.write(block)
    return file.stat().st_size


def _answer(request: ChatRequest) -> Reply:
    """Return a scripted answer whose probabilities differ with and without an adapter."""
    probability = math.log(0.8 if request.adapter else 0.7)
    top = (TokenAlternative("A", probability),)
    return Reply("A rainbow comes from light.", logprobs=(TokenLogprob("A", probability, top),))


def opened(data_dir: Path) -> AbstractAsyncContextManager[Services]:
    """Open the services with a model that answers at once."""
    return open_services(scripted_settings(data_dir), scripted_plugins(ScriptedRuntime(script=_answer)))


LISTING = """
import sys, time
from pathlib import Path
from tmde_core.lora.files.store import AdapterStore
store, taken = AdapterStore(Path(sys.argv[1])), []
for _ in range(3):
    began = time.perf_counter()
    store.list()
    taken.append(time.perf_counter() - began)
print(*taken)
"""


def listing(data_dir: Path) -> tuple[float, float]:
    """Return the median milliseconds to list a thousand adapters: the first time in a new process, and later there."""
    thousand(data_dir)
    first, later = [], []
    for _ in range(RUNS):
        command = [sys.executable, "-c", LISTING, str(data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        taken = [float(word) for word in done.stdout.split()]
        first.append(taken[0])
        later += taken[1:]
    return median(first) * 1000, median(later) * 1000


def thousand(data_dir: Path) -> None:
    """Create a thousand adapters with manifests as long as real ones; the list never reads the weights."""
    directory = data_dir / "lora-adapters"
    original = made(data_dir)
    manifest = AdapterStore(data_dir).read_manifest(original)
    for age in range(1, ADAPTERS):
        copied = msgspec.structs.replace(manifest, id=uuid4(), created_at=manifest.created_at - timedelta(minutes=age))
        target = directory / str(copied.id)
        target.mkdir()
        for name in manifest.files:
            (target / name).hardlink_to(directory / str(original) / name)
        (target / "manifest.json").write_bytes(msgspec.json.format(to_json(copied), indent=2))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def activation(data_dir: Path) -> tuple[float, float, int]:
    """Return the median seconds to verify and to activate an adapter of 200 MB, and the adapter's size."""
    a, b = made(data_dir, MODULES), made(data_dir, MODULES)
    verified, activated = [], []
    async with opened(data_dir) as services:
        for number in range(2 * RUNS):
            began = time.perf_counter()
            await services.lora.activate((a, b)[number % 2])
            activated.append(time.perf_counter() - began)
            verified.append(_timed(lambda: services.stores.adapters.verify_files(a)))
        size = (await services.lora.get(a)).size_bytes
    return median(verified), median(activated), size


async def _carried(services: Services, identity: UUID, form: ArchiveFormat, file: Path) -> float:
    began = time.perf_counter()
    export = await services.archives.export(identity, form)
    with file.open("wb") as output:
        async for piece in export.chunks:
            output.write(piece)
    return time.perf_counter() - began


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as content:
        while piece := content.read(256 * 1024):
            yield piece


async def transport(data_dir: Path, modules: int, what: str) -> None:
    """Run one export or import in a separate process.

    Prints the seconds, the archive's size in bytes, and the peak memory in MB.
    """
    file = data_dir.parent / f"{modules}.archive"
    async with opened(data_dir) as services:
        if what == "import":
            began = time.perf_counter()
            await services.archives.import_archive(_pieces(file))
            taken = time.perf_counter() - began
        else:
            identity = (await services.lora.list())[0].id
            taken = await _carried(services, identity, cast("ArchiveFormat", what), file)
    # Read the kernel's count for this program, because `getrusage` includes the peak of the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    print(taken, file.stat().st_size, int(status["VmHWM"].split()[0]) / 1000)


def transported(folder: Path, what: str) -> tuple[float, float, float]:
    """Measure exports or imports of 20 MB and of 200 MB.

    Returns:
        The MB per second of the file, the peak memory in MB with 200 MB, and how much more this is than with 20 MB.
    """
    peaks, pace = [], 0.0
    for modules in (MODULES // 10, MODULES):
        data_dir = folder / str(modules) / "data"
        script = f"import asyncio, adapters; asyncio.run(adapters.transport(adapters.Path({str(data_dir)!r}), {modules}, {what!r}))"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        seconds, size, peak = map(float, done.stdout.split()[-3:])
        peaks.append(peak)
        pace = size / 1e6 / seconds
    return pace, peaks[1], peaks[1] - peaks[0]


def main() -> str:
    """Run the benchmark and return a Markdown section; raise SystemExit if a limit is missed."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        first, later = listing(folder / "many")
        verified, activated, size = asyncio.run(activation(folder / "large"))
        for modules in (MODULES // 10, MODULES):
            made(folder / str(modules) / "data", modules)
        moved = {what: transported(folder, what) for what in ("gguf", "peft-bin", "peft", "import")}
    rows = [
        (f"list of {ADAPTERS:,} adapters, first in a process", f"{first:.0f} ms", f"{LIST_LIMIT_MS:g} ms", first < LIST_LIMIT_MS),
        ("the same again", f"{later:.0f} ms", f"{LIST_LIMIT_MS:g} ms", later < LIST_LIMIT_MS),
        (f"verify {size / 1e6:.0f} MB", f"{verified:.2f} s", "", None),
        (f"activate {size / 1e6:.0f} MB, the model's own loading apart", f"{activated:.2f} s", f"{ACTIVATION_LIMIT_S:g} s", activated < ACTIVATION_LIMIT_S),
    ]  # fmt: skip
    for what, (pace, peak, grown) in moved.items():
        name = "import" if what == "import" else f"export as {what}"
        measured = f"{pace:.0f} MB/s, {peak:.0f} MB of memory, {grown:+.0f} MB"
        rows.append((name, measured, f"{GROWTH_LIMIT_MB:+g} MB", grown < GROWTH_LIMIT_MB))
    text = (
        f"Medians of {RUNS} where there are several; a model that answers from a script; random weights. The last figure of export and import is "
        "how much more memory 200 MB take than 20 MB.\n\n| | measured | limit | within |\n|---|---:|---:|---|\n"
    )
    for name, measured, limit, within in rows:
        text += f"| {name} | {measured} | {limit} | {'' if within is None else 'yes' if within else 'NO'} |\n"
    if any(within is False for _, _, _, within in rows):
        print(text)
        raise SystemExit("A limit was missed.")
    return text


if __name__ == "__main__":
    print(main())
