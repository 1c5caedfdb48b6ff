"""An OpenAI-compatible server for tests, which can make faults: `FakeServer`.

It speaks HTTP/1.1 over loopback, from a thread of the tests' process:

    server = FakeServer()
    with listening(server) as port:
        Context.scratch(folder).open(served(port)).generate(requests)
    assert len(server.requests) == len(requests)

What it answers is a function: `TinyLM` (the default: the answers of real weights),
`fixed(response)` or `forward_to(port)`, which makes it a proxy. What goes wrong on the way
is chosen by name from `FAULTS`.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.models import Decoding, LanguageModel
from pipeline.models.journal.requests import PreparedRequest

NAME = "tiny"
TINYLM = Path(__file__).parents[2] / "data/models/tinylm"


class HttpMessage(NamedTuple):
    """A request or a response: its first line, its headers (in lower case) and its body."""

    first: str
    head: dict[str, str]
    body: bytes


Responder = Callable[[HttpMessage], Awaitable[bytes]]
"""From a POST to the complete response."""
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def read_message(reader: asyncio.StreamReader) -> HttpMessage | None:
    """The next message on a connection; None at its end."""
    try:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.split("\r\n")
        head = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}
        body = await reader.readexactly(int(head.get("content-length", 0)))
        return HttpMessage(first, head, body)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def http_response(
    status: str, body: bytes, content_type: str = "application/json", **more: str
) -> bytes:
    """A response; more headers by name, with underscores for hyphens."""
    head = {"content-type": content_type, "content-length": str(len(body)), **more}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in head.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1") + body


def error_response(status: str, text: str, **more: str) -> bytes:
    """An error in OpenAI's form."""
    return http_response(status, json.dumps({"error": {"message": text}}).encode(), **more)


MODELS = http_response("200 OK", json.dumps({"object": "list", "data": []}).encode())


# Faults


def is_ok(response: bytes) -> bool:
    return b" 200 " in response.split(b"\r\n", 1)[0]


Forward = Callable[[], Awaitable[bytes]]
"""Get the right answer."""


