"""What real servers and gateways answer: unusual forms of answers, pages, redirects, long waits.

In each test a server gives the same response to every request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import Exit, UserError
from pipeline.models import Completion, Decoding, LanguageModel, Limits, Price, Request
from pipeline.models.budget import Budget, BudgetLimit, BudgetTracker
from pipeline.models.engines.registry import close_engines
from pipeline.models.engines.vllm_server import is_ready
from pipeline.models.http.client import on_loopback
from pipeline.models.journal.charges import BYTES_PER_TOKEN
from pipeline.models.journal.responses import well_formed
from tests.support.serving import (
    MODELS,
    FakeServer,
    error_response,
    fixed,
    http_response,
    listening,
    served,
)

KEY = "sk-very-secret-0123456789"
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


@contextmanager
def answering(response: bytes, models: bytes = MODELS) -> Iterator[tuple[int, list[bytes]]]:
    """A server with one response to every request: its port, and the requests that it got."""
    server = FakeServer(fixed(response), models)
    with listening(server) as port:
        try:
            yield port, server.requests
        finally:
            close_engines()


def generate(folder: Path, model: LanguageModel, count: int = 1, **more: Any) -> list[Completion]:
    ctx = Context.scratch(folder)
    ctx.budget = more.get("budget", ctx.budget)
    decoding = Decoding(max_tokens=4)
    requests = [Request((("user", f"Name {i} seas."),), decoding) for i in range(count)]
    return ctx.open(model).generate(requests)


def choice(**more: Any) -> bytes:
    content = {"choices": [{"index": 0, "finish_reason": "stop", **more}], "usage": USAGE}
    return http_response("200 OK", json.dumps(content).encode())


# Answers


def parts(*texts: str) -> list[dict[str, Any]]:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    return [thought, *({"type": "text", "text": text} for text in texts)]


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ({"content": "sea"}, "sea"),
        ({"content": None}, ""),
        ({"content": "sea", "reasoning_content": "The user wants"}, "sea"),
        ({"content": None, "refusal": "I cannot help."}, "I cannot help."),
        ({"content": parts("se", "a")}, "sea"),
        ({"role": "assistant", "tool_calls": [CALL]}, ""),
    ],
)
def test_every_form_of_a_message_is_parsed_and_paid_once(
    tmp_path: Path, reply: dict[str, Any], text: str
) -> None:
    with answering(choice(message=reply)) as (port, requests):
        (answer,) = generate(tmp_path, served(port))
        assert (answer.text, answer.error) == (text, None)
        assert generate(tmp_path, served(port)) == [answer]
    assert len(requests) == 1


@pytest.mark.parametrize("reply", [{"content": "se"}, {"role": "assistant"}])
def test_a_withheld_answer_has_no_text_and_an_error(tmp_path: Path, reply: dict[str, Any]) -> None:
    with answering(choice(message=reply, finish_reason="content_filter")) as (port, requests):
        (answer,) = generate(tmp_path, served(port))
    assert answer.finish_reason == "withheld"
    assert "content_filter" in str(answer.error)
    assert len(requests) == 1


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"token": "sea", "logprob": -1.0}]},
        {"content": [{"token": "sea", "logprob": -1.0, "top_logprobs": None}]},
        {"tokens": ["sea"], "token_logprobs": [-1.0], "top_logprobs": [None]},
    ],
)
def test_logprobs_without_alternatives_are_read(tmp_path: Path, logprobs: dict[str, Any]) -> None:
    with answering(choice(message={"content": "sea"}, logprobs=logprobs)) as (port, _):
        (answer,) = generate(tmp_path, served(port))
    ((token, logprob, top),) = ((p.token, p.logprob, p.top) for p in answer.logprobs)
    assert (token, logprob, top) == ("sea", -1.0, ())


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_an_answer_that_the_server_broke_off_is_retried(tmp_path: Path, reason: str) -> None:
    broken = {"message": {"content": "se"}, "finish_reason": reason}
    with answering(choice(**broken)) as (port, requests):
        (answer,) = generate(tmp_path, served(port, limits=Limits(attempts=2)))
    assert answer.error
    assert len(requests) == 2
    assert not well_formed({"choices": [broken]})


def test_an_error_with_status_200_is_shown_as_it_is(tmp_path: Path) -> None:
    response = http_response("200 OK", b'{"error": {"message": "no credits left", "code": 402}}')
    with answering(response) as (port, requests):
        (answer,) = generate(tmp_path, served(port, limits=Limits(attempts=2)))
    assert "no completion in it: no credits left" in str(answer.error)
    assert len(requests) == 2


def test_a_chunked_answer_under_another_content_type_is_accepted(tmp_path: Path) -> None:
    head, _, body = choice(message={"content": "sea"}).partition(b"\r\n\r\n")
    assert head
    chunks = [b"%x\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, 90, 7)]
    chunks.append(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body[91:]), body[91:]))
    lines = "HTTP/1.1 200 OK", "content-type: Application/JSON", "transfer-encoding: chunked"
    response = "\r\n".join([*lines, "", ""]).encode() + b"".join(chunks)
    with answering(response) as (port, _):
        assert generate(tmp_path, served(port))[0].text == "sea"


# Refusals


@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect"])
def test_a_redirect_ends_it_without_showing_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setenv("ODD_KEY", KEY)
    with answering(http_response(status, b"", location=f"https://elsewhere/{KEY}")) as (
        port,
        requests,
    ):
        with pytest.raises(UserError, match=f"answered {status[:3]}") as error:
            generate(tmp_path, served(port, api_key_env="ODD_KEY"), 3)
        assert len(requests) <= 3
    assert "base_url" in str(error.value.hint)
    assert KEY not in str(error.value)


def test_a_text_that_a_firewall_forbids_fails_alone(tmp_path: Path) -> None:
    """The list of models is open, so the key is right: 403 is about the request."""
    with answering(error_response("403 Forbidden", "flagged")) as (port, requests):
        answers = generate(tmp_path, served(port), 3)
    assert {answer.error for answer in answers} == {"the server answered 403: flagged"}
    assert len(requests) == 3


def test_a_server_that_forbids_everything_ends_it(tmp_path: Path) -> None:
    forbidden = error_response("403 Forbidden", "this key may nothing")
    with (
        answering(forbidden, models=forbidden) as (port, _),
        pytest.raises(UserError, match="answered 403"),
    ):
        generate(tmp_path, served(port), 3)


@pytest.mark.parametrize("charset", ["utf-8", "base64", "hex", "none-such"])
def test_any_charset_of_an_error_is_survived(tmp_path: Path, charset: str) -> None:
    response = http_response("400 Bad Request", b"too \xff long", f"text/html; charset={charset}")
    with answering(response) as (port, _):
        assert (
            generate(tmp_path, served(port))[0].error == "the server answered 400: too \ufffd long"
        )


def test_a_refusal_without_a_word(tmp_path: Path) -> None:
    with answering(http_response("400 Bad Request", b"")) as (port, _):
        assert (
            generate(tmp_path, served(port))[0].error == "the server answered 400: without a word"
        )


@pytest.mark.parametrize(
    "response",
    [
        http_response("200 OK", b"{}", f"text/{KEY}"),
        http_response("502 Bad Gateway", f"<html>{KEY}</html>".encode(), "text/html"),
        f"HTTP/1.1 200 OK\r\nodd header {KEY}\r\n\r\n".encode(),
        f"{KEY}\r\n\r\n".encode(),
        http_response("200 OK", json.dumps({"error": KEY}).encode()),
        choice(message={"content": f"half a pair: \ud800, {KEY}"}),
    ],
    ids=["type", "page", "header", "status line", "no completion", "answer with a lone surrogate"],
)
def test_wherever_a_server_writes_the_key_it_is_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, response: bytes
) -> None:
    monkeypatch.setenv("ODD_KEY", KEY)
    limits = Limits(attempts=1)
    with answering(response) as (port, _):
        (answer,) = generate(tmp_path, served(port, api_key_env="ODD_KEY", limits=limits))
    assert "[key]" in (answer.error or answer.text)
    assert KEY not in repr(answer)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_proxy_leads_to_a_server_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with answering(error_response("502 Bad Gateway", "I saw it all")) as (proxy, seen):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        with answering(choice(message={"content": "sea"})) as (port, requests):
            assert generate(tmp_path, served(port))[0].text == "sea"
            assert is_ready(f"http://127.0.0.1:{port}/health")
    assert (len(requests), len(seen)) == (1, 0)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:80/v1", True),
        ("https://127.example.org/v1", False),
        ("https://api.example.org/v1", False),
        ("no url", False),
    ],
)
def test_what_is_on_this_machine(url: str, local: bool) -> None:
    assert on_loopback(url) is local


# Waits


@pytest.mark.parametrize("after", ["3600", "inf", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_wait_longer_than_patience_is_not_waited_for(tmp_path: Path, after: str) -> None:
    response = error_response(
        "429 Too Many", "later", retry_after=after, date="Wed, 21 Oct 2026 07:28:00 GMT"
    )
    with answering(response) as (port, requests):
        began = time.monotonic()
        first = generate(tmp_path, served(port), 3)
        second = generate(tmp_path, served(port), 3)
    assert time.monotonic() - began < 20
    assert all("the server asks to wait for" in str(answer.error) for answer in first + second)
    assert len(requests) == 3, "the next stage does not send to a server that asked to wait"


def test_what_was_never_sent_is_given_up_as_well(tmp_path: Path) -> None:
    """A server that is overloaded for good holds all back but a few."""
    tracker = BudgetTracker("the budget", BudgetLimit(requests=200))
    limits = Limits(patience=0.5, attempts=1000)
    with answering(error_response("429 Too Many", "later", retry_after="0.4")) as (port, requests):
        answers = generate(tmp_path, served(port, limits=limits), 200, budget=Budget([tracker]))
    assert len(set(requests)) < 200
    assert all("no answer for 0.5 s; last: the server" in str(one.error) for one in answers)
    assert tracker.requests == 0, "and nothing is charged"


# Counting


def test_a_server_that_does_not_count_is_counted_for(tmp_path: Path) -> None:
    """Without `usage` a budget in tokens and money holds as well."""
    response = {"choices": [{"message": {"content": "sea" * 8}, "finish_reason": "stop"}]}
    price = Price(prompt=1e6, completion=2e6)
    prompt, answer = len("Name 0 seas.") // BYTES_PER_TOKEN + 8, len("sea" * 8) // BYTES_PER_TOKEN
    tracker = BudgetTracker("the budget", BudgetLimit(tokens=2 * (prompt + answer)))
    with answering(http_response("200 OK", json.dumps(response).encode())) as (port, requests):
        model = served(port, price=price, limits=Limits(concurrency=1))
        with pytest.raises(UserError) as error:
            generate(tmp_path, model, 9, budget=Budget([tracker]))
    assert error.value.code == Exit.BUDGET
    assert len(requests) == 2
    assert tracker.tokens == 2 * (prompt + answer)
    assert tracker.money == 2 * (prompt + 2 * answer)


def test_an_answer_without_a_content_type_is_named_as_such(tmp_path: Path) -> None:
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>") as (port, _):
        model = served(port, limits=Limits(attempts=1))
        (answer,) = generate(tmp_path, model)
    assert "the answer is without a content type instead of JSON" in str(answer.error)
