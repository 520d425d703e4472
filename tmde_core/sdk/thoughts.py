"""Keep the thoughts of thinking models apart from their answers.

Servers deliver a thought in a field of its own (`ChatDelta.thought`) or within the text, between tags. TMDE splits
every text, so a runtime need not. Split a whole text, or a stream piece by piece:

    split("<think>6 times 7 …</think>42").answer      # "42"

    reader = AnswerReader()
    async for item in runtime.chat(request):
        if isinstance(item, ChatDelta):
            change = reader.add(item)                 # what to show now
    reader.end(item)

The tags of today's models are known: `<think>`, `<thinking>`, `<thought>` and `<reasoning>` in any letter case and with
attributes, `[THINK]`, `◁think▷`, `<|START_THINKING|>`, `<|begin_of_thought|>` and the channels of gpt-oss. An opening
tag may be missing, because some chat templates write it into the prompt. A closing tag may be missing, because the
token limit came first. A tag that a text only quotes, in code or in quotation marks, is text.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Literal

from tmde_core.records.base import Record
from tmde_core.records.chat import ChatDelta, ChatEnd, ChatItem, FinishReason, TokenLogprob

__all__ = ["AnswerReader", "Change", "HeardAnswer", "Segment", "Split", "read_answer", "split"]

_NAMES = r"(?:seed:|longcat_)?(?:think|thinking|thoughts?|reasoning)"
_TAG = re.compile(
    rf"""
      <\s*(?P<close>/?)\s*(?P<name>{_NAMES})(?P<attributes>\s[^<>\n]{{0,200}}?)?\s*(?P<void>/?)\s*>
    | \[(?P<close2>/?)(?P<name2>THINK)\]
    | ◁(?P<close3>/?)(?P<name3>think)▷
    | <\|(?P<close4>/?)(?P<name4>think(?:ing)?)\|>
    | <\|(?P<edge5>START|END)_(?P<name5>THINKING)\|>
    | <\|(?P<edge6>begin|end)_of_(?P<name6>thought)\|>
    | (?P<channel>(?:<\|(?:end|return)\|>\s*)?(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*(?P<of>\w+)[^<>]*
        (?:<\|constrain\|>[^<>]*)?<\|message\|>)
    | (?P<stop><\|(?:end|return|call)\|>(?:\s*<\|start\|>\s*assistant\s*\Z)?)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BEGIN = re.compile(r"[<\[◁]")
_BEGINNINGS = (
    "<think", "<thought", "<reasoning", "<seed:think", "<longcat_think", "[think]", "[/think]", "◁think▷", "◁/think▷",
    "<|think", "<|start_thinking|>", "<|end_thinking|>", "<|begin_of_thought|>", "<|end_of_thought|>", "<|channel|>",
    "<|end|>", "<|return|>", "<|call|>", "<|start|>assistant", "<answer>", "</answer>",
)  # fmt: skip
"""The beginnings of all tags, without blanks and without `/` after `<`."""
_OPEN_END = re.compile(r"[<\[◁][^<>\[\]◁▷\n]{0,220}\Z")
_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)(`+)(?!`)([^\n]*?[^`\n])\1(?!`)")
_WRAPPERS = (("<answer>", "</answer>"), ("<|begin_of_solution|>", "<|end_of_solution|>"),
             ("<|START_RESPONSE|>", "<|END_RESPONSE|>"))  # fmt: skip
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "‚": "‘", "‹": "›", "「": "」", "`": "`"}
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[^\s\w]|[A-Z0-9])")
_BARE_FINAL = "assistantfinal"
_LONGEST_TAG = 320
"""Characters. No tag is longer, so a new tag ends within the last so many characters of a growing text."""