async def overloaded(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    writer.write(error_response("429 Too Many Requests", "slow down"))
    return False


async def overloaded_for_a_while(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    writer.write(error_response("429 Too Many Requests", "slow down", retry_after="0.1"))
    return False


async def broken(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    writer.write(error_response("500 Internal Server Error", "oh no"))
    return False


async def silent(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(60)
    return False


async def reset(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return False


async def truncated(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    """Fewer bytes than the header promises."""
    writer.write((await answer())[:-20])
    return False


async def garbled(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    """A body that ends within the JSON."""
    _, body = (await answer()).split(b"\r\n\r\n", 1)
    writer.write(http_response("200 OK", body[:-20]))
    return False


async def login_page(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    writer.write(http_response("200 OK", b"<html>welcome</html>", "text/html"))
    return False


async def sent_twice(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    await answer()
    response = await answer()
    writer.write(response)
    return is_ok(response)


async def answered_twice(answer: Forward, writer: asyncio.StreamWriter) -> bool:
    response = await answer()
    writer.write(response * 2)
    return is_ok(response)


Fault = Callable[[Forward, asyncio.StreamWriter], Awaitable[bool]]
FAULTS: dict[str, Fault] = {
    "429": overloaded,
    "429 after": overloaded_for_a_while,
    "500": broken,
    "hang": silent,
    "reset": reset,
    "half": truncated,
    "garbled": garbled,
    "page": login_page,
    "sent twice": sent_twice,
    "answered twice": answered_twice,
}
"""All faults by name. Each writes what the client gets; whether that is the right answer."""


# The server


@dataclass
class FakeServer:
    """A server that answers POSTs with a function and spoils a part of its answers.

    Args:
        answer: Answers POSTs: `TinyLM()`, `fixed(response)`, `forward_to(port)` or another.
        models: The response to GETs, which list the models.
        key: The key that the authorization header must have; None for none.
        refuse: Texts; a request that contains one of them is refused for good.
        faults: Names in `FAULTS`, chosen at random.
        fault_rate: The fraction of POSTs that meet a fault.
        rng: Chooses the faults.

    Attributes:
        requests: The bodies of all POSTs, in the order in which they came.
        answered: How often each body got a complete and right answer.
        faults_made: How often each fault was made.
        max_concurrent: Most requests that were in flight at once.
    """

    answer: Responder = field(default_factory=lambda: TinyLM())
    models: bytes = MODELS
    key: str | None = None
    refuse: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    fault_rate: float = 0.2
    rng: random.Random = field(default_factory=lambda: random.Random(130))
    requests: list[bytes] = field(default_factory=list)
    answered: Counter[bytes] = field(default_factory=Counter)
    faults_made: Counter[str] = field(default_factory=Counter)
    max_concurrent: int = 0
    _in_flight: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        while (request := await read_message(reader)) is not None:
            self._in_flight += 1
            self.max_concurrent = max(self.max_concurrent, self._in_flight)
            try:
                await self._serve(request, writer)
                await writer.drain()
            except ConnectionError:
                break
            finally:
                self._in_flight -= 1
            if request.head.get("connection") == "close":
                break
        writer.close()

    async def _serve(self, request: HttpMessage, writer: asyncio.StreamWriter) -> None:
        authorization = request.head.get("authorization")
        if self.key is not None and authorization != f"Bearer {self.key}":
            writer.write(error_response("401 Unauthorized", f"wrong key: {authorization}"))
            return
        if not request.first.startswith("POST"):
            writer.write(self.models)
            return
        self.requests.append(request.body)
        if any(text.encode() in request.body for text in self.refuse):
            writer.write(error_response("400 Bad Request", f"refused, with {authorization}"))
        elif self.faults and self.rng.random() < self.fault_rate:
            fault = self.rng.choice(self.faults)
            self.faults_made[fault] += 1
            is_answered = await FAULTS[fault](lambda: self.answer(request), writer)
            self.answered.update([request.body] * is_answered)
        else:
            response = await self.answer(request)
            self.answered.update([request.body] * is_ok(response))
            writer.write(response)


# Answers


def fixed(response: bytes) -> Responder:
    """The same response to every request."""

    async def answer(request: HttpMessage) -> bytes:
        return response

    return answer


def forward_to(port: int) -> Responder:
    """The response of another server on this machine."""

    async def answer(request: HttpMessage) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = [f"{name}: {value}" for name, value in request.head.items()]
        head = "\r\n".join([request.first, *lines, "", ""]).encode("latin-1")
        writer.write(head + request.body)
        response = await read_message(reader)
        writer.close()
        assert response is not None
        status = response.first.partition(" ")[2]
        return http_response(status, response.body, response.head["content-type"])

    return answer


class TinyLM:
    """The answers of tinylm, in the batches of the transformers engine.

    What it samples follows from the body of the request, so an answer does not depend on
    when it is requested. An answer is computed once in a process, by whichever server, and
    then given at once, however busy the machine is.
    """

    window = 0.02
    """Seconds in which requests are collected for a batch."""

    def __init__(self) -> None:
        self._waiting: list[tuple[PreparedRequest, asyncio.Future[dict[str, Any]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, request: HttpMessage) -> bytes:
        """Responder a POST."""
        content = json.loads(request.body)
        if request.body not in _responses:
            _responses[request.body] = await self._compute(content, request.body)
        response = _responses[request.body]
        return http_response(
            "200 OK", json.dumps(openai_form(response, "messages" in content)).encode()
        )

    async def _compute(self, content: dict[str, Any], body: bytes) -> dict[str, Any]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((prepared_request(content, body), future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())
        return dict(await future)

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(self.window)
            batch, self._waiting = self._waiting, []
            responses = await asyncio.to_thread(compute, [request for request, _ in batch])
            for request, future in batch:
                if not future.done():
                    future.set_result(responses[request.key])


def prepared_request(content: dict[str, Any], body: bytes) -> PreparedRequest:
    """A request's JSON as the transformers engine takes it; the key is that of the body."""
    tokenizer = weights().tokenizer
    prompt = content.get("prompt")
    if prompt is None:
        text = tokenizer.apply_chat_template(
            content["messages"], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    elif isinstance(prompt, str):
        prompt = tokenizer(prompt)["input_ids"]
    names = ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty")
    options = {name: content[name] for name in names if name in content}
    logprobs = content.get("top_logprobs") or content.get("logprobs") or 0
    choice = tuple(content.get("structured_outputs", {}).get("choice", ()))
    decoding = Decoding(
        **options, stop=tuple(content.get("stop", ())), choice=choice, logprobs=logprobs
    )
    key = blake2b(body, digest_size=16).hexdigest()
    return PreparedRequest(key, "", "", tuple(prompt), decoding)


def compute(rows: list[PreparedRequest]) -> dict[str, dict[str, Any]]:
    """The raw responses by key."""
    from pipeline.models.engines.transformers import _answer, batches

    loaded = weights()
    unique = list({row.key: row for row in rows}.values())
    return {
        row.key: response
        for width, batch in batches(unique, "cpu")
        for row, response in _answer(loaded, width, batch)
    }


_responses: dict[bytes, dict[str, Any]] = {}
_weights: list[Any] = []


def weights() -> Any:
    """tinylm, loaded once."""
    if not _weights:
        from pipeline.models.engines.transformers import load

        _weights.append(load(LanguageModel(model=str(TINYLM))))
    return _weights[0]


def openai_form(response: dict[str, Any], chat: bool) -> dict[str, Any]:
    """A raw response in the form of OpenAI's endpoints."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": response["finish_reason"]}
    logprobs = response.get("logprobs")
    if chat:
        choice["message"] = {"role": "assistant", "content": response["text"]}
        choice["logprobs"] = logprobs and {
            "content": [
                {
                    "token": token,
                    "logprob": logprob,
                    "top_logprobs": [{"token": t, "logprob": p} for t, p in top],
                }
                for token, logprob, top in logprobs
            ]
        }
    else:
        choice["text"] = response["text"]
        choice["logprobs"] = logprobs and {
            "tokens": [token for token, *_ in logprobs],
            "token_logprobs": [logprob for _, logprob, _ in logprobs],
            "top_logprobs": [dict(top) for *_, top in logprobs],
        }
    return {"id": "x", "object": "answer", "choices": [choice], "usage": response["usage"]}


@contextmanager
def listening(handler: Handler) -> Iterator[int]:
    """Serve on a free port of the loopback interface, from a thread; the port."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def main() -> None:
        server = await asyncio.start_server(handler, "127.0.0.1", 0, limit=1 << 20)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(30)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def served(port: int, **more: Any) -> LanguageModel:
    """The model behind a port, known by its name alone."""
    return LanguageModel(NAME, "openai", base_url=f"http://127.0.0.1:{port}/v1", **more)
