from __future__ import annotations

import logging
import re
from html.parser import HTMLParser

import pytest

from tmde_core.api.app import ROUTES
from tmde_core.api.web.schema import document as describe


@pytest.fixture
def document(live):
    response = live.client.get("/schema/openapi.json")
    assert response.status_code == 200
    return response.json()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_is_described(document) -> None:
    routes = [(method, path) for route in ROUTES for path in route.paths for method in route.http_methods]
    described = {name for name, _ in operations(document)}
    assert described == {f"{method} {re.sub(r':str', '', path)}" for method, path in routes}


def test_every_operation_has_a_name_of_its_own_a_tag_a_sentence_and_errors(document) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names)
    for name, operation in operations(document):
        assert operation["tags"], name
        assert operation["description"], name
        assert "application/problem+json" in operation["responses"]["default"]["content"], name
        success = next(status for status in operation["responses"] if status.startswith("2"))
        assert operation["responses"][success]["content"], name


def test_bodies_and_ranges_are_described(document) -> None:
    schemas = document["components"]["schemas"]
    rate = document["paths"]["/api/traces/{trace_id}/rate"]["post"]
    assert rate["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/RateBody"}
    assert schemas["RateBody"]["properties"]["rating"]["maximum"] == 10
    assert (
        "text/event-stream"
        in document["paths"]["/api/debates/{debate_id}/events"]["get"]["responses"]["200"]["content"]
    )
    assert not document["paths"]["/api/finetune"]["post"]["requestBody"]["required"]


def test_answers_of_several_forms_name_each(document) -> None:
    def kinds(path):
        return set(document["paths"][path]["get"]["responses"]["200"]["content"])

    assert kinds("/api/benchmark/export") == {"application/json", "text/csv"}
    assert kinds("/api/lora/{adapter_id}/export") == {
        "application/gzip",
        "application/octet-stream",
        "application/x-tar",
    }


def test_describing_the_routes_leaves_the_log_alone() -> None:
    before = list(logging.getLogger().handlers)
    describe(ROUTES)
    assert logging.getLogger().handlers == before


def test_every_reference_leads_somewhere(document) -> None:
    def references(value):
        if isinstance(value, dict):
            yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"], reference


class Loaded(HTMLParser):
    """Everything that a page would fetch, and what it links to."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.add(tag)
        named = dict(attributes)
        self.ids.add(named.get("id") or "")
        self.addresses.extend(named[key] for key in ("src", "href", "action") if named.get(key))


def test_the_page_of_the_schema_loads_nothing_and_its_links_lead_somewhere(live, document) -> None:
    for path in ("/schema", "/schema/"):
        response = live.client.get(path)
        assert response.headers["content-type"].startswith("text/html")
        seen = Loaded()
        seen.feed(response.text)
        assert not seen.tags & {"script", "link", "img", "iframe", "object", "embed", "form"}
        assert "://" not in response.text
        assert "url(" not in response.text
        for address in seen.addresses:
            assert address == "/schema/openapi.json" or (address[0] == "#" and address[1:] in seen.ids), address
        assert all(operation["operationId"] in seen.ids for _, operation in operations(document))
