from __future__ import annotations

import json
from uuid import UUID, uuid4

import pytest


@pytest.fixture
def ready(own_live):
    """A server with six good traces and a backend that pretends to train."""
    lines = [
        json.dumps({"query": f"What is {n} plus {n}?", "finalAnswer": f"It is {n * 2}.", "qualityScore": 9})
        for n in range(6)
    ]
    own_live.client.post(
        "/api/traces/import", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
    )
    return own_live


def start(live, what="quick", **config):
    body = {"config": {"backend": "stand-in", "minTraces": 2, "baseModel": what, **config}}
    return live.client.post("/api/finetune", json=body)


def test_a_run_is_started_watched_and_ends_in_an_adapter(ready, events) -> None:
    started = start(ready)
    assert started.status_code == 202, started.text
    run_id = started.json()["runId"]
    assert started.json() == {"runId": run_id, "status": "pending", "progressUrl": f"/api/finetune/{run_id}/progress"}
    seen = events(ready.client.get(started.json()["progressUrl"]).text)
    progress = [data for _, kind, data in seen if kind == "progress"]
    assert [data["step"] for data in progress] == [1, 2, 3]
    assert {"step", "totalSteps", "loss", "evalLoss", "learningRate", "etaSeconds", "status"} <= set(progress[0])
    assert seen[-1][1] == "complete"
    ready.run(ready.services.finetune.wait(UUID(run_id)))
    run = ready.client.get(f"/api/finetune/{run_id}").json()
    assert (run["status"], run["tracesUsed"], run["triggeredBy"]) == ("completed", 6, "user")
    assert run["metrics"]["finalTrainLoss"] == 1.0
    assert run["metrics"]["peakVramGb"] is None
    metrics = ready.client.get(f"/api/finetune/{run_id}/metrics").json()
    assert (metrics["total"], metrics["items"][2]["loss"]) == (3, 1.0)
    assert ready.client.get(f"/api/finetune/{run_id}/traces").json()["total"] == 6
    listed = ready.client.get("/api/finetune", params={"status": "completed"}).json()
    assert ([item["id"] for item in listed["items"]], listed["total"], listed["nextCursor"]) == ([run_id], 1, None)
    assert [item["id"] for item in ready.client.get("/api/lora").json()["items"]] == [run_id]
    trace = ready.client.get("/api/traces").json()["items"][0]
    taught = ready.client.post(f"/api/traces/{trace['id']}/withdraw", json={"reason": "wrong"}).json()
    assert taught["adapters"] == [run_id]
    assert ready.client.get("/api/traces/stats").json()["sinceLastRun"] == 0


def test_a_run_in_progress_keeps_others_out_and_can_be_cancelled(ready, events, refused) -> None:
    run_id = start(ready, "waits").json()["runId"]
    assert refused(start(ready), 409, "conflict")["runId"] == run_id
    with ready.client.stream("GET", f"/api/finetune/{run_id}/progress") as stream:
        lines = stream.iter_lines()
        assert any(line == "event: progress" for line in lines)
        cancelled = ready.client.delete(f"/api/finetune/{run_id}")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert [line for line in lines if line.startswith("event")][-1] == "event: cancelled"
    refused(ready.client.delete(f"/api/finetune/{run_id}"), 409, "conflict")
    later = events(ready.client.get(f"/api/finetune/{run_id}/progress", headers={"Last-Event-ID": "2"}).text)
    assert later[0][0] == 3
    assert later[-1][1] == "cancelled"


def test_too_few_traces_are_told_with_figures(live, refused) -> None:
    body = refused(live.client.post("/api/finetune"), 422, "insufficient_traces")
    assert (body["current"], body["required"]) == (0, 50)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("loraRank", 3, "from 4 to 128"),
        ("loraAlpha", 257, "from 8 to 256"),
        ("learningRate", 0.1, "from 1e-05 to 0.001"),
        ("batchSize", 0, "from 1 to 32"),
        ("gradientAccumulationSteps", 17, "from 1 to 16"),
        ("epochs", 11, "from 1 to 10"),
        ("maxSeqLength", 511, "from 512 to 8,192"),
        ("epochs", "3", "whole number"),
        ("colour", "red", "no such hyperparameter"),
    ],
)
def test_a_hyperparameter_out_of_range_is_named_with_its_range(live, refused, field, value, words) -> None:
    for response in (
        live.client.post("/api/finetune", json={"config": {field: value}}),
        live.client.put("/api/finetune/config", json={field: value}),
    ):
        body = refused(response, 400, "invalid_input")
        assert body["field"] == field
        assert words in body["detail"]


def test_the_configuration_is_changed_and_kept(own_live, refused) -> None:
    before = own_live.client.get("/api/finetune/config").json()
    assert (before["loraRank"], before["loraAlpha"], before["minQualityScore"]) == (16, 32, 8.0)
    changed = own_live.client.put("/api/finetune/config", json=before | {"loraRank": 8, "minQualityScore": 2})
    assert changed.status_code == 200
    assert (
        own_live.client.get("/api/finetune/config").json()
        == changed.json()
        == before | {"loraRank": 8, "minQualityScore": 2}
    )
    assert "lora_rank = 8" in (own_live.services.settings.data_path / "tmde.toml").read_text()
    own_live.client.post(
        "/api/traces/import",
        content=json.dumps({"query": "q", "finalAnswer": "a", "qualityScore": 3}),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert own_live.client.get("/api/traces/stats").json()["eligible"] == 1
    refused(own_live.client.put("/api/finetune/config", json={"backend": "nothing"}), 503, "plugin_unavailable")


def test_backends_tell_whether_they_can_work(live) -> None:
    found = {item["name"]: item for item in live.client.get("/api/finetune/backends").json()["items"]}
    assert found["stand-in"]["availability"] == {"ok": True, "reason": ""}
    assert "cpu" in found


def test_runs_that_do_not_exist_are_not_found(live, refused) -> None:
    for name in (uuid4(), "nonsense"):
        for method, path in [
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/progress"),
            ("GET", "/metrics"),
            ("GET", "/traces"),
        ]:
            refused(live.client.request(method, f"/api/finetune/{name}{path}"), 404, "not_found")
    assert (
        refused(live.client.get("/api/finetune", params={"status": "odd"}), 400, "invalid_input")["field"] == "status"
    )
    assert refused(live.client.get("/api/finetune", params={"offset": -1}), 400, "invalid_input")["field"] == "offset"
