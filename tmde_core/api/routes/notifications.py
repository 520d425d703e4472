"""Routes for notifications: list, dismiss and follow them."""

from __future__ import annotations

from litestar import get, post
from litestar.params import FromPath, FromQuery
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from tmde_core.api.web.requests import AnyRequest, Given, Limit, Listing, Offset
from tmde_core.api.web.schema import describe_route
from tmde_core.api.web.streams import OpenStreams
from tmde_core.records.notifications import Notification


class NotificationList(Listing, frozen=True):
    """A page of notifications, newest first."""

    items: tuple[Notification, ...] = ()


@get("/api/notifications", **describe_route("listNotifications", "System", errors=(400,)))
async def listing(
    services: Given, limit: Limit = 50, offset: Offset = 0, dismissed: FromQuery[bool] = False
) -> NotificationList:
    """List notifications, newest first. Dismissed notifications are listed only on request."""
    items, total = await services.notifications.list(limit, dismissed, offset)
    return NotificationList(items=tuple(items), total=total)


@post(
    "/api/notifications/{notification_id:str}/dismiss",
    status_code=200,
    **describe_route("dismissNotification", "System", errors=(404,)),
)
async def dismiss(notification_id: FromPath[str], services: Given) -> Notification:
    """Dismiss a notification, so that it is no longer shown."""
    return await services.notifications.dismiss(await services.ids.notification(notification_id))


@get("/api/events", **describe_route("followNotifications", "System", errors=(400,), stream=True))
async def events(request: AnyRequest, services: Given, streams: OpenStreams) -> Stream:
    """Stream new notifications as server-sent events. The stream ends only when the server stops."""
    return streams.respond(request, services.notifications)


ROUTES: tuple[ControllerRouterHandler, ...] = (listing, dismiss, events)
