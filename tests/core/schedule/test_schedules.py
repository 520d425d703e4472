"""Schedules: decided once, caught up once, changed while they wait."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.core.finetune.conftest import make_trace, stand_in_plugins
from tmde_core.errors import ConflictError, InvalidInputError, WorkerFailedError
from tmde_core.records.base import utc_now
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.schedule.service import ScheduleService, check_schedules
from tmde_core.services import open_services
from tmde_core.settings import LiveSettings, ScheduleSettings, Settings
from tmde_core.storage.database import Database
from tmde_core.testing.scripted import scripted_settings

SUNDAY = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def go(self, **how_far: float) -> None:
        self.now += timedelta(**how_far)


@pytest.fixture
def clock() -> Clock:
    return Clock(SUNDAY - timedelta(hours=1))


@pytest.fixture
async def database(tmp_path):
    async with Database.open(tmp_path / "tmde.db") as opened:
        yield opened


def scheduled(tmp_path, database, clock, expression: str = "0 2 * * 0"):
    """A schedule service, and the due instants that it was asked to decide."""
    settings = Settings(data_dir=str(tmp_path), schedule=ScheduleSettings(finetune=expression, timezone="UTC"))
    service = ScheduleService(database, LiveSettings(settings, [check_schedules]), clock)
    asked: list[datetime] = []

    async def decide(due: datetime):
        asked.append(due)
        return "started", "There was reason to.", "run-1"

    service.register("finetune", decide)
    return service, asked


async def test_what_comes_due_is_decided_once_with_its_reason(tmp_path, database, clock):
    service, asked = scheduled(tmp_path, database, clock)
    assert await service.tick() == 60
    clock.go(hours=1)
    await service.tick()
    await service.tick()
    clock.go(minutes=5)
    await service.tick()
    assert asked == [SUNDAY]
    (decision,) = (await service.status("finetune")).decisions
    assert (decision.due_at, decision.action, decision.reason, decision.run_id) == (
        SUNDAY,
        "started",
        "There was reason to.",
        "run-1",
    )


async def test_the_wait_ends_with_the_due_instant_not_after_it(tmp_path, database, clock):
    service, _ = scheduled(tmp_path, database, clock)
    await service.tick()
    clock.go(minutes=59, seconds=50)
    assert await service.tick() == 10


async def test_two_processes_decide_an_instant_once(tmp_path, database, clock):
    one, asked = scheduled(tmp_path, database, clock)
    other, asked_too = scheduled(tmp_path, database, clock)
    decisions = await asyncio.gather(one.fire("finetune", SUNDAY), other.fire("finetune", SUNDAY))
    assert len(asked) + len(asked_too) == 1
    assert decisions[0].due_at == decisions[1].due_at


async def test_a_fire_missed_while_the_machine_slept_happens_once_at_start(tmp_path, database, clock):
    before, _ = scheduled(tmp_path, database, clock)
    await before.tick()
    clock.go(hours=12)
    after, asked = scheduled(tmp_path, database, clock)
    await after.start()
    await after.tick()
    await after.stop()
    assert asked == [SUNDAY]


async def test_what_was_missed_more_than_a_day_ago_is_recorded_and_not_made_up_for(tmp_path, database, clock):
    before, _ = scheduled(tmp_path, database, clock)
    await before.tick()
    clock.go(hours=26)
    after, asked = scheduled(tmp_path, database, clock)
    after._marks = {"finetune": after._last_alive()}
    await after.tick()
    assert asked == []
    (decision,) = await after.decisions("finetune", 5)
    assert (decision.action, decision.due_at) == ("skipped", SUNDAY)
    assert "more than a day ago" in decision.reason


async def test_of_many_missed_fires_only_the_newest_happens(tmp_path, database, clock):
    before, _ = scheduled(tmp_path, database, clock, "0 * * * *")
    await before.tick()
    clock.go(hours=9, minutes=30)
    after, asked = scheduled(tmp_path, database, clock, "0 * * * *")
    after._marks = {"finetune": after._last_alive()}
    await after.tick()
    assert asked == [SUNDAY + timedelta(hours=8)]


async def test_the_first_start_of_all_has_missed_nothing(tmp_path, database, clock):
    clock.go(hours=2)
    service, asked = scheduled(tmp_path, database, clock)
    await service.start()
    await service.tick()
    await service.stop()
    assert asked == []


async def test_a_decision_that_fails_is_recorded_as_such(tmp_path, database, clock):
    service, _ = scheduled(tmp_path, database, clock)

    async def decide(_due):
        raise WorkerFailedError("The trainer cannot be started.")

    service.register("finetune", decide)
    decision = await service.fire("finetune", SUNDAY)
    assert (decision.action, decision.reason) == ("failed", "The trainer cannot be started.")


async def test_a_changed_schedule_holds_at_once_and_after_a_restart(tmp_path, database, clock):
    service, asked = scheduled(tmp_path, database, clock)
    await service.tick()
    status = await service.set("finetune", "30 1 * * *", "Europe/Berlin")
    assert (status.expression, status.timezone) == ("30 1 * * *", "Europe/Berlin")
    assert status.next_runs[0] == datetime(2026, 3, 2, 0, 30, tzinfo=UTC)
    assert 'finetune = "30 1 * * *"' in (tmp_path / "tmde.toml").read_text()
    clock.go(hours=1)
    await service.tick()
    assert asked == []


async def test_a_schedule_that_a_command_line_changed_is_followed(tmp_path, database, clock):
    service, _ = scheduled(tmp_path, database, clock)
    other, _ = scheduled(tmp_path, database, clock)
    await other.set("finetune", "off")
    assert not (await service.status("finetune")).enabled


async def test_switched_off_nothing_comes_due(tmp_path, database, clock):
    service, asked = scheduled(tmp_path, database, clock, "off")
    status = await service.status("finetune")
    assert (status.enabled, status.expression, status.next_runs) == (False, "off", ())
    clock.go(days=8)
    await service.tick()
    assert asked == []


@pytest.mark.parametrize(
    ("expression", "zone", "field"),
    [
        ("0 0 30 2 *", "UTC", "schedule.finetune"),
        ("nonsense", "UTC", "schedule.finetune"),
        ("0 2 * * 0", "Mars/X", "schedule.timezone"),
    ],
)
async def test_a_schedule_that_cannot_work_is_refused_and_nothing_changes(
    tmp_path, database, clock, expression, zone, field
):
    service, _ = scheduled(tmp_path, database, clock)
    with pytest.raises(InvalidInputError) as refusal:
        await service.set("finetune", expression, zone)
    assert refusal.value.context["field"] == field
    assert (await service.status("finetune")).expression == "0 2 * * 0"
    assert not (tmp_path / "tmde.toml").exists()


@pytest.mark.parametrize(
    ("expression", "zone", "reason"),
    [
        ("0 0 30 2 *", "UTC", "schedule.finetune: '0 0 30 2 *' never comes due"),
        ("61 * * * *", "UTC", "'61' is no minute"),
        ("0 2 * * 0", "Mars/Olympus", "schedule.timezone: 'Mars/Olympus' is no time zone"),
    ],
)
async def test_a_schedule_in_the_settings_that_cannot_be_used_is_off_and_says_why(
    tmp_path, database, clock, expression, zone, reason
):
    wrong = ScheduleSettings(finetune=expression, benchmark="0 3 * * *", timezone=zone)
    live = LiveSettings(Settings(data_dir=str(tmp_path), schedule=wrong), [check_schedules])
    service = ScheduleService(database, live, clock)
    await service.start()
    await service.stop()
    status = await service.status("finetune")
    assert (status.enabled, status.expression, status.next_runs) == (False, expression, ())
    assert reason in status.problem
    assert (await service.status("benchmark")).enabled is (zone == "UTC")
    ZoneInfo(status.timezone)
    await live.change({"notify": {"webhookUrl": "https://example.org/x"}})  # other settings can be changed
    mended = await service.set("finetune", "0 2 * * 0", "UTC")
    assert (mended.enabled, mended.problem) == (True, "")


async def test_a_clock_that_was_ahead_at_the_last_stop_silences_nothing(tmp_path, database, clock):
    clock.go(days=365)
    ahead, asked_then = scheduled(tmp_path, database, clock)
    await ahead.tick()
    clock.go(days=7)
    await ahead.tick()
    assert len(asked_then) == 1
    clock.now = SUNDAY - timedelta(hours=1)
    service, asked = scheduled(tmp_path, database, clock)
    await service.start()
    await service.stop()
    clock.now = SUNDAY
    await service.tick()
    assert asked == [SUNDAY]
    assert (await service.status("finetune")).last_decision.due_at == SUNDAY
    clock.now = asked_then[0]
    await service.tick()
    assert asked[-1] == asked_then[0]


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=8), timedelta(hours=2)])
async def test_a_clock_that_jumps_back_while_the_server_runs_silences_nothing(tmp_path, database, clock, jump):
    service, asked = scheduled(tmp_path, database, clock)
    await service.tick()
    clock.now += jump
    await service.tick()
    clock.now -= jump
    await service.tick()
    asked.clear()
    clock.now = SUNDAY
    await service.tick()
    assert asked == [SUNDAY]


async def test_a_small_correction_of_the_clock_lets_nothing_come_due_twice(tmp_path, database, clock):
    service, asked = scheduled(tmp_path, database, clock)
    await service.tick()
    for moment in (SUNDAY, SUNDAY - timedelta(seconds=2), SUNDAY - timedelta(seconds=1), SUNDAY):
        clock.now = moment
        await service.tick()
    assert asked == [SUNDAY]


async def test_what_an_environment_variable_sets_is_changed_there(tmp_path, database, clock, monkeypatch):
    service, _ = scheduled(tmp_path, database, clock)
    monkeypatch.setenv("FINETUNE_SCHEDULE", "0 2 * * 0")
    with pytest.raises(ConflictError, match="FINETUNE_SCHEDULE"):
        await service.set("finetune", "0 3 * * *")


@pytest.fixture
async def services(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    async with open_services(scripted_settings(directory), stand_in_plugins()) as opened:
        yield opened


async def with_traces(services, count: int) -> None:
    await services.finetune.set_config(FineTuneConfig(backend="stand-in", min_traces=10))
    for number in range(count):
        await services.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))


async def test_training_is_skipped_with_the_figures_when_too_little_is_new(services):
    await with_traces(services, 4)
    decision = await services.schedules.fire("finetune", utc_now())
    assert decision.action == "skipped"
    assert decision.reason == "4 good traces have come since the last successful run; 10 are needed."


async def test_training_starts_when_enough_is_new_and_is_skipped_while_it_runs(services):
    await with_traces(services, 20)
    decision = await services.schedules.fire("finetune", utc_now())
    assert decision.action == "started"
    run = await services.finetune.get_current()
    assert (str(run.id), run.triggered_by) == (decision.run_id, "scheduled")
    again = await services.schedules.fire("finetune", utc_now() + timedelta(days=7))
    assert (again.action, again.reason) == ("skipped", f"The training run {run.id} is in progress.")
    await services.finetune.cancel(run.id)
