"""The dialog for writing a question and trying its checks on an answer before saving the question."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from tmde_core.benchmark.questions.custom import DIFFICULTIES, MAX_CRITERIA, decode_question
from tmde_core.benchmark.running.scoring import AnswerScore
from tmde_core.errors import InvalidInputError, TmdeError
from tmde_core.records.judging import Criterion, NumberCheck
from tmde_core.records.questions import Question
from tmde_core.services import Services
from tmde_ui.benchmark.questions.checks import COUNTED, FORMS, KINDS, blocks, decode_criterion, encode_fields
from tmde_ui.benchmark.words import DOMAINS
from tmde_ui.kit.elements import Modal, Tag, button, choice, field
from tmde_ui.kit.forms import TOO_LARGE, clear_on_input, on_press, on_submit
from tmde_ui.kit.words import score, sentence

_AT_CRITERION = re.compile(r"criteria\[(\d+)\]")


class QuestionEditor:
    """Edits a new or an existing question."""

    def __init__(self, services: Services, kept: Callable[[], Awaitable[None]]) -> None:
        self._services = services
        self._kept = kept
        self._old: Question | None = None
        self._number = 0
        self._wrong: dict[int, Tag] = {}
        self.modal = Modal("A question of your own", test="question-dialog", classes="sheet")
        with self.modal.body:
            self._body = Tag("div", classes="stack")

    def open(self, question: Question | None = None) -> None:
        """Open the dialog, empty or with a question to edit."""
        self._old = question
        self._number = 0
        self._wrong.clear()
        self.modal.heading.say("Change a question" if question else "A question of your own")
        self._body.clear()
        with self._body:
            self._draw(question)
        self.modal.open()

    # -------------------------------------------------------------------------------------- drawing

    def _draw(self, question: Question | None) -> None:
        with Tag("form", classes="stack", novalidate=True) as form:
            self._area(
                "Question", "query", question.query if question else "", 4, "The question as the model reads it."
            )
            with Tag("div", classes="options"):
                choice("Domain", "domain", list(DOMAINS.items()), question.domain if question else "reasoning")
                levels = [(level, level) for level in DIFFICULTIES]
                choice("Difficulty", "difficulty", levels, question.difficulty if question else "medium")
                given = question.id if question else ""
                field("Name", "question-id", defaultValue=given, readonly=bool(question), maxlength="80",
                      placeholder="created automatically", autocomplete="off", spellcheck="false")  # fmt: skip
            self._area(
                "Reference answer", "reference", (question.reference or "") if question else "", 2,
                "A right answer. Not needed if a criterion below is checked automatically.",
            )  # fmt: skip
            self._area(
                "Rubric", "rubric", (question.rubric or "") if question else "", 2,
                "What a good answer has. Not needed if there are criteria.",
            )  # fmt: skip
            with Tag("fieldset", classes="stack", data_testid="criteria"):
                Tag("legend", "Criteria", "eyebrow")
                self._criteria = Tag("div", classes="stack")
                more = button("Add a criterion", test="add-criterion")
            with Tag("fieldset", classes="stack tight", data_testid="dry-run"):
                Tag("legend", "Try the checks", "eyebrow")
                self._area("Answer to check", "answer", "", 3)
                with Tag("div", classes="line"):
                    attempt = button("Try it", test="try-checks")
                    Tag("span", "Nothing is saved, and no model is asked.", "muted small")
                self._tried = Tag("div", classes="stack tight maybe", role="status", data_testid="tried")
        with Tag("div", classes="sheet-foot"):
            self._said = Tag("p", classes="maybe", role="alert", data_testid="question-said")
            self._keep_button = button("Save the question", "primary", test="keep-question")
        for one in question.criteria if question else (Criterion(name="right", check=NumberCheck(value=0)),):
            self._add(decode_criterion(self._number, one) if question else {f"c{self._number}-name": one.name})
        more.on("click", lambda: self._add({}), args=[])
        on_press(attempt, form, self._try)
        on_press(self._keep_button, form, self._keep)
        on_submit(form, self._try)
        clear_on_input(form, self._forget)

    def _forget(self) -> None:
        """Remove the messages about values that are being changed."""
        self._say("")
        for place in self._wrong.values():
            place.say("")

    @staticmethod
    def _area(label: str, name: str, text: str, rows: int, hint: str = "") -> None:
        with Tag("div", classes="field"):
            Tag("label", label, for_=f"field-{name}")
            Tag("textarea", text, "input", id=f"field-{name}", name=name, rows=str(rows), placeholder=hint or None)

    def _add(self, values: Mapping[str, str]) -> None:
        """Add a criterion with these values."""
        if len(self._wrong) >= MAX_CRITERIA:
            self._say(f"A question can have at most {MAX_CRITERIA} criteria.")
            return
        number = self._number
        self._number += 1
        prefix = f"c{number}-"
        kind = values.get(f"{prefix}kind", "number")

        def value(name: str) -> str:
            return values.get(f"{prefix}{name}", "")

        with self._criteria, Tag("div", classes="criterion stack tight", data_testid="criterion") as block:
            with Tag("div", classes="options"):
                field("Criterion", f"{prefix}name", defaultValue=value("name"), maxlength="80", autocomplete="off",
                      placeholder="right")  # fmt: skip
                field(
                    "Weight", f"{prefix}weight", defaultValue=value("weight") or "1", inputmode="decimal", maxlength="6"
                )
                decides = choice("Decided by", f"{prefix}kind", KINDS, kind, data_testid="kind")
            decides.on("change", js_handler="(event) => tmde.showChosenKind(event.target, '.criterion')")
            for name, _ in KINDS:
                with Tag("div", classes="options", data_kind=name).show(visible=name == kind):
                    _parameters(name, prefix, value)
            with Tag("div", classes="line spread"):
                wrong = self._wrong[number] = Tag("p", classes="wrong", role="alert", data_testid="criterion-wrong")
                gone = button("Remove", "quiet", test="remove-criterion")

        def remove() -> None:
            del self._wrong[number]
            block.delete()

        gone.on("click", remove, args=[])
        wrong.say("")

    # ------------------------------------------------------------------------------------ try, keep

    def _question(self, fields: Mapping[str, str]) -> Question | None:
        """Return the typed question, or None after showing the error next to its field."""
        self._forget()
        if TOO_LARGE in fields:
            self._say("The form has more than half a megabyte. Shorten the question or the answer.")
            return None
        try:
            wire = encode_fields(fields)
            if self._old is not None and self._old.check and not wire["criteria"]:
                wire["check"] = self._old.check  # the form has no field for it
            return decode_question(wire)
        except InvalidInputError as error:
            self._complain(error, fields)
            return None

    def _complain(self, error: InvalidInputError, fields: Mapping[str, str]) -> None:
        at = _AT_CRITERION.match(str(error.context.get("field", "")))
        numbers = blocks(fields)
        if at and int(at[1]) < len(numbers) and (place := self._wrong.get(numbers[int(at[1])])) is not None:
            words = re.sub(r"^criteria\[\d+\]\.?\w*: ?", "", error.detail)
            place.say(words[:1].upper() + words[1:])
            self._say("Correct the marked criterion.")
        else:
            self._say(error.detail[:1].upper() + error.detail[1:])

    async def _try(self, fields: dict[str, str]) -> None:
        self._tried.clear()
        question = self._question(fields)
        if question is None:
            return
        found = await self._services.benchmark.dry_run(question, fields.get("answer", ""))
        with self._tried:
            _tell(question, found)
        self._tried.bring_into_view("center")

    async def _keep(self, fields: dict[str, str]) -> None:
        question = self._question(fields)
        if question is None:
            return
        self._keep_button.put(disabled=True)
        try:
            await self._store(question)
        except TmdeError as error:
            self._say(sentence(error))
            return
        finally:
            self._keep_button.put(disabled=False)
        self.modal.close()
        await self._kept()

    async def _store(self, question: Question) -> None:
        benchmark = self._services.benchmark
        await (benchmark.replace_question(question) if self._old else benchmark.add_question(question))

    def _say(self, words: str) -> None:
        self._said.say(words).classes(replace="notice bad" if words else "maybe")


Value = Callable[[str], str]


def _parameters(kind: str, prefix: str, value: Value) -> None:
    """Draw the fields of one kind of check."""

    def line(label: str, name: str, hint: str = "", default: str = "") -> None:
        field(label, f"{prefix}{name}", defaultValue=value(name) or default, placeholder=hint or None, autocomplete="off",
              spellcheck="false")  # fmt: skip

    def area(label: str, name: str, hint: str) -> None:
        with Tag("div", classes="field wide-field"):
            Tag("label", label, for_=f"field-{prefix}{name}")
            Tag("textarea", value(name), "input mono", id=f"field-{prefix}{name}", name=f"{prefix}{name}", rows="3",
                placeholder=hint, spellcheck="false")  # fmt: skip

    if kind == "number":
        line("Correct number", "value", "42")
        line("Tolerance", "tolerance", "0")
    elif kind == "choice":
        area("Options, one per line", "options", "yes\nno")
        line("Correct option", "answer", "yes")
    elif kind == "facts":
        area("Facts, one per line; separate wordings with |", "facts", "Paris\n1789 | seventeen eighty-nine")
        area("Forbidden statements, one per line", "forbidden", "")
    elif kind == "regex":
        line("Pattern, a regular expression", "pattern", r"\bcrimson\b")
        with Tag("label", classes="check"):
            Tag("input", type="checkbox", name=f"{prefix}absent", defaultChecked=bool(value("absent")))
            Tag("span", "must not occur")
    elif kind == "count":
        choice("What is counted", f"{prefix}of", [(one, one) for one in COUNTED], value("of") or "words")
        line("At least", "minimum", "0")
        line("At most", "maximum", "no limit")
    elif kind == "form":
        choice("Format", f"{prefix}form", FORMS, value("form") or "must-use")
        line("Value", "form-value")
    elif kind == "code":
        area("Tests, one assertion per line", "tests", "assert double(3) == 6")
    else:
        line("What the judge looks for", "description", "It gives a reason for each step.")


def _tell(question: Question, found: AnswerScore) -> None:
    words = "No verdict: the checks decide less than half of the weight. In a benchmark run, a judge decides the rest."
    Tag(
        "p",
        f"{score(found.score)} of 10" if found.score is not None else words,
        "notice good" if found.score else "notice",
    )
    judged = {one.name for one in question.criteria if one.check is None}
    if found.criteria:
        with Tag("ul", classes="criteria"):
            for name, value in found.criteria.items():
                with Tag("li"):
                    Tag("span", name, "muted")
                    open_ = "a judge, in a run" if name in judged else "open"
                    Tag("span", score(value) if value is not None else open_, "tabular")
    for reason in found.reasons:
        Tag("p", reason, "muted small")