_BARE_CHARS = 32
"""A text that begins with a channel's bare name is recognised within so many characters."""
_NEAR = 80
"""Characters around a tag that decide whether a text only mentions it."""
_LONGEST_SPAN = 1_000
"""Characters between a tag and the backticks around it. Code in a line is shorter."""
_MANY_TAGS = 50
"""A growing text with more tags is split only when it has grown by a tenth, so that nonsense stays cheap."""

SegmentKind = Literal["answer", "thought", "tag"]


class Segment(Record, frozen=True):
    """A part of a text. All segments joined are the text."""

    kind: SegmentKind
    """Whether the part belongs to the answer or the thought, or is a tag."""
    text: str
    """The part, exactly as it was written."""


class Split(Record, frozen=True):
    """A text, split into thought and answer."""

    segments: tuple[Segment, ...]
    """The parts of the text, in their order."""
    unfinished: bool = False
    """Whether the text ends within a thought."""
    unopened: bool = False
    """Whether the first thought has no opening tag: the prompt opened it."""

    @property
    def answer(self) -> str:
        """The answer. If there is a thought, without the blanks before the answer."""
        text = "".join(one.text for one in self.segments if one.kind == "answer")
        return text if all(one.kind == "answer" for one in self.segments) else text.lstrip()

    @property
    def thought(self) -> str:
        """All thoughts, with an empty line between two."""
        return _joined(one.text for one in self.segments if one.kind == "thought")


def split(text: str, *, after_thought: bool = False) -> Split:
    """Split a text into thoughts and answer. Nothing of the text is lost.

    Args:
        text: what the model wrote.
        after_thought: whether the server has delivered a thought already, in a field of its own.
    """
    return _Scan(text, after_thought).result()


def _joined(texts: Iterator[str]) -> str:
    return "\n\n".join(stripped for one in texts if (stripped := one.strip()))


class _Tag(Record, frozen=True):
    """A tag of a text."""

    start: int
    end: int
    name: str
    closes: bool
    opens: bool


def _tags(text: str) -> Iterator[_Tag]:
    """Yield the tags of a text."""
    place = 0
    while begin := _BEGIN.search(text, place):
        found = _TAG.match(text, begin.start())
        place = found.end() if found else begin.end()
        if found:
            yield _tag(found)


def _tag(found: re.Match[str]) -> _Tag:
    groups = found.groupdict()
    start, end = found.span()
    if found["channel"]:
        final = found["of"].lower() == "final"
        return _Tag(start=start, end=end, name="channel", closes=final, opens=not final)
    if found["stop"]:
        return _Tag(start=start, end=end, name="channel", closes=True, opens=False)
    for number in ("", "2", "3", "4"):
        if name := groups[f"name{number}"]:
            closes = bool(groups[f"close{number}"])
            void = not number and bool(found["void"])
            return _Tag(start=start, end=end, name=name.lower() + number, closes=closes, opens=not closes and not void)
    number = "5" if groups["name5"] else "6"
    closes = groups[f"edge{number}"].lower() == "end"
    return _Tag(start=start, end=end, name=number, closes=closes, opens=not closes)


