"""Build the OpenAPI document, and a page that shows it without loading anything from the network.

Litestar describes parameters and answers. TMDE decodes bodies itself (strictly, see `requests`), so this module
describes bodies. It also describes errors, which all have the same format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Litestar, Response, get
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.types import ControllerRouterHandler

from tmde_core import __version__
from tmde_core.api.web.problems import MEDIA_TYPE
from tmde_core.records.base import Record

PROVIDED = ("services", "streams")
"""The names of handler parameters that are not part of the request."""

METHODS = ("get", "post", "put", "delete")
REF = "#/components/schemas/{name}"
FORM = "multipart/form-data"
EVENT_STREAM = "text/event-stream"
RESUMING = [
    {"name": name, "in": place, "required": False, "schema": {"type": "integer", "minimum": 0}, "description": text}
    for name, place, text in (
        ("Last-Event-ID", "header", "Only events after this one; browsers send it when they reconnect."),
        ("lastEventId", "query", "The same, for those that cannot set a header."),
    )
]


class Problem(Record):
    """An error (RFC 9457). Further members (`field`, `current`, `required`, …) depend on the code."""

    type: str
    title: str
    status: int
    detail: str
    """What happened, why, and what to do now."""
    code: str
    """A stable identifier of the kind of error, for programs."""


def describe_route(
    operation_id: str,
    tag: str,
    *,
    body: Any = None,
    errors: Sequence[int] = (),
    stream: bool = False,
    takes: str | None = None,
    returns: str | Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the arguments of a route's decorator that the document needs.

    Args:
        body: the type of the JSON body.
        errors: the error statuses that this path can answer with.
        stream: the answer is a stream of server-sent events.
        takes: the media type of a body that is not JSON.
        returns: the media type of an answer that is not JSON, or several media types if the client can choose.
    """
    notes = {"body": body, "errors": errors, "takes": takes, "returns": EVENT_STREAM if stream else returns}
    return {"operation_id": operation_id, "tags": [tag], "opt": {"document": notes}}


def document(routes: Sequence[ControllerRouterHandler]) -> dict[str, Any]:
    """Return the OpenAPI document of these routes."""
    config = OpenAPIConfig(
        title="TMDE",
        version=__version__,
        use_handler_docstrings=True,
        description="Debates, traces, training and adapters of this machine. Errors are application/problem+json.",
    )
    # The routes are only described and never called, so their dependencies need not exist.
    app = Litestar(
        route_handlers=routes,
        dependencies={name: _nothing() for name in PROVIDED},
        openapi_config=config,
        logging_config=None,  # Litestar's own configuration would replace the logging of the whole server
    )
    schema: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(app.openapi_schema.to_schema(), enc_hook=str))
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    notes = {
        handler.operation_id: handler.opt["document"]
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if "document" in handler.opt
    }
    bodies = [note["body"] for note in notes.values() if note["body"] is not None]
    references, described_types = msgspec.json.schema_components([Problem, *bodies], ref_template=REF)
    for name, component in described_types.items():
        components.setdefault(name, component)
    by_type = dict(zip(map(id, bodies), references[1:], strict=True))
    for path in schema["paths"].values():
        for method in METHODS:
            if method in path:
                _complete(path[method], notes[path[method]["operationId"]], by_type, components)
    return schema


def _nothing() -> Provide:
    return Provide(lambda: None, sync_to_thread=False)


def _complete(
    operation: dict[str, Any], note: dict[str, Any], by_type: dict[int, Any], components: dict[str, Any]
) -> None:
    if note["body"] is not None:
        reference = by_type[id(note["body"])]
        named = components[reference["$ref"].rsplit("/", 1)[-1]]
        content = {"application/json": {"schema": reference}}
        operation["requestBody"] = {"required": bool(named.get("required")), "content": content}
    elif note["takes"]:
        schema: dict[str, Any] = {"type": "string"}
        if note["takes"] == FORM:
            file = {"type": "string", "format": "binary"}
            schema = {"type": "object", "properties": {"file": file}, "required": ["file"]}
        operation["requestBody"] = {"required": True, "content": {note["takes"]: {"schema": schema}}}
    responses = operation["responses"]
    responses.pop("400", None)
    for response in responses.values():
        response.setdefault("content", {"application/json": {"schema": {"type": "null"}}})
    if note["returns"]:
        for response in responses.values():
            kinds = [note["returns"]] if isinstance(note["returns"], str) else note["returns"]
            response["content"] = {
                kind: {"schema": {} if kind == "application/json" else {"type": "string"}} for kind in kinds
            }
    if note["returns"] == EVENT_STREAM:
        operation.setdefault("parameters", []).extend(RESUMING)
    problem = {MEDIA_TYPE: {"schema": {"$ref": REF.format(name="Problem")}}}
    for status in note["errors"]:
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": problem}
    responses["default"] = {"description": "Any other error", "content": problem}


