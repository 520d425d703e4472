"""Reads and writes template files: Markdown with YAML front matter between two lines of `---`.

The text may come from an untrusted source. Its size is limited before it is parsed. Anchors and aliases are rejected,
because they can expand a few bytes to gigabytes. Every value stays the text that was written, so a keyword may be `no`
or `12:30`. Every field has a type and a maximum length.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
import yaml
from msgspec import Meta

from tmde_core.errors import InvalidInputError, TooLargeError
from tmde_core.records.base import Record
from tmde_core.records.wrong_values import describe_problem
from tmde_core.storage.plain_data import YamlError, find_twice, parse_yaml
from tmde_core.storage.text_files import decode_text, split_text_lines

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
_FENCE = "---"

Line = Annotated[str, Meta(min_length=1, max_length=80)]


class FrontMatter(Record, frozen=True):
    """Stores the front matter of a template file."""

    name: Line
    description: Annotated[str, Meta(min_length=1, max_length=400)]
    domain: Line
    methodology: Line
    keywords: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=40)], ...], Meta(min_length=1, max_length=30)
    ]


class TemplateFile(Record, frozen=True):
    """Stores a parsed template file."""

    front: FrontMatter
    body: str


def parse_template(content: bytes | str) -> TemplateFile:
    """Parse a template file.

    Raises:
        TooLargeError: the text has more than 64 KiB.
        InvalidInputError: the text is not UTF-8, has no front matter or no body, or a field is missing or invalid; the
            error names line and field.
    """
    text = _decoded(content)
    head, body = _split(text)
    front = _front(head)
    if not body.strip():
        raise InvalidInputError(
            "The template has front matter but no text below it. Write the method there.", field="body"
        )
    return TemplateFile(front=front, body=body.strip() + "\n")


def render_template(file: TemplateFile) -> str:
    """Return the text of a template file. `parse_template` turns the text back into `file`."""
    front = {name: getattr(file.front, name) for name in FrontMatter.__struct_fields__}
    front["keywords"] = list(file.front.keywords)
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    return f"{_FENCE}\n{head}{_FENCE}\n\n{file.body}"


def _decoded(content: bytes | str) -> str:
    size = len(content) if isinstance(content, bytes) else len(content.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise TooLargeError(
            f"The template has {size:,} bytes; at most {MAX_BYTES:,} are allowed. Shorten it.", limit=MAX_BYTES
        )
    encoded = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return "\n".join(split_text_lines(decode_text(encoded, "The template")))


def _split(text: str) -> tuple[str, str]:
    lines = text.split("\n")
    if lines[0].rstrip() != _FENCE:
        raise InvalidInputError(
            f"Line 1: a template begins with a line of {_FENCE} and its front matter (name, description, domain, "
            "methodology, keywords).",
            line=1,
        )
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() == _FENCE:
            return "\n".join(lines[1:number]), "\n".join(lines[number + 1 :])
    raise InvalidInputError(f"The front matter is not closed: a second line of {_FENCE} is missing.", line=len(lines))


def _front(head: str) -> FrontMatter:
    try:
        raw = parse_yaml(head, MAX_DEPTH)
    except YamlError as error:
        line = error.line + 1
        raise InvalidInputError(
            f"Line {line}: the front matter is not valid YAML: {error.problem}.", line=line
        ) from None
    if twice := find_twice(raw):
        raise InvalidInputError(f"The front matter is not valid: {twice}")
    if not isinstance(raw, dict):
        raise InvalidInputError(
            "Line 2: the front matter must be fields such as `name: Proof by contradiction`.", line=2
        )
    if isinstance(raw.get("keywords"), str):
        raw["keywords"] = [word.strip() for word in raw["keywords"].split(",") if word.strip()]
    try:
        front = msgspec.convert(raw, FrontMatter)
    except msgspec.ValidationError as error:
        raise _complaint(error, head) from None
    for name in ("name", "description", "domain", "methodology"):
        if not getattr(front, name).strip():
            raise _complaint(msgspec.ValidationError(f"Expected text that is not blank - at `$.{name}`"), head)
    return front


def _complaint(error: msgspec.ValidationError, head: str) -> InvalidInputError:
    text = str(error)
    found = re.search(r" - at `\$\.?([^`\[.]*)", text)
    sentence = text[: found.start()] if found else text
    named = re.search(r"(?:missing required|unknown) field `([^`]*)`", sentence)
    field = (found[1] if found else "") or (named[1] if named else "")
    sentence = describe_problem(sentence)
    sentence = re.sub(r"^Object missing required field `([^`]*)`$", r"the field \1 is missing", sentence)
    sentence = re.sub(r"^Object contains unknown field `([^`]*)`$", r"there is no field called \1", sentence)
    line = next(
        (number for number, row in enumerate(head.split("\n"), 2) if field and row.startswith(f"{field}:")), None
    )
    where = f"Line {line}: " if line else ""
    label = f"{field}: " if field else ""
    return InvalidInputError(f"{where}{label}{sentence}.", field=field or None, line=line)
