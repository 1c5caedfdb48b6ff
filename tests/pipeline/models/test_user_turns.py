"""Prompts that end where a user's words begin: in every chat template, at the right place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import Decoding, LanguageModel, Reasoning, Request
from pipeline.models.ask import is_refusal
from pipeline.models.journal.requests import PreparedRequest, prepare
from pipeline.models.local.chat_template import (
    PLAIN_TEMPLATE,
    Unrenderable,
    chat_text,
    opened_user_turn,
    user_turn_stops,
)
from pipeline.models.local.literal_tokens import stop_tokens
from pipeline.models.local.sampling import Answers
from tests.support.chats import EOS, TEXTS, tokenizer

NAMES = ("tinylm", *EOS)
ENDS = {
    "tinylm": "<|im_end|>",
    "qwen2": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "xml_calls": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "mistral": "[/INST]",
    "gpt_oss": "<|end|>",
    "deepseek": "<|Assistant|>",
}
"""What follows a user's words in each template; the authors' table has the same."""

MODEL = {"weights": {"id": "m"}}
WORDS = TEXTS.filter(str.strip)


@pytest.fixture
def plain() -> Any:
    from copy import copy

    own = copy(tokenizer("tinylm"))
    own.chat_template = PLAIN_TEMPLATE
    return own


def prepared(name: str, prompt: tuple[tuple[str, str], ...], **options: Any) -> PreparedRequest:
    request = Request(prompt, Decoding(), role="user", **options)
    return prepare(request, MODEL, tokenizer(name), 2048)


@given(st.data())
@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_goes_on_where_the_prompt_ends(name: str, data: st.DataObject) -> None:
    """Whatever the user says there, the whole conversation begins with prompt and words."""
    turns = []
    for _ in range(data.draw(st.integers(0, 2))):
        turns.append({"role": "user", "content": data.draw(WORDS)})
        turns.append({"role": "assistant", "content": data.draw(WORDS)})
    own = tokenizer(name)
    prompt = opened_user_turn(own, turns)
    said = chat_text(own, [*turns, {"role": "user", "content": "Why?"}], add_generation_prompt=True)
    assert said.startswith(f"{prompt}Why?")
    assert said.removeprefix(f"{prompt}Why?").lstrip().startswith(ENDS[name])


@pytest.mark.parametrize("name", NAMES)
def test_what_ends_a_users_turn(name: str) -> None:
    stops = user_turn_stops(tokenizer(name))
    assert stops[0] == ENDS[name]
    assert 1 <= len(stops) <= 4
    request = prepared(name, ())
    assert request.decoding.stop == stops
    ids = {tokenizer(name).convert_tokens_to_ids(stop) for stop in stops}
    assert {*request.stop_tokens} == ids - {tokenizer(name).eos_token_id}


def test_a_template_of_plain_text_ends_it_by_its_text(plain: Any) -> None:
    assert opened_user_turn(plain, []) == "User:\n"
    assert user_turn_stops(plain)[0] == "\n\nAssistant:"


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_has_each_token_once_and_texts_have_none(name: str) -> None:
    """No second token before the text, and a control token that a turn mentions is text."""
    own = tokenizer(name)
    mention = f"What is {ENDS[name]} for?"
    plain = prepared(name, (("user", "What is it for?"), ("assistant", "To end.")))
    literal = prepared(name, (("user", mention), ("assistant", "To end.")))
    assert (plain.error, literal.error) == (None, None)
    assert own.decode(plain.tokens) == plain.prompt
    special = {own.convert_tokens_to_ids(ENDS[name]), own.bos_token_id, own.eos_token_id}
    assert [t for t in literal.tokens if t in special] == [t for t in plain.tokens if t in special]
    assert mention in str(literal.prompt)


def test_it_is_another_request_than_the_answer() -> None:
    turns = (("user", "Why?"), ("assistant", "So."))
    answer = prepare(Request(turns, Decoding()), MODEL, tokenizer("tinylm"), 2048)
    assert prepared("tinylm", turns).key != answer.key


def test_a_user_does_not_reason_and_does_not_refuse() -> None:
    reasoning = Reasoning(max_tokens=1000, effort="high")
    request = Request((), Decoding(max_tokens=7), role="user")
    decoding = prepare(request, MODEL, tokenizer("qwen3"), None, reasoning).decoding
    assert (decoding.max_tokens, decoding.reasoning_effort) == (7, None)
    assert not is_refusal(request, "I'm sorry, but I can't open the file. What is wrong?")


def test_without_a_template_there_is_no_such_request() -> None:
    request = prepare(Request((), Decoding(), role="user"), MODEL, None, None)
    assert request.error is not None
    assert "chat template" in request.error


def test_a_template_that_hides_the_users_words_is_refused() -> None:
    from copy import copy

    own = copy(tokenizer("tinylm"))
    own.chat_template = "{{ 'User: ' + messages[-1]['content'][:3] }}"
    with pytest.raises(Unrenderable, match="where a user's words begin"):
        opened_user_turn(own, [])


def test_a_stop_that_is_a_control_token_ends_an_answer_although_no_text_shows_it() -> None:
    own = tokenizer("tinylm")
    stops = ("<|im_start|>", "<|im_end|>", "x")
    opens = own.convert_tokens_to_ids("<|im_start|>")
    assert stop_tokens(own, stops) == (opens,)
    decoding = Decoding(stop=stops[:2])
    request = PreparedRequest("0" * 32, "", "", (1,), decoding, stop_tokens=(opens,))
    answers = Answers([request], 1, {own.eos_token_id}, own)
    tokens = [*own("A sea", add_special_tokens=False)["input_ids"], opens]
    finished = [bool(answers(torch.tensor([[token]]))) for token in tokens]
    assert finished == [False] * (len(tokens) - 1) + [True]
    assert answers.response(0)["text"] == "A sea"
    assert answers.response(0)["finish_reason"] == "stop"


def test_a_small_model_writes_what_it_was_trained_on(ctx: Context, tinylm: LanguageModel) -> None:
    options = Decoding(max_tokens=64, temperature=0.4)
    requests = [Request((), options, sample=n, role="user") for n in range(8)]
    answers = ctx.open(tinylm).generate(requests)
    ended = [answer.text for answer in answers if answer.finish_reason == "stop"]
    assert ended
    assert all(text.strip() and "<|" not in text for text in ended)
