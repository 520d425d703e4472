"""Adapters on disk that were really published, and a runtime that answers from a script."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tmde_core.records.chat import ChatRequest, TokenAlternative, TokenLogprob
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.services import open_services
from tmde_core.testing.scripted import Reply, ScriptedRuntime, scripted_plugins, scripted_settings

BASE = "scripted-1"
"""The model that the scripted runtime serves."""
PLAIN = '{"peft_type": "LORA", "r": 16}'
"""The configuration of an adapter."""


def publish_adapter(
    data_dir: Path, *, age: int = 0, base_model: str = BASE, identity: UUID | None = None, config: str = PLAIN, **fields
) -> UUID:
    """Publish a small adapter; `age` in minutes."""
    directory = data_dir / "lora-adapters"
    identity = identity or uuid4()
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    (staging / "adapter_model.safetensors").write_bytes(identity.bytes * 64)
    (staging / "adapter_config.json").write_text(config)
    (staging / "adapter.gguf").write_bytes(b"GGUF" + identity.bytes)
    created = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=age)
    publish(staging, directory, Manifest(id=identity, created_at=created, base_model=base_model, **fields))
    return identity


def logprobs(probability: float) -> tuple[TokenLogprob, ...]:
    return (
        TokenLogprob(
            token="A",
            logprob=math.log(probability),
            top=(TokenAlternative("A", math.log(probability)),),
        ),
    )


@pytest.fixture(scope="session")
def published() -> Callable[..., UUID]:
    return publish_adapter


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


def sane(request: ChatRequest) -> Reply:
    """An answer whose probabilities the adapter changes."""
    return Reply("A rainbow comes from light in drops.", logprobs=logprobs(0.8 if request.adapter else 0.7))


@pytest.fixture
def runtime() -> ScriptedRuntime:
    """Its `script` may be changed by the test."""
    return ScriptedRuntime(script=sane)


@pytest.fixture
def opened(runtime: ScriptedRuntime):
    """`async with opened(data_dir) as services`; may be opened again, like another process."""

    def open_again(data_dir: Path, **options):
        return open_services(scripted_settings(data_dir), scripted_plugins(options.pop("runtime", runtime)), **options)

    return open_again


@pytest.fixture
async def services(opened, data_dir: Path):
    async with opened(data_dir) as made:
        yield made
