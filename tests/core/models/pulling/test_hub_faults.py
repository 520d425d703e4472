"""A hub on a bad day: what a pull endures, what it refuses, and what it says."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.core.models.pulling.conftest import LIMITS, Opening
from tmde_core.errors import (
    HubUnreachableError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    TmdeError,
    UnauthorizedError,
    UnprocessableError,
)
from tmde_core.records.pulls import PullRequest

GGUF = "Tiny-Q4_K_M.gguf"
TOKEN = {"HF_TOKEN": "granted"}


@pytest.mark.parametrize(
    "faults",
    [
        ("break-once=100000", "other-host", "hostile-names", "error-once"),
        ("break-after=100000",),
        ("break-once=100000", "no-range"),
        ("break-once=100000", "wrong-range"),
        ("wrong-hash-once", "expired"),
    ],
    ids="+".join,
)
async def test_it_arrives_whole_in_spite_of(opened: Opening, faults: tuple[str, ...]) -> None:
    async with opened(*faults) as here:
        pull = await here.pull("acme/Tiny-GGUF")
        assert (pull.state, pull.error) == ("done", None)
        assert (here.models / "Tiny" / GGUF).read_bytes() == (here.hub.folder / "acme/Tiny-GGUF" / GGUF).read_bytes()
        assert here.files("Tiny") == [GGUF, "model.json"]
        assert {path.name for path in here.models.parent.iterdir()} <= {"models", "logs"}


async def test_a_broken_transfer_goes_on_at_the_byte_where_it_broke(opened: Opening) -> None:
    async with opened("break-once=100000") as here:
        assert (await here.pull("acme/Tiny-GGUF")).state == "done"
        assert [served.start for served in here.hub.served] == [0, 100_000]
        assert here.hub.bytes_sent[GGUF] == (here.models / "Tiny" / GGUF).stat().st_size


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("wrong-hash", "arrived twice with another hash"),
        ("error-always", "an error of its own (HTTP 500). Everything that was fetched is kept"),
        ("forbidden", "forbids access"),
        ("gone", "has no file"),
        ("break-after=1000", "broke"),
        ("loop", "redirects"),
        ("file-redirect", "not safe"),
    ],
)
async def test_a_pull_that_fails_says_why_and_leaves_no_model(opened: Opening, fault: str, said: str) -> None:
    async with opened(fault) as here:
        pull = await here.pull("acme/Tiny-GGUF")
        assert pull.state == "failed"
        assert said in str(pull.error)
        assert not (here.models / "Tiny").exists()


async def test_a_hub_that_goes_silent_is_left_after_a_while(opened: Opening) -> None:
    limits = msgspec.structs.replace(LIMITS, timeout_seconds=0.5)
    async with opened() as here, opened("stall=1000", limits=limits) as silent:
        plan = await here.service.plan(PullRequest(repository="acme/Tiny-GGUF"))
        plan = msgspec.structs.replace(plan, endpoint=silent.service.endpoint)
        pull = await silent.service.wait((await silent.service.start(plan)).id)
        assert pull.state == "failed"
        assert "has gone silent. Everything that was fetched is kept" in str(pull.error)


async def test_after_a_failure_the_same_pull_goes_on_with_the_bytes_that_are_here(opened: Opening) -> None:
    async with opened("break-after=1000") as here:
        assert (await here.pull("acme/Tiny-GGUF")).bytes_done == 3000
        here.hub.faults.replace()
        assert (await here.pull("acme/Tiny-GGUF")).state == "done"
        assert here.hub.served[-1].start == 3000


async def test_a_file_with_a_wrong_hash_is_deleted(opened: Opening) -> None:
    async with opened("wrong-hash") as here:
        assert (await here.pull("acme/Tiny-GGUF")).bytes_done == 0
        assert sum(path.stat().st_size for path in (here.models / ".pull-Tiny/files").rglob("*")) == 0


@pytest.mark.parametrize(
    ("fault", "environ", "kind", "said"),
    [
        ("gated", {}, UnprocessableError, "Accept the terms there, then set HF_TOKEN"),
        ("gated", {"HF_TOKEN": "other"}, UnprocessableError, "Your token has no access yet"),
        ("gated", {"HF_TOKEN": "other"}, UnprocessableError, "The hub says: Access to acme/Tiny is restricted."),
        ("private", {}, NotFoundError, "or it is private"),
        ("private", {"HF_TOKEN": "other"}, NotFoundError, "your token has no access"),
        ("bad-token", {"HF_TOKEN": "other"}, UnauthorizedError, "the token is wrong or has expired"),
        ("busy-always=1", {}, RateLimitedError, "too many requests"),
        ("busy-always=7200", {}, RateLimitedError, "asks to wait 7200 s"),
        ("no-hub", {}, HubUnreachableError, "not as a hub of models does"),
        ("odd-listing", {}, HubUnreachableError, "not as a hub of models does"),
        ("no-hashes", {}, UnprocessableError, "names no hash"),
        ("no-metadata", {}, UnprocessableError, "does not tell the size"),
        ("many-files", {}, UnprocessableError, "6,013 files"),
        ("drip=100000", {"HF_HUB_OFFLINE": "1"}, HubUnreachableError, "HF_HUB_OFFLINE is set"),
        ("drip=100000", {"HF_ENDPOINT": "nonsense"}, InvalidInputError, "HF_ENDPOINT is 'nonsense'"),
        ("drip=100000", {"HF_ENDPOINT": "http://127.0.0.1:1"}, HubUnreachableError, "cannot be reached"),
        ("drip=100000", {"HF_TOKEN": "two words"}, InvalidInputError, "characters that no token has"),
    ],
)
async def test_a_hub_that_refuses_is_explained_before_anything_is_fetched(
    opened: Opening, fault: str, environ: dict[str, str], kind: type[TmdeError], said: str
) -> None:
    async with opened(fault, **environ) as here:
        with pytest.raises(kind) as refused:
            await here.service.plan(PullRequest(repository="acme/Tiny"))
        assert said in refused.value.detail
        assert here.hub.served == []


@pytest.mark.parametrize("fault", ["gated", "private"])
async def test_a_token_with_access_opens_gated_and_private_repositories(opened: Opening, fault: str) -> None:
    async with opened(fault, **TOKEN) as here:
        assert (await here.pull("acme/Tiny")).state == "done"


async def test_the_token_goes_to_the_hub_and_neither_to_another_host_nor_into_a_file(opened: Opening) -> None:
    async with opened("gated", "other-host", **TOKEN) as here:
        pull = await here.pull("acme/Tiny")
        assert pull.state == "done"
        (weights,) = [served for served in here.hub.served if served.path == "model.safetensors"]
        assert weights.host.startswith("localhost:")
        assert weights.token == ""
        assert {served.token for served in here.hub.served if served is not weights} == {"granted"}
        for file in here.models.rglob("*"):
            assert not file.is_file() or b"granted" not in file.read_bytes()


async def test_waiting_for_a_busy_hub_is_told_meanwhile(opened: Opening) -> None:
    async with opened("busy=1") as here:
        pull = await here.service.start(PullRequest(repository="acme/Tiny-GGUF"))
        messages = {now.message async for now in here.service.watch(pull.id)}
        assert any("asks to wait 1 s" in message for message in messages)


async def test_hostile_names_are_listed_as_left_out(opened: Opening) -> None:
    async with opened("hostile-names") as here:
        plan = await here.service.plan(PullRequest(repository="acme/Tiny"))
        unsafe = {one.path for one in plan.left_out if one.reason == "its name is not safe"}
        assert {"../escaped.json", "/etc/evil.safetensors", "a/../../b.json"} <= unsafe
        assert len(unsafe) == 6
        assert json.dumps([file.target for file in plan.files]).count("..") == 0


async def test_a_repository_and_a_revision_that_are_not_there_are_told_apart(opened: Opening) -> None:
    async with opened() as here:
        with pytest.raises(NotFoundError, match="has no model acme/Nope"):
            await here.service.plan(PullRequest(repository="acme/Nope"))
        with pytest.raises(NotFoundError, match="has no revision 'v9'"):
            await here.service.plan(PullRequest(repository="acme/Tiny", revision="v9"))
