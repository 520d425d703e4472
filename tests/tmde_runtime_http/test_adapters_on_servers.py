"""What each kind of server can do with adapters is known before one is activated, and an adapter reaches vLLM by either way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from tmde_core.cli.doctor.checks import Check, _runtimes
from tmde_core.errors import AdapterInvalidError, ConflictError, WorkerFailedError
from tmde_core.plugins import Plugins
from tmde_core.records.base import utc_now
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.sdk.runtimes import AdapterRef, ChatEnd, ChatRequest, Message, ModelRuntime
from tmde_core.services import Services, open_services
from tmde_core.settings import Settings
from tmde_core.testing import make_context
from tmde_core.testing.adapters import write_adapter
from tmde_core.testing.fake_servers import FakeLlamaServer, FakeOllama, FakeServer, FakeVllm, serving
from tmde_core.testing.scripted import scripted_settings
from tmde_runtime_http import vllm
from tmde_runtime_http.ollama import OllamaRuntime
from tmde_runtime_http.openai import OpenAIRuntime
from tmde_runtime_http.options import OllamaSettings, OpenAISettings
from tmde_runtime_http.served_directory import ServedDirectory

CHAT = "/v1/chat/completions"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of served adapters, which the played vLLM reads."""
    path = tmp_path / "served"
    path.mkdir()
    return path


@asynccontextmanager
async def _runtime(server: FakeServer, **settings: Any) -> AsyncIterator[OpenAIRuntime]:
    async with serving(server) as url:
        runtime = OpenAIRuntime(make_context(OpenAISettings, base_url=url, **settings))
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.stop()


def _ask(adapter: AdapterRef | None = None) -> ChatRequest:
    return ChatRequest(model="", messages=(Message(role="user", content="2+2?"),), adapter=adapter)


async def _answered(runtime: ModelRuntime, adapter: AdapterRef | None = None) -> ChatEnd:
    items = [item async for item in runtime.chat(_ask(adapter))]
    assert isinstance(items[-1], ChatEnd)
    return items[-1]


def _adapter(tmp_path: Path, base: str = "some/base") -> AdapterRef:
    source = tmp_path / "lora-adapters" / str(uuid4())
    source.mkdir(parents=True)
    write_adapter(source, base_model=base)
    return AdapterRef(id=source.name, directory=str(source))


# ------------------------------------------------------------------------ what is known before an activation


@pytest.mark.parametrize(
    ("server", "serves", "says"),
    [
        (FakeVllm(), True, "reach one replica"),
        (FakeVllm(runtime_adapters=False), False, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true"),
        (FakeVllm(lora=False), False, "Start it with --enable-lora"),
        (FakeLlamaServer("/data/lora-adapters/a1/adapter.gguf", "/x/poems.gguf"), True, "started with: a1, poems"),
        (FakeLlamaServer(), False, "started without adapters"),
        (FakeLlamaServer(lists=False), False, "started without adapters"),
    ],
)
async def test_what_a_server_can_do_with_adapters_is_known_right_after_the_start(
    server: FakeServer, serves: bool, says: str
) -> None:
    async with _runtime(server) as runtime:
        assert runtime.capabilities.adapters is serves
        assert says in runtime.capabilities.adapters_note
        assert not any(call.path == CHAT and call.body["model"] == FakeVllm.MODEL for call in server.calls)


async def test_a_refused_capability_is_refused_in_the_same_words(tmp_path: Path) -> None:
    async with _runtime(FakeVllm(lora=False)) as runtime:
        with pytest.raises(AdapterInvalidError) as refused:
            await runtime.load_adapter(_adapter(tmp_path))
        assert refused.value.detail == runtime.capabilities.adapters_note


@pytest.mark.parametrize(
    ("version", "says"), [("0.34.1", "since 0.34.1"), ("0.40.0", "0.40.0"), ("0.12.11", "0.12.11")]
)
async def test_ollama_says_by_its_version_that_it_loads_no_adapters_and_what_to_do(version: str, says: str) -> None:
    async with serving(FakeOllama(version)) as url:
        runtime = OllamaRuntime(make_context(OllamaSettings, base_url=url))
        assert not runtime.capabilities.adapters
        assert "merged-gguf" in runtime.capabilities.adapters_note, "known before the first contact"
        await runtime.models()
        note = runtime.capabilities.adapters_note
        assert says in note
        assert "FROM ./FILE.gguf" in note
        await runtime.stop()


async def test_a_setting_keeps_adapters_from_a_server(tmp_path: Path) -> None:
    server = FakeVllm()
    async with _runtime(server, adapters="none") as runtime:
        assert not runtime.capabilities.adapters
        with pytest.raises(AdapterInvalidError, match='adapters = "none"'):
            await runtime.load_adapter(_adapter(tmp_path))
        with pytest.raises(AdapterInvalidError):
            await _answered(runtime, _adapter(tmp_path))
    assert server.bodies("/v1/load_lora_adapter") == []


async def test_a_server_that_was_restarted_with_adapters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "LOOK_AGAIN_SECONDS", 0.0)
    server = FakeVllm(runtime_adapters=False)
    async with _runtime(server) as runtime:
        server.runtime_adapters = True
        await runtime.models()
        assert runtime.capabilities.adapters


