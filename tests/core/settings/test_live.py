"""Settings are changed in one place: checked whole, refused where the environment sets them, followed by whoever reads."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.core.settings.environment import OTHER, wired
from tmde_core.errors import ConflictError, InsufficientStorageError, InvalidInputError
from tmde_core.settings import ENVIRONMENT, PLUGIN_TABLES, LiveSettings, Settings, load_settings
from tmde_core.settings import live as module


def opened(directory: Path, text: str = "", checks: Any = (), **environ: str) -> LiveSettings:
    if text:
        (directory / "tmde.toml").write_text(text)
    return LiveSettings(load_settings(directory, environ), checks, environ)


def in_file(directory: Path) -> dict[str, Any]:
    file = directory / "tmde.toml"
    return tomllib.loads(file.read_text()) if file.exists() else {}


def test_every_variable_is_tried():
    assert OTHER.keys() == ENVIRONMENT.keys()


@pytest.mark.parametrize("variable", ENVIRONMENT)
async def test_what_the_environment_sets_is_refused_and_nothing_is_written(variable: str, tmp_path: Path):
    value, other = OTHER[variable]
    live = opened(tmp_path, **{variable: value})
    before = live.stored
    with pytest.raises(ConflictError, match=variable) as refusal:
        await live.change({"debate": {"maxRounds": 5}, **wired(ENVIRONMENT[variable], other)})
    assert refusal.value.context == {"variable": variable}
    assert (live.stored, in_file(tmp_path)) == (before, {})


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_the_variable_that_sets_a_setting_is_known(variable: str, tmp_path: Path):
    value, _ = OTHER[variable]
    assert opened(tmp_path, **{variable: value}).find_variable(*ENVIRONMENT[variable]) == variable
    assert opened(tmp_path).find_variable(*ENVIRONMENT[variable]) is None
    assert opened(tmp_path, **{variable: value}).find_variable("debate", "max_rounds") is None


@pytest.mark.parametrize("variable", ENVIRONMENT)
async def test_what_the_environment_does_not_set_is_written_and_read_back(variable: str, tmp_path: Path):
    live = opened(tmp_path)
    stored = await live.change(wired(ENVIRONMENT[variable], OTHER[variable][1]))
    assert stored == live.stored == load_settings(tmp_path, {})


async def test_the_value_that_the_environment_sets_may_be_sent_back(tmp_path: Path):
    live = opened(tmp_path, FINETUNE_MIN_TRACES="5")
    await live.change({"finetune": {"minTraces": 5, "epochs": 4}})
    assert in_file(tmp_path) == {"finetune": {"epochs": 4}}


async def test_training_schedules_notifications_and_benchmarks_follow_at_once_the_rest_at_the_next_start(
    tmp_path: Path,
):
    live = opened(tmp_path)
    await live.change(
        {
            "finetune": {"epochs": 4},
            "schedule": {"finetune": "off"},
            "notify": {"webhookUrl": "http://a.example"},
            "benchmark": {"autoActivate": True},
        }
    )
    now = live.current
    assert (now.finetune.epochs, now.schedule.finetune) == (4, "off")
    assert (now.notify.webhook_url, now.benchmark.auto_activate) == ("http://a.example", True)
    assert not live.restart_required
    await live.change({"port": 9000, "roles": {"judge": {"temperature": 0.5}}})
    assert (live.current.port, live.stored.port, live.started.port) == (8321, 9000, 8321)
    assert live.restart_required
    await live.change({"port": 8321, "roles": {"judge": {"temperature": 0}}})
    assert not live.restart_required


async def test_who_subscribes_is_told_what_was_and_what_is(tmp_path: Path):
    live = opened(tmp_path)
    told: list[tuple[int, int]] = []
    live.subscribe(lambda before, now: told.append((before.finetune.epochs, now.finetune.epochs)))
    await live.change({"finetune": {"epochs": 4}})
    await live.change({"finetune": {"epochs": 4}})
    await live.change({"port": 9000})
    assert told == [(3, 4)]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"port": 70_000}, "port"),
        ({"debate": {"minRounds": 9}}, "debate.minRounds"),
        ({"finetune": {"loraRank": 1}}, "finetune.loraRank"),
        ({"dataDir": "/elsewhere"}, "dataDir"),
        ({"host": " "}, "host"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_cannot_hold_is_refused_whole(tmp_path: Path, values: dict[str, Any], field: str):
    live = opened(tmp_path)
    with pytest.raises(InvalidInputError) as refusal:
        await live.change({"logLevel": "debug", **values})
    assert refusal.value.context["field"] == field
    assert in_file(tmp_path) == {}
    assert live.stored == live.current == live.started


async def test_a_check_sees_what_is_wanted_and_what_is_stored_and_may_refuse(tmp_path: Path):
    def check(wanted: Settings, stored: Settings) -> None:
        if wanted.finetune.seed < stored.finetune.seed:
            raise InvalidInputError("No way back.")

    live = opened(tmp_path, checks=[check])
    await live.change({"finetune": {"seed": 50}})
    with pytest.raises(InvalidInputError, match="No way back"):
        await live.change({"finetune": {"seed": 49}})
    assert in_file(tmp_path) == {"finetune": {"seed": 50}}


async def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    live = opened(tmp_path)

    def full(*_: object) -> None:
        raise InsufficientStorageError("The disk is full.")

    monkeypatch.setattr(module, "update_settings_file", full)
    with pytest.raises(InsufficientStorageError):
        await live.change({"finetune": {"epochs": 4}})
    assert live.stored == live.current == live.started


async def test_changes_at_the_same_time_all_hold(tmp_path: Path):
    live = opened(tmp_path)
    await asyncio.gather(
        live.change({"finetune": {"epochs": 4}}),
        live.change({"schedule": {"timezone": "UTC"}}),
        live.change({"finetune": {"seed": 7}}),
    )
    assert in_file(tmp_path) == {"finetune": {"epochs": 4, "seed": 7}, "schedule": {"timezone": "UTC"}}
    assert (live.current.finetune.epochs, live.current.finetune.seed, live.current.schedule.timezone) == (4, 7, "UTC")


# --------------------------------------------------------------------------------- somebody else writes


async def test_what_a_command_line_changes_is_followed_by_the_server(tmp_path: Path):
    server, command = opened(tmp_path), opened(tmp_path)
    await server.change({"finetune": {"seed": 7}})
    await command.change({"finetune": {"epochs": 4}, "port": 9000})
    server.reread()
    assert (server.current.finetune.epochs, server.current.finetune.seed) == (4, 7)
    assert (server.current.port, server.stored.port) == (8321, 9000)


async def test_what_was_given_at_the_start_stays_when_the_file_changes(tmp_path: Path):
    (tmp_path / "tmde.toml").write_text("[finetune]\nepochs = 2\n")
    live = LiveSettings(load_settings(tmp_path, {}, {"port": 7000}), environ={})
    (tmp_path / "tmde.toml").write_text("[finetune]\nepochs = 5\n")
    live.reread()
    assert (live.current.finetune.epochs, live.stored.port) == (5, 7000)


async def test_a_change_is_measured_by_what_somebody_else_has_stored_meanwhile(tmp_path: Path):
    server, command = opened(tmp_path), opened(tmp_path)
    await command.change({"finetune": {"epochs": 4}})
    await server.change({"finetune": {"epochs": 3}})
    assert in_file(tmp_path)["finetune"]["epochs"] == 3


@pytest.mark.parametrize("text", ["port = = 1", "prot = 1\n", "[finetune]\nepochs = 99\n", "host = ''\n"])
async def test_a_file_that_was_broken_meanwhile_changes_nothing(tmp_path: Path, text: str):
    live = opened(tmp_path, "[finetune]\nepochs = 2\n")
    (tmp_path / "tmde.toml").write_text(text)
    live.reread()
    assert live.stored == live.current == live.started


async def test_a_plugins_table_that_was_taken_out_of_the_file_is_gone(tmp_path: Path):
    live = opened(tmp_path, "[runtimes.ollama]\nmodel = 'm'\n")
    (tmp_path / "tmde.toml").write_text("# nothing\n")
    live.reread()
    assert live.stored.runtimes == {}
    assert live.restart_required


async def test_a_file_that_was_deleted_after_a_change_is_noticed(tmp_path: Path):
    live = opened(tmp_path)
    await live.change({"finetune": {"epochs": 4}})
    (tmp_path / "tmde.toml").unlink()
    live.reread()
    assert live.current == live.started


@pytest.mark.parametrize("text", ["port = = 1", "prot = 1\n", "host = ''\n"])
@pytest.mark.parametrize("noticed", [False, True])
async def test_nothing_is_changed_while_the_file_is_broken(tmp_path: Path, text: str, noticed: bool):
    live = opened(tmp_path, "[finetune]\nepochs = 2\n")
    (tmp_path / "tmde.toml").write_text(text)
    if noticed:
        live.reread()
    for epochs in (2, 5):
        with pytest.raises(InvalidInputError, match=r"tmde\.toml"):
            await live.change({"finetune": {"epochs": epochs}})
    assert (tmp_path / "tmde.toml").read_text() == text
    (tmp_path / "tmde.toml").write_text("[finetune]\nseed = 7\n")
    await live.change({"finetune": {"epochs": 5}})
    assert in_file(tmp_path) == {"finetune": {"seed": 7, "epochs": 5}}


# -------------------------------------------------------------------------------------- plugins' tables


@pytest.mark.parametrize("table", PLUGIN_TABLES)
async def test_the_tables_of_plugins_are_all_treated_alike(tmp_path: Path, table: str):
    text = f"[{table}.acme]\nbaseUrl_x = 'y'\napi_key = 's3cret'\n[{table}.acme.inner]\ntoken = 't'\n"
    live = opened(tmp_path, text)
    assert getattr(live.started, table) == {"acme": {"baseUrl_x": "y", "api_key": "s3cret", "inner": {"token": "t"}}}
    masked = live.masked()[table]
    assert masked == {"acme": {"baseUrl_x": "y", "api_key": "********", "inner": {"token": "********"}}}
    await live.change({table: {"acme": {**masked["acme"], "someName": 1}}})
    assert in_file(tmp_path)[table] == {
        "acme": {"baseUrl_x": "y", "api_key": "s3cret", "inner": {"token": "t"}, "someName": 1}
    }
    with pytest.raises(InvalidInputError, match=rf"{table}\.acme\.someName: null cannot be stored"):
        await live.change({table: {"acme": {"someName": None}}})


NAMES = ("api_key", "hfToken", "password", "Authorization", "credential", "credentials", "bearer", "client_secret")


@pytest.mark.parametrize("name", NAMES)
async def test_secrets_are_masked_in_lists_too_and_stay_when_they_are_sent_back(tmp_path: Path, name: str):
    hosts = [{"url": "a", name: "one"}, {"url": "b", name: "two"}]
    live = opened(tmp_path)
    await live.change({"runtimes": {"acme": {"hosts": hosts}}})
    masked = live.masked()["runtimes"]["acme"]["hosts"]
    assert masked == [{"url": "a", name: module.MASK}, {"url": "b", name: module.MASK}]
    await live.change({"runtimes": {"acme": {"hosts": masked, "x": 1}}})
    assert in_file(tmp_path)["runtimes"] == {"acme": {"hosts": hosts, "x": 1}}
    await live.change({"runtimes": {"acme": {"hosts": [masked[1]]}}})
    assert in_file(tmp_path)["runtimes"]["acme"]["hosts"] == [hosts[1]]
    await live.change({"runtimes": {"acme": {"hosts": [{"url": "c", name: module.MASK}]}}})
    assert in_file(tmp_path)["runtimes"]["acme"]["hosts"] == [{"url": "c", name: "two"}]


@pytest.mark.parametrize("value", [module.MASK, {"user": module.MASK}])
async def test_the_mask_of_a_secret_that_is_not_stored_is_never_written(tmp_path: Path, value: Any):
    live = opened(tmp_path)
    await live.change({"runtimes": {"acme": {"url": "a", "credentials": value}, "other": {"api_key": module.MASK}}})
    assert in_file(tmp_path) == {"runtimes": {"acme": {"url": "a"}}}


async def test_what_the_file_cannot_hold_is_refused(tmp_path: Path):
    live = opened(tmp_path)
    deep: Any = 1
    for _ in range(300):
        deep = {"a": deep}
    for value, words in ((deep, "lie in each other"), ([1, None], "null cannot be stored")):
        with pytest.raises(InvalidInputError, match=words):
            await live.change({"runtimes": {"acme": {"x": value}}})
    assert in_file(tmp_path) == {}
    assert live.stored == live.started


def test_nothing_else_writes_the_file():
    core = Path(module.__file__).parents[1]
    writers = {
        file.relative_to(core).as_posix() for file in core.rglob("*.py") if "update_settings_file" in file.read_text()
    }
    assert writers == {"settings/file.py", "settings/live.py"}
