"""Starts, watches, cancels and awaits debates; the API, the CLI and the pages call this service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4, uuid5

import msgspec
import structlog

from tmde_core.debate.configuration import override
from tmde_core.debate.context import shorten
from tmde_core.debate.engine import Engine
from tmde_core.debate.question import check_question
from tmde_core.debate.seats import merge_roles
from tmde_core.debate.signs import end_sign_of_life, forget_sign_of_life, hold_sign_of_life
from tmde_core.debate.store import INTERRUPTED, DebateStore
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError, TmdeError
from tmde_core.lora.files.lease import Lease
from tmde_core.lora.service import LoraService
from tmde_core.observers import Publish
from tmde_core.records.base import utc_now
from tmde_core.records.debate import Debate, DebateConfig, DebateStatus, Exchange
from tmde_core.records.traces import Trace
from tmde_core.sdk.events import DebateEnded
from tmde_core.storage.events import EndedLogs, MemoryLog
from tmde_core.traces.service import TraceService
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

LOGS_KEPT = 50
"""The number of ended debates whose event logs stay in memory, for pages that are opened a little later."""

MOST_EARLIER = 4
"""The number of earlier questions that the models see with a question that follows them up."""

LONGEST_EARLIER = 2_000
"""The most characters of an earlier question or answer. The rest is cut off, so that the new question fits."""

AS_SET = DebateConfig()
"""A configuration that overrides none of the settings."""

CANCELLED = "The debate was cancelled."


@dataclass
class _Live:
    """A debate of this process that has not ended."""

    debate: Debate
    engine: Engine
    task: asyncio.Task[None] | None = None
    storing: asyncio.Task[None] | None = None
    """The task that stores the trace. Once this task exists, the debate can no longer be cancelled."""

    def cancel(self) -> None:
        """Cancel the task once; a second cancellation would interrupt the storing of the first."""
        if self.task is not None and not self.task.cancelling():
            self.task.cancel()


class DebateService:
    """Runs any number of debates at once."""

    def __init__(
        self,
        store: DebateStore,
        workspace: Workspace,
        traces: TraceService,
        lora: LoraService,
        publish: Publish,
    ) -> None:
        self._store = store
        self._workspace = workspace
        self._traces = traces
        self._lora = lora
        self._publish = publish
        self._live: dict[UUID, _Live] = {}
        self._ended = EndedLogs(LOGS_KEPT)

    async def start(self, query: str, config: DebateConfig = AS_SET, *, source: str = "api") -> Debate:
        """Start a debate and return at once.

        Raises:
            InvalidInputError: The question is empty, too long or binary; the settings contradict each other; or no
                judge has this name.
            PluginUnavailableError: No plugin provides a role's runtime.
            NotFoundError: The trace that the question follows up does not exist.
        """
        query = check_question(query)
        self._check(config)
        earlier = await self._earlier(config.follows)
        debate_id = uuid4()
        adapter, lease = await self._lora.acquire_active()
        if adapter is not None and self._is_other_model(config):
            lease.release()  # the adapter belongs to the Proposer's model of the settings
            adapter, lease = None, Lease()
        engine = Engine(
            debate_id=debate_id,
            trace_id=derive_trace_id(debate_id),
            query=query,
            config=config,
            source=source,
            workspace=self._workspace,
            adapter=adapter,
            adapter_flaw=lease.flaw,
            log=MemoryLog(),
            background=source == "benchmark",
            earlier=earlier,
        )
        debate = Debate(
            id=debate_id,
            query=query,
            status="running",
            created_at=utc_now(),
            config=config,
            adapter_id=adapter.id if adapter else None,
            source=source,
        )
        live = self._live[debate_id] = _Live(debate, engine)
        sign = None
        try:
            sign = hold_sign_of_life(self._workspace.settings.data_path, debate_id)
            await self._store.add(debate, os.getpid())
        except BaseException:
            del self._live[debate_id]
            lease.release()
            if sign is not None:
                end_sign_of_life(sign)
            raise
        live.task = asyncio.create_task(self._run(live), name=f"debate {debate_id}")
        live.task.add_done_callback(lambda _: lease.release())
        live.task.add_done_callback(lambda _: end_sign_of_life(sign))
        # Let the task take its first step, so that a cancellation reaches it inside its `try`.
        await asyncio.sleep(0)
        return debate

    async def get(self, debate_id: UUID) -> Debate:
        """Return a debate's state: from memory while it runs, afterwards from the database and its trace.

        Raises:
            NotFoundError: No debate has this id.
        """
        if debate_id in self._live:
            return _state(self._live[debate_id])
        debate = await self._store.get(debate_id)
        trace = await self._trace_of(debate)
        if trace is None:
            return debate
        return msgspec.structs.replace(
            debate,
            rounds=trace.rounds,
            templates_used=trace.templates_used,
            final_answer=trace.final_answer,
            finish_reason=trace.finish_reason,
        )

    async def events(self, debate_id: UUID) -> MemoryLog:
        """Return the debate's event log.

        The log has all events while the debate runs and for some time afterwards. Later it has only the last event.

        Raises:
            NotFoundError: No debate has this id.
            ConflictError: The debate runs in another process, whose events are not visible to this process.
        """
        if debate_id in self._live:
            return self._live[debate_id].engine.log
        if (ended := self._ended.get(debate_id)) is not None:
            return ended
        debate = await self._store.get(debate_id)
        if debate.status == "running":
            raise ConflictError(
                "This debate runs in another TMDE process, so it cannot be watched from here; its result will appear when it ends."
            )
        events = MemoryLog(shortened=True)
        trace = await self._trace_of(debate)
        if trace is not None:
            events.append("complete", complete_data(trace))
        elif debate.status == "cancelled":
            events.append("cancelled")
        else:
            code = debate.status if debate.status != "completed" else "not_found"
            events.append(
                "error", {"code": code, "detail": debate.error_message or "The trace of this debate is gone."}
            )
        return events

    async def cancel(self, debate_id: UUID) -> Debate:
        """Cancel a running debate; a cancelled debate leaves no trace.

        Raises:
            NotFoundError: No debate has this id.
            ConflictError: The debate has ended, or runs in another process.
        """
        live = self._live.get(debate_id)
        if live is None or live.task is None or live.storing is not None:
            if live is not None and live.task is not None:
                await asyncio.wait([live.task])
            debate = await self.get(debate_id)
            if debate.status == "running":
                raise ConflictError("This debate runs in another TMDE process and can only be cancelled there.")
            raise ConflictError(f"This debate has ended already: it is {debate.status}.", status=debate.status)
        live.cancel()
        await asyncio.wait([live.task])
        return await self.get(debate_id)

    async def wait(self, debate_id: UUID) -> Debate:
        """Wait until the debate has ended, if it runs in this process, and return the debate.

        Raises:
            NotFoundError: No debate has this id.
        """
        live = self._live.get(debate_id)
        if live is not None and live.task is not None:
            await asyncio.wait([live.task])
        return await self.get(debate_id)

    def running(self) -> list[Debate]:
        """Return the debates that run in this process, oldest first."""
        return [_state(live) for live in self._live.values()]

    async def settle(self) -> None:
        """Mark the debates that a crash left running.

        A debate whose trace was stored becomes completed; any other becomes interrupted.
        """
        data_dir = self._workspace.settings.data_path
        for debate_id in await self._store.list_orphans(os.getpid(), set(self._live), data_dir):
            trace = await self._trace(derive_trace_id(debate_id))
            if trace is None:
                await self._store.end(debate_id, "interrupted", error_message=INTERRUPTED)
            else:
                await self._store.end(debate_id, "completed", trace_id=trace.id, adapter_id=trace.adapter_id)
            forget_sign_of_life(data_dir, debate_id)
            log.info("debate.settled", debate=str(debate_id), interrupted=trace is None)

    async def stop(self) -> None:
        """Cancel every debate of this process and wait until all have ended."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for live in self._live.values():
            if live.storing is None:
                live.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ---------------------------------------------------------------------------------------- inside

    def _check(self, config: DebateConfig) -> None:
        chosen = override(self._workspace.settings.debate, config)
        if chosen.min_rounds > chosen.max_rounds:
            raise InvalidInputError(
                f"minRounds is {chosen.min_rounds} and maxRounds {chosen.max_rounds}: the least cannot be more than the most.",
                field="minRounds",
            )
        if config.check is not None and config.reference is None:
            raise InvalidInputError(
                f"check is {config.check!r}, but there is no reference to compare the answer with.", field="reference"
            )
        roles = merge_roles(self._workspace.settings.roles, config)
        asked = [roles.proposer, roles.skeptic, roles.synthesizer]
        if config.models is not None and config.models.judge is not None:
            asked.append(roles.judge)
        for role in asked:
            self._workspace.runtimes.made(role.runtime)
            self._workspace.runtimes.require_unpaused(role.runtime)

    async def _earlier(self, follows: UUID | None) -> tuple[Exchange, ...]:
        """Return the questions and answers that a question follows up, shortened, the oldest first."""
        if follows is None:
            return ()
        trace = await self._traces.get(follows)
        answer = trace.corrected_answer or trace.final_answer
        last = Exchange(question=shorten_to(trace.query), answer=shorten_to(answer))
        return (*trace.earlier, last)[-MOST_EARLIER:]

    def _is_other_model(self, config: DebateConfig) -> bool:
        """Return whether the debate's Proposer is another model than that of the settings."""
        usual = self._workspace.settings.roles.proposer
        chosen = merge_roles(self._workspace.settings.roles, config).proposer
        return (chosen.runtime, chosen.model) != (usual.runtime, usual.model)

    async def _run(self, live: _Live) -> None:
        """Run one debate to its end.

        This method never raises: the database row and the log record how the debate ended.
        """
        debate_id, engine = live.debate.id, live.engine
        try:
            trace = await engine.run()
            ending = await self._complete(live, trace)
        except asyncio.CancelledError:
            await asyncio.shield(self._store.end(debate_id, "cancelled", error_message=CANCELLED))
            ending = ("cancelled", {})
        except TmdeError as error:
            ending = await self._failed(debate_id, error.code, error.detail)
        except Exception as error:
            log.exception("debate.failed", debate=str(debate_id))
            detail = f"The debate failed with an unexpected {type(error).__name__}; the log has the details."
            ending = await self._failed(debate_id, "internal", detail)
        self._live.pop(debate_id, None)
        self._ended.keep(debate_id, engine.log)
        engine.log.append(*ending)
        self._publish(_ended(live, *ending))

    async def _complete(self, live: _Live, trace: Trace) -> tuple[str, dict[str, object]]:
        """Store the trace and then the row; a cancellation in between waits for both."""

        async def store() -> None:
            await self._traces.add(trace)
            await self._store.end(live.debate.id, "completed", trace_id=trace.id, adapter_id=trace.adapter_id)

        live.storing = asyncio.create_task(store())
        try:
            await asyncio.shield(live.storing)
        except asyncio.CancelledError:
            await asyncio.wait([live.storing])
            live.storing.result()
        return "complete", complete_data(trace)

    async def _failed(self, debate_id: UUID, code: str, detail: str) -> tuple[str, dict[str, object]]:
        try:
            await asyncio.shield(self._store.end(debate_id, "failed", error_message=detail))
        except TmdeError as error:
            # For example, the disk is full. The next start will find the row "running" and its process gone.
            log.warning("debate.end_not_stored", debate=str(debate_id), error=error.detail)
        return "error", {"code": code, "detail": detail}

    async def _trace_of(self, debate: Debate) -> Trace | None:
        return await self._trace(debate.trace_id) if debate.trace_id else None

    async def _trace(self, trace_id: UUID) -> Trace | None:
        try:
            return await self._traces.get(trace_id)
        except NotFoundError:
            return None


