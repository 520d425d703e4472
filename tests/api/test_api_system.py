from __future__ import annotations

import tomllib

import msgspec
import pytest

from tests.core.lora.conftest import publish_adapter
from tests.core.settings.environment import OTHER, wired
from tmde_core import __version__
from tmde_core.models.pulling.staging import Staging
from tmde_core.settings import ENVIRONMENT
from tmde_core.storage.locks import FileLock

SCHEDULES = {
    "FINETUNE_SCHEDULE": ("/api/finetune/schedule", "expression"),
    "FINETUNE_TIMEZONE": ("/api/benchmark/schedule", "timezone"),
    "BENCHMARK_SCHEDULE": ("/api/benchmark/schedule", "expression"),
}
"""Variable → where else its schedule can be changed, and what the field is called there."""


def test_health_tells_the_version(live) -> None:
    body = live.client.get("/api/health").json()
    assert (body["status"], body["version"], body["runningDebates"]) == ("ok", __version__, 0)
    assert body["uptimeSeconds"] >= 0
    assert body["problems"] == []


def test_health_tells_that_the_active_adapter_is_damaged(own_live) -> None:
    adapter = publish_adapter(own_live.services.settings.data_path)
    assert own_live.client.post(f"/api/lora/{adapter}/activate").status_code == 200
    (own_live.services.stores.adapters.path(adapter) / "adapter_model.safetensors").unlink()
    (problem,) = own_live.client.get("/api/health").json()["problems"]
    assert problem.startswith("The active adapter is damaged, so the base model answers.")
    assert "adapter_model.safetensors" in problem


def test_health_tells_that_the_active_adapter_cannot_be_served(own_live) -> None:
    adapter = publish_adapter(own_live.services.settings.data_path)
    assert own_live.client.post(f"/api/lora/{adapter}/activate").status_code == 200
    assert own_live.client.get("/api/lora/active").json()["id"] == str(adapter)
    runtime = own_live.services.runtimes.made("scripted")
    runtime.capabilities = msgspec.structs.replace(runtime.capabilities, adapters=False)
    (problem,) = own_live.client.get("/api/health").json()["problems"]
    assert problem.startswith(
        "An adapter is active, but does not answer. The Proposer's runtime 'scripted' cannot serve"
    )
    assert own_live.client.get("/api/lora/active").json() is None


def test_resources_are_plausible(live) -> None:
    body = live.client.get("/api/system/resources").json()
    assert body["cpu"]["count"] >= 1
    for kind in ("ram", "disk"):
        assert 0 < body[kind]["availableBytes"] <= body[kind]["totalBytes"]
    assert body["processRssBytes"] > 10_000_000
    assert isinstance(body["gpus"], list)


def test_plugins_and_models_are_listed(live) -> None:
    plugins = live.client.get("/api/plugins").json()
    assert {"cpu", "bench_default", "runtime_http"} <= {item["name"] for item in plugins["items"]}
    assert all({"provides", "problems", "status"} <= set(item) for item in plugins["items"])
    models = live.client.get("/api/models").json()
    assert {"name": "scripted-1", "runtime": "scripted"}.items() <= next(
        item for item in models["items"] if item["runtime"] == "scripted"
    ).items()
    assert "embedded" in {runtime["name"] for runtime in models["runtimes"]}


def test_templates_are_listed_found_and_shown(live, refused) -> None:
    every = live.client.get("/api/templates", params={"limit": 5}).json()
    assert len(every["items"]) == 5
    assert every["total"] >= 12
    found = live.client.get("/api/templates", params={"q": "prove by contradiction that"}).json()["items"]
    assert "ontradiction" in found[0]["name"]
    assert live.client.get(f"/api/templates/{found[0]['id']}").json() == found[0]
    refused(live.client.get("/api/templates/nonsense"), 404, "not_found")