class _Scan:
    """One pass over a text, from tag to tag."""

    def __init__(self, text: str, after_thought: bool) -> None:
        self._text = text
        self._segments: list[tuple[SegmentKind, int, int]] = []
        self._tags = list(_tags(text))
        self._stripped = text.rstrip()
        self._last_end = {tag.name: index for index, tag in enumerate(self._tags) if tag.closes}
        self._fences = [_FenceLine(found) for found in _FENCE.finditer(text)] if self._tags else []
        self._thoughts = int(after_thought)
        self._unopened = False
        self._owed: Counter[str] = Counter()
        """Closing tags that are still to come, because a thought held opening tags."""
        self._mentioned_at: int | None = None
        """The end of the last opening tag that the answer only mentions."""

    def result(self) -> Split:
        """Return the split."""
        if bare := self._bare_channels():
            return bare
        inside = self._walk()
        self._unwrap()
        segments = tuple(
            Segment(kind=kind, text=self._text[start:end]) for kind, start, end in self._segments if end > start
        )
        return Split(segments=segments, unfinished=inside, unopened=self._unopened)

    def _bare_channels(self) -> Split | None:
        """Return the split of gpt-oss's channels whose tags the server has removed: `analysis…assistantfinal…`."""
        found = _BARE_ANALYSIS.match(self._text)
        end = self._text.find(_BARE_FINAL, found.end()) if found else -1
        if found is None or end < 0:
            return None
        text, after = self._text, end + len(_BARE_FINAL)
        parts: tuple[tuple[SegmentKind, str], ...] = (
            ("tag", text[: found.end()]),
            ("thought", text[found.end() : end]),
            ("tag", text[end:after]),
            ("answer", text[after:]),
        )
        return Split(segments=tuple(Segment(kind=kind, text=part) for kind, part in parts if part))

    def _walk(self) -> bool:
        """Sort all of the text into segments, and return whether it ends within a thought."""
        place = 0  # all before it is sorted
        open_: _Tag | None = None
        code = _Code(self._text, 0, self._fences)
        channels = False
        for index, tag in enumerate(self._tags):
            if tag.start < place:
                continue
            channels = channels or (
                tag.name == "channel" and self._text[tag.start : tag.end].lower().find("channel") > 0
            )
            if tag.name == "channel" and not channels:
                continue  # `<|end|>` alone is no sign of channels
            if open_ is not None:
                if self._ends(open_, tag, index):
                    self._put("thought", place, tag.start)
                    self._put("tag", tag.start, tag.end)
                    self._thoughts += 1
                    place, open_, code = tag.end, None, _Code(self._text, tag.end, self._fences)
                continue
            if self._is_quoted(tag, code):
                continue
            if tag.opens:
                self._put("answer", place, tag.start)
                self._put("tag", tag.start, tag.end)
                self._owed.clear()
                place, open_ = tag.end, tag
            elif not tag.closes or tag.name == "channel":
                self._put("answer", place, tag.start)
                self._put("tag", tag.start, tag.end)
                place = tag.end
            elif (kind := self._of_stray(tag, place)) is not None:
                self._put(kind, place, tag.start)
                self._put("tag", tag.start, tag.end)
                place, code = tag.end, _Code(self._text, tag.end, self._fences)
        self._put("answer" if open_ is None else "thought", place, len(self._text))
        return open_ is not None

    def _put(self, kind: SegmentKind, start: int, end: int) -> None:
        self._segments.append((kind, start, end))

    def _ends(self, open_: _Tag, tag: _Tag, index: int) -> bool:
        """Return whether a tag within a thought ends the thought."""
        if self._in_quotes(tag):
            return False
        if tag.opens and not (tag.name == "channel" == open_.name):
            self._owed[tag.name] += 1
            return False
        if not tag.closes:
            return False
        if tag.name == open_.name:
            return True
        if self._owed[tag.name] > 0:
            self._owed[tag.name] -= 1
            return False
        return self._last_end.get(open_.name, -1) < index

    def _of_stray(self, tag: _Tag, place: int) -> SegmentKind | None:
        """Return what the text between `place` and a closing tag outside a thought is; None: the tag itself is text."""
        before, rest = self._text[place : tag.start], self._text[tag.end : tag.end + _NEAR]
        if self._mentioned_at is not None and "\n" not in self._text[self._mentioned_at : tag.start]:
            self._mentioned_at = None
            return None
        if self._owed[tag.name] > 0:
            self._owed[tag.name] -= 1
            return "thought"
        if not self._thoughts:
            self._thoughts += 1
            self._unopened = True
            return "thought"
        if not before.strip():
            return "thought"
        if tag.end >= len(self._stripped):
            return "answer"
        within = re.search(r"\w[ \t]+\Z", before[-_NEAR:]) and re.match(r"[ \t]+\w", rest)
        return None if within else "thought"

    def _is_quoted(self, tag: _Tag, code: _Code) -> bool:
        """Return whether the answer only quotes or mentions a tag."""
        if self._in_quotes(tag) or code.holds(tag):
            return True
        if not tag.opens or tag.name == "channel":
            return False
        near = max(tag.start - _NEAR, 0)
        line = self._text[max(near, self._text.rfind("\n", near, tag.start) + 1) : tag.start]
        after = self._text[tag.end : tag.end + _NEAR]
        mentioned = bool(re.search(r"[\w,:;)][ \t]+\Z", line) and re.match(r"[ \t]+\w|[,.;:)?!](?:\s|\Z)", after))
        if mentioned:
            self._mentioned_at = tag.end
        return mentioned

    def _in_quotes(self, tag: _Tag) -> bool:
        """Return whether quotation marks or backticks stand directly around a tag, or a backslash before it."""
        before, after = self._text[tag.start - 1 : tag.start], self._text[tag.end : tag.end + 1]
        return before == "\\" or (bool(before) and _QUOTES.get(before, "") == after != "")

    def _unwrap(self) -> None:
        """Sort the tags around an answer, such as `<answer>…</answer>`, into segments of their own."""
        if all(kind == "answer" for kind, _, _ in self._segments):
            return
        for index in range(len(self._segments) - 1, -1, -1):
            kind, start, end = self._segments[index]
            text = self._text[start:end]
            if kind != "answer" or not (stripped := text.strip()):
                continue
            for opening, closing in _WRAPPERS:
                if stripped.lower().startswith(opening.lower()):
                    begin = start + len(text) - len(text.lstrip())
                    stop = end - (len(text) - len(text.rstrip()))
                    closed = stripped.lower().endswith(closing.lower()) and len(stripped) >= len(opening + closing)
                    if not closed and closing.lower() in stripped.lower():
                        return  # the tags are around a part of the answer only
                    last = stop - len(closing) if closed else end
                    inner = begin + len(opening)
                    self._segments[index : index + 1] = [
                        ("answer", start, begin), ("tag", begin, inner), ("answer", inner, last), ("tag", last, end),
                    ]  # fmt: skip
                    return
            return


