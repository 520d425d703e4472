"""`tmde doctor`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.lora.conftest import publish_adapter
from tmde_core.cli.doctor import checks
from tmde_core.finetune.supervision.presence import WorkerBackend, WorkerRegistration
from tmde_core.plugins import Plugins
from tmde_core.records.runtimes import Availability
from tmde_core.settings import Settings
from tmde_core.settings.schema import SupervisorSettings

Tmde = Callable[..., Any]


def _by_name(report: Any) -> dict[str, tuple[str, str]]:
    return {check["name"]: (check["status"], check["detail"]) for check in report["checks"]}


def test_a_missing_model_is_essential_and_named(process: Tmde) -> None:
    ran = process("doctor", "--json")
    assert ran.code == 1
    assert ran.json["ok"] is False
    found = _by_name(ran.json)
    assert found["runtime embedded"][0] == "broken"
    assert "./run setup" in found["runtime embedded"][1]
    assert found["runtime ollama"][0] in ("ok", "lacking")
    for name in ("python", "sqlite", "settings", "data directory", "database", "plugin cpu", "server"):
        assert found[name][0] == "ok", found[name]


def test_with_the_model_everything_essential_is_there(process: Tmde, tmp_path: Path, embedded_model: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(embedded_model.parent, target_is_directory=True)
    ran = process("doctor", "--json")
    assert ran.code == 0, ran.out
    status, detail = _by_name(ran.json)["runtime embedded"]
    assert status == "ok"
    assert "sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" in detail
    status, detail = _by_name(ran.json)["model"]
    assert status == "ok"
    assert detail.startswith("SmolLM2-135M-Instruct answers, which is a toy; ")
    assert "fits this machine: tmde models pull " in detail
    assert process("doctor").out.count("\nok ") > 5


@pytest.mark.parametrize(
    ("place", "runs", "status", "words"),
    [
        ("worker", False, "lacking", "No worker is running. Start `tmde worker` on this data directory. Until then,"),
        ("worker", True, "ok", "A worker runs on "),
        ("server", True, "lacking", "Nothing is queued for it, because `supervisor.place` is `server`"),
        ("server", False, None, ""),
    ],
)
def test_a_worker_is_checked_where_one_is_wanted_or_runs(
    tmp_path: Path, place: str, runs: bool, status: str | None, words: str
) -> None:
    settings = Settings(data_dir=str(tmp_path), supervisor=SupervisorSettings(place=place))  # type: ignore[arg-type]
    with WorkerRegistration(tmp_path) if runs else contextlib.nullcontext():
        found = checks._worker(settings)
    assert [one.status for one in found] == ([status] if status else [])
    assert all(words in one.detail for one in found)


def test_the_worker_says_what_it_can_train_with(tmp_path: Path) -> None:
    plugins = Plugins.load()
    settings = Settings(data_dir=str(tmp_path), supervisor=SupervisorSettings(place="worker"))
    with WorkerRegistration(tmp_path) as worker:
        lacking = WorkerBackend("unsloth", Availability(ok=False, reason="There is no card."))
        worker.renew(backends=(WorkerBackend("cpu", Availability(ok=True)), lacking))
        found = {one.name: (one.status, one.detail) for one in checks._backends(plugins, settings)}
    assert found["training cpu"] == ("ok", "The worker can train with it.")
    assert found["training unsloth"] == ("lacking", "The worker cannot train with it: There is no card.")


def test_a_model_is_not_said_to_answer_if_its_program_cannot_start(
    process: Tmde, tmp_path: Path, embedded_model: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(embedded_model.parent, target_is_directory=True)
    (tmp_path / "data" / "tmde.toml").write_text('[runtimes.embedded]\nbinary = "/nowhere/llama-server"\n')
    found = _by_name(process("doctor", "--json").json)
    assert found["runtime embedded"][0] == "broken"
    assert found["model"] == (
        "lacking",
        "SmolLM2-135M-Instruct is the Proposer's model, but embedded cannot serve it now.",
    )


def test_a_broken_settings_file_does_not_hide_the_other_checks(process: Tmde, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.toml").write_text("port = 'x'\n")
    ran = process("doctor", "--json")
    assert ran.code == 1
    found = _by_name(ran.json)
    assert found["settings"][0] == "broken"
    assert "line 1" in found["settings"][1]
    assert found["python"][0] == "ok"
    assert found["plugin cpu"][0] == "ok"


def test_a_damaged_active_adapter_is_named(tmde: Tmde, tmp_path: Path) -> None:
    assert _by_name(tmde("doctor", "--json").json)["adapter"] == ("ok", "none is active; the base model answers")
    adapter = publish_adapter(tmp_path / "data")
    assert tmde("lora", "activate", str(adapter)).code == 0
    assert _by_name(tmde("doctor", "--json").json)["adapter"] == ("ok", f"{adapter} is active")
    (tmp_path / "data" / "lora-adapters" / str(adapter) / "adapter_model.safetensors").unlink()
    status, detail = _by_name(tmde("doctor", "--json").json)["adapter"]
    assert status == "lacking"
    assert detail.startswith(f"{adapter} is active, but damaged: the base model answers.")
    assert "tmde lora rollback" in detail
    (tmp_path / "data" / "lora-adapters" / "active.json").write_text("{")
    status, detail = _by_name(tmde("doctor", "--json").json)["adapter"]
    assert (status, "active.json is damaged" in detail) == ("lacking", True)


def test_a_damaged_database_is_named(process: Tmde, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.db").write_bytes(b"this is no database" * 100)
    found = _by_name(process("doctor", "--json").json)
    assert found["database"][0] == "broken"
    assert "damaged" in found["database"][1]


def test_a_runtime_that_no_plugin_provides_is_named(process: Tmde, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tmde.toml").write_text('[roles.skeptic]\nruntime = "telepathy"\n')
    found = _by_name(process("doctor", "--json").json)
    assert found["runtime telepathy"][0] == "broken"


def test_a_server_on_the_data_directory_is_seen(tmde: Tmde, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / "data" / "server.lock").open("w") as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"process {os.getpid()} serves" in _by_name(tmde("doctor", "--json").json)["server"][1]
    assert "none runs" in _by_name(tmde("doctor", "--json").json)["server"][1]


def test_too_little_disk_and_memory_are_pointed_out(tmde: Tmde, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LEAST_DISK_BYTES", 10**18)
    monkeypatch.setattr(checks, "LEAST_FREE_MEMORY_BYTES", 10**18)
    ran = tmde("doctor", "--json")
    found = _by_name(ran.json)
    assert (found["disk"][0], found["memory"][0]) == ("lacking", "lacking")
    assert ran.code == 0, "neither stops TMDE"


@pytest.mark.parametrize(
    ("text", "setting", "says"),
    [
        ('[schedule]\nfinetune = "61 * * * *"\n', "schedule.finetune", "'61' is no minute"),
        ('[schedule]\nbenchmark = "0 0 30 2 *"\n', "schedule.benchmark", "never comes due"),
        ('[schedule]\ntimezone = "Mars/X"\n', "schedule.finetune", "no time zone"),
        ('[notify]\nwebhook_url = "example.org"\n', "notify.webhook_url", "http"),
        ('[judges.rubrik]\nmodel = "x"\n', "judges.rubrik", "Did you mean 'rubric'?"),
        (
            '[runtimes.telepathy]\nurl = "x"\n',
            "runtimes.telepathy",
            "no model runtime called 'telepathy' is installed; there are",
        ),
        ('[runtimes.ollama]\nurll = "http://x"\n', "runtimes.ollama", "no such setting"),
        ("[runtimes.ollama]\nurl = 3\n", "runtimes.ollama", "url"),
        ('[debate]\njudge = "rubrik"\n', "debate.judge", "Did you mean 'rubric'?"),
        ('[finetune]\nbackend = "gpu"\n', "finetune.backend", "no training backend called 'gpu'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_reason(
    tmde: Tmde, tmp_path: Path, text, setting, says
) -> None:
    (tmp_path / "data" / "tmde.toml").write_text(text)
    found = _by_name(tmde("doctor", "--json").json)
    assert found["settings"][0] == "lacking"
    status, detail = found[f"setting {setting}"]
    assert status == "lacking"
    assert says in detail


@pytest.mark.parametrize(
    "text",
    ['[schedule]\nfinetune = "61 * * * *"\n', '[schedule]\ntimezone = "Mars/X"\n', '[notify]\nwebhook_url = "x"\n'],
)
def test_a_setting_that_cannot_be_used_stops_no_command(tmde: Tmde, tmp_path: Path, text) -> None:
    (tmp_path / "data" / "tmde.toml").write_text(text)
    for words in (("traces", "list"), ("finetune", "list"), ("notifications",), ("bench", "list"), ("lora", "list")):
        assert tmde(*words).code == 0, words
    shown = tmde("finetune", "schedule")
    assert shown.code == 0
    if "schedule" in text:
        assert "off, because its setting cannot be used" in shown.out
        assert tmde("finetune", "schedule", "--set", "@daily", "--timezone", "UTC").out.startswith("schedule")
        assert tmde("finetune", "schedule", "--json").json["problem"] == ""
