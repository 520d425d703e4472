"""A played hub with two repositories, and a service that pulls from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.core.models.pulling.hub_files import gguf_repository, weights_repository
from tmde_core.models.pulling import PullLimits, PullService
from tmde_core.records.pulls import Pull, PullRequest
from tmde_core.settings import load_settings
from tmde_core.testing.fake_hub import FakeHub, serving

LIMITS = PullLimits(tries=3, first_pause_seconds=0.01, longest_wait_seconds=5, timeout_seconds=30)


class Place(NamedTuple):
    """A service, and the hub that it pulls from."""

    service: PullService
    hub: FakeHub
    models: Path

    async def pull(self, repository: str, **more: str) -> Pull:
        """Pull to the end."""
        return await self.service.wait((await self.service.start(PullRequest(repository=repository, **more))).id)

    async def until_bytes_are_here(self, pull_id: str, count: int = 1) -> None:
        """Wait until a pull has this many bytes."""
        async for now in self.service.watch(pull_id):
            if now.bytes_done >= count:
                return
        raise AssertionError("the pull has ended before")

    def files(self, folder: str) -> list[str]:
        """The files below a folder of `data/models`."""
        root = self.models / folder
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


Opening = Callable[..., AbstractAsyncContextManager[Place]]


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """The folder of the hub: `acme/Tiny` with weights, `acme/Tiny-GGUF` with quantisations."""
    weights_repository(tmp_path / "hub/acme/Tiny")
    gguf_repository(tmp_path / "hub/acme/Tiny-GGUF", "acme/Tiny")
    return tmp_path / "hub"


@pytest.fixture
def opened(tmp_path: Path, repositories: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    """Open a hub with faults, and a service that pulls from it."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    @asynccontextmanager
    async def open_(*faults: str, limits: PullLimits = LIMITS, **environ: str) -> AsyncIterator[Place]:
        hub = FakeHub(repositories, *faults)
        async with serving(hub) as url:
            variables = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), **environ}
            settings = load_settings(tmp_path / "data", environ={})
            service = PullService(settings, environ=variables, limits=limits)
            try:
                yield Place(service, hub, settings.data_path / "models")
            finally:
                service.stop()

    return open_
