"""Which parameter a refused request is about: the wording of servers, and other refusals."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.models.http.refusals import (
    FIRST,
    PARAMETERS,
    History,
    Refusal,
    error_message,
    hint_for,
    parameters_in,
)

EVERY = set(PARAMETERS)


def openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return {"error": error}


def google(message: str) -> dict[str, Any]:
    return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}


def anthropic(message: str) -> dict[str, Any]:
    error = {"type": "invalid_request_error", "message": message}
    return {"type": "error", "error": error, "request_id": "req_011CVtwxbUMYkHKtk3YxTtSt"}


def pydantic(*names: str) -> list[dict[str, Any]]:
    kind = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted", "input": 1}
    return [{**kind, "loc": ["body", name]} for name in names]


UNSUPPORTED = [
    ("max_tokens", openai(
        "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.", "max_tokens", "unsupported_parameter")),
    ("max_tokens", {"error": {
        "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.", "code": "invalid_request_body"}}),
    ("temperature", openai(
        "Unsupported value: 'temperature' does not support 0.7 with this model. "
        "Only the default (1) value is supported.", "temperature", "unsupported_value")),
    ("temperature", anthropic("`temperature` is deprecated for this model.")),
    ("temperature", anthropic(
        "`temperature` and `top_p` cannot both be specified for this model. "
        "Please use only one.")),
    ("top_k", openai("Unrecognized request argument supplied: top_k")),
    ("seed", openai("Unrecognized request argument supplied: seed")),
    ("seed", {"object": "Error", "detail": pydantic("seed"), "type": "invalid_request_error"}),
    ("seed", {"object": "error", "message": {"detail": pydantic("seed")}, "code": "3051"}),
    ("seed", google(
        "Invalid JSON payload received. Unknown name \"seed\" at 'generation_config': "
        "Cannot find field.")),
    ("seed", [google('Invalid JSON payload received. Unknown name "seed": Cannot find field.')]),
    ("structured_output", openai("Unknown parameter: 'structured_outputs'.",
                                 "structured_outputs", "unknown_parameter")),
    ("structured_output", openai("property 'structured_outputs' is unsupported")),
    ("structured_output", openai("This response_format type is unavailable now")),
    ("structured_output", openai(
        "Invalid schema for response_format 'answer': In context=(), 'additionalProperties' is "
        "required to be supplied and to be false.", "response_format")),
    ("structured_output", openai(
        "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
        "'json_object'.", "messages")),
    ("structured_output", anthropic("output_config: Extra inputs are not permitted")),
    ("structured_output", google("Json mode is not enabled for models/gemma-3-27b-it")),
    ("max_tokens", {"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', "
        "'max_completion_tokens'), 'msg': 'Extra inputs are not permitted', 'input': 800}]",
        "type": "BadRequestError", "param": None, "code": 400}),
    ("frequency_penalty", {"type": "urn:problem", "status": 422, "detail":
        "body -> frequency_penalty\n  Extra inputs are not permitted (type=extra_forbidden)"}),
    ("presence_penalty", openai("Argument not supported on this model: presencePenalty")),
    ("logprobs", openai("'logprobs' : property 'logprobs' is unsupported")),
    ("logprobs", google("Logprobs is not enabled for models/gemini-2.5-flash-lite")),
    ("logprobs", openai("You are not allowed to request logprobs from this model", "logprobs")),
    ("stop", openai("Unsupported parameter: 'stop' is not supported with this model.", "stop",
                    "unsupported_parameter")),
    ("reasoning_effort", openai(
        "Unrecognized request argument supplied: reasoning_effort", None, None)),
    ("reasoning_effort", google("Thinking level is not supported for this model: thinking_level")),
    ("stream", openai("This model only support stream mode, please enable the stream parameter "
                      "to access the model.", None, "invalid_parameter_error")),
    ("stream_options", openai("Extra inputs are not permitted, field: 'stream_options'")),
    ("chat_template_kwargs", openai(
        "Unrecognized request argument supplied: chat_template_kwargs")),
]  # fmt: skip
"""What servers answer, from their documentation and from reports of their users."""


@pytest.mark.parametrize(("parameter", "content"), UNSUPPORTED)
def test_a_parameter_that_a_server_does_not_take_is_read(parameter: str, content: Any) -> None:
    refusal = Refusal.of(content, error_message(content), EVERY)
    assert refusal.parameter == parameter
    assert not refusal.about_key
    assert "options of the model" not in hint_for(parameter)


@pytest.mark.parametrize(("parameter", "content"), UNSUPPORTED)
def test_only_what_was_sent_can_be_refused(parameter: str, content: Any) -> None:
    assert Refusal.of(content, error_message(content), EVERY - {parameter}).parameter != parameter
    assert Refusal.of(content, error_message(content), ()).parameter is None


ABOUT_TEXT = [
    openai("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens "
           "(1000 in the messages, 8000 in the completion). Please reduce the length of the "
           "messages or completion.", "messages", "context_length_exceeded"),
    openai("'max_tokens' or 'max_completion_tokens' is too large: 900. This model's maximum "
           "context length is 1024 tokens and your request has 600 input tokens", "max_tokens"),
    openai("The response was filtered due to the prompt triggering Azure OpenAI's content "
           "management policy.", "prompt", "content_filter"),
    openai("Your input was flagged: unsupported content", "temperature"),
    anthropic("prompt is too long: 210012 tokens > 200000 maximum"),
    anthropic("Output blocked by content filtering policy"),
    {"error": {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate "
               "content."}},
]  # fmt: skip


@pytest.mark.parametrize("content", ABOUT_TEXT)
def test_a_refusal_of_one_text_is_about_no_parameter(content: Any) -> None:
    refusal = Refusal.of(content, error_message(content), EVERY)
    assert refusal.about_text
    assert refusal.parameter is None
    history = History()
    assert not any(history.add(refusal) for _ in range(10 * FIRST))


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
        "temperature: range: 0..1",
        "roles must alternate between user and assistant",
        "we stopped to seed the stream of our effort, which is not supported",
    ],
)
def test_other_refusals_are_about_no_parameter_either(message: str) -> None:
    refusal = Refusal.of(openai(message), message, EVERY)
    assert refusal.parameter is None
    assert not refusal.about_text


def test_a_refusal_of_the_key_is_about_all_requests() -> None:
    message = "API key not valid. Please pass a valid API key."
    assert Refusal.of(google(message), message, EVERY).about_key


def test_what_pydantic_repeats_of_the_request_is_not_shown() -> None:
    content = {"detail": [{**pydantic("seed")[0], "input": {"messages": ["a secret text"]}}]}
    assert error_message(content) == "seed: Extra inputs are not permitted"


def test_a_stage_is_hopeless_once_its_first_requests_are_refused_alike() -> None:
    refusal = Refusal.of("x", "no (request id: 2026ab) of model m: 17", EVERY)
    other = Refusal.of("x", "no (request id: 77cd) of model m: 18", EVERY)
    history = History()
    assert [history.add((refusal, other)[i % 2]) for i in range(FIRST)] == [
        *[False] * (FIRST - 1),
        True,
    ]


def test_an_answer_or_another_refusal_shows_that_there_is_hope() -> None:
    refusal, other = (Refusal.of("x", text, EVERY) for text in ("no", "never"))
    answered, mixed = History(answered=True), History()
    assert not any(answered.add(refusal) for _ in range(2 * FIRST))
    assert not any(mixed.add((refusal, other)[i == 3]) for i in range(2 * FIRST))


def test_the_parameters_of_a_body_are_read_in_every_interface() -> None:
    plain = {"model": "m", "messages": [{"stop": 1}], "max_tokens": 4, "top_logprobs": 5}
    assert parameters_in(plain, {"messages"}) == {"max_tokens", "logprobs"}
    config = {"stopSequences": [], "responseJsonSchema": {"seed": 1}, "topP": 1}
    gemini = {"contents": [], "generationConfig": config}
    assert parameters_in(gemini, {"contents"}) == {"stop", "structured_output", "top_p"}
