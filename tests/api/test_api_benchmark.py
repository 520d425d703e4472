from __future__ import annotations

import asyncio
import csv
import io

import pytest

from tests.core.lora.conftest import publish_adapter

QUESTION = {
    "question": "What is six times seven?",
    "domain": "mathematics",
    "difficulty": "easy",
    "criteria": [{"name": "right", "weight": 2, "check": {"kind": "number", "value": 42}}],
}

NOBODY = "6f1c1d52-3b0c-4f0e-9c64-0a5a5c1c2f37"
"""An id that nothing has. Fixed, so that all test processes collect the same tests."""


def add(live, name: str, **changes) -> str:
    response = live.client.post("/api/benchmark/questions", json={**QUESTION, "id": name, **changes})
    assert response.status_code == 201, response.text
    added, sent = response.json(), {**QUESTION, **changes}
    assert (added["question"], added["referenceAnswer"]) == (sent["question"], sent.get("referenceAnswer", ""))
    return added["id"]


@pytest.fixture(scope="module")
def asked(live) -> list[str]:
    """Three questions of one's own: two that the scripted answer "42" gets right, and one that it does not."""
    right = [{"name": "right", "check": {"kind": "number", "value": 41}}]
    return [
        add(live, "own-1"),
        add(live, "own-2", question="What is twice twenty-one?", domain="reasoning"),
        add(live, "own-3", question="=1+1 is how much below forty-two?", criteria=right),
    ]


def ran(live, asked, **changes) -> dict:
    body = {"type": "custom", "questionIds": asked, "mode": "proposer", "repeats": 1, **changes}
    started = live.client.post("/api/benchmark", json=body)
    assert started.status_code == 202, started.text
    stream = live.client.get(started.json()["progressUrl"])
    assert stream.headers["content-type"].startswith("text/event-stream")
    return live.client.get(f"/api/benchmark/{started.json()['runId']}").json()


def test_a_run_answers_with_a_url_streams_its_progress_and_measures(live, asked, events) -> None:
    body = {"type": "custom", "questionIds": asked, "mode": "proposer", "repeats": 1}
    started = live.client.post("/api/benchmark", json=body)
    assert started.status_code == 202
    assert started.json()["progressUrl"] == f"/api/benchmark/{started.json()['runId']}/progress"
    told = events(live.client.get(started.json()["progressUrl"]).text)
    assert [type_ for _, type_, _ in told] == ["start", "progress", "progress", "progress", "complete"]
    run = live.client.get(f"/api/benchmark/{started.json()['runId']}").json()
    assert (run["status"], run["completedQuestions"], run["triggeredBy"]) == ("completed", 3, "manual")
    assert run["metrics"]["avgQualityScore"] == pytest.approx(20 / 3)
    assert run["metrics"]["unscored"] == 0


def test_results_name_question_answer_and_criteria(live, asked) -> None:
    run = ran(live, asked)
    body = live.client.get(f"/api/benchmark/{run['id']}/results", params={"limit": 2}).json()
    assert (body["total"], len(body["items"])) == (3, 2)
    first = body["items"][0]
    assert (first["questionId"], first["qualityScore"], first["criteria"]) == ("own-1", 10.0, {"right": 10.0})


def test_runs_are_listed_newest_first_and_filtered(live, asked) -> None:
    older, newer = ran(live, asked), ran(live, asked[:1])
    items = live.client.get("/api/benchmark", params={"type": "custom", "limit": 2}).json()["items"]
    assert [item["id"] for item in items] == [newer["id"], older["id"]]
    assert live.client.get("/api/benchmark", params={"status": "failed"}).json()["total"] == 0
    assert (
        live.client.get("/api/benchmark", params={"from": newer["startedAt"]}).json()["items"][-1]["id"] == newer["id"]
    )
    assert live.client.get("/api/benchmark", params={"adapterId": NOBODY}).json()["items"] == []


def test_two_runs_compare_pairwise(live, asked) -> None:
    a, b = ran(live, asked), ran(live, asked)
    found = live.client.get("/api/benchmark/compare", params={"a": a["id"], "b": b["id"]}).json()
    assert found["comparable"] is True
    assert (found["quality"]["n"], found["quality"]["difference"], found["quality"]["outcome"]) == (
        3,
        0,
        "inconclusive",
    )
    assert len(found["questions"]) == 3
    assert b["verdictVsBaseline"] == "inconclusive"


def test_runs_of_other_questions_say_that_they_cannot_be_compared(live, asked) -> None:
    a, b = ran(live, asked), ran(live, asked[:2])
    found = live.client.get("/api/benchmark/compare", params={"a": a["id"], "b": b["id"]}).json()
    assert found["comparable"] is False
    assert found["differs"] == ["They asked different questions."]