class _FenceLine:
    """A line that begins or ends a block of code."""

    def __init__(self, found: re.Match[str]) -> None:
        self.start, self.end = found.span()
        self._mark = found[1]
        self._bare = not found[0].strip().lstrip(self._mark[0])

    def is_ended_by(self, other: _FenceLine) -> bool:
        """Return whether another line ends the block that this line begins."""
        return other._bare and other._mark[0] == self._mark[0] and len(other._mark) >= len(self._mark)


class _Code:
    """The code of an answer that begins at `start`: fenced blocks, and spans between backticks."""

    def __init__(self, text: str, start: int, fences: list[_FenceLine]) -> None:
        self._text = text
        self._start = start
        self._fences = fences
        self._next = bisect_left(fences, start, key=lambda line: line.start)
        self._block: tuple[int, int, bool] = (start, start, True)
        """The last fenced block: start, end, and whether a line ends it."""
        self._line: tuple[int, int] = (0, 0)
        self._spans: list[tuple[int, int]] = []

    def holds(self, tag: _Tag) -> bool:
        """Return whether a tag stands in code. A block without end holds no closing tag: a thought may have opened it."""
        while self._block[1] <= tag.start and self._next < len(self._fences):
            self._next_block()
        start, end, ended = self._block
        if start <= tag.start < end and (ended or tag.opens):
            return True
        return any(begin <= tag.start and tag.end <= stop for begin, stop in self._spans_around(tag))

    def _next_block(self) -> None:
        opening = self._fences[self._next]
        for index in range(self._next + 1, len(self._fences)):
            if opening.is_ended_by(self._fences[index]):
                self._block, self._next = (opening.start, self._fences[index].end, True), index + 1
                return
        self._block, self._next = (opening.start, len(self._text), False), len(self._fences)

    def _spans_around(self, tag: _Tag) -> list[tuple[int, int]]:
        """Return the spans between backticks in the line of a tag."""
        if not self._line[0] <= tag.start < self._line[1]:
            first, last = max(self._start, tag.start - _LONGEST_SPAN), tag.end + _LONGEST_SPAN
            begin, stop = self._text.rfind("\n", first, tag.start), self._text.find("\n", tag.end, last)
            self._line = (begin + 1 or first, stop if stop >= 0 else min(last, len(self._text)))
            self._spans = [found.span() for found in _INLINE.finditer(self._text, *self._line)]
        return self._spans


