"""Run the tests and pause their processes at random, to find tests that pass only on a quiet machine.

    ./run shake [--seed N] [--minutes M] [--longest S] [ARG …]

Every other ARG is passed to pytest. One process after the other is stopped (SIGSTOP) for a moment and continued
(SIGCONT): pytest's workers, servers, trainers, browsers. If a test fails only under these pauses, the test or the
product depends on timing. Failed tests are not run again. At the end, each failed test is listed with the processes
that were paused while it ran.

The same seed makes the same random choices. The processes to choose from depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil

from tools.failures import Failure, read

MARK = "SHAKEN_BY"
"""The environment variable that identifies a process of the suite that has left the suite's process tree."""

BETWEEN_SECONDS = (0.05, 0.5)
"""The range of the time between two pauses."""

GRACE_SECONDS = 30.0
"""How long an interrupted suite may clean up."""

LOOK_SECONDS = 0.02
"""The polling interval of a wait."""

NOT_TO_PAUSE = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
"""States of processes that must not be paused. A process that a test has stopped must not be continued by this program.
"""


class Pause(NamedTuple):
    """One process that was stopped, and when, in seconds since the epoch."""

    begun: float
    ended: float
    pid: int
    what: str


class Suite:
    """The tests in a separate session. Only this program passes an interrupt at the terminal to them."""

    def __init__(self, arguments: Sequence[str], failures: Path) -> None:
        self._mark = uuid.uuid4().hex
        self._leader = subprocess.Popen(
            [sys.executable, "-m", "tools.failures", failures, *arguments],
            env={**os.environ, MARK: self._mark},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def exit_code(self) -> int | None:
        """Return the exit code in a shell's notation, or None while the tests run."""
        code = self._leader.poll()
        return code if code is None or code >= 0 else 128 - code

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the suite, oldest first, wherever they are in the process tree."""
        found = set()
        with suppress(psutil.Error):  # the process has just ended
            leader = psutil.Process(self._leader.pid)
            found |= {leader, *leader.children(recursive=True)}
        found |= {process for process in psutil.process_iter() if _environment(process).get(MARK) == self._mark}
        return sorted(found - {psutil.Process()}, key=lambda process: (process.create_time(), process.pid))

    def describe(self, process: psutil.Process) -> str:
        """Return what the process is, and the test that started it."""
        if process.pid == self._leader.pid:
            return "pytest itself"
        try:
            words = " ".join(process.cmdline()) or process.name()
            worker = process.ppid() == self._leader.pid and "sys.stdin.readline" in words
        except psutil.Error:
            return "a process that has just ended"
        if worker:
            return "a worker of pytest"
        test = _environment(process).get("PYTEST_CURRENT_TEST", "")
        return " ".join(words.split())[:120] + (f" (started in {test})" if test else "")

    def end(self) -> bool:
        """End the tests as Ctrl-C does, kill what they leave behind, and return whether the tests ended in time."""
        in_time = True
        if self._leader.poll() is None:
            os.killpg(self._leader.pid, signal.SIGINT)
            try:
                self._leader.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                in_time = False
        for process in self.processes():
            with suppress(psutil.Error):  # the process has just ended
                process.kill()
        self._leader.wait()
        return in_time


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # the process has just ended, or belongs to another user
        return {}


class Shaker:
    """Pauses the suite's processes. A signal is only recorded, so that each stopped process is always continued."""

    def __init__(self, chance: random.Random, longest: float, until: float) -> None:
        self.pauses: list[Pause] = []
        self.signal = 0
        """The signal that ends the run, or 0."""
        self._chance = chance
        self._longest = longest
        self._until = until

    def watch_signals(self) -> None:
        """Record signals from now on. A recorded signal ends the run in an orderly way, even during a pause."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._noted)
        # Ctrl-Z would also stop this program, which must continue the paused process. A child process inherits SIG_IGN
        # but not a handler.
        signal.signal(signal.SIGTSTP, lambda *_: None)

    def _noted(self, number: int, _: object) -> None:
        self.signal = self.signal or number

    def over(self) -> bool:
        """Return whether a signal was received or the time is up."""
        return bool(self.signal) or time.monotonic() >= self._until

    def shake(self, suite: Suite) -> None:
        """Pause one process after the other until the suite has ended or `over` is true."""
        while not self._done(suite):
            self._wait(suite, self._chance.uniform(*BETWEEN_SECONDS))
            candidates = suite.processes()
            if candidates and not self._done(suite):
                self.pause(suite, self._chance.choice(candidates), self._chance.uniform(0, self._longest))

    def pause(self, suite: Suite, process: psutil.Process, seconds: float) -> None:
        """Stop one process for the given time, or until the suite has ended or `over` is true."""
        what = suite.describe(process)
        try:
            if process.status() in NOT_TO_PAUSE:
                return
            process.suspend()
        except psutil.Error:  # the process has just ended, or belongs to another user
            return
        begun = time.time()
        try:
            self._wait(suite, seconds)
        finally:
            with suppress(psutil.Error):  # the process was killed in the meantime
                process.resume()
            self.pauses.append(Pause(begun, time.time(), process.pid, what))

    def _done(self, suite: Suite) -> bool:
        return self.over() or suite.exit_code() is not None

    def _wait(self, suite: Suite, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._done(suite) and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))


def main(arguments: Sequence[str]) -> int:
    """Run and shake the tests. Return pytest's exit code, or not 0 if a test failed before the time was up."""
    options, rest = parser().parse_known_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    shaker = Shaker(random.Random(seed), options.longest, time.monotonic() + 60 * options.minutes)
    print(
        f"Pausing processes for up to {options.longest:g} s, for {options.minutes:g} minutes, --seed {seed}.",
        flush=True,
    )
    shaker.watch_signals()
    with TemporaryDirectory() as directory:
        file = Path(directory) / "failures"
        suite = Suite(rest, file)
        try:
            shaker.shake(suite)
            code = suite.exit_code()
            failures = read(file)  # read before the end, because interrupted tests may fail
        finally:
            in_time = suite.exit_code() is not None or suite.end()
    report(failures, shaker.pauses, seed)
    if code is None:
        how = signal.Signals(shaker.signal).name if shaker.signal else f"--minutes {options.minutes:g}"
        print(f"Ended by {how}.", flush=True)
    if not in_time:
        print(
            f"The tests had to be killed: {GRACE_SECONDS:g} s after an interrupt they were still running.", flush=True
        )
    return verdict(code, shaker.signal, bool(failures) or not in_time)


def verdict(code: int | None, number: int, faulty: bool) -> int:
    """Return this program's exit code: that of the tests, or one for a signal or the end of the time."""
    if code is not None:
        return code
    return 128 + number if number else int(faulty)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options. Abbreviations are off, because other arguments are pytest's."""
    made = argparse.ArgumentParser(
        prog="./run shake",
        usage="%(prog)s [--seed N] [--minutes M] [--longest S] [ARG …]",
        description="Run the tests while their processes are paused at random. Every other ARG goes to pytest.",
        allow_abbrev=False,
    )
    made.add_argument("--seed", type=int, metavar="N", help="make the same choices again (default: a new seed)")
    made.add_argument("--minutes", type=_positive, default=30, metavar="M", help="end the tests then (default: 30)")
    made.add_argument(
        "--longest", type=_positive, default=1.5, metavar="S", help="longest pause in seconds (default: 1.5)"
    )
    return made


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def report(failures: Sequence[Failure], pauses: Sequence[Pause], seed: int) -> None:
    """Print which processes were paused while each failed test ran."""
    total = sum(pause.ended - pause.begun for pause in pauses)
    print(f"\n{len(pauses)} pauses, {total:.1f} s in all, --seed {seed}. Failed tests: {len(failures)}.", flush=True)
    for failure in failures:
        print(f"\n{failure.node_id}\n    {failure.short}")
        meanwhile = [pause for pause in pauses if pause.begun <= failure.failed and pause.ended >= failure.begun]
        for pause in meanwhile:
            print(
                f"    paused {pause.begun - failure.begun:+.2f} s from its beginning, for {pause.ended - pause.begun:.2f} s: "
                f"process {pause.pid}, {pause.what}"
            )
        if not meanwhile:
            print("    nothing was paused while it ran")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
