"""Servers that refuse parameters: what is learned, what is said, what stops a stage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Api, Completion, Decoding, LanguageModel, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.http.refusals import FIRST
from pipeline.models.journal.journal import Journal
from tests.support.serving import FakeServer, HttpMessage, http_response, listening, served

COOL = Decoding(max_tokens=4)
WARM = Decoding(max_tokens=4, temperature=1.0)
SCHEMA = json.dumps({"type": "object", "required": ["score"]})

Rule = Callable[[dict[str, Any]], str | None]
"""From a body to the message of its refusal, None for an answer."""


def unsupported(name: str, instead: str | None = None) -> Rule:
    """Refuses a parameter as OpenAI does."""
    hint = f" Use '{instead}' instead." if instead else ""
    message = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
    return lambda body: message if name in body else None


def not_now(body: dict[str, Any]) -> str | None:
    form = body.get("response_format", {}).get("type")
    return f"response_format: {form} is not supported" if form == "json_schema" else None


@contextmanager
def picky(*rules: Rule, answer: str = "sea") -> Iterator[tuple[FakeServer, int]]:
    """A server that refuses what a rule names, and answers everything else."""

    async def respond(request: HttpMessage) -> bytes:
        body = json.loads(request.body)
        message = next(filter(None, (rule(body) for rule in rules)), None)
        if message is not None:
            error = {"message": message, "type": "invalid_request_error"}
            return http_response("400 Bad Request", json.dumps({"error": error}).encode())
        choice = {"message": {"content": answer}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 1}
        content = {"choices": [choice], "usage": usage}
        return http_response("200 OK", json.dumps(content).encode())

    server = FakeServer(respond)
    with listening(server) as port:
        try:
            yield server, port
        finally:
            close_engines()


def requests(count: int, decoding: Decoding = COOL) -> list[Request]:
    return [Request((("user", f"Name {i} seas."),), decoding) for i in range(count)]


def generate(
    folder: Path, model: LanguageModel, count: int = 40, decoding: Decoding = COOL
) -> list[Completion]:
    return Context.scratch(folder).open(model).generate(requests(count, decoding))


def sent(folder: Path) -> list[dict[str, Any] | None]:
    """What the journal says was sent, by key."""
    entries = Journal(folder / "store" / "journal").entries()
    return [None if entry.sent is None else json.loads(entry.sent) for entry in entries]


LEARNED = [
    (unsupported("max_tokens", "max_completion_tokens"), COOL, {"max_completion_tokens"},
     "takes max_completion_tokens"),
    (unsupported("seed"), COOL, set(), "takes no seed"),
    (unsupported("temperature"), WARM, set(), "one of 1, the default, is left out"),
    (unsupported("structured_outputs"), Decoding(max_tokens=4, choice=("sea", "lake")),
     {"guided_choice"}, "takes no structured_outputs for a choice"),
    (not_now, Decoding(max_tokens=4, json_schema=SCHEMA), {"response_format"},
     "takes no response_format for a schema"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "decoding", "fields", "note"), LEARNED)
def test_a_refusal_teaches_another_spelling_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rule: Rule,
    decoding: Decoding,
    fields: set[str],
    note: str,
) -> None:
    """Every request is answered, no key is another one, and it is said once."""
    with picky() as (_, port):
        plain = generate(tmp_path / "plain", served(port), decoding=decoding)
    with picky(rule) as (server, port):
        answers = generate(tmp_path / "picky", served(port), decoding=decoding)
        learned = len(server.requests)
        more = generate(tmp_path / "again", served(port), decoding=decoding)
        assert len(server.requests) - learned == len(more), "what was learned holds"
    assert answers == plain == more
    last = json.loads(server.requests[-1])
    assert rule(last) is None
    assert fields <= last.keys()
    error = capsys.readouterr().err
    assert error.count(note) == 1, error
    stored = sent(tmp_path / "picky")
    assert sent(tmp_path / "plain") == [None] * len(plain)
    assert {json.dumps(one, sort_keys=True) for one in stored} == {
        json.dumps({k: v for k, v in json.loads(body).items() if k != "messages"}, sort_keys=True)
        for body in server.requests[-len(more) :]
    }


def test_a_server_may_refuse_several_parameters(tmp_path: Path) -> None:
    rules = [unsupported("max_tokens"), unsupported("seed"), unsupported("temperature"), not_now]
    decoding = Decoding(max_tokens=4, temperature=1.0, json_schema=SCHEMA)
    with picky(*rules) as (server, port):
        answers = generate(tmp_path, served(port), decoding=decoding)
    assert {answer.text for answer in answers} == {"sea"}
    assert len(server.requests) < 40 + 16 * 8, "only the first ones are sent again"


@pytest.mark.parametrize(
    ("name", "decoding", "hint"),
    [
        ("temperature", COOL, "omit: [temperature]"),
        ("temperature", Decoding(max_tokens=4, temperature=0.7), "set temperature: 1"),
        ("logprobs", Decoding(max_tokens=4, logprobs=5), "omit: [logprobs]"),
        ("top_k", Decoding(max_tokens=4, top_k=5), "omit: [top_k]"),
        ("stop", Decoding(max_tokens=4, stop=("\n",)), "omit: [stop]"),
        ("reasoning_effort", Decoding(max_tokens=4, reasoning_effort="low"), "reasoning_effort"),
    ],
)
def test_what_would_change_the_meaning_stops_the_stage(
    tmp_path: Path, name: str, decoding: Decoding, hint: str
) -> None:
    """It says what to set, and with that the stage runs."""
    with picky(unsupported(name)) as (server, port):
        with pytest.raises(UserError, match="does not take") as error:
            generate(tmp_path, served(port), 400, decoding)
        assert len(server.requests) <= 16
        assert hint in str(error.value.hint)
        assert "Unsupported parameter" in str(error.value.why)
        api = Api(omit=(name,))  # type: ignore[arg-type]
        answers = generate(tmp_path, served(port, api=api), decoding=decoding)
    assert {answer.error for answer in answers} == {None}
    assert all(name not in (one or {name}) for one in sent(tmp_path))


def test_a_temperature_is_left_out_only_where_it_is_the_default(tmp_path: Path) -> None:
    with picky(unsupported("temperature")) as (_, port):
        assert generate(tmp_path, served(port), decoding=WARM)[0].text == "sea"
        with pytest.raises(UserError, match="does not take temperature"):
            generate(tmp_path, served(port), decoding=COOL)


@pytest.mark.parametrize("rule", [unsupported("seed"), unsupported("max_tokens")])
def test_a_fixed_dialect_learns_nothing(tmp_path: Path, rule: Rule) -> None:
    with picky(rule) as (server, port):
        with pytest.raises(UserError, match="does not take"):
            generate(tmp_path, served(port, api=Api(dialect="fixed")))
        assert len(server.requests) <= 16


def test_a_field_that_the_recipe_names_is_not_renamed(tmp_path: Path) -> None:
    api = Api(max_tokens_field="max_completion_tokens")
    with picky(unsupported("max_tokens")) as (server, port):
        generate(tmp_path, served(port, api=api))
        assert len(server.requests) == 40
        with pytest.raises(UserError, match="does not take max tokens") as error:
            generate(tmp_path / "other", served(port, api=Api(max_tokens_field="max_tokens")))
    assert "max_tokens_field" in str(error.value.hint)


# Refusals of all requests, and of some


def every(body: dict[str, Any]) -> str:
    return f"max_tokens is too large: {body['max_tokens']}; at most 2 (request id: {id(body)})"


def test_a_refusal_of_every_request_stops_the_stage_after_the_first(tmp_path: Path) -> None:
    with picky(every) as (server, port):
        with pytest.raises(UserError, match="refused the first 8 requests alike") as error:
            generate(tmp_path, served(port), 5000)
        assert len(server.requests) <= FIRST + 16
    assert "max_tokens is too large: 4" in str(error.value.why)
    assert error.value.hint
    assert str(port) in str(error.value.where)


def test_it_stops_over_several_calls_of_a_stage_as_well(tmp_path: Path) -> None:
    with picky(every) as (_, port):
        engine = Context.scratch(tmp_path).open(served(port))
        first = [engine.generate(requests(3)) for _ in range(2)]
        assert all("answered 400" in str(answer.error) for answer in first[0])
        with pytest.raises(UserError, match="alike"):
            engine.generate(requests(3))


@pytest.mark.parametrize(
    "message", ["flagged by moderation", "maximum context length is 8192 tokens", "unsafe: safety"]
)
def test_a_refusal_of_texts_fails_their_rows_alone(tmp_path: Path, message: str) -> None:
    """Even if it is all of them: the next text may be another one."""
    with picky(lambda _: message) as (server, port):
        answers = generate(tmp_path, served(port), 40)
    assert {answer.error for answer in answers} == {f"the server answered 400: {message}"}
    assert len(server.requests) == 40


def test_after_answers_a_refusal_fails_its_row_alone(tmp_path: Path) -> None:
    """A message that names a parameter which others were answered with is about one request."""

    def some(body: dict[str, Any]) -> str | None:
        number = int(body["messages"][0]["content"].split()[1])
        return "'temperature' is not supported here" if number >= 20 else None

    with picky(some) as (_, port):
        engine = Context.scratch(tmp_path).open(served(port))
        assert {a.error for a in engine.generate(requests(20))} == {None}
        errors = Counter(answer.error is None for answer in engine.generate(requests(40)))
    assert errors == {True: 20, False: 20}


# What is sent by option


def test_every_option_of_the_recipe_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANT", "tenant-0123456789")
    api = Api(
        max_tokens_field="max_completion_tokens",
        omit=("seed", "temperature"),
        extra_body={"service_tier": "flex", "provider": {"order": ["a"]}},
        chat_template_kwargs={"enable_thinking": False},
        headers={"X-Tenant": "TENANT"},
        version="2025-04-01-preview",
    )
    heads: list[HttpMessage] = []
    with picky() as (server, port):
        respond = server.answer

        async def watched(request: HttpMessage) -> bytes:
            heads.append(request)
            return await respond(request)

        server.answer = watched
        (answer,) = generate(tmp_path, served(port, api=api), 1)
    body = json.loads(server.requests[0])
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Name 0 seas."}],
        "max_completion_tokens": 4,
        "service_tier": "flex",
        "provider": {"order": ["a"]},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert heads[0].head["x-tenant"] == "tenant-0123456789"
    assert heads[0].first.split()[1] == "/v1/chat/completions?api-version=2025-04-01-preview"
    assert sent(tmp_path) == [{k: v for k, v in body.items() if k != "messages"}]
    assert answer.text == "sea"


@pytest.mark.parametrize(
    ("form", "choice", "schema"),
    [
        ("response_format", None, "response_format"),
        ("json_object", None, "response_format"),
        ("structured_outputs", "structured_outputs", "structured_outputs"),
        ("guided", "guided_choice", "guided_json"),
    ],
)
def test_structured_output_has_the_form_that_the_recipe_names(
    tmp_path: Path, form: Any, choice: str | None, schema: str
) -> None:
    known = {"response_format", "structured_outputs", "guided_choice", "guided_json"}
    asked = {choice: Decoding(max_tokens=4, choice=("sea",)),
             schema: Decoding(max_tokens=4, json_schema=SCHEMA)}  # fmt: skip
    with picky() as (server, port):
        for field, decoding in asked.items():
            generate(tmp_path, served(port, api=Api(structured_output=form)), 1, decoding)
            body = json.loads(server.requests[-1])
            assert known & body.keys() == ({field} if field else set())


def test_what_changes_answers_changes_keys_and_nothing_else_does(tmp_path: Path) -> None:
    apis = [
        Api(),
        Api(provider="azure", dialect="fixed", omit=("seed",), version="v", stream=True),
        Api(max_tokens_field="max_completion_tokens", extra_body={"service_tier": "flex"}),
        Api(structured_output="guided"),
        Api(chat_template_kwargs={"enable_thinking": False}),
        Api(extra_body={"min_p": 0.1}),
    ]
    engines = [
        Context.scratch(tmp_path).open(LanguageModel("m", "replay", base_url="http://h", api=api))
        for api in apis
    ]
    keys = [engine.prepare(requests(1))[0].key for engine in engines]
    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == 3
