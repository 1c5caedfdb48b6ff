"""Answers that are streamed: assembled they are what would have come at once, and a cut is seen."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import Api, Decoding, Limits, Request
from pipeline.models.engines.registry import close_engines
from pipeline.models.http.providers import PROVIDERS
from pipeline.models.http.streams import StreamError, data_events
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.responses import parse_response
from tests.support.serving import (
    FakeServer,
    HttpMessage,
    TinyLM,
    error_response,
    http_response,
    listening,
    served,
)

OPENAI = PROVIDERS["openai"]


def sse(events: list[dict[str, Any]], end: str = "data: [DONE]\n\n") -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end


def chunks(answer: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """A chat completion or completion as the events of a stream, cut at random."""
    (choice,) = answer["choices"]
    head = {k: v for k, v in answer.items() if k not in ("choices", "usage")}
    events: list[dict[str, Any]] = []

    def add(piece: dict[str, Any], **more: Any) -> None:
        events.append({**head, "choices": [{"index": 0, "finish_reason": None, **piece}], **more})

    chat = "message" in choice
    if chat:
        add({"delta": {"role": "assistant", "content": ""}})
    texts = choice["message"] if chat else {"text": choice["text"]}
    for name, text in texts.items():
        if name == "role" or text is None:
            continue
        cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(4)))
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            piece = {name: text[start:stop]}
            add({"delta": piece} if chat else piece)
    for name, entries in (choice.get("logprobs") or {}).items():
        for entry in entries:
            add(({"delta": {}} if chat else {"text": ""}) | {"logprobs": {name: [entry]}})
    last = {"delta": {}} if chat else {"text": ""}
    add(last | {"finish_reason": choice["finish_reason"]})
    return [*events, {**head, "choices": [], "usage": answer["usage"]}]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": texts},
    optional={"reasoning_content": texts, "refusal": texts},
)
logprobs = st.none() | st.lists(
    st.builds(lambda t: {"token": t, "logprob": -0.5, "top_logprobs": []}, texts), min_size=1
).map(lambda entries: {"content": entries})


@given(messages, logprobs, st.sampled_from(["stop", "length"]), st.integers())
def test_a_stream_is_the_answer_that_it_is_cut_from(
    message: dict[str, Any], probabilities: Any, reason: str, seed: int
) -> None:
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": probabilities}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    answer = {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
    events = data_events(sse(chunks(answer, random.Random(seed))))
    assembled = OPENAI.assembled(events)
    assert assembled is not None
    assert assembled["usage"] == usage
    assert parse_response(assembled) == parse_response(answer)


@given(st.integers(0, 10_000), st.booleans())
def test_a_stream_that_ends_early_is_no_answer(seed: int, done: bool) -> None:
    """Wherever it is cut: what is read is the whole answer, or none."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "The sea."},
              "finish_reason": "stop"}  # fmt: skip
    answer = {"object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 3}}
    rng = random.Random(seed)
    stream = sse(chunks(answer, rng), "data: [DONE]\n\n" if done else "")
    part = stream[: rng.randrange(len(stream))]
    try:
        assembled = OPENAI.assembled(data_events(part))
    except StreamError:
        return
    if assembled is not None:
        assert parse_response(assembled).text == "The sea."


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        ('data: {"error": {"message": "boom"}}\n\n', "boom"),
        ('data: {"type": "error", "error": {"type": "overloaded_error"}}\n\n', "overloaded"),
        ('data: {"choices": [\n\n', "no JSON"),
        ("data: [1]\n\n", "no JSON object"),
    ],
)
def test_an_error_within_a_stream_is_one(stream: str, why: str) -> None:
    with pytest.raises(StreamError, match=why):
        data_events(stream)


def test_lines_end_in_every_way_and_comments_are_none() -> None:
    text = ': hi\r\n\r\nid: 1\r\ndata: {"a":\r\ndata: "x\u2028y"}\r\n\r\n'
    assert data_events(text) == [{"a": "x\u2028y"}]
    assert data_events('data:{"a": 1}\r\rdata:{"a": 2}') == [{"a": 1}, {"a": 2}]


# Over HTTP, with the answers of tinylm


def questions(count: int) -> list[Request]:
    decodings = [Decoding(max_tokens=4), Decoding(max_tokens=4, logprobs=2)]
    return [
        Request(f"The sea {i}" if i % 3 == 0 else (("user", f"Name {i} seas."),), decodings[i % 2])
        for i in range(count)
    ]


class Streaming:
    """Streams what TinyLM answers, and cuts a part of its streams where HTTP does not see it."""

    def __init__(self, cut_rate: float) -> None:
        self.plain, self.rng, self.cut_rate, self.cuts = TinyLM(), random.Random(7), cut_rate, 0

    async def __call__(self, request: HttpMessage) -> bytes:
        body = json.loads(request.body)
        if not body.pop("stream", False):
            message = "This model only support stream mode, please enable the stream parameter."
            return error_response("400 Bad Request", message)
        assert body.pop("stream_options") == {"include_usage": True}
        asked = request._replace(body=json.dumps(body, separators=(",", ":")).encode())
        response = await self.plain(asked)
        answer = json.loads(response.split(b"\r\n\r\n", 1)[1])
        stream = sse(chunks(answer, self.rng))
        if self.rng.random() < self.cut_rate:
            self.cuts += 1
            stream = stream[: self.rng.randrange(stream.rindex('"finish_reason"'))]
        return http_response("200 OK", stream.encode(), "text/event-stream; charset=utf-8")


@pytest.mark.parametrize("api", [Api(stream=True), Api()], ids=["by option", "learned"])
def test_streams_and_their_cuts_change_no_answer(tmp_path: Path, api: Api) -> None:
    requests = questions(24)
    with listening(FakeServer()) as port:
        plain = Context.scratch(tmp_path / "plain").open(served(port)).generate(requests)
    streaming = Streaming(cut_rate=0.3)
    with listening(FakeServer(streaming)) as port:
        model = served(port, api=api, limits=Limits(attempts=30))
        streamed = Context.scratch(tmp_path / "streamed").open(model).generate(requests)
        close_engines()
    assert streaming.cuts
    assert streamed == copy.deepcopy(plain), "texts, counts, log-probabilities and keys"
    entries = Journal(tmp_path / "streamed" / "store" / "journal").entries()
    assert all(json.loads(str(entry.sent))["stream"] for entry in entries)


def test_contents_in_parts_are_joined() -> None:
    """Reasoning and text of one answer, a token at a time; one piece is a plain text."""
    thinking = [
        {"type": "thinking", "thinking": [{"type": "text", "text": t}]} for t in ("Let", " us")
    ]
    deltas: list[Any] = [[part] for part in thinking]
    deltas += [[{"type": "text", "text": "It is"}], " so", ""]
    events: list[Any] = [{"choices": [{"index": 0, "delta": {"content": d}}]} for d in deltas]
    events += [{"choices": [{"index": 1, "delta": {"content": "another"}}]}]
    events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    answer = OPENAI.assembled(events)
    assert answer is not None
    parsed = parse_response(answer)
    assert (parsed.reasoning, parsed.text) == ("Let us", "It is so")
