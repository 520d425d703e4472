"""Check Python code with tests, without trusting the code.

A test is a few statements with `assert`s, such as `assert double(4) == 8`. The confined process computes `double(4)`
and sends the value. The process never receives the expected 8, so it cannot falsely claim to have passed. (If an
assertion has no plain value on its right, as in `assert is_prime(7)`, the process sends only its truth value.) A test
may call `raises(ValueError, f, -1)`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tmde_bench_default.checks.programs import MAX_CODE_CHARS, extract_code
from tmde_bench_default.checks.sandbox import SandboxReply, run_confined
from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.judges import CodeCheck
from tmde_core.sdk.records import Record

MAX_TESTS = 50
PROBE = "__probe__"

_OPERATORS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}


class Probed(Record):
    """A test prepared for the confined process, and the conditions on the values that the process sends."""

    source: str
    holds: tuple[Callable[[Any], bool], ...]


class Tried(Record):
    """How many tests the code passed, and the first failure."""

    passed: int
    tests: int
    failure: str = ""


async def run_tests(answer: str, check: CodeCheck) -> Tried:
    """Run the tests on the answer's code.

    Raises:
        InvalidInputError: a test is not valid Python.
        WorkerFailedError: the sandbox did not work.
    """
    probed = [make_probes(test) for test in check.tests]
    code = extract_code(answer)
    if not code.strip() or len(code) > MAX_CODE_CHARS:
        return Tried(passed=0, tests=len(probed), failure="there is no code, or far too much")
    replies = await run_confined(code, [test.source for test in probed], check.seconds)
    told = [_failure(test, reply) for test, reply in zip(probed, replies, strict=True)]
    first = next((index for index, failure in enumerate(told) if failure), None)
    failure = "" if first is None else f"{check.tests[first]}: {told[first]}"
    return Tried(passed=told.count(""), tests=len(told), failure=failure)


def make_probes(test: str) -> Probed:
    """Turn a test's assertions into probes.

    Raises:
        InvalidInputError: the test is not valid Python, or asserts nothing.
    """
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError(f"The test {test[:60]!r} is no Python: {error}.") from None
    holds: list[Callable[[Any], bool]] = []
    body: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.Assert):
            left, held = _split(statement.test)
            holds.append(held)
            body.append(_probe(left))
        else:
            body.append(statement)
    if not holds:
        raise InvalidInputError(f"The test {test[:60]!r} asserts nothing. Write `assert f(1) == 2`.")
    return Probed(source=ast.unparse(ast.Module(body=body, type_ignores=[])), holds=tuple(holds))


def _split(test: ast.expr) -> tuple[ast.expr, Callable[[Any], bool]]:
    """Split an assertion into the expression for the confined process, and the condition that is checked here."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        try:
            right = ast.literal_eval(test.comparators[0])
        except ValueError:
            pass
        else:
            compare = _OPERATORS[type(test.ops[0])]
            return test.left, lambda value: bool(compare(value, right))
    whole = ast.Call(func=ast.Name(id="bool", ctx=ast.Load()), args=[test], keywords=[])
    return whole, lambda value: value is True


def _probe(value: ast.expr) -> ast.stmt:
    call = ast.Call(func=ast.Name(id=PROBE, ctx=ast.Load()), args=[value], keywords=[])
    return ast.fix_missing_locations(ast.Expr(value=call))


def _failure(test: Probed, reply: SandboxReply) -> str:
    """Return why the test is not passed, or an empty string if it is passed."""
    values: list[Any] = []
    for line in reply.lines:
        try:
            kind, content = msgspec.json.decode(line, type=tuple[str, Any])
            if kind == "value":
                values.append(decoded(content))
            elif kind == "error":
                return str(content)[:200]
        except (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError, RecursionError):
            return "it sent something that is no value"
    for index, held in enumerate(test.holds):
        if index >= len(values):
            return "it ended before the test did" if reply.ended else "it took too long, or sent too much"
        try:
            if not held(values[index]):
                return f"it gave {_short(values[index])}"
        except TypeError:
            return f"it gave {_short(values[index])}, which cannot be compared"
    return "" if len(values) == len(test.holds) else "it sent more values than there are assertions"


def decoded(content: Any) -> Any:
    """Decode a value that `confined` has encoded.

    Raises:
        ValueError, TypeError, ArithmeticError: the content is not an encoded value.
    """
    kind, value = content
    if kind == "plain" and (value is None or isinstance(value, bool)):
        return value
    if kind == "int":
        return int(value)
    if kind == "float":
        return float.fromhex(value)
    if kind == "str" and isinstance(value, str):
        return value
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decoded(one) for one in value)
    if kind == "dict":
        return {decoded(key): decoded(one) for key, one in value}
    return _Other(str(value)[:60])


_SEQUENCES: dict[str, Callable[[Any], Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class _Other:
    """A value that does not have a built-in type. It equals nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"a {self._name}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def find_test_problems(tests: Sequence[str]) -> list[str]:
    """Return what is wrong with the tests, one sentence for each problem."""
    if not tests:
        return ["The code check has no tests. Add at least one, such as `assert f(1) == 2`."]
    if len(tests) > MAX_TESTS:
        return [f"The code check has {len(tests)} tests; at most {MAX_TESTS} are run."]
    found = []
    for test in tests:
        try:
            make_probes(test)
        except InvalidInputError as error:
            found.append(error.detail)
    return found
