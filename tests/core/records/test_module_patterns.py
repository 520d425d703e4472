"""An expression names the same modules as in PEFT, and is quick whatever it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.records.module_patterns import ModulePattern, PatternError

MODULES = (
    *("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.11.mlp.down_proj"),
    *("lm_head", "q_proj", "model.layers.1.self_attn.qkv_proj", "a.b", "ab"),
)


def in_peft(expression: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({expression})$", module) is not None


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "q_proj",
            "layers.1.self_attn.q_proj",
            "^model.layers.0.*",
            "model.layers.[0-9].mlp.down_proj",
            "proj",
            ".*q_proj",
        ),
        *(
            r"layers\.(0|1)\..*(q|v)_proj$",
            r"model\.layers\.\d+\.mlp",
            r"\w+_proj",
            "(?:q|qkv)_proj",
            "^q_proj",
            "[^q]*_proj",
        ),
        *(
            "lm_head|q_proj",
            "(|model.)lm_head",
            "q?k?v?_proj",
            "(l(m)?_)+head",
            ".+?",
            "a$b",
            "layers.1",
            "(self_attn|mlp).*?proj",
        ),
    ],
)
def test_an_expression_names_the_modules_that_it_names_in_peft(expression: str) -> None:
    pattern = ModulePattern(expression)
    assert [pattern.matches(module) for module in MODULES] == [in_peft(expression, module) for module in MODULES]


@given(st.text("ab.|()*+?^$", max_size=9), st.text("ab.", min_size=1, max_size=8))
def test_every_expression_that_is_known_is_the_one_of_pythons_re(expression: str, module: str) -> None:
    try:
        pattern = ModulePattern(expression)
    except PatternError:
        return
    assert pattern.matches(module) == in_peft(expression, module)


@pytest.mark.parametrize(
    "expression", ["(a+)+b", "(a|a)*b", "(a|aa)+$b", ".*" * 100 + "b", "a?" * 100 + "a" * 100, "(a|a)" * 50 + "b"]
)
def test_an_expression_that_python_would_try_for_ever_is_matched_at_once(expression: str) -> None:
    assert not ModulePattern(expression).matches("a" * 90)


@pytest.mark.parametrize(
    "expression", ["", "(", ")", "a)", "*a", "a**", "a{2}", "(?=a)", "(?i)a", r"\1", r"\s", "[", "[z-a]", "a" * 301]
)
def test_every_other_expression_is_refused(expression: str) -> None:
    with pytest.raises(PatternError):
        ModulePattern(expression)
