"""Adapter and base model in one file: what a backend's worker makes reaches people whole, with its notes, or not at all."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.core.lora.conftest import publish_adapter
from tmde_core.errors import (
    AdapterInvalidError,
    InsufficientStorageError,
    PluginUnavailableError,
    UnprocessableError,
    WorkerFailedError,
)
from tmde_core.lora.archive.merged import name_merged
from tmde_core.records.lora import Manifest
from tmde_core.records.training import WorkerCommand
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

GOOD = {
    "asked": 24, "rightApart": 22, "rightMerged": 21, "positions": 96, "sameToken": 0.97, "difference": 0.1, "effect": 0.5,
}  # fmt: skip
LOST = GOOD | {"flaws": ["It lost much of the adapter."]}

WORKER = """
import json, pathlib, sys
target, quantization, result = pathlib.Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
def tell(step, share, result=None):
    print(json.dumps({"step": step, "share": share, "result": result}), flush=True)
tell("merging", 0.5)
target.write_bytes(b"GGUF" + quantization.encode() * 1000)
tell("checking", 0.5)
tell("done", 1.0, result)
"""
STUCK = WORKER.replace('tell("checking", 0.5)', "import os, time; print(os.getpid(), file=sys.stderr); time.sleep(600)")


class Merging:
    """A backend that merges by a script; it trains nothing."""

    def __init__(self, script: str | None = WORKER, **result: Any) -> None:
        self.script = script
        self.result = {"baseFile": "base.gguf", "sizeBytes": 4004, "types": {"Q8_0": 3}, "quality": GOOD, **result}
        self.asked: list[tuple[str, str]] = []

    def merge(self, adapter_dir: Path, base_model: str, target: Path, quantization: str) -> WorkerCommand | None:
        assert (adapter_dir / "adapter.gguf").is_file()
        self.asked.append((base_model, quantization))
        if self.script is None:
            return None
        return WorkerCommand(
            argv=(sys.executable, "-c", self.script, str(target), quantization, json.dumps(self.result))
        )


@asynccontextmanager
async def merging(data_dir: Path, *backends: Merging):
    plugins = scripted_plugins(ScriptedRuntime())
    for number, made in enumerate(backends):
        descriptor = BackendDescriptor(name=f"b{number}", summary="merges", create=lambda _, made=made: made)
        plugins.backends.add(descriptor, "tests")
    async with open_services(scripted_settings(data_dir), plugins) as services:
        yield services


def left_behind(data_dir: Path) -> list[str]:
    return [path.name for path in (data_dir / "lora-adapters").iterdir() if path.name.startswith(".staging")]


async def tar_of(services: Services, identity: UUID, **options: Any) -> dict[str, bytes]:
    made = await services.archives.export(identity, "merged-gguf", **options)
    content = b"".join([chunk async for chunk in made.chunks])
    assert len(content) == made.size_bytes
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}  # type: ignore[union-attr]


async def test_the_export_is_a_tar_with_the_model_and_its_notes_and_leaves_nothing_behind(data_dir: Path) -> None:
    identity = publish_adapter(data_dir)
    backend = Merging(notes=["Q4_K became Q8_0."])
    async with merging(data_dir, backend) as services:
        found = await tar_of(services, identity, quantization="Q8_0")
    name = f"scripted-1-tmde-{str(identity)[:8]}.Q8_0"
    assert found.keys() == {f"{name}/NOTES.md", f"{name}/{name}.gguf"}
    assert found[f"{name}/{name}.gguf"] == b"GGUF" + b"Q8_0" * 1000
    notes = found[f"{name}/NOTES.md"].decode()
    for told in (
        f"FROM ./{name}.gguf",
        f"lms import {name}.gguf",
        f"llama-server -m {name}.gguf",
        "21 of 24",
        "Q4_K became Q8_0.",
    ):
        assert told in notes
    assert "ADAPTER" not in notes
    assert backend.asked == [("scripted-1", "Q8_0")]
    assert left_behind(data_dir) == []


async def test_a_model_that_lost_too_much_is_refused_with_a_better_quantization_and_force_takes_it(
    data_dir: Path,
) -> None:
    identity = publish_adapter(data_dir)
    async with merging(data_dir, Merging(quality=LOST)) as services:
        with pytest.raises(UnprocessableError, match=r"It lost much of the adapter\. Export it as Q8_0") as error:
            await services.archives.export(identity, "merged-gguf")
        assert error.value.context["proposal"] == "Q8_0"
        with pytest.raises(UnprocessableError, match="Serve the adapter beside its base model"):
            await services.archives.export(identity, "merged-gguf", quantization="F16")
        found = await tar_of(services, identity, force=True)
        assert any(b"exported by force" in content and b"lost much" in content for content in found.values())
    assert left_behind(data_dir) == []


async def test_a_model_that_could_not_be_compared_is_taken_only_by_force(data_dir: Path) -> None:
    identity = publish_adapter(data_dir)
    async with merging(data_dir, Merging(quality=None, notes=["There is not enough memory to serve it."])) as services:
        with pytest.raises(UnprocessableError, match="not enough memory"):
            await services.archives.export(identity, "merged-gguf")
        found = await tar_of(services, identity, force=True)
        assert any(b"Not measured." in content and b"not enough memory" in content for content in found.values())


async def test_progress_is_told_step_by_step(data_dir: Path, tmp_path: Path) -> None:
    identity, heard = publish_adapter(data_dir), []
    async with merging(data_dir, Merging()) as services:
        await services.archives.merges.write(identity, tmp_path / "out.gguf", tell=lambda one: heard.append(one.step))
    assert heard == ["merging", "checking", "done"]
    assert (tmp_path / "out.gguf").is_file()


async def test_a_prepared_model_is_streamed_without_a_second_merge_and_only_once(data_dir: Path) -> None:
    identity, backend = publish_adapter(data_dir), Merging()
    async with merging(data_dir, backend) as services:
        made = await services.archives.merges.prepare(identity, "F16")
        assert left_behind(data_dir) == []
        found = await tar_of(services, identity, quantization="F16")
        assert any(name.endswith(made.filename) for name in found)
        assert len(backend.asked) == 1
        await tar_of(services, identity, quantization="F16")
        assert len(backend.asked) == 2


@pytest.mark.parametrize(
    ("result", "error", "says"),
    [
        ({"reasons": ["The matrices do not fit."]}, AdapterInvalidError, "The matrices do not fit."),
        ({"reasons": ["It needs 5 GB."], "outOfSpace": True}, InsufficientStorageError, "It needs 5 GB."),
    ],
)
async def test_what_the_worker_finds_is_told(
    data_dir: Path, tmp_path: Path, result: dict[str, Any], error: type[Exception], says: str
) -> None:
    identity = publish_adapter(data_dir)
    async with merging(data_dir, Merging(**result)) as services:
        with pytest.raises(error, match=says):
            await services.archives.merges.write(identity, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("raise SystemExit('Out of luck.')", "Out of luck."),
        ("import os; os.kill(os.getpid(), 9)", "the worker"),
        ("print('{}')", "the worker"),
        ("print('x' * 3_000_000)", "no sign of life"),
    ],
)
async def test_a_worker_that_fails_is_told_and_leaves_nothing(
    data_dir: Path, tmp_path: Path, script: str, says: str
) -> None:
    identity = publish_adapter(data_dir)
    async with merging(data_dir, Merging(script)) as services:
        with pytest.raises(WorkerFailedError, match=says):
            await services.archives.merges.write(identity, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
    assert left_behind(data_dir) == []


async def test_cancelling_ends_the_worker_and_removes_the_file(data_dir: Path, tmp_path: Path) -> None:
    identity, writing = publish_adapter(data_dir), asyncio.Event()
    async with merging(data_dir, Merging(STUCK)) as services:
        target = tmp_path / "out.gguf"
        task = asyncio.create_task(services.archives.merges.write(identity, target, tell=lambda _: writing.set()))
        await writing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not target.exists()
    assert left_behind(data_dir) == []


async def test_without_the_base_model_one_sentence_says_what_is_missing(data_dir: Path) -> None:
    identity = publish_adapter(data_dir)
    async with merging(data_dir, Merging(None)) as services:
        with pytest.raises(AdapterInvalidError, match=r"base model 'scripted-1'.* is not here"):
            await services.archives.export(identity, "merged-gguf")
    async with merging(data_dir) as services:
        with pytest.raises(PluginUnavailableError, match="No training backend"):
            await services.archives.export(identity, "merged-gguf")


@pytest.mark.parametrize(
    ("base", "quantization", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", "base", "SmolLM2-135M-Instruct.Q4_1-tmde-33333333.gguf"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q8_0", "SmolLM2-135M-Instruct-tmde-33333333.Q8_0.gguf"),
        ("bartowski/Qwen3-4B-Q4_K_M.gguf", "F16", "Qwen3-4B-tmde-33333333.F16.gguf"),
        ("Qwen/Qwen3-0.6B", "Q8_0", "Qwen3-0.6B-tmde-33333333.Q8_0.gguf"),
        ("/models/../a b;rm -rf/", "Q8_0", "a_b_rm_-rf-tmde-33333333.Q8_0.gguf"),
        ("C:\\models\\phi-4-mini-IQ4_XS.gguf", "Q8_0", "phi-4-mini-tmde-33333333.Q8_0.gguf"),
        ("modèle", "base", "mod_le-tmde-33333333.gguf"),
    ],
)
def test_the_name_of_the_file_tells_base_model_adapter_and_quantization(
    base: str, quantization: Any, name: str
) -> None:
    manifest = Manifest(
        id=UUID("33333333-3333-4333-8333-333333333333"), base_model=base, created_at="2026-01-01T00:00:00Z"
    )
    assert name_merged(manifest, quantization) == name
    assert Path(name).name == name
