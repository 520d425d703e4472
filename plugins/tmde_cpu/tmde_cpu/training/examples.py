"""Turn conversations into tokens. Only the tokens of the answer are trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.records import from_json
from tmde_core.sdk.training import TrainingExample
from tmde_core.sdk.worker import TrainingFailedError


@dataclass(frozen=True)
class Example:
    """One conversation. `tokens[answer_start:]` is the answer with its end-of-turn token, which is trained on."""

    tokens: tuple[int, ...]
    answer_start: int
    trace_id: str

    @property
    def supervised(self) -> int:
        """The number of tokens that are trained on."""
        return len(self.tokens) - self.answer_start


@dataclass(frozen=True)
class Encoded:
    """The examples that fit, and the trace ids of those that are too long."""

    examples: tuple[Example, ...]
    too_long: tuple[str, ...]


def read_examples(file: Path) -> list[TrainingExample]:
    """Return the examples in a dataset file. A missing file has none.

    Raises:
        TrainingFailedError: a line is not an example. The error names the line.
    """
    if not file.exists():
        return []
    examples = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            examples.append(from_json(line, TrainingExample))
        except InvalidInputError as error:
            raise TrainingFailedError("bad-dataset", f"{file.name}, line {number}: {error.detail}") from None
    return examples


def encode_all(examples: Iterable[TrainingExample], tokenizer: Any, max_tokens: int) -> Encoded:
    """Encode every example. An example longer than `max_tokens` is left out, because a cut answer teaches cutting."""
    encoded = [encode(example, tokenizer) for example in examples]
    return Encoded(
        tuple(example for example in encoded if len(example.tokens) <= max_tokens),
        tuple(example.trace_id for example in encoded if len(example.tokens) > max_tokens),
    )


def encode(example: TrainingExample, tokenizer: Any) -> Example:
    """Encode one conversation with the model's own chat template.

    Prompt and answer are tokenised separately, as when the model is served: the model reads the prompt's tokens and
    then writes the answer's tokens.

    Raises:
        TrainingFailedError: the template does not start the answer where its prompt ends, or the mask is wrong.
    """
    messages = [{"role": message.role, "content": message.content} for message in example.messages]
    if not messages or messages[-1]["role"] != "assistant":
        raise TrainingFailedError("bad-dataset", f"The example of trace {example.trace_id} does not end in an answer.")
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(prompt):
        raise TrainingFailedError(
            "chat-template",
            "The base model's chat template does not begin the answer where its prompt ends, so what is learned cannot "
            "be told from what is read. Choose another base model.",
        )
    prompt_tokens = tokenizer.encode(prompt, add_special_tokens=False)
    answer_tokens = tokenizer.encode(whole[len(prompt) :], add_special_tokens=False)
    if tokenizer.eos_token_id in answer_tokens:
        last = len(answer_tokens) - 1 - answer_tokens[::-1].index(tokenizer.eos_token_id)
        answer_tokens = answer_tokens[: last + 1]  # text after the end of the turn is never generated
    else:
        answer_tokens.append(tokenizer.eos_token_id)
    learned = tokenizer.decode(answer_tokens[:-1], clean_up_tokenization_spaces=False)
    if learned.split() != messages[-1]["content"].split():
        raise TrainingFailedError(
            "loss-mask",
            f"In the example of trace {example.trace_id} the loss would fall on {learned[:60]!r}, which is not the answer.",
        )
    return Example((*prompt_tokens, *answer_tokens), len(prompt_tokens), example.trace_id)
