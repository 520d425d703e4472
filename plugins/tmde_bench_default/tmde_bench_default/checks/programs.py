"""Find the program in an answer: its fenced blocks, or the code between its prose.

Blocks that belong together become one program. What only shows how to use the program is kept from breaking it: a
statement that runs at once may fail without harm, and a block without definitions replaces none.
"""

from __future__ import annotations

import ast
import html
import operator
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tmde_bench_default.checks.reading.thoughts import without_thoughts

MAX_CODE_CHARS = 20_000
MAX_MERGES = 200
"""How many lines that are no code alone are tried together with the line before."""

_FENCE = re.compile(r"(?:> ?|(?:[-*+]|\d{1,2}[.)]) {1,4})?(`{3,}|~{3,})([^`]{0,200})")
_LANGUAGE = re.compile(r"\{?\.?([A-Za-z+#-]*)[\d.]*")
_PYTHON = frozenset({"python", "py", "ipython", "pycon", "python-repl", "pyi", "sage", "gyp", "code", "tool_code", ""})
_OPENING = re.compile(r"<(pre|code)\b[^>\n]{0,200}>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:pre|code|span|br|div)\b[^>\n]{0,200}>", re.IGNORECASE)
_BEGINS = re.compile(
    r"^[ \t]*(?:def |class |import \w|from [\w.]+ import|@\w|async def |[A-Za-z_]\w*\s*=\s*lambda\b)", re.MULTILINE
)
_PROMPT = re.compile(r"^[ \t]*(?:>>>|In \[\d+\]:)(?: |$)")
_CONTINUED = re.compile(r"^[ \t]*(?:\.\.\.|\.\.\.:)(?: |$)")
_BLANKS = dict.fromkeys(
    map(ord, "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"), " "
)
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), "")
_QUOTES = str.maketrans("“”„‘’‚", "\"\"\"'''")

_DIFFS = frozenset({"diff", "patch"})
_INLINE = re.compile(r"(?<!`)`((?:def |[A-Za-z_]\w*\s*=\s*lambda\b)[^`\n]{1,500})`(?!`)")
_NUMBERED = re.compile(r"[ \t]*(\d{1,4})(?:[.:|)]|(?=[ \t]|$))(.*)")

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class _Block(NamedTuple):
    """One block of code."""

    source: str
    tree: ast.Module | None

    @property
    def defines(self) -> bool:
        return self.tree is not None and any(_names_defined(one) for one in self.tree.body)


def extract_code(answer: str) -> str:
    """Return the answer's program, or its last block as it is if none can be read as Python."""
    answer = without_thoughts(answer).replace("\r\n", "\n").replace("\r", "\n")
    blocks = [_read(source) for source in _blocks(answer)]
    if not any(block.defines for block in blocks):
        for source in (*_tagged(answer), *_inline(answer), _unfenced(answer)):
            if (block := _read(source)).defines:
                blocks = [block]
                break
    readable = [block for block in blocks if block.tree is not None]
    if not any(block.defines for block in readable):
        whole = [block.source for block in (*blocks, _read(_unfenced(answer)))]
        return next((source for source in reversed(whole[:-1]) if _BEGINS.search(source)), whole[0])
    return _joined(readable)


# ----------------------------------------------------------------------------------------------------- finding blocks


def _blocks(answer: str) -> list[str]:
    """Return the fenced blocks in Python, without their indentation. An unfinished block ends with the text."""
    found: list[str] = []
    lines: list[str] = []
    fence, is_python, is_diff = "", False, False
    for line in answer.split("\n"):
        match = _FENCE.fullmatch(line.strip())
        if match is None:
            lines.append(line)
            continue
        mark, info = match[1], match[2].strip()
        if fence and not (mark[0] == fence[0] and (len(mark) >= len(fence) or info)):
            lines.append(line)
            continue
        if fence and is_python:
            found.append(_patched(lines) if is_diff else _dedented(lines))
        # A fence with a language begins a block, even if a stray fence before it seems to have begun one.
        fence, lines = ("", []) if fence and not info else (mark, [])
        is_python, is_diff = _is_python(info), _language(info) in _DIFFS
    if fence and is_python:
        found.append(_patched(lines) if is_diff else _dedented(lines))
    return [block for block in found if block.strip()]


