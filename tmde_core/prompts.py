"""Builds the prompts of each role with pure functions, so that training sees exactly what a debate shows.

The conversation of a role only grows: the messages of round N+1 are the messages and the answer of round N plus one
user turn. A server with a prompt cache therefore reads nothing twice. The wording is short and plain, because models
with 135M parameters must follow it too. With a long system prompt they talk about the system prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tmde_core.records.chat import ChatRequest, Message
from tmde_core.records.debate import Critique, Exchange, Role, Round
from tmde_core.records.templates import Template

PROPOSER_SYSTEM = "You are a helpful assistant. Give a short answer."
"""Chosen from five wordings tried on the embedded model: none answered more practice questions, and this one gives
the shortest answers."""

SKEPTIC_SYSTEM = (
    'You check answers. Reply in JSON: "score" from 0 (wrong) to 10 (right), "verdict" ("accept" or "revise"), and "issues", a '
    'list of at most 3 mistakes in the answer, each with "severity" (minor, major or critical) and "text". If the answer is '
    "right, issues is []."
)
"""Contains no example, because small models copy examples. The score comes first, because a score after a list of
issues was always the same."""

SYNTHESIZER_SYSTEM = "You are a helpful assistant. Give the final answer to the question."

ELLIPSIS = "…"

_STEPS = re.compile(
    r"^(?:#+ *)?Steps:? *\n(.*?)(?=^(?:#+ *)?(?:Examples?|Checks):|^#|\Z)", re.MULTILINE | re.DOTALL | re.IGNORECASE
)


def with_earlier(query: str, earlier: Sequence[Exchange]) -> str:
    """Return a question together with the questions and answers that it follows up.

    The debate's models and training read the same text. Without earlier questions it is the question itself.
    """
    if not earlier:
        return query
    before = [f"Earlier question: {one.question}\nEarlier answer: {one.answer}" for one in earlier]
    return "\n\n".join([*before, f"Now answer this question: {query}"])


def proposer_opening(query: str, templates_text: str = "") -> tuple[Message, ...]:
    """Return the Proposer's first prompt, which is also the prompt of training examples.

    Without templates, the model sees only the question as it was asked. With templates, the question comes last: when
    the method came after the question, small models recited the method.
    """
    content = (
        f"Here is a method that may help.\n\n{templates_text}\n\nNow answer this question: {query}"
        if templates_text
        else query
    )
    return Message(role="system", content=PROPOSER_SYSTEM), Message(role="user", content=content)


def template_text(template: Template) -> str:
    """Return what the Proposer sees of a template: its steps if it has a part with that name, else the whole body.

    The example in a template is for people. Small models answer the example instead of the question.
    """
    found = _STEPS.search(template.body)
    return found[1].strip() if found else template.body.strip()


def proposer_revision(critique: Critique) -> Message:
    """Return the message that gives the Skeptic's critique to the Proposer."""
    said = critique_for_people(critique)
    if not said:
        return Message(role="user", content="Are you sure? Answer the question again.")
    return Message(
        role="user",
        content=f"A reviewer says:\n{said}\n\nAnswer the question again. Correct what is wrong and keep what is right.",
    )


def skeptic_opening(query: str, proposal: str) -> tuple[Message, ...]:
    """Return the Skeptic's first prompt."""
    return (
        Message(role="system", content=SKEPTIC_SYSTEM),
        Message(role="user", content=f"Question:\n{query}\n\nAnswer to check:\n{proposal}"),
    )


def skeptic_revision(proposal: str) -> Message:
    """Return the message that gives a revised proposal to the Skeptic."""
    return Message(role="user", content=f"Revised answer to check:\n{proposal}")


def synthesizer_opening(query: str, rounds: Sequence[Round]) -> tuple[Message, ...]:
    """Return the Synthesizer's only prompt: the last proposals, the open issues of the last one, and the question.

    The question comes last. The proposal before the last is included only if the last one has major or critical issues.
    Otherwise it only confuses the model.
    """
    *earlier, last = rounds
    issues = last.critique.issues if last.critique else ()
    parts = [f"Here is a draft answer:\n{last.proposal}"]
    if earlier and earlier[-1].proposal != last.proposal and any(issue.severity != "minor" for issue in issues):
        parts.insert(0, f"Here is an earlier draft:\n{earlier[-1].proposal}")
    if last.critique is not None and issues:
        parts.append(f"A reviewer says:\n{critique_for_people(last.critique)}")
    parts.append(f"Now give the final answer to this question: {query}")
    return Message(role="system", content=SYNTHESIZER_SYSTEM), Message(role="user", content="\n\n".join(parts))


def critique_for_people(critique: Critique) -> str:
    """Return a critique as plain lines for the Proposer and the Synthesizer; empty if it has no issues."""
    return "\n".join(f"- {issue.text} ({issue.severity})" for issue in critique.issues)


def role_of(request: ChatRequest) -> Role:
    """Return the role that a request was built for; `judge` if it is no debate prompt."""
    system = request.messages[0].content if request.messages else ""
    roles: dict[str, Role] = {
        PROPOSER_SYSTEM: "proposer",
        SKEPTIC_SYSTEM: "skeptic",
        SYNTHESIZER_SYSTEM: "synthesizer",
    }
    return roles.get(system, "judge")
