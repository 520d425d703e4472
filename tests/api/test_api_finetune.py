from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import threading
import time
import tomllib
from types import SimpleNamespace
from uuid import UUID, uuid4

import httpx
import pytest

from tests.core.finetune.preview.looking import looking_plugins
from tmde_core.errors import InvalidInputError


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
    assert (run["status"], run["tracesUsed"], run["triggeredBy"]) == ("completed", 6, "api")
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
    unknown = refused(own_live.client.put("/api/finetune/config", json={"backend": "nothing"}), 400, "invalid_input")
    assert (unknown["field"], "stand-in" in unknown["available"]) == ("backend", True)


def test_a_change_keeps_what_others_wrote_to_the_file(own_live) -> None:
    file = own_live.services.settings.data_path / "tmde.toml"
    own_live.client.put("/api/finetune/config", json={"loraRank": 8})
    file.write_text(file.read_text() + "epochs = 5\n")
    changed = own_live.client.put("/api/finetune/config", json={"seed": 7}).json()
    assert (changed["loraRank"], changed["epochs"], changed["seed"]) == (8, 5, 7)
    assert tomllib.loads(file.read_text()) == {"finetune": {"lora_rank": 8, "epochs": 5, "seed": 7}}
    file.write_text("[finetune]\nepochs = 6\n")
    assert own_live.client.get("/api/finetune/config").json()["epochs"] == 6


def test_a_backend_that_is_gone_does_not_block_other_changes(own_live, refused, monkeypatch) -> None:
    assert own_live.client.put("/api/finetune/config", json={"backend": "stand-in"}).status_code == 200

    def gone(name: str, *_: object) -> None:
        raise InvalidInputError(f"{name} is gone.")

    monkeypatch.setattr(own_live.services.plugins.backends, "choose", gone)
    for path, body in (
        ("/api/finetune/config", {"seed": 2}),
        ("/api/settings", {"finetune": {"epochs": 4}}),
        ("/api/finetune/config", {"backend": "auto"}),  # a plugin may offer the default later
    ):
        assert own_live.client.put(path, json=body).status_code == 200
    refused(own_live.client.put("/api/finetune/config", json={"backend": "stand-in"}), 400, "invalid_input")
    assert own_live.client.get("/api/finetune/config").json()["seed"] == 2


def test_backends_tell_whether_they_can_work(live) -> None:
    found = {item["name"]: item for item in live.client.get("/api/finetune/backends").json()["items"]}
    environments = {name: item["environment"] for name, item in found.items()}
    assert {environments["stand-in"], environments["cpu"]} == {sys.prefix}
    assert found["cpu"]["default"]
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
            ("GET", "/log"),
            ("POST", "/resume"),
        ]:
            refused(live.client.request(method, f"/api/finetune/{name}{path}"), 404, "not_found")
    assert (
        refused(live.client.get("/api/finetune", params={"status": "odd"}), 400, "invalid_input")["field"] == "status"
    )
    assert refused(live.client.get("/api/finetune", params={"offset": -1}), 400, "invalid_input")["field"] == "offset"


