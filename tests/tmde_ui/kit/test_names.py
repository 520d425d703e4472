"""What adapters are called in sentences."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import UUID, uuid4

from tmde_ui.kit.names import capital, is_named, name_of, remember_names, short_name


def named(name: str) -> UUID:
    """An adapter whose name the pages have read."""
    adapter = SimpleNamespace(id=uuid4(), name=name)
    remember_names([adapter])
    return adapter.id


def test_a_sentence_names_an_adapter_and_gives_its_short_id():
    one = named("Fractions")
    assert name_of(one) == f"adapter Fractions ({str(one)[:8]})"
    assert short_name(str(one)) == "Fractions"


def test_a_default_name_that_holds_the_short_id_does_not_say_it_twice():
    one = uuid4()
    remember_names([SimpleNamespace(id=one, name=f"30 Nov · {str(one)[:8]}")])
    assert name_of(one) == f"adapter 30 Nov · {str(one)[:8]}"


def test_an_adapter_without_a_known_name_is_called_by_its_short_id():
    one = uuid4()
    assert not is_named(one)
    assert name_of(one) == f"adapter {str(one)[:8]}"
    assert name_of(None) == "the base model"


def test_a_changed_name_replaces_the_earlier_one():
    one = named("Fractions")
    remember_names([SimpleNamespace(id=one, name="Percentages")])
    assert short_name(one) == "Percentages"


def test_a_capital_letter_at_the_beginning_leaves_the_other_letters():
    assert capital("adapter McLaurin (1a2b3c4d)") == "Adapter McLaurin (1a2b3c4d)"
