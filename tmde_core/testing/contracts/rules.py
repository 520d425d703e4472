"""Share the tools of all contracts: broken rules as sentences, and an event loop with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

import pytest

from tmde_core.errors import TmdeError

T = TypeVar("T")

PATIENCE_SECONDS = 120.0
"""The time limit for a plugin's coroutine, in seconds. A model on a slow machine needs seconds."""

_OURS = str(Path(__file__).parents[1])


def broken(sentence: str, error: BaseException | None = None) -> NoReturn:
    """Fail the test because a rule is broken. If an error is given, pytest also shows its traceback."""
    raise pytest.fail.Exception(sentence, pytrace=error is not None) from error


def require(condition: object, sentence: str) -> None:
    """Fail the test with the sentence if the condition is false."""
    if not condition:
        broken(sentence)


def not_run(why: str) -> NoReturn:
    """Skip the test and give the reason."""
    pytest.skip(why)


@contextlib.contextmanager
def calling(what: str, advice: str) -> Iterator[None]:
    """Report any error that a plugin's function raises as a broken rule.

    Args:
        what: the function, as the beginning of a sentence: "score()".
        advice: why the function must not raise, or what to do, in whole sentences.
    """
    try:
        yield
    except (pytest.fail.Exception, pytest.skip.Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin may even call sys.exit()
        broken(f"{what} raised {described(error)}. {advice}", error)


def described(error: BaseException) -> str:
    """Describe an error in one line, with the line of the plugin that raised it."""
    text = " ".join(error.detail.split() if isinstance(error, TmdeError) else str(error).split())
    said = f"{type(error).__name__}: {text[:300].rstrip('.')}" if text else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else said


def _is_foreign(file: str) -> bool:
    """Return whether a file belongs neither to the contracts nor to asyncio."""
    return not file.startswith(_OURS) and "/asyncio/" not in file and not file.startswith("<")


def provide(request: pytest.FixtureRequest, method: Callable[..., T]) -> T:
    """Call a method of a contract that makes the thing under test, with the fixtures that its arguments name."""
    return method(**{name: request.getfixturevalue(name) for name in inspect.signature(method).parameters})


class LoopThread:
    """An event loop in a separate thread. The loop keeps running while the test waits, as in TMDE's server."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tmde-contract", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(pytest.fail.Exception):
            self.run(self._wind_up(), "", seconds=10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        if not self._thread.is_alive():  # otherwise a coroutine blocks the thread, which ends with the process
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], what: str, seconds: float | None = None) -> T:
        """Run a coroutine to its end and return its result, or raise its error.

        Args:
            work: the coroutine.
            what: the plugin's function, for the sentence if the coroutine does not end.
            seconds: the time limit. None stands for `PATIENCE_SECONDS`.
        """
        seconds = seconds or PATIENCE_SECONDS
        future = asyncio.run_coroutine_threadsafe(_caught(work), self._loop)
        try:
            result, error = future.result(seconds)
        except TimeoutError:
            future.cancel()
            broken(
                f"{what} has not ended after {seconds:.0f} seconds. Whoever waits for it in TMDE would wait for ever. "
                "Give what it waits for a time limit, and never block the event loop."
            )
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    async def _wind_up(self) -> None:
        """Cancel the remaining tasks, so that they cause no warnings later."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


def run(work: Coroutine[Any, Any, T], what: str, seconds: float | None = None) -> T:
    """Run one coroutine in a new event loop. See `LoopThread.run`."""
    with LoopThread() as loop:
        return loop.run(work, what, seconds)


async def _caught(work: Coroutine[Any, Any, T]) -> tuple[T | None, BaseException | None]:
    """Return a raised error as a value, because SystemExit would end the loop without a report."""
    try:
        return await work, None
    except BaseException as error:
        return None, error


class Caught:
    """Catches and stores the error that a block raises."""

    error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> bool:
        self.error = error
        return isinstance(error, Exception)
