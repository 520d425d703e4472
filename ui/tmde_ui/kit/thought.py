"""Show what a thinking model thought before its answer."""

from __future__ import annotations

from tmde_ui.kit.elements import Tag
from tmde_ui.kit.stream import Stream


class Thought:
    """A model's thought, folded. It is plain text and never part of an answer."""

    def __init__(self) -> None:
        with Tag("details", data_testid="thought").show(visible=False) as self._fold:
            self._summary = Tag("summary", "Thought")
            self._stream = Stream()
            self._stream.classes("plain small muted")

    def put(self, text: str, *, live: bool = False) -> None:
        """Show the thought so far; show nothing if there is none."""
        self._fold.show(bool(text.strip()))
        self._summary.say("Thinking …" if live else "Thought")
        self._stream.put(text)

    def end(self) -> None:
        """Show that the model no longer thinks."""
        self._summary.say("Thought")
