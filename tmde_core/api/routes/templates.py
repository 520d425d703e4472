"""Routes for reasoning templates: list, search and show them."""

from __future__ import annotations

from litestar import get
from litestar.params import FromPath, FromQuery

from tmde_core.api.web.requests import Given, Limit, Listing, Offset
from tmde_core.api.web.schema import describe_route
from tmde_core.records.templates import Template


class TemplateList(Listing, frozen=True):
    """A page of templates."""

    items: tuple[Template, ...] = ()


@get("/api/templates", **describe_route("listTemplates", "Templates", errors=(400,)))
async def listing(
    services: Given, q: FromQuery[str | None] = None, limit: Limit = 50, offset: Offset = 0
) -> TemplateList:
    """List the templates by name, or search those that fit the question in `q`, best first."""
    if q is not None and q.strip():
        found = [scored.template for scored in await services.templates.search(q, offset + limit)]
    else:
        found = list(await services.templates.list())
    return TemplateList(items=tuple(found[offset : offset + limit]), total=len(found))


@get("/api/templates/{template_id:str}", **describe_route("getTemplate", "Templates", errors=(404,)))
async def show(template_id: FromPath[str], services: Given) -> Template:
    """Return one template."""
    return await services.templates.get(await services.ids.template(template_id))


ROUTES = (listing, show)
