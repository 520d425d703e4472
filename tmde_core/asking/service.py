"""The same question, answered side by side by the base model and by adapters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.debate.context import Conversation
from tmde_core.debate.question import checked_question
from tmde_core.debate.seats import Seat, Tally
from tmde_core.errors import AdapterInvalidError, ConflictError, InvalidInputError, NotFoundError, TmdeError
from tmde_core.lora.files.base_match import require_same_base, served_model
from tmde_core.lora.service import LoraService
from tmde_core.prompts import proposer_opening
from tmde_core.records.chat import AdapterRef
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.settings import RoleSettings
from tmde_core.storage.events import EndedLogs, MemoryLog
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

MOST = 4
"""Versions that may answer at once: base, A, B and one more."""
MAX_TOKENS = 4096
KEPT = 20
"""Ended questions whose events can still be read."""
UNDERWAY = 4
"""Questions at once; each takes several slots of the runtime."""


@dataclass
class _Asked:
    log: MemoryLog = field(default_factory=MemoryLog)
    task: asyncio.Task[None] | None = None


class SideBySide:
    """Asks several versions the same question at once, and streams what each says."""

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
        """Begin; the events of the id returned tell what each version says. None is the base model.

        Args:
            max_tokens: of each answer, 1–4096.
            temperature: 0–2; at 0 the versions differ by their weights alone.
            seed: the same for all, 0–2³¹-1.

        Raises:
            InvalidInputError: no question, over-long, not 1 to 4 different versions, or a figure out of its range.
            NotFoundError: no such adapter.
            AdapterInvalidError: an adapter is damaged, or the Proposer's runtime serves none.
            ConflictError: an adapter's base model is not the Proposer's, or too many questions are under way.
        """
        query = checked_question(question, "question")
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
                held.enter_context(await self._lora.lease(reference))
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
        """How the runtime is told of each version, once it is known that it can answer."""
        references: list[AdapterRef | None] = []
        for version in versions:
            if version is None:
                references.append(None)
                continue
            manifest = await self._lora.manifest(version)
            runtime = await self._workspace.runtimes.get(role.runtime)
            if not runtime.capabilities.adapters:
                raise AdapterInvalidError(
                    f"The Proposer's runtime {role.runtime!r} cannot serve adapters. Choose one that can, such as 'embedded'."
                )
            await require_same_base(manifest, served_model(await runtime.models(), role.model, role.runtime))
            await self._lora.completed(manifest)
            references.append(self._lora.reference(version))
        return references

    def events(self, ask_id: UUID) -> MemoryLog:
        """`start {question, versions}`, `token {version, text}`, `answer {version, text, ms, tokens}`, then `complete`.

        A version that cannot answer has `failed {version, code, detail}` while the others go on; when none could, `error`
        is the last. `version` is an adapter's id or null.

        Raises:
            NotFoundError: no such question, or it was asked too long ago.
        """
        live = self._live.get(ask_id)
        events = live.log if live is not None else self._ended.get(ask_id)
        if events is None:
            raise NotFoundError(f"There is no question with the id {ask_id}; the last {KEPT} are kept.")
        return events

    def _under_way(self) -> list[_Asked]:
        return [one for one in self._live.values() if one.task is not None and not one.task.done()]

    async def stop(self) -> None:
        """End what is under way."""
        under_way = self._under_way()
        tasks = [one.task for one in under_way if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in under_way:
            if not one.log.closed:  # a task that is cancelled before its first step says nothing
                one.log.append("cancelled", {})

    async def _answered(
        self, events: MemoryLog, query: str, references: Sequence[AdapterRef | None], role: RoleSettings, seed: int
    ) -> None:
        """All versions at once. It never raises: how each ended is in the log."""
        try:
            runtime = await self._workspace.runtimes.get(role.runtime)
            for reference in references:
                if reference is not None:  # one after the other: each may need a model server of its own
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
        tally = Tally()
        seat = Seat("proposer", role, runtime, tally, seed=seed, adapter=reference)

        def say(text: str) -> None:
            events.append("token", {"version": version, "text": text})

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
        events.append("answer", {"version": version, "text": spoken.text, "ms": took, "tokens": tally.completion})
        return None


def _name(version: UUID | None) -> str | None:
    return str(version) if version else None


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInputError(f"{name}: {value} is out of range; it must be from {low} to {high:,}.", field=name)
