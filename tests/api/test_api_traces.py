from __future__ import annotations

import json
from uuid import uuid4

import pytest

NDJSON = {"Content-Type": "application/x-ndjson"}


def line(**fields) -> str:
    return json.dumps({"query": "q", "finalAnswer": "a", "id": str(uuid4()), **fields})


def bring_in(live, *lines: str, headers=NDJSON):
    return live.client.post("/api/traces/import", content="\n".join(lines).encode(), headers=headers)


@pytest.fixture
def one(live) -> str:
    text = line(query="one trace", qualityScore=6.5)
    assert bring_in(live, text).json()["imported"] == 1
    return json.loads(text)["id"]


def test_import_reports_bad_lines_by_number_and_keeps_the_good_ones(live) -> None:
    before = live.client.get("/api/traces").json()["total"]
    response = bring_in(live, line(), "{", line(qualityScore=11), "", line(surprise=1), line())
    assert response.status_code == 200
    report = response.json()
    assert report["imported"] == 2
    assert [skipped["line"] for skipped in report["skipped"]] == [2, 3, 5]
    assert all(skipped["reason"] for skipped in report["skipped"])
    assert live.client.get("/api/traces").json()["total"] == before + 2


def test_what_is_exported_imports_again_unchanged(own_live) -> None:
    bring_in(
        own_live,
        line(rounds=[{"proposal": "p", "critiqueText": "c"}], userRating=3, correctedAnswer="b", templatesUsed=["t"]),
        line(
            createdAt="2024-02-29T23:59:59.123456Z", domain="math", models={"proposer": {"runtime": "r", "model": "m"}}
        ),
    )
    exported = own_live.client.get("/api/traces/export")
    assert exported.headers["content-type"].startswith("application/x-ndjson")
    assert "attachment" in exported.headers["content-disposition"]
    again = bring_in(own_live, exported.text).json()
    assert again["imported"] == 0
    assert len(again["skipped"]) == 2
    own_live.run(own_live.services.database.write("DELETE FROM traces"))
    assert bring_in(own_live, exported.text).json()["imported"] == 2
    assert own_live.client.get("/api/traces/export").text == exported.text


def test_a_second_import_makes_no_copies_unless_it_is_asked_for(own_live) -> None:
    text = json.dumps({"query": "a twin?", "finalAnswer": "a"})
    assert bring_in(own_live, text).json()["imported"] == 1
    again = bring_in(own_live, text).json()
    assert (again["imported"], again["alreadyHere"], again["skipped"][0]["line"]) == (0, 1, 1)
    assert "already here" in again["skipped"][0]["reason"]
    copies = own_live.client.post("/api/traces/import?again=true", content=text.encode("utf-16"), headers=NDJSON)
    assert copies.json()["imported"] == 1
    assert own_live.client.get("/api/traces").json()["total"] == 2


def test_an_import_is_read_as_a_stream_of_any_size(live) -> None:
    def chunks():
        for _ in range(3000):
            yield (line(finalAnswer="x" * 1000) + "\n").encode()

    response = live.client.post("/api/traces/import", content=chunks(), headers=NDJSON)
    assert response.json()["imported"] == 3000


def test_an_import_of_another_type_or_over_the_limit_is_refused(live, refused, raw) -> None:
    refused(bring_in(live, line(), headers={"Content-Type": "image/png"}), 415, "unsupported_media_type")
    body = raw(
        live, b"POST /api/traces/import HTTP/1.1", b"Content-Type: application/x-ndjson", b"Content-Length: 5368709120"
    )
    assert body["code"] == "too_large"
    assert body["limit"] == 4 * 1024**3


def test_traces_are_paged_searched_and_filtered(own_live, refused) -> None:
    lines = [
        line(
            query=f"question {n}",
            qualityScore=n,
            source="cli" if n == 3 else "import",
            createdAt=f"2026-01-0{n}T00:00:00Z",
        )
        for n in range(1, 10)
    ]
    bring_in(own_live, *lines)

    def get(**params):
        return own_live.client.get("/api/traces", params=params)

    first = get(limit=4).json()
    assert (first["total"], len(first["items"])) == (9, 4)
    assert [item["query"] for item in first["items"]] == [f"question {n}" for n in (9, 8, 7, 6)]
    second = get(limit=200, cursor=first["nextCursor"]).json()
    assert len(second["items"]) == 5
    assert second["nextCursor"] is None
    assert get(q="question 3").json()["total"] == 1
    assert get(q='"').status_code == 200
    assert get(minQuality=8.5).json()["total"] == 1
    assert get(eligible="true").json()["total"] == 2
    assert get(rated="true").json()["total"] == 0
    assert get(rated="false", source="cli").json()["total"] == 1
    for params, field in [
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"minQuality": 11}, "minQuality"),
        ({"minQuality": "nan"}, "minQuality"),
        ({"rated": "perhaps"}, "rated"),
        ({"eligible": 2}, "eligible"),
    ]:
        body = refused(get(**params), 400, "invalid_input")
        assert body["field"] == field
        assert field in body["detail"]
    assert "1 to 200" in refused(get(limit=0), 400, "invalid_input")["detail"]


