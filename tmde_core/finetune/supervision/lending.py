"""Decides whether a training run needs the graphics card for itself, and lends it the card."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import structlog

from tmde_core.card import Loan, lend, read_loan
from tmde_core.errors import TmdeError
from tmde_core.finetune.supervision import await_card, supervisor
from tmde_core.finetune.supervision.becoming import put_before
from tmde_core.records.base import utc_now
from tmde_core.records.finetune import FineTuneRun
from tmde_core.records.training import ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.resources import read_usable_gpus
from tmde_core.sdk.cards import same_card_name
from tmde_core.sdk.training import TrainingBackend
from tmde_core.sdk.worker.kit import OUT_OF_MEMORY
from tmde_core.settings import Settings
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

MARGIN = 1.2
"""A run has room beside a runtime if so many times its estimate is free. Estimates are right within 20 %."""

GIGABYTE = 1e9


class CardLender:
    """Lends the graphics card to runs whose backends estimate that they need it."""

    def __init__(self, settings: Settings, workspace: Workspace) -> None:
        self._settings = settings
        self._workspace = workspace

    async def lend(self, run: FineTuneRun, backend: TrainingBackend, job: TrainingJob) -> Loan | None:
        """Lend the card to a run that needs it for itself; return None for any other run.

        A run whose last process ran out of memory needs the card, whatever the estimate says. The caller must hold the
        run's leash.
        """
        if self._settings.supervisor.pause_runtimes == "never":
            return None
        try:
            estimate = await asyncio.to_thread(backend.estimate, job)
        except Exception as error:  # a plugin's defect in an estimate must not keep the run from starting
            log.warning("finetune.no_estimate", run=str(run.id), error=str(error))
            return None
        if not estimate.vram_bytes:
            return None
        ran_out = bool(run.attempts) and run.attempts[-1].outcome == OUT_OF_MEMORY
        if not ran_out and not await self._needs_pause(estimate):
            return None
        data_dir = self._settings.data_path
        before = read_loan(data_dir)
        loan = Loan(
            id=uuid4(),
            run_id=run.id,
            run_name=run.name or "",
            leash=str((Path(job.run_dir) / supervisor.LEASH_FILE).relative_to(data_dir)),
            vram_bytes=estimate.vram_bytes,
            ends_at=utc_now() + timedelta(seconds=estimate.seconds) if estimate.seconds else None,
            runtimes=before.runtimes if before is not None and before.run_id == run.id else (),
        )
        try:
            await asyncio.to_thread(lend, data_dir, loan)
        except TmdeError as error:
            log.warning("finetune.card_not_lent", run=str(run.id), error=error.detail)
            return None
        log.info("finetune.card_lent", run=str(run.id), vram=estimate.vram_bytes)
        return loan

    def wait_first(self, loan: Loan, command: WorkerCommand) -> WorkerCommand:
        """Return the command of a process that first waits until the runtimes have left the card."""
        if not command.argv or shutil.which(command.argv[0]) is None:
            return command  # starting it fails, and says why
        return put_before(command, await_card, self._settings.data_dir, str(loan.id))

    def describe(self, loan: Loan) -> str:
        """Return what the run's log says about its loan."""
        return (
            f"This run needs about {loan.vram_bytes / GIGABYTE:.1f} GB of the graphics card. The runtimes that hold the card "
            "are paused until it has ended."
        )

    def find_notice(self, run_id: UUID) -> str:
        """Return what the run means for the models if it has the card now, or has it and shows no life; else empty."""
        loan, data_dir = read_loan(self._settings.data_path), self._settings.data_path
        if loan is None or loan.run_id != run_id or not loan.is_held(data_dir):
            return ""
        if loan.is_in_force(data_dir):
            return self.describe(loan)
        return (
            f"This run has shown no sign of life for {loan.seconds_silent(data_dir) / 60:.0f} min: its process seems to be "
            "stopped. The models that were paused for it answer again. Cancel the run, or let its process go on."
        )

    async def describe_pause(self, estimate: ResourceEstimate) -> str:
        """Return what a run with this estimate means for the runtimes of this process, in sentences; else empty."""
        need = estimate.vram_bytes
        holding = await self._workspace.runtimes.holding_card() if need else {}
        if not need or not holding:
            return ""
        held = f"The run needs about {need / GIGABYTE:.1f} GB of the graphics card, {_listed(holding)}."
        if self._settings.supervisor.pause_runtimes == "never":
            if await has_room(estimate):
                return ""
            return f"{held} The run may fail for lack of memory, because `supervisor.pause_runtimes` is `never`."
        if not await self._needs_pause(estimate):
            return ""
        names = " and ".join(repr(name) for name in holding)
        is_are, it_them = ("is", "it") if len(holding) == 1 else ("are", "them")
        return f"{held} {names} {is_are} paused until the run has ended, so no debate or benchmark can use {it_them}."

    async def count_given_back(self, estimate: ResourceEstimate) -> int:
        """Return how much of the card the runtimes of this process would give back, if they were paused for a run."""
        if not estimate.vram_bytes or self._settings.supervisor.pause_runtimes == "never":
            return 0
        return sum((await self._workspace.runtimes.holding_card()).values())

    async def _needs_pause(self, estimate: ResourceEstimate) -> bool:
        return self._settings.supervisor.pause_runtimes == "always" or not await has_room(estimate)


async def has_room(estimate: ResourceEstimate) -> bool:
    """Return whether a run fits beside whatever is on its card now; False if the cards cannot be read."""
    gpus = await asyncio.to_thread(read_usable_gpus)
    named = [gpu for gpu in gpus if same_card_name(gpu.name, estimate.device)]
    need = MARGIN * (estimate.vram_bytes or 0)
    return any(gpu.total_bytes - gpu.used_bytes >= need for gpu in named or gpus)


def _listed(holding: Mapping[str, int]) -> str:
    parts = [f"the runtime {name!r} holds {size / GIGABYTE:.1f} GB" for name, size in holding.items()]
    return f"of which {' and '.join(parts)}"
