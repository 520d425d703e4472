"""Asks the base model and adapters the same question at the same time, and streams their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.debate.context import Conversation
from tmde_core.debate.question import check_question
from tmde_core.debate.seats import RoleSession, TokenCounter
from tmde_core.errors import AdapterInvalidError, ConflictError, InvalidInputError, NotFoundError, TmdeError
from tmde_core.lora.service import LoraService
from tmde_core.models.service import find_served_model
from tmde_core.prompts import proposer_opening
from tmde_core.records.chat import AdapterRef
from tmde_core.runtimes import describe_lack_of_adapters, serves_adapters
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.sdk.thoughts import Change
from tmde_core.settings import RoleSettings
from tmde_core.storage.events import EndedLogs, MemoryLog
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

MOST = 4
"""Maximum number of versions per question: the base model, A, B and one more."""
MAX_TOKENS = 4096
KEPT = 20
"""Number of finished questions whose events can still be read."""
UNDERWAY = 4
"""Maximum number of questions at the same time. Each question uses several slots of the runtime."""


@dataclass
class _Asked:
    log: MemoryLog = field(default_factory=MemoryLog)
    task: asyncio.Task[None] | None = None


class SideBySide:
    """Asks several versions the same question at the same time, and streams their answers."""

    def __init__(self, workspace: Workspace, lora: LoraService) -> None:
        self._workspace = workspace
        self._lora = lora
        self._live: dict[UUID, _Asked] = {}
        self._ended = EndedLogs(KEPT)

    async def ask(
        self,
        question: str,
        versions: Sequence[UUID | None],
        *,
        max_tokens: int = 384,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> UUID:
        """Start to ask a question, and return its id. Read the answers with `events`.

        Args:
            question: the question.
            versions: 1 to 4 different adapters; None is the base model.
            max_tokens: maximum length of each answer in tokens, 1–4096.
            temperature: 0–2. At 0 the answers differ only because the weights differ.
            seed: the seed for all versions, 0–2³¹-1.

        Raises:
            InvalidInputError: the question is empty or too long, `versions` does not hold 1 to 4 different versions, or
                a number is out of range.
            NotFoundError: no such adapter.
            AdapterInvalidError: an adapter is damaged, or the Proposer's runtime cannot serve adapters.
            ConflictError: an adapter's base model is not the Proposer's, or too many questions are in progress.
        """
        query = check_question(question, "question")
        if not 1 <= len(versions) <= MOST or len(set(versions)) != len(versions):
            raise InvalidInputError(f"adapterIds: name 1 to {MOST} different versions.", field="adapterIds")
        _in_range("maxTokens", max_tokens, 1, MAX_TOKENS)
        _in_range("temperature", temperature, 0, 2)
        _in_range("seed", seed, 0, 2**31 - 1)
        if len(self._under_way()) >= UNDERWAY:
            raise ConflictError(f"{UNDERWAY} questions are being answered already. Wait for one of them.")
        role = msgspec.structs.replace(
            self._workspace.settings.roles.proposer, max_tokens=max_tokens, temperature=float(temperature)
        )
        references = await self._references(versions, role)
        with ExitStack() as held:
            for reference in references:
                held.enter_context(await self._lora.acquire_lease(reference))
            leases = held.pop_all()
        identity, asked = uuid4(), _Asked()
        self._live[identity] = asked
        asked.log.append("start", {"question": query, "versions": [_name(one) for one in versions]})
        asked.task = asyncio.create_task(
            self._answered(asked.log, query, references, role, seed), name=f"ask {identity}"
        )
        asked.task.add_done_callback(lambda _: self._retire(identity))
        asked.task.add_done_callback(lambda _: leases.close())
        return identity

    def _retire(self, identity: UUID) -> None:
        self._ended.keep(identity, self._live.pop(identity).log)

    async def _references(self, versions: Sequence[UUID | None], role: RoleSettings) -> list[AdapterRef | None]:
        """Check that the runtime can serve each version, and return the references (None: the base model)."""
        references: list[AdapterRef | None] = []
        for version in versions:
            if version is None:
                references.append(None)
                continue
            manifest = await self._lora.manifest(version)
            runtime = await self._workspace.runtimes.get(role.runtime)
            if not await serves_adapters(runtime):
                raise AdapterInvalidError(describe_lack_of_adapters(role.runtime, runtime))
            served = find_served_model(await runtime.models(), role.model, role.runtime)
            directory = Path(self._lora.reference(version).directory)
            await self._workspace.models.require_same_base(directory, manifest, served)
            await self._lora.ensure_gguf(manifest, served.path)
            references.append(self._lora.reference(version))
        return references

    def events(self, ask_id: UUID) -> MemoryLog:
        """Return the events of a question.

        The events are `start {question, versions}`, `thought {version, text}`, `token {version, text}`,
        `revised {version, text, thought}` (both texts so far, which replace the ones before), `answer {version, text, ms,
        tokens, thought, finishReason}` and finally `complete`. If a version cannot answer, it has the event `failed {version, code, detail}`, and the other
        versions continue. If no version can answer, the last event is `error {code, detail}`. If the server stops, the
        last event is `cancelled`. `version` is an adapter's id, or null for the base model.

        Raises:
            NotFoundError: no question has this id, or its events are no longer kept.
        """
        live = self._live.get(ask_id)
        events = live.log if live is not None else self._ended.get(ask_id)
        if events is None:
            raise NotFoundError(f"There is no question with the id {ask_id}; the last {KEPT} are kept.")
        return events

    def _under_way(self) -> list[_Asked]:
        return [one for one in self._live.values() if one.task is not None and not one.task.done()]

    async def stop(self) -> None:
        """Cancel all questions that are in progress."""
        under_way = self._under_way()
        tasks = [one.task for one in under_way if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in under_way:
            if not one.log.closed:  # a task that is cancelled before its first step writes no event
                one.log.append("cancelled", {})

    async def _answered(
        self, events: MemoryLog, query: str, references: Sequence[AdapterRef | None], role: RoleSettings, seed: int
    ) -> None:
        """Ask all versions at the same time, and write the results to the event log.

        Errors become events. The method raises only `CancelledError`.
        """
        try:
            runtime = await self._workspace.runtimes.get(role.runtime)
            for reference in references:
                if reference is not None:  # one after the other: each adapter may need its own model server
                    await runtime.load_adapter(reference, role.model)
            failed = [
                problem
                for problem in await asyncio.gather(
                    *(self._one(events, query, reference, runtime, role, seed) for reference in references)
                )
                if problem is not None
            ]
        except asyncio.CancelledError:
            events.append("cancelled", {})
            raise
        except TmdeError as error:
            events.append("error", {"code": error.code, "detail": error.detail})
        else:
            if len(failed) == len(references):
                events.append("error", {"code": failed[0].code, "detail": failed[0].detail})
            else:
                events.append("complete", {})

    async def _one(
        self,
        events: MemoryLog,
        query: str,
        reference: AdapterRef | None,
        runtime: ModelRuntime,
        role: RoleSettings,
        seed: int,
    ) -> TmdeError | None:
        version = reference.id if reference else None
        tally = TokenCounter()
        seat = RoleSession("proposer", role, runtime, tally, seed=seed, adapter=reference)

        def say(change: Change) -> None:
            if change.whole:
                events.append("revised", {"version": version, "text": change.text, "thought": change.thought})
                return
            if change.thought:
                events.append("thought", {"version": version, "text": change.thought})
            if change.text:
                events.append("token", {"version": version, "text": change.text})

        began = time.perf_counter()
        try:
            spoken = await seat.speak(Conversation(proposer_opening(query, "")), 1, say)
        except TmdeError as error:
            events.append("failed", {"version": version, "code": error.code, "detail": error.detail})
            return error
        except Exception as error:
            log.exception("ask.failed", version=version)
            problem = TmdeError(f"An unexpected {type(error).__name__}; the log has it.")
            events.append("failed", {"version": version, "code": problem.code, "detail": problem.detail})
            return problem
        took = round((time.perf_counter() - began) * 1000, 3)
        events.append(
            "answer",
            {
                "version": version,
                "text": spoken.text,
                "ms": took,
                "tokens": tally.completion,
                "thought": spoken.thought,
                "finishReason": spoken.finish_reason,
            },
        )
        return None


def _name(version: UUID | None) -> str | None:
    return str(version) if version else None


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInputError(f"{name}: {value} is out of range; it must be from {low} to {high:,}.", field=name)
