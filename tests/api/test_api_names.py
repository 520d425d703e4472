"""Names, short ids, corrections, and the benchmark's score of an adapter, over HTTP."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.api.test_api_contract import QUESTION, measured, trained
from tests.api.test_api_lora import published


def test_a_run_is_named_after_what_it_learns_and_its_adapter_is_called_so_too(own_live) -> None:
    run = trained(own_live)
    assert run["name"].endswith(" · times table")
    (adapter,) = own_live.client.get("/api/lora").json()["items"]
    assert adapter["name"] == run["name"]
    renamed = own_live.client.post(f"/api/finetune/{run['id'][:8]}/name", json={"name": " Tables, first try "})
    assert (renamed.status_code, renamed.json()["name"]) == (200, "Tables, first try")
    assert own_live.client.get(f"/api/lora/{run['id'][:4]}").json()["name"] == "Tables, first try"
    assert own_live.client.post(f"/api/lora/{run['id']}/name", json={"name": "Mine"}).json()["name"] == "Mine"
    assert own_live.client.get(f"/api/finetune/{run['id']}").json()["name"] == "Tables, first try"
    assert own_live.client.get("/api/lora").json()["items"][0]["name"] == "Mine"


@pytest.mark.parametrize("name", ["", " ", "x" * 81, "two\nlines", 7, None])
def test_a_name_that_is_none_is_refused_with_the_field(own_live, refused, name) -> None:
    adapter = published(own_live)
    body = refused(own_live.client.post(f"/api/lora/{adapter}/name", json={"name": name}), 400, "invalid_input")
    assert body["field"] == "name"


def test_an_unknown_thing_cannot_be_named(live, refused) -> None:
    for path in ("/api/lora/0000000000/name", "/api/finetune/nope/name", "/api/finetune/abcdef01/name"):
        refused(live.client.post(path, json={"name": "Mine"}), 404, "not_found")


def test_the_first_digits_do_wherever_an_id_does(own_live, refused) -> None:
    client = own_live.client
    adapter = published(own_live)
    assert client.get(f"/api/lora/{adapter[:6]}").json()["id"] == adapter
    assert client.post(f"/api/lora/{adapter[:6]}/activate").status_code == 200
    assert client.post("/api/lora/deactivate").status_code == 200
    assert client.post("/api/lora/rollback", json={"adapterId": adapter[:6]}).json()["id"] == adapter
    imported = client.post(
        "/api/traces/import",
        content='{"query": "Why?", "finalAnswer": "So."}',
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert imported.json()["imported"] == 1
    trace = client.get("/api/traces").json()["items"][0]["id"]
    assert client.get(f"/api/traces/{trace[:5]}").json()["id"] == trace
    assert client.post(f"/api/traces/{trace[:5]}/rate", json={"rating": 3}).json()["userRating"] == 3
    template = client.get("/api/templates").json()["items"][0]["id"]
    assert client.get(f"/api/templates/{template[:8]}").json()["id"] == template
    question = client.post("/api/benchmark/questions", json={**QUESTION, "id": "own-seven"}).json()["id"]
    assert client.delete("/api/benchmark/questions/own-sev").status_code == 200
    refused(client.delete(f"/api/benchmark/questions/{question}"), 404, "not_found")
    for path in ("/api/traces/zzzz", f"/api/lora/{adapter[:3]}", "/api/debates/0000", "/api/benchmark/x"):
        refused(client.get(path), 404, "not_found")


def test_a_correction_needs_no_rating_and_gives_none(own_live, refused) -> None:
    client = own_live.client
    client.post(
        "/api/traces/import",
        content='{"query": "What is 6 times 7?", "finalAnswer": "It is 41.", "qualityScore": 2}',
        headers={"Content-Type": "application/x-ndjson"},
    )
    trace = client.get("/api/traces").json()["items"][0]["id"]
    assert client.get("/api/traces", params={"eligible": True}).json()["total"] == 0
    corrected = client.post(f"/api/traces/{trace}/correct", json={"correctedAnswer": "It is 42."})
    assert (corrected.status_code, corrected.json()["userRating"]) == (200, None)
    assert (corrected.json()["correctedAnswer"], corrected.json()["finalAnswer"]) == ("It is 42.", "It is 41.")
    assert client.get("/api/traces", params={"eligible": True}).json()["total"] == 1
    assert client.get("/api/traces/stats").json()["eligible"] == 1
    rated = client.post(f"/api/traces/{trace}/rate", json={"rating": 2, "correctedAnswer": "It is forty-two."}).json()
    assert (rated["userRating"], rated["correctedAnswer"]) == (2, "It is forty-two.")
    assert client.get("/api/traces/stats").json()["eligible"] == 1
    refused(client.post(f"/api/traces/{trace}/rate", json={"correctedAnswer": "It is 42."}), 400, "invalid_input")
    refused(client.post(f"/api/traces/{trace}/correct", json={}), 400, "invalid_input")


def test_an_adapter_tells_its_score_and_how_far_its_measurement_is(own_live) -> None:
    client = own_live.client
    adapter = published(own_live)
    assert client.get(f"/api/lora/{adapter}").json()["benchmark"] is None
    first = client.post("/api/benchmark/questions", json=QUESTION).json()["id"]
    run = measured(own_live, [first], mode="proposer", adapterId=adapter[:8])
    assert run["adapterId"] == adapter
    told = client.get("/api/lora").json()["items"][0]["benchmark"]
    assert (told["runId"], told["status"], told["tmdeScore"]) == (run["id"], "completed", run["metrics"]["tmdeScore"])
    assert (told["completedQuestions"], told["questionCount"]) == (1, 1)
    waits = client.post("/api/benchmark/questions", json={**QUESTION, "question": "Please wait: what is 42?"}).json()[
        "id"
    ]
    body = {"type": "custom", "questionIds": [first, waits], "mode": "proposer", "repeats": 1, "adapterId": adapter}
    going = client.post("/api/benchmark", json=body).json()["runId"]

    async def one_answered() -> None:
        async for event in (await own_live.services.benchmark.events(UUID(going))).follow():
            if event.type == "progress":
                return

    own_live.run(one_answered())
    told = client.get(f"/api/lora/{adapter}").json()["benchmark"]
    assert (told["runId"], told["status"], told["tmdeScore"]) == (going, "running", None)
    assert (told["completedQuestions"], told["questionCount"]) == (1, 2)
    shown = client.get(f"/api/benchmark/{going[:8]}").json()
    assert (shown["completedQuestions"], shown["questionCount"]) == (1, 2)
    assert client.delete(f"/api/benchmark/{going}").status_code == 200
    assert client.get(f"/api/lora/{adapter}").json()["benchmark"]["runId"] == run["id"]