def shorten_to(text: str) -> str:
    """Return the beginning of an earlier question or answer."""
    return text if len(text) <= LONGEST_EARLIER else shorten(text, LONGEST_EARLIER / len(text))


def _ended(live: _Live, kind: str, data: Mapping[str, object]) -> DebateEnded:
    """Return the event that reports the end of a debate, built from the last entry of its log."""
    adapter = live.engine.adapter
    return DebateEnded(
        debate_id=live.debate.id,
        status="completed" if kind == "complete" else "cancelled" if kind == "cancelled" else "failed",
        trace_id=derive_trace_id(live.debate.id) if kind == "complete" else None,
        adapter_id=UUID(adapter.id) if adapter else None,
        error_message=str(data["detail"]) if kind == "error" else None,
    )


def derive_trace_id(debate_id: UUID) -> UUID:
    """Return the id of a debate's trace.

    The id is known in advance, so that after a crash TMDE can check whether the trace was stored.
    """
    return uuid5(debate_id, "trace")


def complete_data(trace: Trace) -> dict[str, object]:
    """Return the data of the `complete` event."""
    return {
        "traceId": str(trace.id),
        "finalAnswer": trace.final_answer,
        "finishReason": trace.finish_reason,
        "score": trace.auto_score,
        "judge": trace.judge,
        "reasons": list(trace.score_reasons),
        "rounds": len(trace.rounds),
        "earlyStopped": trace.early_stopped,
        "stopReason": trace.stop_reason,
        "timings": msgspec.to_builtins(trace.timings),
        "tokens": msgspec.to_builtins(trace.tokens),
    }


def _state(live: _Live) -> Debate:
    engine = live.engine
    status: DebateStatus = "running"
    return msgspec.structs.replace(
        live.debate,
        status=status,
        rounds=tuple(engine.rounds),
        templates_used=tuple(hit.template.name for hit in engine.found),
        final_answer=engine.final_answer,
        finish_reason=engine.finish_reason,
        adapter_id=engine.adapter.id if engine.adapter else None,
    )
