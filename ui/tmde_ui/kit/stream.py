"""Text that grows while a model writes it."""

from __future__ import annotations

from nicegui.element import Element


class Stream(Element, component="stream.js"):
    """Shows growing text. Each change sends only the new part."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._text_so_far = ""
        self._props["text"] = ""
        self.put(text)

    def put(self, whole: str) -> None:
        """Set the text to `whole`. If it begins with the current text, only the rest is sent."""
        old = self._text_so_far
        if whole == old:
            return
        kept = len(old) if whole.startswith(old) else 0
        self._text_so_far = whole
        self._props["text"] = whole  # used when a browser redraws the element; this line sends nothing
        self.run_method("put", _utf16_length(whole[:kept]), whole[kept:])


def _utf16_length(text: str) -> int:
    """Return the length in UTF-16 units, which JavaScript counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
