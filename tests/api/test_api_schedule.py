from __future__ import annotations

import pytest


def test_the_schedule_is_shown_with_its_next_runs_and_its_decisions(live) -> None:
    body = live.client.get("/api/finetune/schedule").json()
    assert (body["schedule"], body["enabled"], body["expression"]) == ("finetune", True, "0 2 * * 0")
    assert len(body["nextRuns"]) == 5
    assert body["nextRuns"] == sorted(body["nextRuns"])
    assert body["description"] == "every Sunday at 02:00"
    assert body["lastDecision"] is None


def test_a_change_holds_at_once_and_is_what_the_settings_say(own_live) -> None:
    client = own_live.client
    changed = client.put("/api/finetune/schedule", json={"expression": "30 4 * * 1", "timezone": "Europe/Berlin"})
    assert changed.status_code == 200
    assert changed.json()["description"] == "every Monday at 04:30"
    settings = client.get("/api/settings").json()
    assert settings["schedule"]["finetune"] == "30 4 * * 1"
    assert settings["restartRequired"] is False
    assert client.put("/api/settings", json={"schedule": {"finetune": "off"}}).status_code == 200
    assert client.get("/api/finetune/schedule").json()["enabled"] is False


def test_the_benchmark_s_schedule_is_off_until_it_is_set(own_live) -> None:
    assert own_live.client.get("/api/benchmark/schedule").json()["enabled"] is False
    assert own_live.client.put("/api/benchmark/schedule", json={"expression": "0 3 * * *"}).json()["enabled"] is True


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"expression": "0 0 30 2 *"}, "schedule.finetune"),
        ({"expression": "whenever"}, "schedule.finetune"),
        ({"timezone": "Mars/Olympus"}, "schedule.timezone"),
        ({"cron": "0 2 * * 0"}, "cron"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(live, refused, body, field) -> None:
    problem = refused(live.client.put("/api/finetune/schedule", json=body), 400, "invalid_input")
    assert problem.get("field") == field
    if field.startswith("schedule."):
        settings = {"schedule": {"finetune": body.get("expression", "0 2 * * 0"), "timezone": body.get("timezone", "")}}
        refused(live.client.put("/api/settings", json=settings), 400, "invalid_input")


def test_notifications_are_listed_followed_and_dismissed(own_live, refused) -> None:
    client = own_live.client
    own_live.run(own_live.services.notifications.notify("test.a", "info", "First"))
    own_live.run(own_live.services.notifications.notify("test.b", "error", "Second", "Why.", "/finetune"))
    body = client.get("/api/notifications").json()
    assert [one["title"] for one in body["items"]] == ["Second", "First"]
    assert body["total"] == 2
    with client.stream("GET", "/api/events", headers={"Last-Event-ID": "1"}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                assert '"title":"Second"' in line
                break
    newest = body["items"][0]["id"]
    for _ in range(2):
        assert client.post(f"/api/notifications/{newest}/dismiss").json()["dismissedAt"]
    assert client.get("/api/notifications").json()["total"] == 1
    assert client.get("/api/notifications", params={"dismissed": "true"}).json()["total"] == 2
    refused(client.post("/api/notifications/nonsense/dismiss"), 404, "not_found")
    refused(client.get("/api/events", params={"lastEventId": "x"}), 400, "invalid_input")