async def test_a_restarted_llama_server_with_another_order_of_adapters_serves_the_right_one(tmp_path: Path) -> None:
    server = FakeLlamaServer("/x/one.gguf", "/x/two.gguf")
    two = AdapterRef(id="two", directory=str(tmp_path))
    async with _runtime(server) as runtime:
        await _answered(runtime, two)
        server.adapters.reverse()
        await runtime.models()
        await _answered(runtime, two)
    assert [[one["scale"] for one in body["lora"]] for body in server.bodies(CHAT)] == [[0.0, 1.0], [1.0, 0.0]]


# ------------------------------------------------------------------------------------- the resolver's directory


@pytest.mark.parametrize("root", [None, "/models/tiny-weights"])
async def test_vllm_finds_an_adapter_in_its_directory_under_the_name_of_its_model(
    tmp_path: Path, directory: Path, root: str | None
) -> None:
    server = FakeVllm(resolver=directory, root=root)
    adapter = _adapter(tmp_path)
    before = {file.name: file.read_bytes() for file in Path(adapter.directory).iterdir()}
    async with _runtime(server, adapters_dir=str(directory)) as runtime:
        assert str(directory) in runtime.capabilities.adapters_note
        await runtime.load_adapter(adapter)
        await _answered(runtime, adapter)
        assert server.bodies(CHAT)[-1]["model"] == adapter.id
        assert (await runtime.status()).adapters == (adapter.id,)
        loads = [body["lora_name"] for body in server.bodies("/v1/load_lora_adapter")]
        assert adapter.id not in loads, "the API is not used"
        assert server.answered_with[-1]["base_model_name_or_path"] == (root or FakeVllm.MODEL)
        await runtime.unload_adapter(adapter.id)
        assert list(directory.iterdir()) == []
        assert server.adapters == {}
    assert {file.name: file.read_bytes() for file in Path(adapter.directory).iterdir()} == before


async def test_a_restarted_vllm_finds_the_adapter_again_by_itself(tmp_path: Path, directory: Path) -> None:
    server = FakeVllm(resolver=directory, replicas=3)
    adapter = _adapter(tmp_path)
    async with _runtime(server, adapters_dir=str(directory)) as runtime:
        await runtime.load_adapter(adapter)
        server.restart()
        for _ in range(3):  # each replica in turn
            await _answered(runtime, adapter)
            assert server.bodies(CHAT)[-1]["model"] == adapter.id
        assert len(server.answered_with) == 4


async def test_a_view_that_somebody_removed_is_written_again(tmp_path: Path, directory: Path) -> None:
    server = FakeVllm(resolver=directory)
    adapter = _adapter(tmp_path)
    async with _runtime(server, adapters_dir=str(directory)) as runtime:
        await runtime.load_adapter(adapter)
        ServedDirectory(directory).remove(adapter.id)
        server.restart()
        await _answered(runtime, adapter)
        assert server.bodies(CHAT)[-1]["model"] == adapter.id


async def test_a_vllm_that_reads_another_directory_gets_adapters_by_its_api(tmp_path: Path, directory: Path) -> None:
    server = FakeVllm(resolver=tmp_path / "elsewhere")
    async with _runtime(server, adapters_dir=str(directory)) as runtime:
        adapter = _adapter(tmp_path)
        await runtime.load_adapter(adapter)
        assert server.adapters == {adapter.id: adapter.directory}
        assert list(directory.iterdir()) == []


async def test_the_directory_can_be_required(tmp_path: Path, directory: Path) -> None:
    server = FakeVllm(resolver=tmp_path / "elsewhere")
    async with _runtime(server, adapters="directory", adapters_dir=str(directory)) as runtime:
        assert not runtime.capabilities.adapters
        assert "VLLM_LORA_RESOLVER_CACHE_DIR" in runtime.capabilities.adapters_note
    server = FakeVllm(resolver=directory)
    async with _runtime(server, adapters="api", adapters_dir=str(directory)) as runtime:
        assert "by its API" in runtime.capabilities.adapters_note


async def test_an_adapter_that_the_resolver_finds_and_cannot_load_is_refused_and_not_left_behind(
    tmp_path: Path, directory: Path
) -> None:
    server = FakeVllm(resolver=directory)
    async with _runtime(server, adapters_dir=str(directory)) as runtime:
        server.lora = False  # as good as a rank above --max-lora-rank
        with pytest.raises(AdapterInvalidError, match="could not be loaded"):
            await runtime.load_adapter(_adapter(tmp_path))
        assert list(directory.iterdir()) == []
        with pytest.raises(AdapterInvalidError, match="configuration"):
            await runtime.load_adapter(AdapterRef(id="empty", directory=str(tmp_path / "nothing")))
        with pytest.raises(AdapterInvalidError, match="name of a directory"):
            await runtime.load_adapter(AdapterRef(id="../outside", directory=str(tmp_path)))