def test_the_summary_has_the_series_and_the_newest_run(live, asked) -> None:
    run = ran(live, asked)
    body = live.client.get("/api/benchmark/summary").json()
    assert body["current"]["id"] == run["id"]
    assert body["series"][-1]["runId"] == run["id"]
    assert body["total"] == len(body["series"])
    assert live.client.get("/api/benchmark/summary", params={"mode": "debate"}).json()["total"] == 0


def test_csv_is_rfc_4180_and_holds_no_formula(live, asked) -> None:
    ran(live, asked)
    response = live.client.get("/api/benchmark/export", params={"format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.text.split("\n")[0].endswith("\r")
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert {row["query"] for row in rows if row["question_id"] == "own-3"} == {"'=1+1 is how much below forty-two?"}
    assert all(row["adapter_id"] == "base" for row in rows)
    whole = live.client.get("/api/benchmark/export")
    assert whole.headers["content-type"] == "application/json"
    exported = whole.json()
    assert exported["total"] >= 1
    assert exported["items"][0]["results"]


def test_the_report_is_one_file_that_loads_nothing_and_escapes_everything(live, asked) -> None:
    add(live, "own-x", question="<script>alert(1)</script> what is 42?")
    run = ran(live, [*asked, "own-x"])
    response = live.client.get(f"/api/benchmark/{run['id']}/report")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in response.text
    assert "&lt;script&gt;alert(1)" in response.text
    for loading in ("http://", "https://", "src=", "@import", "url("):
        assert loading not in response.text
    live.client.delete("/api/benchmark/questions/own-x")


def test_an_ended_run_is_deleted_and_its_answers_with_it(live, asked, refused) -> None:
    run = ran(live, asked)
    assert live.client.delete(f"/api/benchmark/{run['id']}").status_code == 200
    refused(live.client.get(f"/api/benchmark/{run['id']}"), 404, "not_found")
    refused(live.client.get(f"/api/benchmark/{run['id']}/results"), 404, "not_found")


def test_one_run_at_a_time_and_a_running_one_is_cancelled_and_resumed(own_live, refused) -> None:
    live = own_live
    name = add(live, "waits", question="Please wait: what is 42?")
    started = live.client.post(
        "/api/benchmark", json={"type": "custom", "questionIds": [name], "mode": "proposer"}
    ).json()
    refused(live.client.post("/api/benchmark", json={"type": "quick"}), 409, "conflict")
    ended = live.client.delete(f"/api/benchmark/{started['runId']}").json()
    assert ended["status"] == "cancelled"
    live.let_go()
    assert live.client.post(f"/api/benchmark/{started['runId']}/resume").status_code == 202
    assert live.client.get(f"/api/benchmark/{started['runId']}/progress").text.rstrip().endswith("}")
    assert live.client.get(f"/api/benchmark/{started['runId']}").json()["status"] == "completed"
    refused(live.client.post(f"/api/benchmark/{started['runId']}/resume"), 409, "conflict")


def test_a_built_in_question_cannot_be_removed_and_an_unknown_one_is_404(live, refused) -> None:
    builtin = [one for one in live.client.get("/api/benchmark/questions").json()["items"] if one["isBuiltIn"]]
    for one in builtin[:1]:
        refused(live.client.delete(f"/api/benchmark/questions/{one['id']}"), 409, "conflict")
    refused(live.client.delete("/api/benchmark/questions/nope"), 404, "not_found")


def test_a_question_is_changed_in_its_place(live, refused) -> None:
    address = f"/api/benchmark/questions/{add(live, 'own-changed', question='What is 40 and 2?')}"
    changed = live.client.put(address, json={**QUESTION, "question": "What is 21 and 21?"})
    assert (changed.status_code, changed.json()["id"], changed.json()["question"]) == (
        200, "own-changed", "What is 21 and 21?",
    )  # fmt: skip
    assert refused(live.client.put(address, json={**QUESTION, "id": "own-else"}), 400, "invalid_input")["field"] == "id"
    refused(live.client.put(address, json={**QUESTION, "domain": "cooking"}), 400, "invalid_input")
    refused(live.client.put("/api/benchmark/questions/nope", json={**QUESTION, "question": "New?"}), 404, "not_found")
    (builtin, *_) = [one for one in live.client.get("/api/benchmark/questions").json()["items"] if one["isBuiltIn"]]
    refused(
        live.client.put(f"/api/benchmark/questions/{builtin['id']}", json={**QUESTION, "question": "New?"}),
        409,
        "conflict",
    )
    live.client.delete(address)


def test_a_dry_run_scores_an_answer_and_keeps_nothing(live) -> None:
    before = live.client.get("/api/benchmark/questions").json()["total"]
    body = {"question": QUESTION, "answer": "It is 42."}
    assert live.client.post("/api/benchmark/questions/dry-run", json=body).json()["score"] == 10
    assert live.client.get("/api/benchmark/questions").json()["total"] == before


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"domain": "cooking"}, "domain"),
        ({"difficulty": "brutal"}, "difficulty"),
        ({"criteria": []}, "referenceAnswer"),
        ({"criteria": [], "referenceAnswer": "42"}, "scoringRubric"),
        ({"criteria": [], "scoringRubric": "It is 42."}, "referenceAnswer"),
        ({"criteria": [], "check": "number"}, "referenceAnswer"),
        ({"criteria": [], "check": "psychic", "referenceAnswer": "42"}, "check"),
        ({"criteria": [{"name": "a", "description": "Is it so?"}]}, "referenceAnswer"),
        ({"question": 42}, "question"),
        ({"referenceAnswer": 42}, "referenceAnswer"),
        ({"query": "What is six times seven?"}, "question"),
        ({"question": " "}, "question"),
        ({"id": "../x"}, "id"),
        ({"criteria": [{"name": "a", "check": {"kind": "regex", "pattern": "("}}]}, "criteria[0].check"),
        ({"criteria": [{"name": "a", "check": {"kind": "code", "tests": ["assert ("]}}]}, "criteria[0].check"),
        ({"criteria": [{"name": "a", "check": {"kind": "form", "form": "json", "value": "{"}}]}, "criteria[0].check"),
        ({"criteria": [{"name": "a"}]}, "criteria[0].description"),
        ({"criteria": [{"name": "a", "weight": -1, "description": "x"}]}, "criteria[0].weight"),
    ],
)
def test_a_question_that_cannot_work_is_refused_with_the_field(live, refused, changes, field) -> None:
    body = refused(live.client.post("/api/benchmark/questions", json={**QUESTION, **changes}), 400, "invalid_input")
    assert body["field"] == field


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("get", "/api/benchmark/nonsense", 404, "not_found"),
        ("get", f"/api/benchmark/{NOBODY}/progress", 404, "not_found"),
        ("get", "/api/benchmark?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", 400, "invalid_input"),
        ("get", "/api/benchmark?from=yesterday", 400, "invalid_input"),
        ("get", "/api/benchmark?type=huge", 400, "invalid_input"),
        ("get", "/api/benchmark/questions?domain=cooking", 400, "invalid_input"),
        ("get", "/api/benchmark/questions?difficulty=brutal", 400, "invalid_input"),
        ("get", "/api/benchmark/questions?suite=nope", 404, "not_found"),
        ("get", f"/api/benchmark/compare?a={NOBODY}&b={NOBODY}", 404, "not_found"),
        ("get", "/api/benchmark/export?format=xml", 400, "invalid_input"),
    ],
)
def test_bad_questions_to_the_api_get_the_right_code(live, refused, method, path, status, code) -> None:
    refused(live.client.request(method, path), status, code)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"type": "huge"}, 400),
        ({"type": "custom"}, 400),
        ({"type": "custom", "questionIds": ["nope"]}, 400),
        ({"type": "quick", "adapterId": NOBODY}, 404),
        ({"type": "quick", "adapterId": "x"}, 404),
        ({"type": "quick", "suite": "nope"}, 404),
        ({"type": "quick", "repeats": 0}, 400),
        ({"type": "quick", "judge": "nobody"}, 400),
    ],
)
def test_a_run_that_cannot_begin_is_refused(live, body, status) -> None:
    assert live.client.post("/api/benchmark", json=body).status_code == status