def _language(info: str) -> str:
    match = _LANGUAGE.match(info)
    return (match[1] if match else "").lower()


def _is_python(info: str) -> bool:
    return _language(info) in _PYTHON | _DIFFS


def _patched(lines: Sequence[str]) -> str:
    """Return what a diff leaves: its added lines and its context."""
    kept = [
        line[1:] for line in _dedented(lines).split("\n") if not line.startswith(("-", "+++", "@@", "diff ", "index "))
    ]
    return textwrap.dedent("\n".join(kept)).strip("\n")


def _dedented(lines: Sequence[str]) -> str:
    quoted = lines and all(line.lstrip().startswith(">") for line in lines if line.strip())
    if quoted and not any(_PROMPT.match(line) for line in lines):
        lines = [re.sub(r"^[ \t]*>[ ]?", "", line) for line in lines]
    return textwrap.dedent("\n".join(lines)).strip("\n")


def _tagged(answer: str) -> list[str]:
    """Return the code between HTML tags."""
    low, found, at = answer.lower(), [], 0
    while begin := _OPENING.search(answer, at):
        end = low.find(f"</{begin[1].lower()}", begin.end())
        if end < 0:
            break
        found.append(html.unescape(_TAG.sub("", answer[begin.end() : end])))
        at = end
    return ["\n".join(found)] if found else []


def _inline(answer: str) -> list[str]:
    """Return the definitions that stand between single backticks in a sentence."""
    found = _INLINE.findall(answer)
    return ["\n".join(found)] if found else []


def _unfenced(answer: str) -> str:
    """Return the lines of code of an answer without fences, and leave its prose out."""
    lines = [line for line in _TAG.sub("", answer).split("\n") if not _FENCE.fullmatch(line.strip())]
    begin = next((index for index, line in enumerate(lines) if _BEGINS.match(line) or _PROMPT.match(line)), None)
    if begin is None:
        return "\n".join(lines)
    indent = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip())]
    source = "\n".join(line.removeprefix(indent) for line in lines[begin:])
    if _PROMPT.match(lines[begin]):
        return _without_prompts(source)
    if _parsed(source[:MAX_CODE_CHARS]) is not None:
        return source
    return "\n".join(_code_lines(source[:MAX_CODE_CHARS]))


def _code_lines(source: str) -> list[str]:
    """Return the parts of the source that are Python: each begins at a line that is not indented."""
    parts: list[str] = []
    for line in source.split("\n"):
        if parts and (not line.strip() or line[0].isspace()):
            parts[-1] += "\n" + line
        else:
            parts.append(line)
    kept: list[str] = []
    merges = 0
    for part in parts:
        if _parsed(part) is not None:
            kept.append(part)
        elif kept and merges < MAX_MERGES:
            merges += 1
            together = kept[-1] + "\n" + part
            if _parsed(together) is not None or _may_go_on(kept[-1]):
                kept[-1] = together
            elif _may_go_on(part) or _BEGINS.match(part):
                kept.append(part)
        elif _BEGINS.match(part) or _may_go_on(part):
            kept.append(part)
    return [part for part in kept if _parsed(part) is not None]


def _may_go_on(part: str) -> bool:
    """Return whether the part is code whose end is missing, such as an open bracket or a decorator."""
    if _parsed(part) is not None or len(part) > MAX_CODE_CHARS:
        return False
    first = part.split("\n", 1)[0]
    return bool(
        _BEGINS.match(first) or re.match(r"(?:if|for|while|with|try|else|elif|except)\b.*:\s*$|\w+\s*=\s*[\[({]", first)
    )


# -------------------------------------------------------------------------------------------------- reading one block


