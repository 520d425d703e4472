"""Write `docs/sdk.md`, the reference of the public package, from its source: `python -m tools.sdk_page`.

The source is parsed, not imported, so annotations and defaults appear as they are written.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "tmde_core.sdk"
PAGE = REPOSITORY / "docs" / "sdk.md"
WIDTH = 100

MODULES = (
    "",
    "hooks",
    "context",
    "runtimes",
    "judges",
    "suites",
    "training",
    "environments",
    "probing",
    "cards",
    "measured_runs",
    "worker",
    "registries",
    "events",
    "commands",
    "errors",
    "records",
    "files",
    "adapters",
    "last_words",
    "plain_lora",
    "safetensors_header",
    "gguf_header",
    "model_shape",
    "model_folders",
    "chat_template",
    "chat_http",
    "chat_answers",
    "chat_events",
    "chat_members",
    "chat_errors",
    "chat_refusals",
    "lenient_json",
    "thoughts",
)
"""The public modules in the order of the page. A test compares them with the folder."""

INTRODUCTION = """\
# The public package

This page lists everything that a plugin may import: `tmde_core.sdk`, every name of it. What is not
on this page is private and may change in any release. [plugins.md](plugins.md) is the tutorial.

The page is generated from the source. To refresh it, run `.venv/bin/python -m tools.sdk_page`.
"""


_COMMON = frozenset({"Protocol", "NamedTuple"})

_RANGES = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
"""Maps the arguments of `msgspec.Meta` to words."""


@dataclass(frozen=True)
class Found:
    """A name with its defining statement and its docstring."""

    name: str
    module: str
    node: ast.stmt
    doc: str


def write() -> str:
    """Return the whole page."""
    shown: dict[str, str] = {}
    lines = [line for module in modules() for line in _module(module, shown)]
    return "\n".join([INTRODUCTION, *lines]).rstrip() + "\n"


def modules() -> list[str]:
    """Return the full names of the public modules."""
    return [".".join(part for part in (PACKAGE, module) if part) for module in MODULES]


def public_names(module: str) -> list[str]:
    """Return `__all__` of a module."""
    for statement in _tree(module).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return []


def undocumented() -> list[str]:
    """Return every public class, function, field, method and constant without a docstring."""
    missing = []
    for module in modules():
        for name in public_names(module):
            found = find(module, name)
            if not found.doc:
                missing.append(f"{module}.{name}")
            if isinstance(found.node, ast.ClassDef) and not _is_error(found):
                missing += [f"{module}.{name}.{member.name}" for member in _members(found) if _is_bare(member)]
    return missing


def _is_bare(member: Found) -> bool:
    return not member.doc or member.doc.startswith("(")  # only the range


def find(module: str, name: str) -> Found:
    """Return the definition of a name, from the module itself or from the module that it is imported from."""
    for place, statement in enumerate(_tree(module).body):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and statement.name == name:
            return Found(name, module, statement, ast.get_docstring(statement) or "")
        if name in _assigned(statement):
            return Found(name, module, statement, _text_after(_tree(module).body, place))
        if isinstance(statement, ast.ImportFrom) and any(alias.name == name for alias in statement.names):
            return find(statement.module or "", name)
    raise LookupError(f"{module} has no {name}")


# ---------------------------------------------------------------------------------------------- the page


def _module(module: str, shown: dict[str, str]) -> Iterator[str]:
    yield f"## `{module}`"
    yield ""
    first, *_ = (ast.get_docstring(_tree(module)) or "").split("\n\n")
    yield _filled(" ".join(first.split()))
    yield ""
    for name in public_names(module):
        if name not in shown:
            yield from _entry(find(module, name))
    again = [name for name in public_names(module) if name in shown]
    if again:
        yield "Also here, and described above:"
        yield ""
        yield "\n".join(f"- `{name}`: see `{shown[name]}`." for name in again)
        yield ""
    shown |= {name: module for name in public_names(module) if name not in shown}


def _entry(found: Found) -> Iterator[str]:
    yield f"### `{found.name}`"
    yield ""
    yield "```python"
    yield _shown(found)
    yield "```"
    yield ""
    yield _filled(first_sentence(found.doc))
    yield ""
    if isinstance(found.node, ast.ClassDef) and not _is_error(found):
        members = [_filled(f"- {_code(member)}: {member.doc}", "  ") for member in _members(found)]
        if members:
            yield "\n".join(members)
            yield ""


def _shown(found: Found) -> str:
    node = found.node
    if isinstance(node, ast.ClassDef):
        bases = [ast.unparse(base) for base in node.bases if not _is_private(ast.unparse(base))]
        return f"class {node.name}({', '.join(bases)})" if bases else f"class {node.name}"
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return _signature(node)
    text = ast.unparse(node).replace("'", '"')
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return `def name(…) -> …`, with one argument per line if the signature is long."""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    arguments = [argument for argument in _arguments(node.args) if argument != "self"]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{word} {node.name}({', '.join(arguments)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{word} {node.name}(", *(f"    {argument}," for argument in arguments), f"){returns}"])


def _arguments(given: ast.arguments) -> Iterator[str]:
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    yield from map(_argument, positional, defaults)
    if given.vararg:
        yield f"*{_argument(given.vararg, None)}"
    elif given.kwonlyargs:
        yield "*"
    yield from map(_argument, given.kwonlyargs, given.kw_defaults)
    if given.kwarg:
        yield f"**{_argument(given.kwarg, None)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    annotated = f"{argument.arg}: {ast.unparse(argument.annotation)}" if argument.annotation else argument.arg
    return annotated if default is None else f"{annotated} = {ast.unparse(default)}"


def _code(member: Found) -> str:
    node = member.node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if any(ast.unparse(decorator) == "property" for decorator in node.decorator_list):
            return f"`{node.name}: {ast.unparse(node.returns) if node.returns else 'Any'}`"
        return f"`{' '.join(_signature(node).split())}`".replace("( ", "(").replace(", )", ")")
    assert isinstance(node, ast.AnnAssign)
    return f"`{ast.unparse(node.target)}: {ast.unparse(_Plain().visit(node.annotation))}{_default(node.value)}`"


def _default(value: ast.expr | None) -> str:
    """Return ` = …` for a field that has a default."""
    if value is None:
        return ""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in {"field", "msgspec.field"}:
        factory = ast.unparse(value.keywords[0].value)
        return " = {}" if factory == "dict" else ""
    return f" = {ast.unparse(value)}"


class _Plain(ast.NodeTransformer):
    """Replaces `Annotated[int, Meta(…)]` with `int`."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """Replace an `Annotated` type with its first argument."""
        self.generic_visit(node)
        if ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return node


def _described(doc: str, annotation: ast.expr) -> str:
    """Return a field's docstring, or otherwise the text of its `Meta`, and the range that the `Meta` allows."""
    meta = {
        keyword.arg: keyword.value
        for node in ast.walk(annotation)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Meta"
        for keyword in node.keywords
    }
    told = [first_sentence(ast.literal_eval(meta[word])) for word in ("description", "title") if word in meta]
    sentence = first_sentence(doc) or next(iter(told), "")
    limits = [f"{words} {ast.unparse(meta[word])}" for word, words in _RANGES.items() if word in meta]
    return " ".join(part for part in (sentence, f"({', '.join(limits)})" if limits else "") if part)


def _members(found: Found) -> Iterator[Found]:
    """Yield fields and methods, including those of a private base, which the page does not show."""
    assert isinstance(found.node, ast.ClassDef)
    for base in found.node.bases:
        if _is_private(ast.unparse(base)):
            yield from _members(find(found.module, ast.unparse(base)))
    body = found.node.body
    for place, statement in enumerate(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if not statement.target.id.startswith("_"):
                doc = _described(_text_after(body, place), statement.annotation)
                yield Found(statement.target.id, found.module, statement, doc)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and not statement.name.startswith("_"):
            yield Found(statement.name, found.module, statement, first_sentence(ast.get_docstring(statement) or ""))


# ---------------------------------------------------------------------------------------------- the source


@cache
def _tree(module: str) -> ast.Module:
    path = REPOSITORY.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _all_public() -> frozenset[str]:
    return frozenset(name for module in modules() for name in public_names(module))


def _is_private(base: str) -> bool:
    """Return whether a base class belongs to TMDE and is not on the page."""
    return base.isidentifier() and base not in _all_public() | _COMMON | set(dir(builtins))


def _is_error(found: Found) -> bool:
    return found.module == "tmde_core.errors"


def _assigned(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.Assign):
        return {node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


def _text_after(body: list[ast.stmt], place: int) -> str:
    """Return the string after a statement, which is the docstring of a field or constant."""
    following = body[place + 1] if place + 1 < len(body) else None
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return str(following.value.value)
    return ""


def first_sentence(doc: str) -> str:
    """Return the first sentence of a docstring on one line."""
    paragraph = " ".join(doc.split("\n\n", maxsplit=1)[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`(])", paragraph)[0]


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(write(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
