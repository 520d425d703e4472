"""Names the fields of data sets: question, passage, options, answer, and what the model need not see.

Names are compared without case, blanks and marks: `Correct Answer`, `correct_answer` and `correctAnswer` are one name.
A field that is in none of the lists and holds text or a list may be needed to answer, so its entry is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tmde_core.errors import InvalidInputError

QUESTIONS = ("question", "query", "input", "questionstem", "stem", "problem", "prompt", "instruction", "questiontext")
PASSAGES = (
    *("passage", "context", "article", "support", "background", "story", "paragraph", "document", "fact1", "table"),
    *("premise", "situation", "scenario", "text", "body", "florespassage", "narrative"),
)
CHOICES = ("choices", "options", "endings", "candidates", "answerchoices", "possibleanswers", "alternatives")
ANSWERS = (
    *(
        "answer",
        "answers",
        "answerkey",
        "target",
        "ideal",
        "correctanswer",
        "correct",
        "correctoption",
        "correctchoice",
    ),
    *("rightanswer", "expected", "expectedanswer", "expectedoutput", "output", "response", "completion"),
    *("answerletter", "correctanswernum", "finalans", "finalanswer"),
)
INDEXES = (
    *("answerindex", "answeridx", "correctindex", "correctidx", "goldindex", "goldidx", "label", "gold", "cop"),
    *("correctanswerid", "correctanswerindex", "correctanswerlabel"),
)
"""Fields that hold the number or the label of the right option."""

_MEDIA = re.compile(
    r"(?:decoded|raw)?(?:image|picture|photo|figure|diagram|chart|audio|video|sound|pdf|attachment|screenshot|visual)s?"
    r"(?:path|file|url|uri|name|bytes|data|base64)?\d*"
)
_FILES = ("files", "sandbox", "setup")
_NOT_NEEDED = """
    id qid uid uuid guid idx index ind no number name title category categories subject subjects topic topics field
    subfield area domain subdomain highleveldomain difficulty level grade gradelevel src source sources dataset
    datasetname split splittype subset config configuration tags tag keywords keyword skill skills metadata meta author
    license licence url link links created createdat updated date version lang language locale dialect type questiontype qtype
    answertype format task tasktype taskname year points weight score scores turkidanonymized humanscore clarity
    questionconcept activitylabel plausibleanswers isimpossible impossible mc1targets mc2targets explanation
    explanations rationale cotcontent cot solution reasoning justification generatedsolution feedback messages store modelusage epoch events error
    limit totaltime workingtime timelines attachments answerspans annotator annotations comment comments canarystring
    wrong incorrectanswers doccategory hash rubric contamination exp actualoutput discipline subjectname
    topicname authorname rawsubject urls