def _read(source: str) -> _Block:
    """Read a block as Python, without prompts and with the characters that word processors change put back."""
    tree = _parsed(source)
    if tree is None:
        source = _without_prompts(_without_numbers(source))
        tree = _parsed(source)
    if tree is None:
        for repaired in (
            source.translate(_BLANKS).translate(_UNSEEN),
            source.translate(_BLANKS).translate(_UNSEEN).translate(_QUOTES),
        ):
            repaired = textwrap.dedent(repaired)
            if (tree := _parsed(repaired)) is not None:
                source = repaired
                break
    if tree is None and _BEGINS.search(source):
        kept = "\n".join(_code_lines(source[:MAX_CODE_CHARS]))
        if (shorter := _parsed(kept)) is not None and any(map(_names_defined, shorter.body)):
            source, tree = kept, shorter
    return _Block(source, tree)


def _without_prompts(source: str) -> str:
    lines = source.split("\n")
    if not any(_PROMPT.match(line) for line in lines):
        return source
    kept, inside = [], False
    for line in lines:
        if mark := _PROMPT.match(line):
            inside = True
        elif inside and (mark := _CONTINUED.match(line)):
            pass
        else:
            inside = False
            continue
        kept.append(line[mark.end() :])
    prompted = "\n".join(kept)
    if _BEGINS.search(prompted):
        return prompted
    # The prompts only show how to use the program that stands before them.
    begin = next(index for index, line in enumerate(lines) if _PROMPT.match(line))
    before = "\n".join(lines[:begin])
    return before if _BEGINS.search(before) else prompted


def _without_numbers(source: str) -> str:
    """Return the source without the numbers of its lines, if each line has one."""
    matches = [_NUMBERED.fullmatch(line) for line in source.split("\n") if line.strip()]
    found = [match for match in matches if match is not None]
    numbers = [int(match[1]) for match in found]
    if len(found) < max(2, len(matches)) or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return source
    return textwrap.dedent("\n".join(match[2] for match in found))


def _parsed(source: str) -> ast.Module | None:
    if len(source) > MAX_CODE_CHARS:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# ------------------------------------------------------------------------------------------------------ one program


def _joined(blocks: Sequence[_Block]) -> str:
    """Return one program of several blocks, or the source of one block if it alone is the program."""
    trees = [block.tree.body if block.tree is not None else [] for block in blocks]
    defined = {name for body in trees for one in body for name in _names_defined(one)}
    kept: list[list[ast.stmt]] = []
    for block, body in zip(blocks, trees, strict=True):
        have = {name for before in kept for one in before for name in _names_defined(one)}
        kept.append([one for one in body if _belongs(one, block, defined, have)])
    for index, body in enumerate(kept):  # a later version of a function replaces the earlier one
        later = {name for after in kept[index + 1 :] for one in after for name in _names_defined(one)}
        kept[index] = [one for one in body if not _names_defined(one) or later.isdisjoint(_names_defined(one))]
    whole = [_harmless(one, defined) for body in kept for one in body]
    for block, body in zip(blocks, trees, strict=True):
        if len(whole) == len(body) and all(map(operator.is_, whole, body)):
            return block.source
    whole.sort(key=lambda one: not (isinstance(one, ast.ImportFrom) and one.module == "__future__"))
    return ast.unparse(ast.fix_missing_locations(ast.Module(body=whole, type_ignores=[])))


def _belongs(statement: ast.stmt, block: _Block, defined: Iterable[str], have: Iterable[str]) -> bool:
    """Return whether a statement is a part of the program.

    Args:
        statement: the statement.
        block: the block that it stands in.
        defined: the names that the program defines.
        have: the names that earlier blocks define.
    """
    if isinstance(statement, ast.ImportFrom | ast.Import):
        return not _replaces(statement, defined)
    if isinstance(statement, _Definition) and _is_stub(statement) and statement.name in have:
        return False
    if isinstance(statement, ast.Expr) and _calls(statement, _RUNNERS):
        return False
    return block.defines or (_keeps(statement) and not _replaces(statement, defined))


def _keeps(statement: ast.stmt) -> bool:
    """Return whether a statement of a block without definitions may be needed by the other blocks."""
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.Try)