def until(live, run_id, **wanted):
    """The run, once it is as wanted."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        run = live.client.get(f"/api/finetune/{run_id}").json()
        if all(run[name] == value for name, value in wanted.items()):
            return run
        time.sleep(0.02)
    raise AssertionError(run)


def go(live, run_id) -> None:
    (live.services.settings.data_path / "runs" / run_id / "go").touch()


def checkpointed(live) -> str:
    """A run that has written a checkpoint and waits."""
    run_id = start(live, "checkpointed").json()["runId"]
    with live.client.stream("GET", f"/api/finetune/{run_id}/progress") as stream:
        assert any(line == "event: checkpoint" for line in stream.iter_lines())
    return run_id


def test_a_cancelled_run_is_resumed_with_the_same_id_and_its_attempts_are_told(ready, events) -> None:
    run_id = checkpointed(ready)
    ready.client.delete(f"/api/finetune/{run_id}")
    last = events(ready.client.get(f"/api/finetune/{run_id}/progress").text)[-1]
    assert last[1] == "cancelled"
    go(ready, run_id)
    resumed = ready.client.post(f"/api/finetune/{run_id}/resume")
    assert resumed.status_code == 202, resumed.text
    assert resumed.json() == {
        "runId": run_id,
        "status": "pending",
        "progressUrl": f"/api/finetune/{run_id}/progress",
    }
    later = events(ready.client.get(resumed.json()["progressUrl"], headers={"Last-Event-ID": str(last[0])}).text)
    assert (later[0][0], later[-1][1]) == (last[0] + 1, "complete")
    run = until(ready, run_id, status="completed")
    assert [(a["number"], a["outcome"], a["resumedFromStep"], a["automatic"]) for a in run["attempts"]] == [
        (1, "cancelled", None, False),
        (2, "completed", 3, False),
    ]
    assert {"startedAt", "endedAt", "batchSize", "gradientAccumulationSteps", "reason"} <= set(run["attempts"][0])
    assert run["queued"] is False


def test_what_cannot_be_resumed_is_a_conflict_that_says_why(ready, refused) -> None:
    done = start(ready).json()["runId"]
    until(ready, done, status="completed")
    assert "is completed" in refused(ready.client.post(f"/api/finetune/{done}/resume"), 409, "conflict")["detail"]
    broken = start(ready, "raises").json()["runId"]
    until(ready, broken, status="failed")
    assert (
        "no complete checkpoint"
        in (refused(ready.client.post(f"/api/finetune/{broken}/resume"), 409, "conflict")["detail"])
    )
    stopped = checkpointed(ready)
    ready.client.delete(f"/api/finetune/{stopped}")
    other = start(ready, "waits").json()["runId"]
    assert refused(ready.client.post(f"/api/finetune/{stopped}/resume"), 409, "conflict")["runId"] == other
    refused(ready.client.post(f"/api/finetune/{other}/resume"), 409, "conflict")
    ready.client.delete(f"/api/finetune/{other}")


def test_a_run_that_fails_says_why_in_its_row_its_stream_and_its_log(ready, events) -> None:
    run_id = start(ready, "killed").json()["runId"]
    run = until(ready, run_id, status="failed")
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["killed"] * 3
    assert "SIGKILL" in run["errorMessage"]
    last = events(ready.client.get(f"/api/finetune/{run_id}/progress").text)[-1]
    assert (last[1], last[2]["detail"]) == ("error", run["errorMessage"])
    log = ready.client.get(f"/api/finetune/{run_id}/log", params={"lines": 2}).json()
    assert log == {"lines": ["about to be killed"] * 2}


@pytest.mark.parametrize("lines", ["0", "1001", "many"])
def test_the_number_of_log_lines_has_bounds(live, refused, lines) -> None:
    response = live.client.get(f"/api/finetune/{uuid4()}/log", params={"lines": lines})
    assert refused(response, 400, "invalid_input")["field"] == "lines"


def test_a_server_that_only_enqueues_answers_202_and_its_queue_can_be_cancelled(ready, monkeypatch, refused) -> None:
    monkeypatch.setattr(type(ready.services.finetune), "trains_elsewhere", True)
    started = start(ready)
    assert (started.status_code, started.json()["status"]) == (202, "pending")
    run_id = started.json()["runId"]
    run = ready.client.get(f"/api/finetune/{run_id}").json()
    assert (run["status"], run["queued"], run["attempts"]) == ("pending", True, [])
    refused(start(ready), 409, "conflict")
    cancelled = ready.client.delete(f"/api/finetune/{run_id}").json()
    assert (cancelled["status"], cancelled["queued"]) == ("cancelled", False)


def test_what_stands_in_the_way_of_a_start_is_one_sentence_with_the_right_code(ready, monkeypatch, refused) -> None:
    available = refused(start(ready, backend="abacus"), 400, "invalid_input")["detail"]
    assert "'abacus'; available: " in available
    assert "stand-in" in available
    missing = refused(start(ready, "no-such-model", backend="cpu"), 400, "invalid_input")["detail"]
    assert "no-such-model" in missing
    for unreadable in ("x" * 5000, "~nobody-of-that-name/model", "a\x00b"):
        assert refused(start(ready, unreadable, backend="cpu"), 400, "invalid_input")["field"] == "baseModel"
    refused(start(ready, minTraces=500), 422, "insufficient_traces")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 1024**2))
        full = refused(start(ready), 507, "insufficient_storage")
        assert (full["have"], full["need"]) == (3 * 1024**2, 500 * 1024**2)
    adapters = ready.services.stores.adapters.directory
    if adapters.exists():
        adapters.rmdir()
    adapters.write_text("not a directory")
    assert "is in the way" in refused(start(ready), 507, "insufficient_storage")["detail"]
    adapters.unlink()
    with sqlite3.connect(ready.services.settings.data_path / "tmde.db") as database:
        database.execute("UPDATE traces SET details = '{broken' WHERE query LIKE '%3 plus 3%'")
    assert "trace" in refused(start(ready), 422, "unprocessable")["detail"]
    assert ready.client.get("/api/finetune").json()["total"] == 0
    assert not list((ready.services.settings.data_path / "runs").glob("*"))


def test_two_subscribers_of_whom_one_reconnects_fifty_times_see_every_event_once(ready, events) -> None:
    run_id = start(ready, "steps-120").json()["runId"]
    path = f"/api/finetune/{run_id}/progress"
    steady: list[str] = []

    def subscribe() -> None:
        with httpx.Client(base_url=ready.url, timeout=60) as client, client.stream("GET", path) as stream:
            steady.append("".join(stream.iter_text()))

    subscriber = threading.Thread(target=subscribe)
    subscriber.start()
    seen: list[tuple[int, str, object]] = []
    connections = 0
    while not seen or seen[-1][1] != "complete":
        # Hang up in the middle of the stream, sometimes in the middle of an event, for the first fifty times.
        after = {"Last-Event-ID": str(seen[-1][0])} if seen else {}
        wanted = 1 + connections % 3 if connections < 50 else None
        text = ""
        connections += 1
        with ready.client.stream("GET", path, headers=after) as stream:
            for piece in stream.iter_text():
                text += piece
                if wanted is not None and text.count("event: ") >= wanted:
                    break
        seen += events(text[: text.rfind("\n\n") + 2] if "\n\n" in text else "")
    subscriber.join(60)
    whole = events(steady[0])
    assert connections > 50
    assert [event[0] for event in seen] == list(range(1, len(seen) + 1))
    assert seen == whole
    assert sum(kind == "progress" for _, kind, _ in whole) == 120


def test_a_preview_says_what_would_be_trained_on_and_starts_nothing(live, refused) -> None:
    found = live.client.post("/api/finetune/preview", json={"config": {"minTraces": 7}})
    assert found.status_code == 200, found.text
    assert {"examples", "required", "refusal", "leftOut", "leftOutByReason", "histogram", "firstExample"} <= set(
        found.json()
    )
    assert (found.json()["required"], found.json()["config"]["minTraces"]) == (7, 7)
    assert live.client.get("/api/finetune").json()["total"] == 0
    refused(live.client.post("/api/finetune/preview", json={"config": {"loraRank": 3}}), 400, "invalid_input")
    refused(live.client.post("/api/finetune/preview", json={"config": {"backend": "nowhere"}}), 400, "invalid_input")
    refused(live.client.post("/api/finetune/preview", json={"nonsense": 1}), 400, "invalid_input")
    refused(live.client.get(f"/api/traces/{uuid4()}/lineage"), 404, "not_found")


def test_a_preview_tells_tokens_mask_and_price_and_whom_a_trace_taught_is_told(ready, refused) -> None:
    looking_plugins(ready.services.plugins)
    wanted = {"backend": "looking", "minTraces": 2, "batchSize": 1, "gradientAccumulationSteps": 1, "epochs": 1}
    lines = '{"query": "Tell me: why is the sea salt?", "finalAnswer": "Rivers.", "qualityScore": 9}'
    kind = {"Content-Type": "application/x-ndjson"}
    assert ready.client.post("/api/traces/import", content=lines, headers=kind).json()["imported"] == 1
    told = ready.client.post("/api/finetune/preview", json={"config": wanted}).json()
    assert (told["refusal"], told["examples"], told["leftOutByReason"]) == (None, 6, {"leak": 1})
    assert "nearly equals the benchmark question suite/seas" in told["leftOut"][0]["detail"]
    assert told["totalSteps"] == told["trainExamples"] == told["totalTokens"] / 40
    assert told["histogram"] == [{"low": 40, "high": 48, "examples": 6}]
    assert told["firstExample"][1] == {"text": "A", "supervised": True}
    assert (told["estimatedSeconds"], told["estimatedRamBytes"], told["calibrated"]) == (12.5, 7, True)
    counts = ready.client.post("/api/finetune/preview", json={"config": wanted, "countsOnly": True}).json()
    assert (counts["examples"], counts["leftOutByReason"], counts["totalTokens"]) == (6, {"leak": 1}, None)
    assert ready.client.get("/api/finetune").json()["total"] == 0
    missing = ready.client.post("/api/finetune/preview", json={"config": {"backend": "cpu", "baseModel": "/no/such"}})
    assert "/no/such" in refused(missing, 400, "invalid_input")["detail"]
    run_id = start(ready).json()["runId"]
    ready.run(ready.services.finetune.wait(UUID(run_id)))
    trace = ready.client.get(f"/api/finetune/{run_id}/traces").json()["items"][0]["id"]
    lineage = ready.client.get(f"/api/traces/{trace}/lineage")
    assert lineage.json() == {"traceId": trace, "runs": [run_id], "adapters": [run_id]}
    refused(ready.client.get("/api/traces/nonsense/lineage"), 404, "not_found")
