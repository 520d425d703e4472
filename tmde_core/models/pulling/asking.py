"""Asks a hub about a repository, in a process of its own.

`python -m tmde_core.models.pulling.asking` reads a question from its standard input and writes the answer, or an
error, to its standard output. The library of the hub takes 0.2 s to import and reads its environment only once, so the
server does not import it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping

import msgspec

from tmde_core.errors import HubUnreachableError, TmdeError
from tmde_core.models.pulling import hub
from tmde_core.models.pulling.limits import PullLimits
from tmde_core.models.pulling.listing import HubListing
from tmde_core.models.pulling.wire import WireError, pack, unpack
from tmde_core.records.base import Record, to_json


class Question(Record):
    """What is asked."""

    repository: str
    revision: str
    limits: PullLimits


class Answer(Record):
    """What is answered: a listing or an error."""

    listing: HubListing | None = None
    error: WireError | None = None


async def ask_hub(repository: str, revision: str, limits: PullLimits, environ: Mapping[str, str]) -> HubListing:
    """Return what the hub tells about a repository. Cancelling the call ends the process.

    Raises:
        TmdeError: see `hub.ask`.
    """
    process = await asyncio.create_subprocess_exec(
        *command("asking"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(environ),
    )
    try:
        question = to_json(Question(repository=repository, revision=revision, limits=limits))
        out, errors = await process.communicate(question)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    try:
        answer = msgspec.json.decode(out, type=Answer)
    except msgspec.MsgspecError:
        words = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise HubUnreachableError(
            f"The process that asks the hub ended without an answer{f': {words[0][:300]}' if words else '.'}"
        ) from None
    if answer.listing is None:
        raise unpack(answer.error or WireError(kind="HubUnreachableError", detail="The hub gave no answer."))
    return answer.listing


def command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command line of a process of this package."""
    return sys.executable, "-m", f"tmde_core.models.pulling.{module}", *arguments


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that uses the library of the hub."""
    return {**os.environ, **environ, **hub.ENVIRONMENT, "PYTHONUNBUFFERED": "1"}


def main() -> None:
    """Answer the question on the standard input."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    # Nothing that a library prints may end up in the answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        answer = Answer(listing=hub.ask(question.repository, question.revision, question.limits))
    except TmdeError as error:
        answer = Answer(error=pack(error))
    answers.buffer.write(to_json(answer))
    answers.flush()


if __name__ == "__main__":
    main()