def _names_defined(statement: ast.stmt) -> tuple[str, ...]:
    """Return the functions and classes that the statement defines."""
    if isinstance(statement, _Definition):
        return (statement.name,)
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
        return tuple(target.id for target in statement.targets if isinstance(target, ast.Name))
    return ()


def _replaces(statement: ast.stmt, defined: Iterable[str]) -> bool:
    """Return whether the statement would replace something that the program defines."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        names = {(alias.asname or alias.name) for alias in statement.names}
    else:
        names = {one.id for one in ast.walk(statement) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return not names.isdisjoint(defined) or ("*" in names and bool(getattr(statement, "level", 0)))


def _is_stub(statement: _Definition) -> bool:
    """Return whether a definition does nothing: only `pass`, `...`, a docstring or NotImplementedError."""
    return all(
        isinstance(one, ast.Pass)
        or (
            isinstance(one, ast.Expr)
            and isinstance(one.value, ast.Constant)
            and isinstance(one.value.value, str | type(...))
        )
        or (isinstance(one, ast.Raise) and "NotImplementedError" in ast.dump(one))
        for one in statement.body
    )


_RUNNERS = frozenset({"main", "testmod"})
_SHOWS = frozenset({"input", "print", "pprint"})
_FROM_OUTSIDE = frozenset({"stdin", "argv"})


def _calls(statement: ast.stmt, names: Iterable[str], *, attributes: bool = True) -> bool:
    """Return whether the statement calls one of the names, or a method with such a name."""
    for one in ast.walk(statement):
        if isinstance(one, ast.Call):
            called = one.func
            if isinstance(called, ast.Name) and called.id in names:
                return not attributes
            if attributes and isinstance(called, ast.Attribute) and called.attr in names:
                return isinstance(called.value, ast.Name) and called.value.id in {"unittest", "doctest"}
    return False


def _asks(statement: ast.stmt) -> bool:
    """Return whether the statement reads the command line or the keyboard."""
    return any(isinstance(one, ast.Attribute) and one.attr in _FROM_OUTSIDE for one in ast.walk(statement))


def _shows(statement: ast.stmt, defined: Iterable[str]) -> bool:
    """Return whether the statement only shows or tries the program: it prints, asks, or calls what is defined.

    An import of a package that is not installed counts too. A function that needs the package still fails.
    """
    if isinstance(statement, ast.Assert):
        return True
    if isinstance(statement, ast.Import | ast.ImportFrom):
        names = (
            [statement.module or ""] if isinstance(statement, ast.ImportFrom) else [one.name for one in statement.names]
        )
        return any(name.split(".")[0] not in sys.stdlib_module_names for name in names)
    return _asks(statement) or _calls(statement, {*_SHOWS, *defined}, attributes=False)


def _harmless(statement: ast.stmt, defined: Iterable[str]) -> ast.stmt:
    """Return the statement so that an example in it that fails, as one that reads from the keyboard, ends nothing else.

    What the sandbox refuses, and an exit that has nothing to do with the command line, still end the program.
    """
    if isinstance(statement, _Definition):
        if not (statement.decorator_list and statement.name.lower().startswith("test")):
            return statement  # a test of its own may need a package that is not here
    elif not _shows(statement, defined):
        return statement
    if isinstance(statement, ast.Assign) and _replaces(statement, defined):
        return statement  # a decorator by hand: if it fails, the function is not what the answer says
    passed = ast.Tuple(elts=[_name("Exception"), _name("SystemExit")], ctx=ast.Load())
    refused = ast.Tuple(elts=[_name("OSError"), _name("MemoryError")], ctx=ast.Load())
    return ast.Try(
        body=[statement],
        handlers=[
            ast.ExceptHandler(type=refused, name=None, body=[ast.Raise()]),
            ast.ExceptHandler(type=passed if _asks(statement) else _name("Exception"), name=None, body=[ast.Pass()]),
        ],
        orelse=[],
        finalbody=[],
    )


def _name(name: str) -> ast.Name:
    return ast.Name(id=name, ctx=ast.Load())
