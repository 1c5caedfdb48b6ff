"""Answers of a form, truncated answers, repairs: with the real model where one is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Completion, Decoding, LanguageModel, Request
from pipeline.models.ask import ask
from pipeline.models.structured_output import Unreadable, choice_parser, json_parser, json_value

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["score"],
    }
)


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 4}',
        ' \n{"score": 4}\n',
        'Sure! Here it is:\n```json\n{"score": 4}\n```\nAnything else?',
        '```\n{"score": 4}\n```',
        'The answer is {"score": 4}, since {it} is good.',
        'I use {braces} and [brackets, first: {"score": 4}',
    ],
)
def test_json_is_found_in_what_models_put_around_it(text: str) -> None:
    assert json_value(text) == {"score": 4}
    assert json_parser(SCHEMA)(text) == {"score": 4}


@pytest.mark.parametrize(
    "text", ["", "no", "{", '{"score": 4', "{'score': 4}", "[NaN]", "[" * 99999]
)
def test_an_answer_without_json_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable, match="valid JSON"):
        json_value(text)


@pytest.mark.parametrize("text", ['{"score": 6}', '{"score": "4"}', "{}", "[4]", '{"score": 4.5}'])
def test_json_must_fit_its_schema(text: str) -> None:
    with pytest.raises(Unreadable, match="does not fit"):
        json_parser(SCHEMA)(text)


def test_a_wrong_schema_is_the_user_s_mistake() -> None:
    for schema in ("{", '{"type": "nothing"}'):
        with pytest.raises(UserError, match="json_schema must be a JSON schema"):
            json_parser(schema)


def test_a_choice_is_parsed_whatever_its_case_and_quotes() -> None:
    parse = choice_parser(("Yes", "No", "Not sure"))
    assert [parse(t) for t in ("Yes", " yes.\n", '"No"', "**not sure**")] == [
        *("Yes", "Yes", "No", "Not sure")
    ]
    for text in ("", "yes and no", "maybe", "Yesterday"):
        with pytest.raises(Unreadable, match="one of: Yes, No, Not sure"):
            parse(text)


class Scripted:
    """An engine that gives these answers in turn and records its requests."""

    name = "scripted"
    resample = 0
    fallback = None
    tokenizer: Any = None
    context_tokens = None

    def __init__(self, *answers: str) -> None:
        self.answers, self.requests = list(answers), list[Request]()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.requests += requests
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Completion:
        text = self.answers.pop(0)
        if text == "error":
            return Completion(f"k{len(self.answers)}", "", "error", 1, 0, "gone")
        words = text.split()
        cut = len(words) > request.decoding.max_tokens
        text = " ".join(words[: request.decoding.max_tokens])
        reason = "length" if cut else "stop"
        return Completion(f"k{len(self.answers)}", text, reason, 1, len(text.split()))

    def known(self, requests: Sequence[Request]) -> list[bool]:
        return [False for _ in requests]

    def loglikelihood(self, sequences: Any) -> list[Any]:
        return []


def test_only_truncated_answers_are_retried_with_a_larger_limit() -> None:
    five, six = "one two three four five", "one two three four five six"
    engine = Scripted("short", six, five, six, five, six)
    requests = [Request(f"p{i}", Decoding(max_tokens=3)) for i in range(3)]
    answers = ask(engine, requests, retry_max_tokens=(5, 8))
    assert [a.value for a in answers] == ["short", six, five]
    sent = [(r.prompt, r.decoding.max_tokens) for r in engine.requests]
    assert sent == [("p0", 3), ("p1", 3), ("p2", 3), ("p1", 5), ("p2", 5), ("p1", 8)]
    assert [len(a.journal) for a in answers] == [1, 3, 2]


def test_an_answer_truncated_at_the_last_limit_is_parsed_as_it_is() -> None:
    (answer,) = ask(
        Scripted("a b c d", "a b c d"), [Request("p", Decoding(2))], retry_max_tokens=(3,)
    )
    assert (answer.value, answer.completion.finish_reason) == ("a b c", "length")


def test_one_repair_is_requested_and_shows_what_was_wrong() -> None:
    engine = Scripted("I say four", '{"score": 9}', "error", '{"score": 4}', '{"score": 7}')
    decoding = Decoding(max_tokens=50, json_schema=SCHEMA)
    requests = [Request((("user", f"p{i}"),), decoding) for i in range(3)]
    good, bad, gone = ask(engine, requests)
    assert (good.value, good.error, len(good.journal)) == ({"score": 4}, None, 2)
    assert bad.value is None
    assert (bad.error, bad.readable) == (None, False)
    assert "does not fit the schema at ['score']" in str(bad.rejection)
    assert (gone.error, len(gone.journal)) == ("gone", 1)
    assert len(engine.requests) == 5, "one repair each, none for what was not answered"
    roles, texts = zip(*engine.requests[3].prompt, strict=True)
    assert roles == ("user", "assistant", "user")
    assert texts[1] == "I say four"
    assert "valid JSON" in texts[2]


def test_a_truncated_answer_is_not_repaired() -> None:
    engine = Scripted('{"score": 4, "why": "a b c d')
    (answer,) = ask(engine, [Request("p", Decoding(max_tokens=3, json_schema=SCHEMA))])
    assert "cut at 3 tokens" in str(answer.rejection)
    assert len(engine.requests) == 1


def test_an_unreadable_answer_is_sampled_anew_and_then_dropped() -> None:
    engine = Scripted("hm", "so", "well", "yes", "error", "ah", "oh")
    engine.resample = 2
    decoding = Decoding(max_tokens=9, choice=("yes", "no"))
    good, gone, bad = ask(engine, [Request(p, decoding) for p in "abc"], repair=False)
    assert (good.value, len(good.journal)) == ("yes", 2)
    assert (gone.error, gone.rejection) == ("gone", None), "the next run tries it again"
    assert bad.error is None
    assert bad.rejection is not None
    assert bad.rejection[0] == "unreadable"
    assert bad.rejection[1]["response_end"] == "oh"
    sent = [(r.prompt, r.resample, r.decoding.temperature) for r in engine.requests[3:]]
    assert sent == [("a", 1, 0.7), ("b", 1, 0.7), ("c", 1, 0.7), ("c", 2, 0.7)]


CHOICES = ("Yes", "No", "Not at all", "1", "10")


def test_answers_are_restricted_to_the_choices(ctx: Context, tinylm: LanguageModel) -> None:
    decoding = Decoding(max_tokens=16, temperature=1.5, choice=CHOICES)
    requests = [Request((("user", f"Is {i} odd?"),), decoding, seed=i) for i in range(60)]
    answers = ctx.open(tinylm).generate(requests)
    assert {a.text for a in answers} <= set(CHOICES)
    assert len({a.text for a in answers}) >= 3
    assert {a.finish_reason for a in answers} == {"stop"}


def test_no_spelling_is_longer_than_an_answer_may_be(ctx: Context, tinylm: LanguageModel) -> None:
    """A capital spelling takes more tokens: it would be cut, and so be no answer."""
    choices = ("equal", "different")
    tokenizer = ctx.open(tinylm).tokenizer  # type: ignore[attr-defined]
    sizes = {c: len(tokenizer(c, add_special_tokens=False)["input_ids"]) for c in choices}
    decoding = Decoding(max_tokens=max(sizes.values()), temperature=2.0, choice=choices)
    assert len(tokenizer("DIFFERENT", add_special_tokens=False)["input_ids"]) > decoding.max_tokens
    requests = [Request(f"SAME OR DIFFERENT? {i}:", decoding, seed=i) for i in range(40)]
    answers = ctx.open(tinylm).generate(requests)
    assert {(a.text, a.finish_reason) for a in answers} == {(c, "stop") for c in choices}


def test_a_single_token_choice_is_the_most_probable_one(
    ctx: Context, tinylm: LanguageModel
) -> None:
    """Against a plain forward pass."""
    engine: Any = ctx.open(tinylm)
    ids = {c: engine.tokenizer(c, add_special_tokens=False)["input_ids"] for c in "123456789"}
    single = {c: i[0] for c, i in ids.items() if len(i) == 1}
    assert len(single) > 2
    (answer,) = engine.generate([Request("Score: ", Decoding(max_tokens=4, choice=tuple(single)))])
    tokens = engine.tokenizer("Score: ")["input_ids"]
    with torch.no_grad():
        logits = engine._loaded.model(torch.tensor([tokens])).logits[0, -1]
    spaced = {c: engine.tokenizer(f" {c}", add_special_tokens=False)["input_ids"] for c in single}

    def best(choice: str) -> float:
        alone = [ids for ids in ([single[choice]], spaced[choice]) if len(ids) == 1]
        return max(float(logits[ids[0]]) for ids in alone)

    assert answer.text == max(single, key=best)


def test_logprobs_are_those_of_forward_passes(ctx: Context, tinylm: LanguageModel) -> None:
    engine: Any = ctx.open(tinylm)
    decoding = Decoding(max_tokens=6, temperature=1.0, presence_penalty=1.0, logprobs=5)
    plain = Request("Once upon", replace(decoding, logprobs=0))
    answer, other = engine.generate([Request("Once upon", decoding), plain])
    assert other.logprobs == ()
    assert len(answer.logprobs) == answer.completion_tokens
    assert "".join(entry.token for entry in answer.logprobs).strip() == answer.text.strip()
    tokens = list(engine.tokenizer("Once upon")["input_ids"])
    for entry in answer.logprobs:
        with torch.no_grad():
            logits = engine._loaded.model(torch.tensor([tokens])).logits[0, -1]
        expected = torch.log_softmax(logits, -1)
        top = torch.topk(expected, 5)
        np.testing.assert_allclose([p for _, p in entry.top], top.values, atol=1e-4)
        assert [t for t, _ in entry.top] == [engine.tokenizer.decode([i]) for i in top.indices]
        chosen = int((expected - entry.logprob).abs().argmin())
        assert engine.tokenizer.decode([chosen]) == entry.token
        tokens.append(chosen)


def test_top_k_1_is_greedy_and_frequency_penalty_changes_more_with_each_use(
    ctx: Context, tinylm: LanguageModel
) -> None:
    engine = ctx.open(tinylm)
    greedy = Decoding(max_tokens=24)
    one, other = engine.generate(
        [Request("The sea", greedy), Request("The sea", replace(greedy, temperature=2.0, top_k=1))]
    )
    assert one.text == other.text
    strong = replace(greedy, max_tokens=40, frequency_penalty=50.0)
    (varied,) = engine.generate([Request("The sea the sea the sea", strong)])
    ids = engine.tokenizer(varied.text, add_special_tokens=False)["input_ids"]
    assert len(set(ids)) > 0.9 * len(ids)


def test_optional_fields_are_in_a_payload_only_if_they_differ_from_the_default() -> None:
    from pipeline.models.journal.requests import prepare

    def payload(decoding: Decoding) -> dict[str, Any]:
        prepared = prepare(Request("p", decoding), {}, None, None)
        return dict(json.loads(prepared.payload)["decoding"])

    assert set(payload(Decoding())) == {
        *("max_tokens", "temperature", "top_p", "presence_penalty", "stop")
    }
    assert payload(Decoding(choice=("a",), logprobs=3))["choice"] == ["a"]
