"""Environments of training backends over HTTP, with a real environment of one tiny package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from tests.core.backends.tiny import PACKAGE, make_lock, make_package, pip_variables, tiny_backend
from tmde_core.backends import installing, service
from tmde_core.backends.building import InstallProgress
from tmde_core.backends.progress import InstallationFile
from tmde_core.storage.locks import FileLock


@pytest.fixture(scope="module", autouse=True)
def _mine(live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The backend `mine`, whose packages come from a directory."""
    folder = tmp_path_factory.mktemp("backend")
    live.services.plugins.backends.add(tiny_backend(make_lock(folder)), "tests")
    make_package(folder / "plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "find_driver", lambda: None)
        patch.syspath_prepend(str(folder / "plugin"))
        importlib.invalidate_caches()
        for name, value in pip_variables(folder / "wheels").items():
            patch.setenv(name, value)
        yield
    sys.modules.pop(PACKAGE, None)


def test_backends_are_listed_with_the_one_that_auto_selects_and_why(live) -> None:
    listed = live.client.get("/api/backends").json()
    items = {one["name"]: one for one in listed["items"]}
    assert listed["total"] == len(items)
    assert (items["mine"]["state"], items["stand-in"]["state"]) == ("absent", "built-in")
    assert listed["auto"]["name"] == next(name for name, one in items.items() if one["chosen"])
    assert "Not mine: Its environment is not installed." in listed["auto"]["why"]


def test_the_plan_of_an_installation_is_told_before_anything_is_fetched(live, refused) -> None:
    told = live.client.get("/api/backends/mine").json()
    assert (told["backend"]["name"], told["builds"], told["refusal"]) == ("mine", ["cpu"], "")
    plan = told["plan"]
    assert (plan["build"], plan["packages"], plan["continues"]) == ("cpu", 1, False)
    assert plan["why"] == "It needs no card."
    assert plan["freeBytes"] > 0
    assert live.client.get("/api/backends/mine?build=cpu").json()["plan"]["why"] == "You chose it."
    refused(live.client.get("/api/backends/mine?build=rocm"), 400, "invalid_input")
    plain = live.client.get("/api/backends/stand-in").json()
    assert (plain["plan"], plain["builds"], plain["refusal"]) == (None, [], "")


def test_what_cannot_be_done_is_refused_with_the_reason(live, refused) -> None:
    client = live.client
    for method, path in (
        ("GET", ""),
        ("POST", "/install"),
        ("DELETE", "/installation"),
        ("POST", "/doctor"),
        ("DELETE", "/environment"),
    ):
        told = refused(client.request(method, f"/api/backends/nothing{path}"), 404, "not_found")
        assert "no training backend called 'nothing'" in told["detail"]
    refused(client.post("/api/backends/stand-in/install"), 400, "invalid_input")
    refused(client.post("/api/backends/stand-in/doctor"), 400, "invalid_input")
    refused(client.delete("/api/backends/stand-in/environment"), 400, "invalid_input")
    refused(client.delete("/api/backends/stand-in/installation"), 409, "conflict")
    assert refused(client.post("/api/backends/mine/install", json={"build": "rocm"}), 400, "invalid_input")["field"]
    refused(client.post("/api/backends/mine/install", json={"builds": "cpu"}), 400, "invalid_input")
    told = refused(client.post("/api/backends/mine/doctor"), 503, "plugin_unavailable")
    assert "tmde backends install mine" in told["detail"]
    assert client.delete("/api/backends/mine/environment").json() == {"freedBytes": 0}


def test_a_disk_that_is_too_small_is_507(live, refused, monkeypatch) -> None:
    monkeypatch.setattr(service.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    refused(live.client.post("/api/backends/mine/install"), 507, "insufficient_storage")


def test_an_installation_of_another_process_is_shown_and_keeps_others_out(live, refused) -> None:
    envs = live.services.settings.data_path / "envs"
    envs.mkdir(exist_ok=True)
    record = InstallationFile(envs / "mine.progress.json", "mine", "cpu")
    record.tell(InstallProgress(step="Packages", done=3, total=9, detail="torch, 200 MB"))
    with FileLock.acquire(envs / ".mine.lock"):
        seen = live.client.get("/api/backends/mine").json()["backend"]["installation"]
        assert (seen["state"], seen["step"], seen["done"], seen["total"]) == ("installing", "Packages", 3, 9)
        refused(live.client.post("/api/backends/mine/install"), 409, "conflict")
        refused(live.client.delete("/api/backends/mine/environment"), 409, "conflict")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(installing, "ANSWER_SECONDS", 0.01)
            told = refused(live.client.delete("/api/backends/mine/installation"), 409, "conflict")
        assert "has not reacted" in told["detail"]


@pytest.mark.slow
def test_an_environment_is_installed_examined_and_removed(live) -> None:
    client = live.client
    started = client.post("/api/backends/mine/install", json={"build": "cpu"})
    assert (started.status_code, started.json()["state"]) == (202, "installing")
    assert client.delete("/api/backends/mine/installation").json()["state"] == "cancelled"
    assert client.get("/api/backends/mine").json()["backend"]["availability"]["ok"] is False
    assert client.post("/api/backends/mine/install").status_code == 202
    assert live.run(live.services.installations.wait("mine")).state == "done"
    mine = client.get("/api/backends/mine").json()["backend"]
    assert (mine["state"], mine["build"], mine["report"]["versions"]) == ("installed", "cpu", {"tiny": "1.0"})
    assert mine["installation"]["state"] == "done"
    assert client.get("/api/backends").json()["auto"]["name"] == "mine"
    assert client.post("/api/backends/mine/doctor").json()["device"] == "cpu"
    assert client.delete("/api/backends/mine/environment").json()["freedBytes"] > 1000
    assert client.get("/api/backends/mine").json()["backend"]["state"] == "absent"
