"""Anthropic's messages and Gemini's generateContent: what is sent, what comes back, replay.

The answers, errors and events have the form that the providers document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import Api, Completion, Decoding, LanguageModel, Limits, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.http.dialect import Dialect
from pipeline.models.http.providers import PROVIDERS
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import prepare
from pipeline.models.journal.responses import parse_response
from tests.support.serving import FakeServer, HttpMessage, http_response, listening

KEY = "sk-ant-very-secret-0123456789"
TURNS = (
    ("system", "Be brief."),
    ("user", "Name a sea."),
    ("assistant", "Which?"),
    ("user", "Any."),
)
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
FULL = Decoding(
    max_tokens=100, temperature=0.7, top_p=0.9, top_k=40, stop=("\n\n", "END"),
    json_schema=json.dumps(SCHEMA), reasoning_effort="low",
)  # fmt: skip
PLAIN = Decoding(max_tokens=100)

BASES = {"anthropic": "/v1", "gemini": "/v1beta", "openai": "/v1", "azure": "/openai/deployments/d"}


def model(provider: Any, port: int = 9, **more: Any) -> LanguageModel:
    api = Api(provider=provider, **more.pop("api", {}))
    base = f"http://127.0.0.1:{port}{BASES[provider]}"
    return LanguageModel("m-1", "openai", base_url=base, api=api, **more)


def body(provider: str, decoding: Decoding, **api: Any) -> dict[str, Any]:
    """The body of a request, without what only this request has."""
    named = model(provider, api=api)
    prepared = prepare(Request(TURNS, decoding), {"weights": {"served": "m-1"}}, None, None)
    return PROVIDERS[provider].body(prepared, "m-1", Dialect.of(named))


# Requests


def test_anthropics_messages_are_as_documented() -> None:
    assert body("anthropic", FULL) == {
        "model": "m-1",
        "max_tokens": 100,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Name a sea."},
            {"role": "assistant", "content": "Which?"},
            {"role": "user", "content": "Any."},
        ],
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "stop_sequences": ["\n\n", "END"],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"},
    }
    warm = replace(PLAIN, temperature=1.0)
    assert body("anthropic", warm).keys() == {"model", "max_tokens", "system", "messages"}


def test_geminis_generate_content_is_as_documented() -> None:
    result = body("gemini", replace(FULL, presence_penalty=0.5, logprobs=5))
    seed = result["generationConfig"].pop("seed")
    assert 0 <= seed < 2**31
    assert result == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Name a sea."}]},
            {"role": "model", "parts": [{"text": "Which?"}]},
            {"role": "user", "parts": [{"text": "Any."}]},
        ],
        "generationConfig": {
            "maxOutputTokens": 100,
            "temperature": 0.7,
            "topP": 0.9,
            "topK": 40,
            "stopSequences": ["\n\n", "END"],
            "presencePenalty": 0.5,
            "responseLogprobs": True,
            "logprobs": 5,
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
            "thinkingConfig": {"thinkingLevel": "low"},
        },
    }
    choice = body("gemini", replace(PLAIN, choice=("Yes", "No")))["generationConfig"]
    assert choice["responseMimeType"] == "text/x.enum"
    assert choice["responseSchema"] == {"type": "STRING", "enum": ["Yes", "No"]}


def test_further_fields_are_merged_into_those_of_the_provider() -> None:
    extra = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    config = body("gemini", FULL, extra_body=extra)["generationConfig"]
    assert config["thinkingConfig"] == {"thinkingLevel": "low", "includeThoughts": True}
    assert config["maxOutputTokens"] == 100
    thinking = {"thinking": {"type": "adaptive"}}
    assert body("anthropic", PLAIN, extra_body=thinking)["thinking"] == {"type": "adaptive"}


# Answers, as documented

USAGE_ANTHROPIC = {
    "input_tokens": 2095, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100,
    "output_tokens": 503, "service_tier": "standard",
}  # fmt: skip
MESSAGE = {
    "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF", "type": "message", "role": "assistant",
    "model": "m-1", "content": [{"type": "text", "text": "Hi! My name is Claude."}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE_ANTHROPIC,
}  # fmt: skip
THINKING = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"},
    {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"},
    {"type": "text", "text": "Seven."},
]
CANDIDATE = {
    "content": {"parts": [{"text": "Seven seas."}], "role": "model"},
    "finishReason": "STOP", "index": 0, "avgLogprobs": -0.1,
}  # fmt: skip
GENERATED = {
    "candidates": [CANDIDATE],
    "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 7, "totalTokenCount": 41,
                      "thoughtsTokenCount": 30, "cachedContentTokenCount": 2},
    "modelVersion": "m-1", "responseId": "mAitaLmkHPPlz7IPvtfUqQ4",
}  # fmt: skip
BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
           "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}}  # fmt: skip


def candidate(**more: Any) -> dict[str, Any]:
    return GENERATED | {"candidates": [CANDIDATE | more]}


def parts(*values: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"parts": list(values), "role": "model"}}


ANSWERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (MESSAGE, {"text": "Hi! My name is Claude.", "finish_reason": "stop", "error": None,
               "prompt_tokens": 2200, "completion_tokens": 503, "reasoning": ""}),
    (MESSAGE | {"content": THINKING}, {"text": "Seven.", "reasoning": "Let me see."}),
    (MESSAGE | {"stop_reason": "max_tokens"}, {"finish_reason": "length"}),
    (MESSAGE | {"stop_reason": "model_context_window_exceeded"}, {"finish_reason": "length"}),
    (MESSAGE | {"stop_reason": "stop_sequence", "stop_sequence": "END"}, {"finish_reason": "stop"}),
    (MESSAGE | {"stop_reason": "refusal", "content": []},
     {"error": "the server withheld the answer (refusal)", "text": ""}),
    (MESSAGE | {"stop_reason": "max_tokens", "content": THINKING[:1]},
     {"only_reasoned": True, "reasoning": "Let me see."}),
    (MESSAGE | {"stop_reason": "max_tokens", "content": [{**THINKING[0], "thinking": ""}]},
     {"only_reasoned": True, "text": ""}),
    (MESSAGE | {"content": [], "stop_reason": "end_turn"}, {"text": "", "only_reasoned": False}),
    (GENERATED, {"text": "Seven seas.", "finish_reason": "stop", "error": None,
                 "prompt_tokens": 4, "completion_tokens": 37}),
    (candidate(**parts({"text": "Hm.", "thought": True}, {"text": "Seven "}, {"text": "seas."})),
     {"text": "Seven seas.", "reasoning": "Hm."}),
    (candidate(finishReason="MAX_TOKENS"), {"finish_reason": "length", "text": "Seven seas."}),
    (candidate(finishReason="MAX_TOKENS", content={"role": "model"}),
     {"finish_reason": "length", "text": "", "only_reasoned": True}),
    *[(candidate(finishReason=reason, content={}),
       {"error": f"the server withheld the answer ({reason})", "text": ""})
      for reason in ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST")],
    (BLOCKED, {"error": "the server withheld the answer (PROHIBITED_CONTENT)", "text": ""}),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "expected"), ANSWERS)
def test_a_documented_answer_is_read(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    parsed = parse_response(answer)
    assert {name: getattr(parsed, name) for name in expected} == expected


def test_geminis_log_probabilities_are_read() -> None:
    top = [{"token": "Yes", "logProbability": -0.1}, {"token": "No", "logProbability": -2.5}]
    result = {"topCandidates": [{"candidates": top}], "chosenCandidates": top[:1]}
    (entry,) = parse_response(candidate(logprobsResult=result)).logprobs
    assert (entry.token, entry.logprob) == ("Yes", -0.1)
    assert entry.top == (("Yes", -0.1), ("No", -2.5))


# Over HTTP


@contextmanager
def answering(*responses: tuple[str, dict[str, Any]]) -> Iterator[tuple[int, list[HttpMessage]]]:
    """A server that gives these responses in turn, the last one for good."""
    requests: list[HttpMessage] = []

    async def respond(request: HttpMessage) -> bytes:
        requests.append(request)
        status, content = responses[min(len(requests), len(responses)) - 1]
        return http_response(status, json.dumps(content).encode())

    with listening(FakeServer(respond)) as port:
        try:
            yield port, requests
        finally:
            close_engines()


def generate(folder: Path, named: LanguageModel, *decodings: Decoding) -> list[Completion]:
    requests = [Request(TURNS, d, sample=i) for i, d in enumerate(decodings or (PLAIN,))]
    return Context.scratch(folder).open(named).generate(requests)


@pytest.mark.parametrize(
    ("provider", "answer", "line", "head"),
    [
        ("anthropic", MESSAGE, "/v1/messages",
         {"x-api-key": KEY, "anthropic-version": "2023-06-01"}),
        ("gemini", GENERATED, "/v1beta/models/m-1:generateContent", {"x-goog-api-key": KEY}),
        ("azure", {"choices": [{"message": {"content": "sea"}, "finish_reason": "stop"}]},
         "/openai/deployments/d/chat/completions?api-version=2024-10-21", {"api-key": KEY}),
    ],
)  # fmt: skip
def test_an_answer_is_stored_as_it_came_and_replayed_without_the_provider(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    answer: dict[str, Any],
    line: str,
    head: dict[str, str],
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", KEY)
    api = {"version": "2024-10-21"} if provider == "azure" else {}
    with answering(("200 OK", answer)) as (port, requests):
        named = model(provider, port, api_key_env="PROVIDER_KEY", api=api)
        (completion,) = generate(tmp_path, named)
        assert generate(tmp_path, named) == [completion]
    assert len(requests) == 1
    assert requests[0].first.split()[1] == line
    assert "authorization" not in requests[0].head
    assert head.items() <= requests[0].head.items()
    (entry,) = Journal(tmp_path / "store" / "journal").entries()
    assert json.loads(entry.response) == answer
    assert (entry.sent is None) == (provider == "azure")
    assert "Name a sea" not in (entry.sent or "")
    replayed = LanguageModel("m-1", "replay", base_url="http://elsewhere/v1")
    assert generate(tmp_path, replayed) == [completion]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"},
              "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}  # fmt: skip
UNAVAILABLE = {"error": {"code": 503, "message": "The model is overloaded.",
                         "status": "UNAVAILABLE"}}  # fmt: skip
EXHAUSTED = {"error": {"code": 429, "message": "Resource has been exhausted (e.g. check quota).",
                       "status": "RESOURCE_EXHAUSTED"}}  # fmt: skip


@pytest.mark.parametrize(
    ("provider", "status", "error", "answer"),
    [
        ("anthropic", "529 Overloaded", OVERLOADED, MESSAGE),
        ("anthropic", "500 Internal Server Error", OVERLOADED, MESSAGE),
        ("gemini", "503 Service Unavailable", UNAVAILABLE, GENERATED),
        ("gemini", "429 Too Many Requests", EXHAUSTED, GENERATED),
    ],
)
def test_an_overloaded_provider_is_tried_again(
    tmp_path: Path, provider: str, status: str, error: dict[str, Any], answer: dict[str, Any]
) -> None:
    with answering((status, error), ("200 OK", answer)) as (port, requests):
        (completion,) = generate(tmp_path, model(provider, port))
    assert completion.error is None
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("provider", "status", "error", "what"),
    [
        ("anthropic", "401 Unauthorized",
         {"type": "error", "error": {"type": "authentication_error",
                                     "message": "invalid x-api-key"}}, "answered 401"),
        ("anthropic", "404 Not Found",
         {"type": "error", "error": {"type": "not_found_error", "message": "model: m-1"}},
         "answered 404"),
        ("anthropic", "400 Bad Request",
         {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit "
          "balance is too low to access the Anthropic API."}}, "quota is used up"),
        ("gemini", "400 Bad Request",
         {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}},
         "answered 400"),
        ("gemini", "404 Not Found",
         {"error": {"code": 404, "message": "models/m-1 is not found for API version v1beta",
                    "status": "NOT_FOUND"}}, "answered 404"),
    ],
)  # fmt: skip
def test_what_holds_for_all_requests_stops_at_the_first(
    tmp_path: Path, provider: str, status: str, error: dict[str, Any], what: str
) -> None:
    with (
        answering((status, error)) as (port, _),
        pytest.raises(UserError, match=what) as raised,
    ):
        generate(tmp_path, model(provider, port))
    assert error["error"]["message"][:30] in str(raised.value.why)


@pytest.mark.parametrize(
    ("provider", "decoding", "what"),
    [
        ("anthropic", replace(PLAIN, logprobs=5), "does not take logprobs"),
        ("anthropic", replace(PLAIN, presence_penalty=1.0), "does not take presence penalty"),
    ],
)
def test_what_an_interface_lacks_is_reported_before_anything_is_sent(
    tmp_path: Path, provider: str, decoding: Decoding, what: str
) -> None:
    with answering(("200 OK", MESSAGE)) as (port, requests):
        with pytest.raises(UserError, match=what) as error:
            generate(tmp_path, model(provider, port), decoding)
        assert "omit" in str(error.value.hint)
        api = {"omit": ("logprobs", "presence_penalty")}
        assert not requests
        generate(tmp_path, model(provider, port, api=api), decoding)


@pytest.mark.parametrize("provider", ["anthropic", "gemini"])
def test_a_plain_text_cannot_be_continued(tmp_path: Path, provider: str) -> None:
    with answering(("200 OK", MESSAGE)) as (port, _):
        engine = Context.scratch(tmp_path).open(model(provider, port))
        with pytest.raises(UserError, match="plain texts"):
            engine.generate([Request("The sea", PLAIN)])


def test_a_newer_model_without_a_temperature_stops_the_stage(tmp_path: Path) -> None:
    refusal = {"type": "error", "error": {"type": "invalid_request_error",
               "message": "`temperature` is deprecated for this model."}}  # fmt: skip
    with (
        answering(("400 Bad Request", refusal)) as (port, _),
        pytest.raises(UserError, match="does not take temperature") as error,
    ):
        generate(tmp_path, model("anthropic", port))
    assert "omit: [temperature]" in str(error.value.hint)


# Streams, as documented

EVENTS = [
    {"type": "message_start", "message": MESSAGE | {
        "content": [], "stop_reason": None, "usage": {"input_tokens": 25, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0,
     "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0,
     "delta": {"type": "thinking_delta", "thinking": "Let me "}},
    {"type": "content_block_delta", "index": 0,
     "delta": {"type": "thinking_delta", "thinking": "see."}},
    {"type": "content_block_delta", "index": 0,
     "delta": {"type": "signature_delta", "signature": "EqQB"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo!"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
     "usage": {"output_tokens": 15}},
    {"type": "message_stop"},
]  # fmt: skip
PIECES = [
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "Let me see.",
                                                             "thought": True}]}}]},
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hel"}]}}]},
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "lo!"}]},
                     "finishReason": "STOP"}],
     "usageMetadata": {"promptTokenCount": 25, "candidatesTokenCount": 15}},
]  # fmt: skip


@pytest.mark.parametrize(("provider", "events"), [("anthropic", EVENTS), ("gemini", PIECES)])
@pytest.mark.parametrize("cut", [False, True])
def test_a_documented_stream_is_assembled_and_a_cut_one_tried_again(
    tmp_path: Path, provider: str, events: list[dict[str, Any]], cut: bool
) -> None:
    seen: list[HttpMessage] = []

    async def respond(request: HttpMessage) -> bytes:
        seen.append(request)
        some = events[:-1] if cut and len(seen) == 1 else events
        stream = "".join(
            f"event: {event.get('type', 'x')}\r\ndata: {json.dumps(event)}\r\n\r\n"
            for event in some
        )
        return http_response("200 OK", stream.encode(), "text/event-stream")

    with listening(FakeServer(respond)) as port:
        named = model(provider, port, api={"stream": True}, limits=Limits(attempts=3))
        (answer,) = generate(tmp_path, named)
        close_engines()
    assert (answer.text, answer.reasoning, answer.finish_reason) == (
        "Hello!",
        "Let me see.",
        "stop",
    )
    assert (answer.prompt_tokens, answer.completion_tokens) == (25, 15)
    assert len(seen) == 1 + cut
    assert "streamGenerateContent?alt=sse" in seen[0].first or json.loads(seen[0].body)["stream"]
