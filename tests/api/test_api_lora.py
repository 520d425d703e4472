from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from tmde_core.lora.publish import publish, staging_directory
from tmde_core.lora.records import Manifest


def published(live, *, age: int = 0, base_model: str = "scripted-1", **fields) -> str:
    """Publish a small adapter; `age` in minutes."""
    directory = live.services.settings.data_path / "lora-adapters"
    identity: UUID = uuid4()
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    (staging / "adapter_model.safetensors").write_bytes(identity.bytes * 64)
    (staging / "adapter_config.json").write_text('{"r": 16}')
    (staging / "adapter.gguf").write_bytes(b"GGUF" + identity.bytes)
    created = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=age)
    publish(staging, directory, Manifest(id=identity, created_at=created, base_model=base_model, **fields))
    return str(identity)


@pytest.fixture
def two(own_live) -> tuple[str, str]:
    return published(own_live, tags=("old",), age=5), published(own_live)


def test_adapters_are_listed_newest_first_and_filtered(own_live, two) -> None:
    def ids(**params):
        body = own_live.client.get("/api/lora", params=params).json()
        assert body["nextCursor"] is None
        return [item["id"] for item in body["items"]]

    assert ids() == [two[1], two[0]]
    assert ids(tag="old") == [two[0]]
    assert ids(valid="false") == []
    assert ids(limit=1, offset=1) == [two[0]]
    shown = own_live.client.get(f"/api/lora/{two[0]}").json()
    assert set(shown) >= {
        *("id", "createdAt", "baseModel", "isActive", "tags", "metrics", "tracesUsed", "sizeBytes", "sha256", "path"),
        *("isValid", "invalidReason", "gate"),
    }


def test_an_adapter_is_activated_rolled_back_and_deactivated_with_a_trail(own_live, two) -> None:
    client = own_live.client
    assert client.get("/api/lora/active").json() is None
    for adapter in two:
        activated = client.post(f"/api/lora/{adapter}/activate")
        assert activated.status_code == 200, activated.text
        assert activated.json()["isActive"] is True
    assert client.get("/api/lora/active").json()["id"] == two[1]
    assert client.post("/api/lora/rollback", json={}).json()["id"] == two[0]
    assert client.post("/api/lora/rollback", json={"adapterId": two[1]}).json()["id"] == two[1]
    gone = client.post("/api/lora/deactivate")
    assert (gone.status_code, gone.json()) == (200, None)
    assert client.get("/api/lora/active").json() is None
    trail = client.get("/api/lora/events").json()
    assert trail["items"][0]["adapterId"] is None
    assert {event["triggeredBy"] for event in trail["items"]} == {"api", "rollback"}
    assert len(client.get("/api/lora/events", params={"limit": 2}).json()["items"]) == 2


def test_a_debate_names_the_adapter_that_answered_it(own_live, two) -> None:
    own_live.client.post(f"/api/lora/{two[0]}/activate")
    started = own_live.client.post("/api/debates", json={"query": "Which?"}).json()
    own_live.client.get(started["eventsUrl"])
    assert own_live.client.get(f"/api/debates/{started['debateId']}").json()["adapterId"] == two[0]


def test_what_cannot_be_activated_is_refused_and_changes_nothing(own_live, refused) -> None:
    foreign = published(own_live, base_model="another")
    damaged = published(own_live)
    file = own_live.services.settings.data_path / "lora-adapters" / damaged / "adapter_model.safetensors"
    file.write_bytes(b"x" * file.stat().st_size)
    held_back = published(own_live, gate="held-back")
    refused(own_live.client.post(f"/api/lora/{foreign}/activate"), 409, "conflict")
    refused(own_live.client.post(f"/api/lora/{damaged}/activate"), 422, "adapter_invalid")
    refused(own_live.client.post(f"/api/lora/{held_back}/activate", json={}), 409, "conflict")
    refused(own_live.client.post(f"/api/lora/{held_back}/activate", json={"force": "yes"}), 400, "invalid_input")
    assert own_live.client.get("/api/lora/active").json() is None
    assert own_live.client.post(f"/api/lora/{held_back}/activate", json={"force": True}).status_code == 200


def test_there_is_nothing_to_roll_back_at_first(live, refused) -> None:
    refused(live.client.post("/api/lora/rollback"), 409, "conflict")


def test_adapters_that_do_not_exist_are_not_found(live, refused) -> None:
    for name in (str(uuid4()), "nonsense"):
        refused(live.client.get(f"/api/lora/{name}"), 404, "not_found")
        refused(live.client.post(f"/api/lora/{name}/activate"), 404, "not_found")
        refused(live.client.post("/api/lora/rollback", json={"adapterId": name}), 404, "not_found")