class Change(Record, frozen=True):
    """How the split of a growing text has changed."""

    text: str = ""
    """The next piece of the answer."""
    thought: str = ""
    """The next piece of the thought."""
    whole: bool = False
    """Whether `text` and `thought` replace everything before: what looked like an answer was a thought, or the
    other way round."""


class HeardAnswer(Record, frozen=True):
    """A complete stream: the answer, and the thought before it."""

    text: str
    """The answer as the model wrote it, without thoughts."""
    thought: str = ""
    """What the model thought."""
    end: ChatEnd | None = None
    """The last item of the stream; None: the stream broke off."""
    unfinished: bool = False
    """Whether the text ends within a thought."""
    unopened: bool = False
    """Whether the thought has no opening tag: the prompt opened it."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The tokens of the answer. After a thought, without the blank ones before the answer."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the stream ended."""
        return self.end.finish_reason if self.end else None

    @property
    def only_thought(self) -> bool:
        """Whether there is a thought and no answer."""
        return bool((self.thought or self.unfinished) and not self.text.strip())


class AnswerReader:
    """Reads the items of one stream, and keeps thought and answer apart while they come."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0
        """Length of the text so far."""
        self._tail = ""
        """The end of the text so far, longer than any tag."""
        self._field: list[str] = []
        """The pieces of the thought that came in a field of its own."""
        self._last: SegmentKind = "answer"
        """What the text ends with, as far as it is shown."""
        self._read = 0
        """Length of the text that is shown. The rest may become a tag."""
        self._marked = 0
        """How many tags have come, quoted or not, and code marks after them."""
        self._shown_text = ""
        self._shown_thought = ""
        self._logprobs: list[tuple[int, ChatDelta]] = []
        self._ended: ChatEnd | None = None

    def add(self, delta: ChatDelta) -> Change | None:
        """Add the next piece, and return what changed; None if nothing to show has changed."""
        if delta.logprobs:
            self._logprobs.append((self._size, delta))
        if delta.thought:
            self._field.append(delta.thought)
        plain = not delta.thought and self._is_plain(delta.text)
        self._pieces.append(delta.text)
        self._size += len(delta.text)
        self._tail = (self._tail + delta.text)[-_LONGEST_TAG:]
        return self._append(delta.text) if plain else self._compare(final=False)

    def end(self, end: ChatEnd | None = None) -> Change | None:
        """End the stream, and return the last change."""
        self._ended = end
        return self._compare(final=True)

    def heard(self) -> HeardAnswer:
        """Return the answer and its thought. Call `end` first."""
        found = self._split(self._text())
        return HeardAnswer(
            text=found.answer,
            thought=self._thought(found),
            end=self._ended,
            unfinished=found.unfinished,
            unopened=found.unopened,
            logprobs=self._tokens(found),
        )

    def _is_plain(self, text: str) -> bool:
        """Return whether the next piece only goes on with the thought or the answer.

        The whole text is split again only for the other pieces, so that long streams stay cheap.
        """
        window = self._tail + text
        news = [tag for tag in _tags(window) if tag.end > len(self._tail) - _NEAR]
        self._marked += sum(tag.end > len(self._tail) for tag in news)
        if self._read < self._size or self._size + len(text) < _BARE_CHARS:
            return False
        if news or _is_open_end(window[-_LONGEST_TAG:]) or (self._marked and _BARE_FINAL in window):
            return False
        if self._marked and self._last == "answer" and "`" in text:
            self._marked += 1  # so that a text full of code marks is not split again for each of them
            return False
        return True

    def _append(self, text: str) -> Change | None:
        self._read = self._size
        if self._last == "thought":
            text = text if self._shown_thought else text.lstrip()
            self._shown_thought += text
            return Change(thought=text) if text else None
        text = text if self._shown_text or not (self._marked or self._field) else text.lstrip()
        self._shown_text += text
        return Change(text=text) if text else None

    def _compare(self, *, final: bool) -> Change | None:
        """Split the text so far, and return how the split differs from what is shown."""
        if not final and self._marked > _MANY_TAGS and self._size < 1.1 * self._read:
            return None
        whole = self._text()
        held = _OPEN_END.search(self._tail) if not final and _is_open_end(self._tail) else None
        self._read = self._size - (len(held[0]) if held else 0)
        found = self._split(whole[: self._read])
        self._last = found.segments[-1].kind if found.segments else "answer"
        self._last = "thought" if found.unfinished else "answer" if self._last == "tag" else self._last
        text, thought = found.answer, self._thought(found)
        old_text, old_thought = self._shown_text, self._shown_thought
        if thought == old_thought.rstrip():
            thought = old_thought
        self._shown_text, self._shown_thought = text, thought
        if text == old_text and thought == old_thought:
            return None
        if text.startswith(old_text) and thought.startswith(old_thought):
            return Change(text=text[len(old_text) :], thought=thought[len(old_thought) :])
        return Change(text=text, thought=thought, whole=True)

    def _text(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def _split(self, text: str) -> Split:
        return split(text, after_thought=bool(self._field))

    def _thought(self, found: Split) -> str:
        return _joined(iter(("".join(self._field), found.thought)))

    def _tokens(self, found: Split) -> tuple[TokenLogprob, ...]:
        """Return the tokens that lie in the answer."""
        everything = tuple(token for _, delta in self._logprobs for token in delta.logprobs)
        if not self._field and all(one.kind == "answer" for one in found.segments):
            return everything
        ranges, place = [], 0
        for segment in found.segments:
            if segment.kind == "answer":
                ranges.append((place, place + len(segment.text)))
            place += len(segment.text)
        kept = []
        for begin, delta in self._logprobs:
            if not delta.text:
                continue
            # Tokens stand one after the other in the text of their piece. If they do not, all count as its beginning.
            aligned = "".join(token.token for token in delta.logprobs) == delta.text
            at = begin
            for token in delta.logprobs:
                middle = at + (len(token.token) if aligned else len(delta.text)) / 2
                if any(start <= middle < stop or start <= at < stop for start, stop in ranges):
                    kept.append(token)
                at += len(token.token) if aligned else 0
        first = next((index for index, token in enumerate(kept) if token.token.strip(" \n\t\r▁ĠĊ")), len(kept))
        return tuple(kept[first:])


async def read_answer(stream: AsyncIterator[ChatItem]) -> HeardAnswer:
    """Read a runtime's stream to its end, and return the answer without its thought."""
    reader = AnswerReader()
    end: ChatEnd | None = None
    try:
        async for item in stream:
            if isinstance(item, ChatEnd):
                end = item
            else:
                reader.add(item)
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    reader.end(end)
    return reader.heard()


def _is_open_end(tail: str) -> bool:
    """Return whether a text ends with what may become a tag."""
    found = _OPEN_END.search(tail)
    if found is None:
        return False
    begun = re.sub(r"\s+", "", found[0].lower())
    begun = begun.replace("/", "", 1) if begun.startswith("</") and not "</answer>".startswith(begun) else begun
    return any(one.startswith(begun) or begun.startswith(one) for one in _BEGINNINGS)