def test_the_report_of_a_run_whose_baseline_was_deleted_has_its_own_figures(live, asked) -> None:
    only = add(live, "own-alone", question="What is half of eighty-four?")
    baseline, run = ran(live, [only]), ran(live, [only])
    assert run["baselineRunId"] == baseline["id"]
    assert "Against the base model" in live.client.get(f"/api/benchmark/{run['id']}/report").text
    live.client.delete(f"/api/benchmark/{baseline['id']}")
    response = live.client.get(f"/api/benchmark/{run['id']}/report")
    assert response.status_code == 200
    assert "Against the base model" not in response.text


def test_a_removed_question_is_asked_no_more_and_its_runs_keep_it(live, refused) -> None:
    gone = add(live, "own-gone", question="What is a third of a hundred and twenty-six?")
    run = ran(live, [gone])
    assert live.client.delete(f"/api/benchmark/questions/{gone}").status_code == 200
    body = {"type": "custom", "questionIds": [gone], "mode": "proposer"}
    told = refused(live.client.post("/api/benchmark", json=body), 400, "invalid_input")
    assert told["detail"] == "questionIds: there is no question called 'own-gone'."
    refused(live.client.delete(f"/api/benchmark/questions/{gone}"), 404, "not_found")
    assert live.client.get(f"/api/benchmark/{run['id']}/results").json()["items"][0]["questionId"] == gone


