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


TWINS = tuple(UUID(f"abcd1234-0000-4000-8000-00000000000{number}") for number in (1, 2))
"""Two ids that share their first digits."""

TABLES = {
    "finetune_runs": {"started_at": "2026-01-01T00:00:00.000Z", "status": "failed", "config": "{}", "triggered_by": "manual"},
    "traces": {"created_at": "2026-01-01T00:00:00.000Z", "query": "", "final_answer": "", "source": "", "details": ""},
    "debates": {"query": "", "status": "completed", "config": "{}", "created_at": "2026-01-01T00:00:00.000Z", "source": "", "owner_pid": 0},
    "templates": {"name": "{id}", "source": "local"},
    "notifications": {"created_at": "", "kind": "", "level": "info", "title": "", "detail": "", "href": ""},
}  # fmt: skip


async def give_twins(services) -> None:
    """Put two rows with the twins' ids into every table."""
    for table, fields in TABLES.items():
        columns = await services.database.rows(f"PRAGMA table_info({table})")
        needed = {one["name"]: "" for one in columns if one["notnull"] and one["dflt_value"] is None}
        for number, identity in enumerate(TWINS):
            row = needed | fields | {"id": str(identity)}
            row |= {"seq": 1000 + number} if table == "traces" else {}
            row = {name: value.format(id=identity) if value == "{id}" else value for name, value in row.items()}
            marks = ", ".join("?" * len(row))
            await services.database.write(
                f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values())
            )


BODIES = {
    "rate": {"rating": 3},
    "correct": {"correctedAnswer": "So."},
    "withdraw": {"reason": "Wrong."},
    "name": {"name": "Mine"},
    "tag": {"add": ["a"]},
    "tags": {"add": ["a"]},
    "{question_id}": QUESTION,
}
"""The end of a path → a body that it takes."""


def test_every_route_says_which_things_a_short_id_may_mean(own_live, refused) -> None:
    client = own_live.client
    own_live.run(give_twins(own_live.services))
    for identity in TWINS:
        published(own_live, identity=identity)
        question = {**QUESTION, "id": str(identity), "question": f"What is it, {identity}?"}
        assert client.post("/api/benchmark/questions", json=question).status_code == 201
    tried = []
    for path, item in client.get("/schema/openapi.json").json()["paths"].items():
        if path.count("{") != 1 or path.startswith(
            ("/api/lora/ask/", "/api/benchmark/{", "/api/base-models/pulls/", "/api/backends/")
        ):
            continue
        for method in item.keys() & {"get", "post", "put", "delete"}:
            address = path.split("{")[0] + "ABCD1234" + path.split("}")[1]
            body = BODIES.get(path.rsplit("/", 1)[1], {})
            answer = client.request(method, address, **({"json": body} if method in ("post", "put") else {}))
            told = refused(answer, 404, "not_found")["detail"]
            assert "begin with 'ABCD1234'" in told, (method, path)
            assert all(str(one) in told for one in TWINS), (method, path)
            tried.append(path)
    assert {path.split("/")[2] for path in tried} >= {
        "lora",
        "finetune",
        "traces",
        "debates",
        "templates",
        "notifications",
    }
    assert len(tried) > 20
    told = refused(client.get("/api/lora/compare", params={"a": "abcd1234", "b": "abcd1234"}), 404, "not_found")
    assert "Several adapters begin" in told["detail"]
    told = refused(client.post("/api/lora/rollback", json={"adapterId": "abcd"}), 404, "not_found")
    assert "Several adapters begin" in told["detail"]
    told = refused(client.post("/api/traces/delete", json={"ids": ["abcd-"]}), 404, "not_found")
    assert "Several traces begin" in told["detail"]


@pytest.mark.parametrize("written", ["{0}", "{0.hex}", " {0} "])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_an_id_is_found_however_it_is_written(live, written, case) -> None:
    template = live.client.get("/api/templates").json()["items"][0]["id"]
    answer = live.client.get("/api/templates/" + case(written.format(UUID(template))))
    assert (answer.status_code, answer.json()["id"]) == (200, template)
    digits = case(UUID(template).hex[:12])
    assert live.client.get(f"/api/templates/{digits}").json()["id"] == template
    assert live.client.get(f"/api/templates/{digits[:8]}-{digits[8:]}").json()["id"] == template


def test_too_few_digits_are_told_as_such(live, refused) -> None:
    told = refused(live.client.get("/api/traces/abc"), 404, "not_found")["detail"]
    assert told == "'abc' is too short to be part of an id of a trace: give at least its first 4 digits."


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
