"""What is said when an adapter's files were found damaged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tmde_core.notifications.service import NotificationService
from tmde_core.records.lora import LoRAAdapter

PAGE = "/finetune/versions"


def damage_teller(notifications: NotificationService) -> Callable[[LoRAAdapter], Awaitable[None]]:
    """A listener for `Patrol`."""

    async def tell(adapter: LoRAAdapter) -> None:
        name = str(adapter.id)[:8]
        what = "is damaged and answers now" if adapter.is_active else "is damaged"
        do = "Roll back, then" if adapter.is_active else "To use it,"
        await notifications.notify(
            "lora.damaged",
            "error" if adapter.is_active else "warning",
            f"Adapter {name} {what}",
            f"{adapter.invalid_reason} {do} restore its files, import it again or train again.",
            PAGE,
        )

    return tell
