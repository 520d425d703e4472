from __future__ import annotations

from uuid import UUID, uuid4

import pytest


def asked(live, query="What is 6 times 7?", **body):
    response = live.client.post("/api/debates", json={"query": query, **body})
    assert response.status_code == 202, response.text
    return response.json()


def test_a_question_is_debated_watched_and_becomes_a_trace(live, events) -> None:
    started = asked(live)
    assert started["eventsUrl"] == f"/api/debates/{started['debateId']}/events"
    stream = live.client.get(started["eventsUrl"])
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.text.startswith("retry: ")
    seen = events(stream.text)
    assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
    assert [kind for _, kind, _ in seen if kind != "token"] == [
        "start",
        "retrieval",
        "round_start",
        "round_end",
        "early_stop",
        "synthesis_start",
        "synthesis",
        "scoring",
        "complete",
    ]
    debate = live.client.get(f"/api/debates/{started['debateId']}").json()
    assert (debate["status"], debate["finalAnswer"]) == ("completed", seen[-1][2]["finalAnswer"])
    assert debate["endedAt"].endswith("Z")
    trace = live.client.get(f"/api/traces/{debate['traceId']}").json()
    assert trace["rounds"] == debate["rounds"]
    assert trace["qualityScore"] == trace["autoScore"] == 8.0
    assert trace["models"]["proposer"]["runtime"] == "scripted"


def test_a_question_may_choose_the_model_of_each_role(live) -> None:
    models = {role: {"runtime": "scripted", "model": "scripted-1"} for role in ("skeptic", "judge")}
    started = asked(live, config={"models": models})
    live.client.get(started["eventsUrl"])
    debate = live.client.get(f"/api/debates/{started['debateId']}").json()
    assert debate["status"] == "completed"
    assert debate["config"]["models"] == {"proposer": None, "synthesizer": None, **models}
    for wrong in ({"clerk": models["judge"]}, {"judge": "scripted-1"}):
        response = live.client.post("/api/debates", json={"query": "Why?", "config": {"models": wrong}})
        assert response.status_code == 400, wrong


def test_a_client_that_comes_back_gets_every_later_event_once(live, events) -> None:
    url = asked(live)["eventsUrl"]
    whole = events(live.client.get(url).text)
    assert events(live.client.get(url, headers={"Last-Event-ID": "3"}).text) == whole[3:]
    assert events(live.client.get(url, params={"lastEventId": "5"}).text) == whole[5:]
    assert events(live.client.get(url, headers={"Last-Event-ID": str(len(whole))}).text) == []


@pytest.mark.parametrize("beyond", ["9999", "9" * 15, "9" * 40, "9" * 5000])
def test_an_id_beyond_the_end_of_an_ended_debate_still_gets_the_terminal_event(live, events, beyond: str) -> None:
    url = asked(live)["eventsUrl"]
    whole = events(live.client.get(url).text)
    assert events(live.client.get(url, headers={"Last-Event-ID": beyond}).text) == whole[-1:]


def test_an_id_from_before_a_restart_gets_the_terminal_event(live, events) -> None:
    started = asked(live)
    whole = events(live.client.get(started["eventsUrl"]).text)
    live.services.debates._ended.forget(UUID(started["debateId"]))  # as after a restart: only the trace is left
    for seen in (1, 3, len(whole), 9999):
        found = events(live.client.get(started["eventsUrl"], headers={"Last-Event-ID": str(seen)}).text)
        assert [event for _, event, _ in found] == ["complete"]


def test_an_id_of_an_event_that_is_no_number_is_refused(live, refused) -> None:
    url = asked(live)["eventsUrl"]
    for value in ("x", "-1", "1.5", "1e3", "7d9f2f60-1111-4222-8333-444455556666"):
        refused(live.client.get(url, headers={"Last-Event-ID": value}), 400, "invalid_input")


def test_a_running_debate_is_cancelled_once_and_its_stream_ends(own_live, events, refused) -> None:
    started = asked(own_live, "please wait")
    path = f"/api/debates/{started['debateId']}"
    with own_live.client.stream("GET", started["eventsUrl"]) as stream:
        lines = stream.iter_lines()
        assert any(line == "event: token" for line in lines)
        assert own_live.client.get(path).json()["status"] == "running"
        assert own_live.client.get("/api/health").json()["runningDebates"] == 1
        cancelled = own_live.client.delete(path)
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        assert [line for line in lines if line.startswith("event")][-1] == "event: cancelled"
    body = refused(own_live.client.delete(path), 409, "conflict")
    assert "cancelled" in body["detail"]
    assert own_live.client.get("/api/traces").json()["total"] == 0


def test_a_follow_up_may_name_its_trace_by_a_short_id(live, refused) -> None:
    first = asked(live)
    live.client.get(first["eventsUrl"])
    trace = live.client.get(f"/api/debates/{first['debateId']}").json()["traceId"]
    second = asked(live, "And then?", config={"follows": trace[:8]})
    live.client.get(second["eventsUrl"])
    follows = live.client.get(f"/api/debates/{second['debateId']}").json()["traceId"]
    assert live.client.get(f"/api/traces/{follows}").json()["follows"] == trace
    body = {"query": "And?", "config": {"follows": "nonsense"}}
    refused(live.client.post("/api/debates", json=body), 404, "not_found")


def test_the_configuration_of_one_debate_counts_for_it(live) -> None:
    started = asked(live, config={"maxRounds": 1, "judge": "none", "domain": "arithmetic"})
    live.client.get(started["eventsUrl"])
    debate = live.client.get(f"/api/debates/{started['debateId']}").json()
    trace = live.client.get(f"/api/traces/{debate['traceId']}").json()
    assert (trace["autoScore"], trace["qualityScore"], trace["domain"]) == (None, None, "arithmetic")


def test_questions_that_cannot_be_debated_are_refused(live, refused) -> None:
    def ask(**body):
        return live.client.post("/api/debates", json=body)

    for query in ("", "  \n", "x" * (32 * 1024 + 1), "ä" * (16 * 1024 + 1), "a\x00b"):
        refused(ask(query=query), 400, "invalid_input")
    refused(ask(), 400, "invalid_input")
    unknown = refused(ask(query="q", mood="fine"), 400, "invalid_input")
    assert (unknown["detail"], unknown["field"]) == ("mood: there is no such field.", "mood")
    assert refused(ask(query="q", config={"mood": 1}), 400, "invalid_input")["field"] == "config.mood"
    assert refused(ask(config={}), 400, "invalid_input")["field"] == "query"
    assert refused(ask(query=7), 400, "invalid_input")["field"] == "query"
    assert refused(ask(query="q", config={"minRounds": 11}), 400, "invalid_input")["field"] == "config.minRounds"
    refused(ask(query="q", config={"minRounds": 3, "maxRounds": 2}), 400, "invalid_input")
    assert live.client.post("/api/debates", json={"query": "x" * (32 * 1024)}).status_code == 202


def test_debates_that_do_not_exist_are_not_found(live, refused) -> None:
    for name in (uuid4(), "nonsense", "..%2ftraces", str(uuid4()).replace("-", "")):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
            refused(live.client.request(method, f"/api/debates/{name}{path}"), 404, "not_found")