async def test_a_copy_serves_where_no_hard_link_can(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    adapter = _adapter(tmp_path)
    ServedDirectory(directory).write(adapter, "first")
    ServedDirectory(directory).write(adapter, "second")
    view = directory / adapter.id
    assert json.loads((view / "adapter_config.json").read_text())["base_model_name_or_path"] == "second"
    weights = "adapter_model.safetensors"
    assert (view / weights).read_bytes() == (Path(adapter.directory) / weights).read_bytes()
    assert [path.name for path in directory.iterdir()] == [adapter.id]


# --------------------------------------------------------------------------------------------------- by the API


async def test_several_replicas_without_the_directory_are_named_as_the_cause(tmp_path: Path) -> None:
    server = FakeVllm(replicas=4)
    adapter = _adapter(tmp_path)
    async with _runtime(server) as runtime:
        await runtime.load_adapter(adapter)
        with pytest.raises(WorkerFailedError, match=r"Several replicas .* filesystem resolver"):
            await _answered(runtime, adapter)


async def test_a_vllm_restarted_without_adapters_says_so_and_is_not_believed_any_more(tmp_path: Path) -> None:
    server = FakeVllm()
    adapter = _adapter(tmp_path)
    async with _runtime(server) as runtime:
        await runtime.load_adapter(adapter)
        server.restart()
        server.runtime_adapters = False
        with pytest.raises(AdapterInvalidError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await _answered(runtime, adapter)
        assert not runtime.capabilities.adapters


# ------------------------------------------------------------------------------ activation, doctor and the models


def _settings(data_dir: Path, url: str, runtime: str = "openai") -> Settings:
    data_dir.mkdir(exist_ok=True)
    return msgspec.structs.replace(
        scripted_settings(data_dir, runtime=runtime), runtimes={runtime: {"base_url": url}, "embedded": {}}
    )


def _published(data_dir: Path, base_model: str) -> UUID:
    identity = uuid4()
    staging = staging_directory(data_dir / "lora-adapters", identity)
    staging.mkdir(parents=True)
    write_adapter(staging, base_model=base_model)
    (staging / "adapter.gguf").write_bytes(b"GGUF")
    manifest = Manifest(id=identity, created_at=utc_now(), base_model=base_model)
    publish(staging, data_dir / "lora-adapters", manifest)
    return identity


@asynccontextmanager
async def _services(data_dir: Path, url: str, runtime: str = "openai") -> AsyncIterator[Services]:
    async with open_services(_settings(data_dir, url, runtime), Plugins.load()) as services:
        yield services


async def test_an_activation_serves_the_adapter_from_the_directory(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    served = data_dir / "served-adapters"
    server = FakeVllm(resolver=served)
    async with serving(server) as url, _services(data_dir, url) as services:
        ours, other = _published(data_dir, FakeVllm.MODEL), _published(data_dir, "another/model")
        await services.lora.activate(ours)
        assert services.lora.get_active_ref() is not None
        assert [path.name for path in served.iterdir()] == [str(ours)]
        with pytest.raises(ConflictError, match="another/model"):
            await services.lora.activate(other)
        assert [path.name for path in served.iterdir()] == [str(ours)], "an adapter of another model gets no view"
        assert services.stores.adapters.verify_files(ours).base_model == FakeVllm.MODEL


async def test_an_activation_on_a_server_without_adapters_ends_before_the_model_is_asked(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    server = FakeVllm(runtime_adapters=False)
    async with serving(server) as url, _services(data_dir, url) as services:
        with pytest.raises(AdapterInvalidError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await services.lora.activate(_published(data_dir, FakeVllm.MODEL))
        assert server.bodies(CHAT) == []


async def test_the_reports_say_what_a_server_can_do_before_anything_is_started(tmp_path: Path) -> None:
    async with serving(FakeVllm(runtime_adapters=False)) as url, _services(tmp_path / "data", url) as services:
        reports = {report.name: report for report in await services.runtimes.reports()}
        assert not services.runtimes.is_started("openai")
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in reports["openai"].capabilities.adapters_note
        assert reports["embedded"].capabilities.adapters


@pytest.mark.parametrize(
    ("server", "runtime", "status", "says"),
    [
        (FakeVllm(), "openai", "ok", "by its API"),
        (FakeVllm(runtime_adapters=False), "openai", "lacking", "--enable-lora"),
        (FakeLlamaServer(), "openai", "lacking", "--lora"),
        (FakeOllama("0.34.2"), "ollama", "lacking", "merged-gguf"),
    ],
)
async def test_doctor_says_in_a_check_what_a_server_can_do_with_adapters(
    tmp_path: Path, server: FakeServer, runtime: str, status: str, says: str
) -> None:
    async with serving(server) as url:
        checks = await _runtimes(Plugins.load(), _settings(tmp_path / "data", url, runtime))
    found: dict[str, Check] = {check.name: check for check in checks}
    assert found[f"adapters on {runtime}"].status == status
    assert says in found[f"adapters on {runtime}"].detail
