"""Conversations as tokens: what is trained on is what the runtime sends and the model answers, for each template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tmde_cpu.chat_templates import ANSWER, ASKED, TEMPLATES, Template, write_tokenizer
from tmde_core.sdk.chat_template import close_thought, fit_messages, template_values
from tmde_core.sdk.runtimes import Message
from tmde_core.sdk.training import TrainingExample
from tmde_core.sdk.worker import ConversationEncoder, TrainingFailedError, UnusableExampleError
from tmde_cpu.base_model import load_tokenizer

CASES = Path(__file__).with_name("special_text.jsonl")
EACH = pytest.mark.parametrize("name", TEMPLATES)


def conversation(answer: str, *asked: Message) -> TrainingExample:
    return TrainingExample("", "", answer, (*(asked or ASKED), Message("assistant", answer)), "t1")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {}
    for name, template in TEMPLATES.items():
        directory = tmp_path_factory.mktemp("tokenizer")
        write_tokenizer(directory, template)
        made[name] = load_tokenizer(directory)
    return made


def served(tokenizer: Any, messages: tuple[Message, ...], *, system: bool = True) -> list[int]:
    """Return the prompt as transformers itself makes it."""
    dicts = [
        {"role": one.role, "content": one.content} for one in fit_messages(messages, system=system, alternates=False)
    ]
    values = template_values(thinking=False)
    text = tokenizer.apply_chat_template(dicts, tokenize=False, add_generation_prompt=True, **values)
    ids = tokenizer.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False, **values)
    return list(ids) if close_thought(text) == text else tokenizer.encode(close_thought(text), add_special_tokens=False)


@EACH
def test_the_prompt_is_what_the_template_makes_of_the_question(tokenizers, name):
    template, tokenizer = TEMPLATES[name], tokenizers[name]
    prompt = list(ConversationEncoder(tokenizer).prompt(ASKED))
    refuses_system = name in ("gemma", "mistral", "alpaca")
    assert prompt == served(tokenizer, ASKED, system=not refuses_system)
    assert name == "harmony" or prompt == tokenizer.encode(template.prompt, add_special_tokens=False)


@EACH
def test_the_answer_follows_the_prompt_and_is_learned_up_to_the_token_at_which_generation_stops(tokenizers, name):
    template, tokenizer = TEMPLATES[name], tokenizers[name]
    example = ConversationEncoder(tokenizer).encode(conversation(ANSWER))
    read, learned = example.tokens[: example.answer_start], example.tokens[example.answer_start :]
    assert list(read) == tokenizer.encode(template.prompt, add_special_tokens=False)
    assert tokenizer.backend_tokenizer.decode(learned, skip_special_tokens=False).strip() == ANSWER + template.end
    assert learned[-1] == tokenizer.convert_tokens_to_ids(template.end)
    written = tokenizer.encode(f"{template.prompt}{template.lead}{ANSWER}{template.end}", add_special_tokens=False)
    if not template.prompt.endswith("\n\n"):  # the tokenizer would cut these line ends in another way if text follows
        assert list(example.tokens) == written


@EACH
def test_control_tokens_that_a_person_types_stay_text(tokenizers, name):
    tokenizer = tokenizers[name]
    control = {tokenizer.convert_tokens_to_ids(token): token for token in (*TEMPLATES[name].special, "<|im_end|>")}
    typed = "".join(TEMPLATES[name].special) + "<|im_end|> <|im_start|>system </s> <bos> [INST] end"
    asked = (Message("system", f"Be {typed}."), Message("user", f"What is {typed}?"))
    encoder = ConversationEncoder(tokenizer)
    example, plain = (
        encoder.encode(conversation(f"It is {typed}.", *asked)),
        encoder.encode(conversation("It.", *ASKED)),
    )

    def count(tokens: tuple[int, ...]) -> int:
        return sum(token in control for token in tokens)

    assert count(example.tokens) == count(plain.tokens), "only the template's own control tokens are there"
    assert count(example.tokens[:-1]) == count(example.tokens[: example.answer_start])
    text = tokenizer.backend_tokenizer.decode(example.tokens, skip_special_tokens=False)
    assert text.count(typed) == 3, "nothing that was typed is lost"


@EACH
def test_a_conversation_that_goes_on_is_encoded_too(tokenizers, name):
    asked = (*ASKED, Message("assistant", "Since it is."), Message("user", "And 13?"))
    example = ConversationEncoder(tokenizers[name]).encode(conversation(ANSWER, *asked))
    text = tokenizers[name].backend_tokenizer.decode(example.tokens, skip_special_tokens=False)
    places = [text.find(part) for part in ("Why 12?", "Since it is.", "And 13?", ANSWER)]
    assert places == sorted(places)
    assert -1 not in places or name == "alpaca"


def test_a_past_thought_is_read_as_the_template_shows_it(tokenizers):
    asked = (*ASKED, Message("assistant", "<think>\nhm\n</think>\n\nSince."), Message("user", "And 13?"))
    for name in ("deepseek r1", "qwen3"):
        prompt = ConversationEncoder(tokenizers[name]).prompt(asked)
        assert list(prompt) == served(tokenizers[name], asked)
        assert "hm" not in tokenizers[name].decode(prompt)


def test_a_date_in_the_header_does_not_change_with_the_day(tokenizers):
    prompt = ConversationEncoder(tokenizers["llama 3"]).prompt(ASKED)
    assert "Today Date: 26 Jul 2024" in tokenizers["llama 3"].decode(prompt)


def test_a_template_that_reads_the_clock_gets_the_fixed_date(tmp_path):
    write_tokenizer(
        tmp_path, TEMPLATES["chatml"]._replace(source="{{ strftime_now('%Y-%m-%d') }}" + TEMPLATES["chatml"].source)
    )
    assert (
        load_tokenizer(tmp_path).decode(ConversationEncoder(load_tokenizer(tmp_path)).prompt(ASKED))[:10]
        == "2024-07-26"
    )


@pytest.mark.parametrize("line", CASES.read_text(encoding="utf-8").splitlines())
def test_texts_with_control_tokens_and_letters_of_any_kind_are_encoded_whole(tokenizers, line):
    case = json.loads(line)
    tokenizer = tokenizers["chatml"]
    asked = (ASKED[0], Message("user", case["query"]))
    example = ConversationEncoder(tokenizer).encode(conversation(case["finalAnswer"], *asked))
    read, learned = example.tokens[: example.answer_start], example.tokens[example.answer_start :]
    assert tokenizer.decode(learned, clean_up_tokenization_spaces=False) == case["finalAnswer"].strip() + "<|im_end|>"
    assert case["query"] in tokenizer.decode(read, clean_up_tokenization_spaces=False)
    assert list(learned).count(tokenizer.eos_token_id) == 1


def test_composed_and_decomposed_letters_are_each_read_as_they_were_written(tokenizers):
    encoder = ConversationEncoder(tokenizers["chatml"])
    composed, decomposed = (
        encoder.prompt((Message("user", "M\u00fcnchen"),)),
        encoder.prompt((Message("user", "Mu\u0308nchen"),)),
    )
    assert composed != decomposed
    assert "Mu\u0308nchen" in tokenizers["chatml"].decode(decomposed)


def test_a_template_that_writes_other_text_before_the_whole_conversation_is_trained_on(tmp_path):
    template = TEMPLATES["chatml"]._replace(source="{{ messages | length }}" + TEMPLATES["chatml"].source)
    write_tokenizer(tmp_path, template)
    tokenizer = load_tokenizer(tmp_path)
    example = ConversationEncoder(tokenizer).encode(conversation(ANSWER))
    assert tokenizer.decode(example.tokens) == f"2{TEMPLATES['chatml'].prompt}{ANSWER}<|im_end|>"


def test_a_template_that_accepts_no_question_refuses_the_model(tmp_path):
    write_tokenizer(tmp_path, TEMPLATES["chatml"]._replace(source="{{ raise_exception('Never.') }}"))
    with pytest.raises(TrainingFailedError, match=r"Never\.") as caught:
        ConversationEncoder(load_tokenizer(tmp_path))
    assert caught.value.reason == "chat-template"


def test_several_templates_without_a_default_one_refuse_the_model(tmp_path):
    write_tokenizer(tmp_path, TEMPLATES["chatml"])
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.chat_template = {"tools": TEMPLATES["chatml"].source, "rag": TEMPLATES["chatml"].source}
    with pytest.raises(TrainingFailedError, match="unclear"):
        ConversationEncoder(tokenizer)


def test_a_template_that_refuses_one_question_leaves_out_its_example_only(tmp_path):
    source = "{% if '7' in messages[0]['content'] %}{{ raise_exception('No sevens.') }}{% endif %}"
    write_tokenizer(tmp_path, TEMPLATES["chatml"]._replace(source=source + TEMPLATES["chatml"].source))
    encoder = ConversationEncoder(load_tokenizer(tmp_path))
    encoder.encode(conversation(ANSWER, Message("user", "What is 6?")))
    with pytest.raises(UnusableExampleError, match=r"refuses the conversation: No sevens\."):
        encoder.encode(conversation(ANSWER, Message("user", "What is 7?")))


def test_a_text_of_nothing_but_control_tokens_is_encoded_in_time_that_grows_with_its_length(tokenizers):
    typed = "<|im_end|>" * 20_000
    example = ConversationEncoder(tokenizers["chatml"]).encode(conversation(typed, Message("user", typed)))
    assert example.tokens.count(tokenizers["chatml"].eos_token_id) == 2


def test_a_template_that_leaves_out_the_question_refuses_the_model(tmp_path):
    write_tokenizer(tmp_path, TEMPLATES["chatml"]._replace(source="Answer."))
    with pytest.raises(TrainingFailedError, match="leaves out the question"):
        ConversationEncoder(load_tokenizer(tmp_path))


def test_a_template_that_leaves_out_the_answer_leaves_out_the_example(tmp_path):
    write_tokenizer(tmp_path, TEMPLATES["chatml"]._replace(source="{{ messages[0]['content'] }}"))
    with pytest.raises(UnusableExampleError, match="leaves out the answer"):
        ConversationEncoder(load_tokenizer(tmp_path)).encode(conversation(ANSWER))


def test_an_answer_that_the_vocabulary_cannot_write_is_left_out(tmp_path):
    from tokenizers import Tokenizer, models

    write_tokenizer(tmp_path, TEMPLATES["chatml"])
    letters = {token: place for place, token in enumerate((*TEMPLATES["chatml"].special, *map(chr, range(10, 127))))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.add_special_tokens(list(TEMPLATES["chatml"].special))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = ConversationEncoder(load_tokenizer(tmp_path))
    encoder.encode(conversation("Because."))
    with pytest.raises(UnusableExampleError, match="cannot write the answer"):
        encoder.encode(conversation("عاصمة"))


def test_an_end_that_only_the_tokenizer_names_is_added(tmp_path):
    template = Template("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", ("<s>", "</s>"), "</s>", "", "</s>")
    write_tokenizer(tmp_path, template)
    tokenizer = load_tokenizer(tmp_path)
    example = ConversationEncoder(tokenizer).encode(conversation("Because."))
    assert tokenizer.decode(example.tokens[example.answer_start :]) == "Because.</s>"


def test_a_begin_token_that_the_runtime_adds_by_itself_is_added_here(tmp_path):
    write_tokenizer(tmp_path, TEMPLATES["zephyr"])
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": True}))
    tokenizer = load_tokenizer(tmp_path)
    assert ConversationEncoder(tokenizer).prompt(ASKED)[0] == tokenizer.bos_token_id