def test_settings_are_changed_in_the_file_which_keeps_its_comments(own_live) -> None:
    file = own_live.services.settings.data_path / "tmde.toml"
    file.write_text("# mine\nport = 8321  # the usual\n\n[debate]\nmax_rounds = 3 # enough\n")
    before = own_live.client.get("/api/settings").json()
    assert (before["port"], before["restartRequired"]) == (8321, False)
    answer = own_live.client.put(
        "/api/settings", json={"port": 9000, "debate": {"maxRounds": 5}, "allowedHosts": ["lab"]}
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == own_live.client.get("/api/settings").json()
    assert (answer.json()["port"], answer.json()["restartRequired"]) == (9000, True)
    text = file.read_text()
    assert "# mine" in text
    assert "port = 9000 # the usual" in text.replace("  #", " #")
    assert "# enough" in text
    assert tomllib.loads(text) == {"port": 9000, "debate": {"max_rounds": 5}, "allowed_hosts": ["lab"]}
    assert own_live.client.put("/api/settings", json=answer.json()).json() == answer.json()


def test_training_settings_hold_at_once(own_live) -> None:
    answer = own_live.client.put("/api/settings", json={"finetune": {"epochs": 2}})
    assert (answer.json()["finetune"]["epochs"], answer.json()["restartRequired"]) == (2, False)
    assert own_live.client.get("/api/finetune/config").json()["epochs"] == 2


def test_settings_that_cannot_hold_are_refused_whole(live, refused) -> None:
    file = live.services.settings.data_path / "tmde.toml"
    for body, field in [
        ({"port": 70_000}, "port"),
        ({"port": "8321"}, "port"),
        ({"host": ""}, "host"),
        ({"colour": "red"}, "colour"),
        ({"dataDir": "/elsewhere"}, "dataDir"),
        ({"debate": {"minRounds": 9}}, "debate.minRounds"),
        ({"debate": {"synthesis": "maybe"}}, "debate.synthesis"),
        ({"roles": {"judge": {"runtime": "nobody"}}}, "roles.judge.runtime"),
        ({"finetune": {"loraRank": 1}}, "finetune.loraRank"),
        ({"debate": {"judge": "nobody"}}, "debate.judge"),
        ({"benchmark": {"judge": "nobody"}}, "benchmark.judge"),
        ({"port": 9000, "logLevel": "loud"}, "logLevel"),
    ]:
        assert refused(live.client.put("/api/settings", json=body), 400, "invalid_input").get("field") == field
    refused(live.client.put("/api/settings", json=[1]), 400, "invalid_input")
    assert not file.exists()


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_what_the_environment_sets_is_changed_there(live, refused, monkeypatch, variable) -> None:
    value, other = OTHER[variable]
    other = {"other": "stand-in"}.get(other, other)
    monkeypatch.setenv(variable, value)
    before = live.client.get("/api/settings").json()
    bodies = {"/api/settings": wired(ENVIRONMENT[variable], other)}
    if variable in SCHEDULES:
        path, name = SCHEDULES[variable]
        bodies[path] = {name: other}
    elif ENVIRONMENT[variable][0] == "finetune":
        bodies["/api/finetune/config"] = wired(ENVIRONMENT[variable][1:], other)
    for path, body in bodies.items():
        problem = refused(live.client.put(path, json=body), 409, "conflict")
        assert problem["variable"] == variable
        assert f"The environment variable {variable} sets this" in problem["detail"]
    assert live.client.get("/api/settings").json() == before
    assert not (live.services.settings.data_path / "tmde.toml").exists()


def test_a_broken_file_is_told_and_nothing_is_changed(own_live, refused) -> None:
    file = own_live.services.settings.data_path / "tmde.toml"
    file.write_text("port = = 1")
    problem = refused(own_live.client.put("/api/settings", json={"logLevel": "debug"}), 400, "invalid_input")
    assert "is not valid TOML" in problem["detail"]
    assert file.read_text() == "port = = 1"


@pytest.mark.parametrize("path", ["runtimes", "debate"])
def test_values_nested_without_end_are_refused(own_live, refused, path) -> None:
    body = f'{{"{path}": {{"acme": ' + '{"a":' * 300 + "1" + "}" * 302
    headers = {"Content-Type": "application/json"}
    refused(own_live.client.put("/api/settings", content=body, headers=headers), 400, "invalid_input")
    assert own_live.client.get("/api/settings").status_code == 200


def test_secrets_are_masked_and_survive_being_sent_back(own_live) -> None:
    table = {"openai": {"base_url": "http://127.0.0.1:1", "api_key": "s3cret"}}
    answer = own_live.client.put("/api/settings", json={"runtimes": table})
    assert "s3cret" not in answer.text
    assert answer.json()["runtimes"]["openai"]["api_key"] == "********"
    own_live.client.put("/api/settings", json=answer.json() | {"logLevel": "debug"})
    text = (own_live.services.settings.data_path / "tmde.toml").read_text()
    assert tomllib.loads(text) == {"runtimes": table, "log_level": "debug"}


def test_models_that_fit_this_machine_are_suggested(live) -> None:
    body = live.client.get("/api/base-models/suggestions").json()
    assert len(body["items"]) >= 10
    assert {one["answering"]["verdict"] for one in body["items"]} <= {"card", "ram", "tight", "no"}
    assert body["ramAvailableBytes"] > 0


def test_what_an_unfinished_pull_has_left_is_deleted_but_not_under_a_running_one(live, refused) -> None:
    staging = Staging(live.services.settings.data_path / "models", "Tiny")
    staging.files.mkdir(parents=True)
    (staging.files / "tiny.gguf.part").write_bytes(b"GGUF")
    with FileLock.acquire(staging.lock_file):
        refused(live.client.delete("/api/base-models/pulls/Tiny/files"), 409, "conflict")
    assert live.client.delete("/api/base-models/pulls/Tiny/files").json() == {"freedBytes": 4}
    assert not staging.folder.exists()
    refused(live.client.delete("/api/base-models/pulls/Tiny/files"), 404, "not_found")
