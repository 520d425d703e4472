"""Text that grows while a model writes it."""

from __future__ import annotations

from nicegui.element import Element


class Stream(Element, component="stream.js"):
    """Shows growing text; each change sends only what is new."""

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._text_so_far = ""
        self._props["text"] = ""
        self.put(text)

    def put(self, whole: str) -> None:
        """Make `whole` the text. Where it begins with what is shown, only the rest travels."""
        old = self._text_so_far
        if whole == old:
            return
        kept = len(old) if whole.startswith(old) else 0
        self._text_so_far = whole
        self._props["text"] = whole  # for a browser that draws the element anew; not sent by itself
        self.run_method("put", _utf16_length(whole[:kept]), whole[kept:])


def _utf16_length(text: str) -> int:
    """JavaScript counts UTF-16 units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