def test_a_rating_and_a_correction_are_kept_beside_the_answer(live, one, refused) -> None:
    path = f"/api/traces/{one}/rate"
    rated = live.client.post(path, json={"rating": 9, "correctedAnswer": "better"})
    assert rated.status_code == 200
    assert (rated.json()["userRating"], rated.json()["qualityScore"], rated.json()["autoScore"]) == (9, 9.0, 6.5)
    shown = live.client.get(f"/api/traces/{one}").json()
    assert (shown["finalAnswer"], shown["correctedAnswer"]) == ("a", "better")
    for body in (
        {"rating": 0},
        {"rating": 11},
        {"rating": 7.5},
        {"rating": "8"},
        {"rating": True},
        {},
        {"rating": 5, "x": 1},
    ):
        refused(live.client.post(path, json=body), 400, "invalid_input")
    assert refused(live.client.post(path, json={"rating": 0}), 400, "invalid_input")["field"] == "rating"
    assert live.client.get(f"/api/traces/{one}").json() == shown


def test_a_withdrawn_trace_is_no_longer_eligible_and_names_what_it_taught(live, one, refused) -> None:
    path = f"/api/traces/{one}/withdraw"
    live.client.post(f"/api/traces/{one}/rate", json={"rating": 10})
    eligible = live.client.get("/api/traces/stats").json()["eligible"]
    answer = live.client.post(path, json={"reason": "it is wrong"})
    assert answer.status_code == 200
    assert answer.json()["adapters"] == answer.json()["runs"] == []
    assert answer.json()["trace"]["withdrawnReason"] == "it is wrong"
    assert live.client.get("/api/traces/stats").json()["eligible"] == eligible - 1
    for body in ({}, {"reason": ""}, {"reason": "x" * 3000}):
        refused(live.client.post(path, json=body), 400, "invalid_input")


def test_a_trace_is_deleted_for_good(own_live, refused) -> None:
    bring_in(own_live, line(query="one"), line(query="two"), line(query="three"))
    first, second, third = (one["id"] for one in own_live.client.get("/api/traces").json()["items"])
    answer = own_live.client.delete(f"/api/traces/{first}")
    assert (answer.status_code, answer.json()) == (200, {"deleted": [first], "runs": [], "adapters": []})
    refused(own_live.client.delete(f"/api/traces/{first}"), 404, "not_found")
    refused(own_live.client.get(f"/api/traces/{first}"), 404, "not_found")
    refused(own_live.client.post("/api/traces/delete", json={"ids": [second, first]}), 404, "not_found")
    refused(own_live.client.post("/api/traces/delete", json={"ids": []}), 400, "invalid_input")
    assert own_live.client.get("/api/traces").json()["total"] == 2
    assert own_live.client.post("/api/traces/delete", json={"ids": [second, third]}).json()["deleted"] == [
        second,
        third,
    ]


def test_the_figures_name_the_domains(own_live) -> None:
    bring_in(own_live, line(domain="math", qualityScore=9), line(userRating=2))
    assert own_live.client.get("/api/traces/stats").json() == {
        "total": 2,
        "eligible": 1,
        "rated": 1,
        "withdrawn": 0,
        "cut": 0,
        "byDomain": {"math": 1, "unknown": 1},
        "sinceLastRun": 1,
    }


def test_traces_that_do_not_exist_are_not_found(live, refused) -> None:
    for name in (str(uuid4()), "nonsense", str(uuid4()).upper() + "x"):
        refused(live.client.get(f"/api/traces/{name}"), 404, "not_found")
        refused(live.client.post(f"/api/traces/{name}/rate", json={"rating": 5}), 404, "not_found")
        refused(live.client.post(f"/api/traces/{name}/withdraw", json={"reason": "r"}), 404, "not_found")