"""
_UNSEEN = frozenset(_NOT_NEEDED.split())
"""Fields about a question that nobody needs to answer it."""
_UNSEEN_KIND = re.compile(
    r".*(?:id|ids|idx|index|hash|md5|url|uri|type|category|lang|language|level|source|version|split|subset|author|date"
    r"|filename|tags?|topic|subject)|(?:question|line|row|item|unnamed)(?:number|no|\d+)?"
    r"|(?:prerevision|extrarevised|expert|nonexpert|writer|questionwriter|validator|revision|canary|feedback|annotator"
    r"|worker|meta).*"
    r"|.*(?:ev|nev)\d"
)
_NAMES_AN_OPTION = re.compile(
    r"(?:correct|right|gold|true|best)?(?:answer|option|choice|ending)?(?:id|idx|index|num|number|no|label|place|position)"
)
_ALONE = frozenset({"id", "idx", "index", "num", "number", "no", "place", "position"})
"""Such names count the questions, and not their options."""
_MEASURED = re.compile(
    r"(?:num(?!ber)|human)[a-z]+|.+len|.*(?:count|score|scores|rating|votes|weight|tokens|words|chars|characters|rank"
    r"|probability|confidence|accuracy|agreement|timestamp|perplexity|seed|hops|tol)"
)
"""Numbers about a question. Any other number, such as `start` or `speed`, may be needed to answer."""
_SUMS = ("equation", "formula")
"""Arithmetic in one of these tells how the answer is found, unless the question speaks of it."""
_SUM = re.compile(r"[-+*/=().\d\s]+")
_FALSE_MARKS = ("iscorrect", "isright", "isvalid", "valid", "isanswer", "istrue")
"""Fields that say whether the answer beside them is right."""


class Fields:
    """The fields of one entry, without the empty ones. Remembers which fields were read."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        """Take the fields.

        Raises:
            InvalidInputError: Two names differ in form only, or a field holds a picture or another file.
        """
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        self._read: set[str] = set()
        for name, value in entry.items():
            folded = fold_name(name)
            if folded in self._names:
                raise InvalidInputError(f"{name}: the field {self._names[folded]!r} has the same name.", field=name)
            self._names[folded] = name
            if is_empty(value):
                continue
            if not isinstance(value, bool | int | float) and (_MEDIA.fullmatch(folded) or folded in _FILES):
                raise InvalidInputError(
                    f"{name}: the question comes with a picture or another file, which TMDE cannot show to a model.",
                    field=name,
                )
            self._values[folded] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, name: str) -> Any:
        """Return a field's value, or None. The field counts as read."""
        self._read.add(name)
        return self._values.get(name)

    def label(self, name: str) -> str:
        """Return the name of a field as it was written."""
        return self._names.get(name, name)

    def first(self, names: Iterable[str]) -> str | None:
        """Return the first of the names that the entry has."""
        return next((name for name in names if name in self._values), None)

    def skip(self, names: Iterable[str]) -> None:
        """Count fields as read."""
        self._read.update(names)

    def refuse_unread(self, query: str = "") -> None:
        """Refuse an entry with a field that was not read and may be needed to answer.

        Args:
            query: The question as it will be asked.

        Raises:
            InvalidInputError: There is such a field. The error names it.
        """
        for name, value in self._values.items():
            if name in self._read or (_is_needless(name, value) and not (name in _SUMS and name in query.casefold())):
                continue
            label = self._names[name][:60]
            if name in (*INDEXES, *_FALSE_MARKS) or _NAMES_AN_OPTION.fullmatch(name):
                raise InvalidInputError(
                    f"{label}: {str(value)[:40]} may be the number of an option, or say that the answer is wrong. Write the right "
                    f"answer as `answer`, and leave `{label}` out.",
                    field=label,
                )
            raise InvalidInputError(
                f"{label}: TMDE does not know whether a model needs this field to answer. Put it into the question, or "
                "into `metadata` if it is not needed.",
                field=label,
            )


def _is_needless(name: str, value: Any) -> bool:
    """Return whether nobody needs the field to answer the question. A field without a name counts the rows of a table."""
    if name in _FALSE_MARKS:
        return value is True
    if name in INDEXES or (_NAMES_AN_OPTION.fullmatch(name) and name not in _ALONE):
        return False
    if not name or isinstance(value, bool) or name in _UNSEEN or _UNSEEN_KIND.fullmatch(name):
        return True
    if name in _SUMS:
        return isinstance(value, str) and _SUM.fullmatch(value) is not None
    if isinstance(value, int | float):
        return _MEASURED.fullmatch(name) is not None
    return isinstance(value, Mapping) and all(_is_needless(fold_name(str(one)), of) for one, of in value.items())


def fold_name(name: str) -> str:
    """Return a field's name without case, blanks and marks."""
    return "".join(character for character in name.casefold() if character.isalnum())


def is_empty(value: Any) -> bool:
    """Return whether a value says nothing: null, blank text, or a container of nothing but such values."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    return isinstance(value, list) and all(map(is_empty, value))
