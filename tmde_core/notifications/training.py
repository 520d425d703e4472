"""What is said when a training run has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tmde_core.notifications.service import NotificationService
from tmde_core.records.finetune import FineTuneRun
from tmde_core.records.notifications import Level

PAGE = "/finetune"
ADAPTER_PAGE = "/finetune/versions?adapter={}"


def teller(notifications: NotificationService) -> Callable[[FineTuneRun], Awaitable[None]]:
    """A listener for `FineTuneService.when_ended`."""

    async def tell(run: FineTuneRun) -> None:
        level, title, detail = words(run)
        page = ADAPTER_PAGE.format(run.id) if run.status == "completed" else PAGE
        await notifications.notify(f"finetune.{run.status}", level, title, detail, page)

    return tell


def words(run: FineTuneRun) -> tuple[Level, str, str]:
    """Level, title and detail."""
    name = str(run.id)[:8]
    if run.status == "completed":
        figures = [f"{run.traces_used} traces"]
        if run.metrics is not None and run.metrics.best_val_loss is not None:
            figures.append(f"validation loss {run.metrics.best_val_loss:.3f}")
        elif run.metrics is not None and run.metrics.final_train_loss is not None:
            figures.append(f"training loss {run.metrics.final_train_loss:.3f}")
        return "success", f"Training is done: adapter {name}", ", ".join(figures) + "."
    if run.status == "cancelled":
        return "info", "Training was cancelled", f"Run {name}. Its checkpoints are kept; it can be resumed."
    return "error", "Training failed", run.error_message or f"Run {name} gave no reason."
