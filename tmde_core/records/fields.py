"""Reads the descriptions of a struct's fields for the command line, the pages and the docs.

A field describes itself once, with `msgspec.Meta`:

    epochs: Annotated[
        int,
        Meta(ge=1, le=10, title="Epochs", description="How often every example is seen.", extra={"group": "Learning"}),
    ] = 3

msgspec checks the range whenever the struct is decoded, and writes the title and description to the OpenAPI document.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import msgspec

from tmde_core.records.base import Record

Kind = Literal["int", "float", "bool", "str", "list", "table", "record"]

_KINDS: tuple[tuple[type, Kind], ...] = (
    (bool, "bool"),  # before int: a bool is an int
    (int, "int"),
    (float, "float"),
    (str, "str"),
    (tuple, "list"),
    (list, "list"),
    (dict, "table"),
    (msgspec.Struct, "record"),
)


class Field(Record):
    """One field of a struct with the description of its `Meta`."""

    name: str
    """The name in Python, in `tmde.toml` and on the command line."""
    wire_name: str
    """The name in JSON."""
    title: str
    """The name for people; `name` if the field has no title."""
    help: str
    """What the field does, in a sentence or two; empty if it has no description."""
    unit: str
    """The unit of a number, in the plural: `tokens`, `seconds`."""
    group: str
    """Fields of one group are shown together."""
    kind: Kind
    """`record`: a struct with its own fields. `table`: a mapping whose keys are not fixed."""
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    exclusive: bool = False
    """Whether the minimum itself is not allowed."""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """Whether None is allowed. None means that another setting decides."""

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers."""
        return self.kind in ("int", "float")


def fields_of(record: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Return the fields of a struct in their order."""
    return _fields_of(record)


def by_group(fields: Iterable[Field], order: Iterable[str] = ()) -> dict[str, list[Field]]:
    """Return the fields by group; groups that `order` does not name come last."""
    found: dict[str, list[Field]] = {name: [] for name in order}
    for field in fields:
        found.setdefault(field.group, []).append(field)
    return {name: members for name, members in found.items() if members}


@cache
def _fields_of(record: type[msgspec.Struct]) -> tuple[Field, ...]:
    # msgspec.inspect is not used, because its import takes longer than this whole function.
    return tuple(_field(info) for info in msgspec.structs.fields(record))


def _field(info: msgspec.structs.FieldInfo) -> Field:
    bare, metas, optional = _peeled(info.type)
    described: dict[str, Any] = {}
    for meta in metas:
        described |= {name: value for name in _META if (value := getattr(meta, name)) is not None}
        described |= meta.extra or {}
    exclusive = "gt" in described
    return Field(
        name=info.name,
        wire_name=info.encode_name,
        title=described.get("title", info.name),
        help=described.get("description", ""),
        unit=described.get("unit", ""),
        group=described.get("group", ""),
        kind=_kind(bare),
        default=info.default_factory() if info.default is msgspec.NODEFAULT and _has_factory(info) else info.default,
        minimum=described.get("gt") if exclusive else described.get("ge"),
        maximum=described.get("le"),
        exclusive=exclusive,
        choices=tuple(map(str, typing.get_args(bare))) if typing.get_origin(bare) is Literal else (),
        optional=optional,
    )


_META = ("title", "description", "ge", "gt", "le")


def _peeled(kind: Any) -> tuple[Any, list[msgspec.Meta], bool]:
    """Return a type without `Annotated` and `| None`, its `Meta`s (outermost last), and whether None is allowed."""
    if typing.get_origin(kind) is typing.Annotated:
        inner, *notes = typing.get_args(kind)
        bare, metas, optional = _peeled(inner)
        return bare, metas + [note for note in notes if isinstance(note, msgspec.Meta)], optional
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [one for one in typing.get_args(kind) if one is not types.NoneType]
        if len(rest) == 1:
            bare, metas, _ = _peeled(rest[0])
            return bare, metas, True
    return kind, [], False


def _kind(bare: Any) -> Kind:
    if typing.get_origin(bare) is Literal:
        return "str"
    plain = typing.get_origin(bare) or bare
    if isinstance(plain, type):
        for base, kind in _KINDS:
            if issubclass(plain, base):
                return kind
    return "str"


def _has_factory(info: msgspec.structs.FieldInfo) -> bool:
    return info.default_factory is not msgspec.NODEFAULT
