from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish, staging_directory


def published(live, *, age: int = 0, base_model: str = "scripted-1", identity: UUID | None = None, **fields) -> str:
    """Publish a small adapter; `age` in minutes."""
    directory = live.services.settings.data_path / "lora-adapters"
    identity = identity or uuid4()
    staging = staging_directory(directory, identity)
    staging.mkdir(parents=True)
    (staging / "adapter_model.safetensors").write_bytes(identity.bytes * 64)
    (staging / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')
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


def test_a_damaged_active_adapter_is_not_told_as_answering(own_live, two) -> None:
    client = own_live.client
    assert client.post(f"/api/lora/{two[0]}/activate").json()["isAnswering"] is True
    (own_live.services.settings.data_path / "lora-adapters" / two[0] / "adapter_config.json").unlink()
    assert client.get("/api/lora/active").json() is None
    listed = {one["id"]: one for one in client.get("/api/lora").json()["items"]}[two[0]]
    assert (listed["isActive"], listed["isAnswering"], listed["isValid"]) == (True, False, False)
    assert "adapter_config.json is missing" in listed["invalidReason"]
    assert client.get("/api/benchmark/summary").json()["answering"] is None


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
        refused(live.client.post(f"/api/lora/{name}/tag", json={"add": ["x"]}), 404, "not_found")
        refused(live.client.post(f"/api/lora/{name}/verify"), 404, "not_found")
        refused(live.client.delete(f"/api/lora/{name}"), 404, "not_found")
        refused(live.client.get("/api/lora/compare", params={"a": name, "b": name}), 404, "not_found")


def test_tags_are_put_on_and_taken_off(own_live, two, refused) -> None:
    path = f"/api/lora/{two[0]}/tag"
    assert own_live.client.post(path, json={"add": ["stable", "v1.2_x"]}).json()["tags"] == ["old", "stable", "v1.2_x"]
    assert own_live.client.post(path, json={"add": ["new"], "remove": ["old", "absent"]}).json()["tags"] == [
        *("stable", "v1.2_x", "new"),
    ]
    for bad in ("", "two words", "x" * 41, "a/b", "ä"):
        refused(own_live.client.post(path, json={"add": [bad]}), 400, "invalid_input")
    refused(own_live.client.post(path, json={"tags": ["x"]}), 400, "invalid_input")
    assert own_live.client.get(f"/api/lora/{two[0]}").json()["tags"] == ["stable", "v1.2_x", "new"]
    assert own_live.client.post(f"/api/lora/{two[0]}/verify").json()["isValid"] is True


def test_an_adapter_is_deleted_unless_it_is_active_or_stable(own_live, two, refused) -> None:
    client = own_live.client
    client.post(f"/api/lora/{two[0]}/activate")
    refused(client.delete(f"/api/lora/{two[0]}"), 409, "conflict")
    client.post(f"/api/lora/{two[1]}/tag", json={"add": ["stable"]})
    refused(client.delete(f"/api/lora/{two[1]}"), 409, "conflict")
    client.post(f"/api/lora/{two[1]}/tag", json={"remove": ["stable"]})
    assert client.delete(f"/api/lora/{two[1]}").json()["id"] == two[1]
    refused(client.get(f"/api/lora/{two[1]}"), 404, "not_found")
    newest = client.get("/api/lora/events", params={"limit": 1}).json()
    assert (newest["items"][0]["operation"], newest["items"][0]["adapterId"], newest["total"]) == ("delete", two[1], 2)


def test_pruning_keeps_the_newest_and_what_is_protected(own_live, refused) -> None:
    client = own_live.client
    ids = [published(own_live, age=age, tags=("stable",) if age == 5 else ()) for age in range(6)]
    client.post(f"/api/lora/{ids[4]}/activate")
    asked = client.post("/api/lora/prune", json={"keep": 1, "dryRun": True}).json()
    assert [one["id"] for one in asked["deleted"]] == ids[1:4]
    assert asked["bytes"] == sum(one["sizeBytes"] for one in asked["deleted"])
    assert client.get("/api/lora/storage").json()["adapters"] == 6
    assert client.post("/api/lora/prune", json={"keep": 1}).json()["deleted"] == asked["deleted"]
    assert [one["id"] for one in client.get("/api/lora").json()["items"]] == [ids[0], *ids[4:]]
    figures = client.get("/api/lora/storage").json()
    assert (figures["adapters"], figures["invalid"]) == (3, 0)
    refused(client.post("/api/lora/prune", json={"keep": -1}), 400, "invalid_input")
    refused(client.post("/api/lora/prune", json={}), 400, "invalid_input")


def test_verifying_reads_every_byte_and_the_list_knows_it_afterwards(own_live, two) -> None:
    file = own_live.services.settings.data_path / "lora-adapters" / two[0] / "adapter.gguf"
    file.write_bytes(b"x" * file.stat().st_size)
    assert own_live.client.get("/api/lora", params={"valid": True}).json()["total"] == 2
    found = own_live.client.post(f"/api/lora/{two[0]}/verify")
    assert (found.status_code, found.json()["isValid"]) == (200, False)
    assert "adapter.gguf has changed" in found.json()["reasons"][0]
    assert [one["id"] for one in own_live.client.get("/api/lora", params={"valid": False}).json()["items"]] == [two[0]]


def test_two_adapters_are_compared(own_live, refused) -> None:
    a = published(own_live, metrics={"finalTrainLoss": 2.0}, lineage={"traceIds": ["x", "y"]}, dataset_sha256="1" * 64)
    b = published(own_live, metrics={"finalTrainLoss": 1.5}, lineage={"traceIds": ["y", "z"]}, dataset_sha256="2" * 64)
    found = own_live.client.get("/api/lora/compare", params={"a": a, "b": b}).json()
    assert (found["a"]["id"], found["b"]["id"], found["sameDataset"]) == (a, b, False)
    assert (found["tracesAdded"], found["tracesRemoved"], found["tracesShared"]) == (["z"], ["x"], 1)
    assert found["metrics"] == [{"name": "finalTrainLoss", "a": 2.0, "b": 1.5}]
    refused(own_live.client.get("/api/lora/compare", params={"a": a}), 400, "invalid_input")
    details = own_live.client.get(f"/api/lora/{a}").json()
    assert (details["lineage"], details["datasetSha256"], details["history"]) == (
        {"traceIds": ["x", "y"]},
        "1" * 64,
        [],
    )


def test_a_comparison_has_the_benchmark_of_both_where_there_is_one(own_live, two) -> None:
    client = own_live.client
    criterion = {"name": "right", "check": {"kind": "number", "value": 42}}
    question = {
        "id": "own-one",
        "query": "6 times 7?",
        "domain": "mathematics",
        "difficulty": "easy",
        "criteria": [criterion],
    }
    made = client.post("/api/benchmark/questions", json=question)
    assert made.status_code == 201, made.text
    between = {"a": two[0], "b": two[1]}
    assert client.get("/api/lora/compare", params=between).json()["benchmark"] is None
    for adapter in two:
        wanted = {"type": "custom", "questionIds": [made.json()["id"]], "mode": "proposer", "adapterId": adapter}
        started = client.post("/api/benchmark", json=wanted)
        assert started.status_code == 202, started.text
        client.get(started.json()["progressUrl"])
    found = client.get("/api/lora/compare", params=between).json()["benchmark"]
    assert found["comparable"] is True
    assert (found["quality"]["n"], found["quality"]["difference"]) == (1, 0)


def test_what_was_live_at_a_moment_is_one_question(own_live, two, refused) -> None:
    client = own_live.client
    client.post(f"/api/lora/{two[0]}/activate")
    client.post(f"/api/lora/{two[1]}/activate")
    since = client.get("/api/lora/events").json()["items"][0]["timestamp"]
    assert client.get("/api/lora/live").json()["adapterId"] == two[1]
    at = client.get("/api/lora/live", params={"at": since}).json()
    assert (at["adapterId"], at["until"]) == (two[1], None)
    before = client.get("/api/lora/live", params={"at": "2020-01-01T00:00:00Z"}).json()
    assert (before["adapterId"], before["since"]) == (None, None)
    elsewhere = client.get("/api/lora/live", params={"at": "2020-01-01T01:00:00+01:00"}).json()
    assert elsewhere == before
    for wrong in ("yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        assert refused(client.get("/api/lora/live", params={"at": wrong}), 400, "invalid_input")["field"] == "at"
