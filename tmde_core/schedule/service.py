"""Runs schedules: waits until a schedule is due, decides once, and records the decision with its reason.

The service checks the wall clock at least once a minute, so it notices if the machine slept or the clock was changed.
Only the server waits. The server updates the modification time of a file in the data directory while it runs. Instants
between that time and the next start were missed. At the start, only the newest missed instant is decided, and the work
is skipped if that instant is more than a day old.

The wall clock may also have been ahead. An instant that lies in the future was not missed, and its decision was made
too early: the decision is removed, and the instant comes due again. A setting that cannot be used switches only its
schedule off; `ScheduleStatus.problem` says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog

from tmde_core.errors import InvalidInputError, NotFoundError, TmdeError
from tmde_core.records.base import utc_now
from tmde_core.records.schedule import ScheduleDecision, ScheduleName, ScheduleOutcome, ScheduleStatus
from tmde_core.schedule.cron import Cron, known_timezone
from tmde_core.settings import LiveSettings, ScheduleSettings, Settings
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time

log = structlog.get_logger(__name__)

OFF = "off"
SLICE_SECONDS = 60.0
LOOK_SECONDS = 2.0
"""How often the settings file is checked for a change that another program made."""
CATCH_UP = timedelta(days=1)
"""The work for a missed instant is skipped if the instant is older than this."""
CLOCK_STEP = timedelta(minutes=5)
"""A decision for an instant that lies further ahead was made while the clock was wrong. Smaller steps are the ordinary
corrections of a time server; they must not let an instant come due twice.
"""
ALIVE_FILE = "schedule.alive"
SHOWN_RUNS, SHOWN_DECISIONS = 5, 10
NAMES: tuple[ScheduleName, ...] = ("finetune", "benchmark")
CUT_OFF = "TMDE ended while this was being decided."

DueHandler = Callable[[datetime], Awaitable[ScheduleOutcome]]
"""Called with the due instant: does the work, or returns why it was skipped."""


class ScheduleService:
    """Runs the schedules of one data directory."""

    def __init__(self, database: Database, settings: LiveSettings, clock: Callable[[], datetime] = utc_now) -> None:
        self._db = database
        self._data = settings.started.data_path
        self._clock = clock
        self._settings = settings
        self._crons, self._problems = read_schedules(settings.current.schedule)
        self._deciders: dict[ScheduleName, DueHandler] = {}
        self._marks: dict[ScheduleName, datetime] = {}
        self._changed = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None
        settings.subscribe(self._follow)

    def register(self, name: ScheduleName, decide: DueHandler) -> None:
        """Set the function that decides what to do when a schedule is due."""
        self._deciders[name] = decide

    # ------------------------------------------------------------------------------------- waiting

    async def start(self) -> None:
        """Start to wait for due schedules in the background; missed instants come first. Call only in the server."""
        for problem in self._problems.values():
            log.warning("schedule.off", problem=problem)
        now = self._clock()
        since = min(self._last_alive() or now, now)
        self._marks = dict.fromkeys(NAMES, since)
        await self._forget_future(now)
        self._waiting = asyncio.create_task(self._wait(), name="schedules")

    async def stop(self) -> None:
        """Stop waiting."""
        if self._waiting is not None:
            self._waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._waiting
            self._waiting = None

    async def _wait(self) -> None:
        while True:
            self._changed.clear()
            self._settings.reread()
            try:
                seconds = await self.tick()
            except Exception:
                log.exception("schedule.tick_failed")
                seconds = SLICE_SECONDS
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not after a schedule was changed here, or in the file by another program."""
        while seconds > 0 and not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(seconds, LOOK_SECONDS))
            seconds -= LOOK_SECONDS
            self._settings.reread()

    async def tick(self) -> float:
        """Decide the schedules that were due since the last call, and return the seconds until the next call.

        For each schedule only the newest due instant is decided. The result is between 0.05 and 60.
        """
        now = self._clock()
        if any(mark > now for mark in self._marks.values()):
            log.warning("schedule.clock_went_back", now=encode_time(now))
            await self._forget_future(now)
        soonest = SLICE_SECONDS
        for name in NAMES:
            cron = self._crons.get(name)
            if cron is None or name not in self._deciders:
                self._marks[name] = now
                continue
            mark = min(self._marks.setdefault(name, now), now)
            if now - mark > CATCH_UP * 2:  # limit the number of instants after a long pause
                mark = now - CATCH_UP * 2
            missed = list(cron.between(mark, now))
            self._marks[name] = now
            if missed:
                await self.fire(name, missed[-1])
            soonest = min(soonest, (cron.after(self._clock()) - self._clock()).total_seconds())
        self._touch()
        return max(0.05, soonest)

    async def _forget_future(self, now: datetime) -> None:
        """Remove the decisions for instants that are yet to come, so that these come due again."""
        forgotten = await self._db.write(
            "DELETE FROM schedule_decisions WHERE due_at > ?", (encode_time(now + CLOCK_STEP),)
        )
        if forgotten:
            log.warning("schedule.decisions_of_the_future_removed", count=forgotten)

    async def fire(self, name: ScheduleName, due: datetime) -> ScheduleDecision:
        """Decide one due instant now, and store the decision. A second call returns the first decision."""
        try:
            await self._db.write(
                "INSERT INTO schedule_decisions (schedule, due_at, decided_at, action, reason) VALUES (?, ?, ?, 'failed', ?)",
                (name, encode_time(due), encode_time(self._clock()), CUT_OFF),
            )
        except sqlite3.IntegrityError:
            return await self._decision(name, due)
        action, reason, run_id = await self._outcome(name, due)
        await self._db.write(
            "UPDATE schedule_decisions SET decided_at = ?, action = ?, reason = ?, run_id = ? WHERE schedule = ? AND due_at = ?",
            (encode_time(self._clock()), action, reason, run_id, name, encode_time(due)),
        )
        log.info("schedule.decided", schedule=name, due=encode_time(due), action=action, reason=reason)
        return await self._decision(name, due)

    async def _outcome(self, name: ScheduleName, due: datetime) -> ScheduleOutcome:
        if self._clock() - due > CATCH_UP:
            return ScheduleOutcome("skipped", "TMDE was not running then, and that is more than a day ago.")
        try:
            return await self._deciders[name](due)
        except TmdeError as error:
            return ScheduleOutcome("failed", error.detail)
        except Exception as error:
            log.exception("schedule.decision_failed", schedule=name)
            return ScheduleOutcome("failed", f"An unexpected {type(error).__name__}; the log has the details.")

    # ------------------------------------------------------------------------------------- reading

    async def status(self, name: ScheduleName) -> ScheduleStatus:
        """Return the state of a schedule, with its next runs and its last decisions.

        A change that another program made to the settings file counts at once.
        """
        self._settings.reread()
        cron = self._crons.get(name)
        decisions = await self.decisions(name, SHOWN_DECISIONS)
        problem = self._problems.get(name, "")
        zone = cron.timezone if cron else known_timezone(self._settings.current.schedule.timezone)
        upcoming: list[datetime] = []
        moment = self._clock()
        while cron is not None and len(upcoming) < SHOWN_RUNS:
            moment = cron.after(moment)
            upcoming.append(moment)
        return ScheduleStatus(
            schedule=name,
            enabled=cron is not None,
            expression=_expression(self._settings.current.schedule, name),
            timezone=zone,
            description=cron.describe() if cron else "off, because its setting cannot be used" if problem else "off",
            next_runs=tuple(upcoming),
            last_decision=decisions[0] if decisions else None,
            decisions=tuple(decisions),
            problem=problem,
        )

    async def decisions(self, name: ScheduleName, limit: int) -> list[ScheduleDecision]:
        """Return the decisions for a schedule, newest first."""
        rows = await self._db.rows(
            "SELECT schedule, due_at, decided_at, action, reason, run_id FROM schedule_decisions WHERE schedule = ? "
            "ORDER BY due_at DESC LIMIT ?",
            (name, limit),
        )
        return [_decision(row) for row in rows]

    async def _decision(self, name: ScheduleName, due: datetime) -> ScheduleDecision:
        row = await self._db.row(
            "SELECT schedule, due_at, decided_at, action, reason, run_id FROM schedule_decisions "
            "WHERE schedule = ? AND due_at = ?",
            (name, encode_time(due)),
        )
        if row is None:
            raise NotFoundError(f"Nothing was decided for {encode_time(due)}.")
        return _decision(row)

    # ------------------------------------------------------------------------------------ changing

    async def set(
        self, name: ScheduleName, expression: str | None = None, timezone: str | None = None
    ) -> ScheduleStatus:
        """Change a schedule, in memory and in the settings file.

        Args:
            name: the schedule.
            expression: a cron expression, or `off` to switch the schedule off; None keeps the current one.
            timezone: IANA name of the time zone of all schedules; None keeps the current one.

        Raises:
            InvalidInputError: the expression is not a cron expression or is never due, or the time zone is unknown.
            ConflictError: an environment variable sets the schedule.
            InsufficientStorageError: the file cannot be written. Nothing has changed.
        """
        changes: dict[str, str] = {}
        if expression is not None:
            changes[name] = expression.strip()
        if timezone is not None:
            changes["timezone"] = timezone.strip()
        await self._settings.change({"schedule": changes})
        return await self.status(name)

    def _follow(self, before: Settings, now: Settings) -> None:
        """Use the changed schedules from now on; `check_schedules` has checked them."""
        if now.schedule != before.schedule:
            self._crons, self._problems = read_schedules(now.schedule)
            self._marks = dict.fromkeys(NAMES, self._clock())  # instants before the change were not missed
            self._changed.set()

    def _touch(self) -> None:
        with contextlib.suppress(OSError):
            (self._data / ALIVE_FILE).touch()
            now = self._clock().timestamp()
            os.utime(self._data / ALIVE_FILE, (now, now))

    def _last_alive(self) -> datetime | None:
        try:
            return datetime.fromtimestamp((self._data / ALIVE_FILE).stat().st_mtime, UTC)
        except OSError:
            return None