def page(schema: dict[str, Any]) -> str:
    """Return the document as one HTML page without scripts, fonts, images or anything from another server."""
    operations: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            tag = operation.get("tags", ["Other"])[0]
            operations.setdefault(tag, []).append(_operation(path, method, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(found)}" for tag, found in operations.items())
    types = "".join(_type(name, component) for name, component in sorted(schema["components"]["schemas"].items()))
    info = schema["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(info['title'])} API <small>{escape(info['version'])}</small></h1>"
        f'<p>{escape(info["description"])} The document itself: <a href="/schema/openapi.json">openapi.json</a>.</p>'
        f"{sections}<h2>Types</h2>{types}</main></body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    summary = operation["description"]
    parts = [f"<p>{escape(summary)}</p>"]
    if parameters := operation.get("parameters"):
        rows = (
            f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td>"
            f"<td>{_shape(parameter.get('schema', {}))}</td><td>{escape(parameter.get('description', ''))}</td></tr>"
            for parameter in parameters
        )
        parts.append(f"<h3>Parameters</h3><table>{''.join(rows)}</table>")
    if body := operation.get("requestBody"):
        parts.append(f"<h3>Body</h3>{_content(body['content'])}")
    rows = (
        f"<tr><td><code>{escape(status)}</code></td><td>{escape(response.get('description', ''))}</td>"
        f"<td>{_content(response.get('content', {}))}</td></tr>"
        for status, response in operation["responses"].items()
    )
    parts.append(f"<h3>Answers</h3><table>{''.join(rows)}</table>")
    head = f'<b class="{method}">{method.upper()}</b> <code>{escape(path)}</code> <span>{escape(summary)}</span>'
    return f'<details id="{escape(operation["operationId"])}"><summary>{head}</summary>{"".join(parts)}</details>'


def _content(content: dict[str, Any]) -> str:
    return "<br>".join(
        f"<code>{escape(kind)}</code> {_shape(entry.get('schema', {}))}" for kind, entry in content.items()
    )


def _type(name: str, component: dict[str, Any]) -> str:
    required = set(component.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{'required' if field in required else ''}</td>"
        f"<td>{_shape(shape)}</td><td>{escape(shape.get('description', ''))}</td></tr>"
        for field, shape in component.get("properties", {}).items()
    )
    text = escape(component.get("description", ""))
    return (
        f'<details id="type-{escape(name)}"><summary><code>{escape(name)}</code></summary><p>{text}</p>'
        f"<table>{rows}</table></details>"
    )


def _shape(shape: dict[str, Any]) -> str:
    """Describe a schema in a few words, with links to the types that it names."""
    if "$ref" in shape:
        name = escape(shape["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#type-{name}">{name}</a>'
    for key in ("oneOf", "anyOf", "allOf"):
        if key in shape:
            return " or ".join(dict.fromkeys(map(_shape, shape[key])))
    if "enum" in shape:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in shape["enum"])
    if "const" in shape:
        return f"<code>{escape(str(shape['const']))}</code>"
    kind = shape.get("type", "any")
    if kind == "array" and isinstance(shape.get("items"), dict):
        return f"list of {_shape(shape['items'])}"
    words = " or ".join(kind) if isinstance(kind, list) else str(kind)
    limits = " ".join(
        f"{sign} {shape[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if key in shape
    )
    return escape(" ".join(part for part in (words, str(shape.get("format", "")), limits) if part))


STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; } main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 small { font-size: 1rem; font-weight: normal; } h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
details { border: 1px solid #8886; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; } summary b { display: inline-block; min-width: 4.5rem; }
summary span { opacity: .75; }
.get { color: #1668c7; } .post { color: #177a3d; } .put { color: #a05a00; } .delete { color: #c02626; }
@media (prefers-color-scheme: dark) { .get { color: #7ab4ff; } .post { color: #6fd08c; } .put { color: #ffb454; } .delete { color: #ff8a8a; } }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td { border-top: 1px solid #8884; padding: .2rem .8rem .2rem 0; vertical-align: top; }
"""


def routes_for(routes: Sequence[ControllerRouterHandler]) -> Iterable[ControllerRouterHandler]:
    """Return the routes that serve the document and its page. The document is built on the first request."""
    made: dict[str, Any] = {}

    def schema() -> dict[str, Any]:
        if not made:
            made.update(document(routes))
        return made

    @get(
        "/schema/openapi.json",
        media_type="application/vnd.oai.openapi+json",
        include_in_schema=False,
        sync_to_thread=True,
    )
    def as_json() -> bytes:
        return msgspec.json.encode(schema())

    @get(["/schema", "/schema/"], media_type="text/html", include_in_schema=False, sync_to_thread=True)
    def as_page() -> Response[str]:
        return Response(page(schema()), media_type="text/html")

    return as_json, as_page