def test_a_question_that_equals_a_built_in_one_is_a_conflict_that_names_it(live, refused) -> None:
    builtin = next(one for one in live.client.get("/api/benchmark/questions").json()["items"] if one["isBuiltIn"])
    same = {**QUESTION, "question": builtin["question"].upper() + "  "}
    told = refused(live.client.post("/api/benchmark/questions", json=same), 409, "conflict")
    assert told["questionId"] == builtin["id"]
    refused(live.client.post("/api/benchmark/questions", json={**QUESTION, "id": builtin["id"]}), 409, "conflict")


@pytest.mark.parametrize(("path", "fields"), [("summary", "from"), ("export", "from"), ("", "from")])
def test_dates_the_wrong_way_round_are_one_sentence(live, refused, path, fields) -> None:
    dates = {"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}
    told = refused(live.client.get(f"/api/benchmark/{path}".rstrip("/"), params=dates), 400, "invalid_input")
    assert (told["field"], told["detail"]) == (fields, "from: lies after `to`. Exchange the two dates.")
    for name in ("from", "to"):
        for wrong in ("yesterday", "0001-01-01T00:00:00+14:00"):
            response = live.client.get(f"/api/benchmark/{path}".rstrip("/"), params={name: wrong})
            assert refused(response, 400, "invalid_input")["field"] == name


def test_a_question_that_no_debate_would_take_is_refused(live, refused) -> None:
    binary = {**QUESTION, "id": "own-binary", "question": "What is \0 and 42?"}
    assert (
        refused(live.client.post("/api/benchmark/questions", json=binary), 400, "invalid_input")["field"] == "question"
    )


def test_the_gate_is_asked_over_http_and_answers_in_its_list(own_live, refused) -> None:
    client = own_live.client
    identity = publish_adapter(own_live.services.settings.data_path)
    refused(client.post("/api/benchmark/gate", json={"adapterId": NOBODY}), 404, "not_found")
    refused(client.post("/api/benchmark/gate", json={}), 400, "invalid_input")
    assert client.post("/api/benchmark/gate", json={"adapterId": str(identity)}).status_code == 202
    own_live.run(_settled(own_live.services.gate))
    (decision,) = client.get("/api/benchmark/gate", params={"adapterId": str(identity)}).json()["items"]
    assert (decision["adapterId"], decision["gate"]) == (str(identity), "candidate")
    run = client.get(f"/api/benchmark/{decision['runId']}").json()
    assert (run["type"], run["mode"], run["triggeredBy"], run["questionCount"], run["answerCount"]) == (
        "quick",
        "proposer",
        "post-finetune",
        10,
        30,
    )


async def _settled(gate) -> None:
    while gate._tasks:
        await asyncio.gather(*gate._tasks)


def test_when_the_gate_acts_is_a_matter_of_settings(own_live) -> None:
    wanted = {"benchmark": {"autoActivate": True, "autoRollback": True, "afterTraining": False}}
    assert own_live.client.put("/api/settings", json=wanted).status_code == 200
    stored = own_live.client.get("/api/settings").json()["benchmark"]
    assert (stored["autoActivate"], stored["autoRollback"], stored["afterTraining"]) == (True, True, False)


RUN_FIELDS = {
    "id", "type", "mode", "suite", "status", "startedAt", "completedAt", "adapterId", "baseModel", "baseModelSha256",
    "suiteSha256", "adapterSha256", "repeats", "seed", "judge", "questionCount", "completedQuestions", "answerCount",
    "completedAnswers", "metrics",
    "verdictVsPrevious", "verdictVsBaseline", "previousRunId", "baselineRunId", "errorMessage", "triggeredBy", "warnings",
    "settings",
}  # fmt: skip
METRIC_FIELDS = {
    "tmdeScore", "avgQualityScore", "avgResponseTimeMs", "avgTokensPerSecond", "avgDebateRounds", "earlyTerminationRate",
    "domainScores", "vsBaseline", "vsPrevious", "intervals", "domains",
    "questions", "unscored", "failed", "conclusive", "efficiency", "qualityWeight", "judgeDrift", "reference",
}  # fmt: skip


def test_a_run_has_the_fields_of_the_contract(live, asked) -> None:
    ran(live, asked)
    run = ran(live, asked)
    assert set(run) == RUN_FIELDS
    assert set(run["metrics"]) == METRIC_FIELDS
    means = {"quality", "responseTimeMs", "tokensPerSecond", "debateRounds", "earlyTerminationRate"}
    assert set(run["metrics"]["intervals"]) == means
    for mean in means:
        assert set(run["metrics"]["intervals"][mean]) == {"mean", "low", "high", "n"}
    assert run["startedAt"].endswith("Z")
    assert run["verdictVsPrevious"] in ("better", "worse", "inconclusive")