def read_schedules(settings: ScheduleSettings) -> tuple[dict[ScheduleName, Cron], dict[ScheduleName, str]]:
    """Return the schedules that are switched on, and why others cannot be used."""
    found: dict[ScheduleName, Cron] = {}
    problems: dict[ScheduleName, str] = {}
    for name in NAMES:
        try:
            cron = _cron(settings, name)
        except InvalidInputError as error:
            problems[name] = error.detail
        else:
            if cron is not None:
                found[name] = cron
    return found, problems


def check_schedules(wanted: Settings, stored: Settings) -> None:
    """Check the schedules that differ from the stored ones; see `LiveSettings`.

    Raises:
        InvalidInputError: a schedule is invalid or never due; the message names the setting.
    """
    for name in NAMES:
        before, now = stored.schedule, wanted.schedule
        if (now.timezone, _expression(now, name)) != (before.timezone, _expression(before, name)):
            _cron(now, name)


def _cron(settings: ScheduleSettings, name: ScheduleName) -> Cron | None:
    """Return a schedule; None if it is switched off.

    Raises:
        InvalidInputError: the schedule is invalid or never due; the message names the setting.
    """
    expression = _expression(settings, name)
    try:
        if expression != OFF:
            return Cron(expression, settings.timezone)
        if settings.timezone:
            Cron("0 0 * * *", settings.timezone)  # report an unknown time zone even if all schedules are off
    except InvalidInputError as error:
        field = "timezone" if error.context.get("field") == "timezone" else name
        raise InvalidInputError(f"schedule.{field}: {error.detail}", field=f"schedule.{field}") from None
    return None


def _expression(settings: ScheduleSettings, name: ScheduleName) -> str:
    expression: str = getattr(settings, name).strip()
    return OFF if expression.lower() in ("", OFF) else expression


def _decision(row: sqlite3.Row) -> ScheduleDecision:
    return ScheduleDecision(
        schedule=row["schedule"],
        due_at=datetime.fromisoformat(row["due_at"]),
        decided_at=datetime.fromisoformat(row["decided_at"]),
        action=row["action"],
        reason=row["reason"],
        run_id=row["run_id"],
    )
