"""What the pages say about deleting traces."""

from __future__ import annotations

from tmde_core.records.traces import Deletion
from tmde_ui.kit.names import name_of
from tmde_ui.kit.words import count

DELETING = (
    "The question, the debate, the answer and the ratings are deleted. This cannot be undone. "
    "Adapters that were trained on them keep what they learned."
)


def deletion_words(done: Deletion) -> str:
    """Return a sentence about deleted traces and the adapters that learned from them."""
    number = count(len(done.deleted), "trace")
    if not done.adapters:
        return f"{number} deleted. No adapter has been trained on {'it' if len(done.deleted) == 1 else 'them'}."
    names = ", ".join(map(name_of, done.adapters))
    learned = count(len(done.adapters), "adapter has", "adapters have")
    return f"{number} deleted. {learned} been trained on {'it' if len(done.deleted) == 1 else 'them'}: {names}."
