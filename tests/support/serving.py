"""A real OpenAI-compatible server around tinylm, and a proxy before it that makes faults.

Both speak HTTP/1.1 over loopback, from a thread of the tests' process. The server
answers by the weights through the transformers engine's own batches; what it draws
follows from the body of the request, so an answer does not depend on when it is asked.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pipeline.models import Decoding, LanguageModel
from pipeline.models.journal.requests import Prepared

NAME = "tiny"
TINYLM = Path(__file__).parents[2] / "data/models/tinylm"
Head = dict[str, str]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def read_message(reader: asyncio.StreamReader) -> tuple[str, Head, bytes] | None:
    """First line, headers and body of a request or a response; None at the end."""
    try:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.split("\r\n")
        head = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}
        return first, head, await reader.readexactly(int(head.get("content-length", 0)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def message(status: str, body: bytes, kind: str = "application/json", **more: str) -> bytes:
    head = {"content-type": kind, "content-length": str(len(body)), **more}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in head.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1") + body


def refusal(status: str, text: str, **more: str) -> bytes:
    return message(status, json.dumps({"error": {"message": text}}).encode(), **more)


@dataclass
class Tiny:
    """The server. answered: how often each body was answered; most: most requests at once.

    known: answers by body. What it knows already it says at once, however busy the machine is.
    key: what it wants in the authorization header. refuse: texts whose prompts it refuses.
    """

    answered: Counter[bytes] = field(default_factory=Counter)
    known: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    key: str | None = None
    refuse: tuple[str, ...] = ()
    window: float = 0.02
    most: int = 0
    _open: list[tuple[Prepared, asyncio.Future[dict[str, Any]]]] = field(default_factory=list)
    _batch: asyncio.Task[None] | None = None
    _busy: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (came := await read_message(reader)) is not None:
            self._busy += 1
            self.most = max(self.most, self._busy)
            try:
                writer.write(await self._reply(*came))
                await writer.drain()
            except ConnectionError:
                pass
            finally:
                self._busy -= 1
        writer.close()

    async def _reply(self, first: str, head: Head, body: bytes) -> bytes:
        if self.key is not None and head.get("authorization") != f"Bearer {self.key}":
            return refusal("401 Unauthorized", f"wrong key: {head.get('authorization')}")
        path = first.split()[1]
        if path.endswith("/models"):
            return message("200 OK", json.dumps({"object": "list", "data": []}).encode())
        asked = json.loads(body)
        if any(text in json.dumps(asked) for text in self.refuse):
            return refusal("400 Bad Request", f"refused, with {head.get('authorization')}")
        self.answered[body] += 1
        if body not in self.known:
            self.known[body] = await self._answer(asked, body)
        response = self.known[body]
        return message("200 OK", json.dumps(dressed(response, "messages" in asked)).encode())

    async def _answer(self, asked: dict[str, Any], body: bytes) -> dict[str, Any]:
        future = asyncio.get_running_loop().create_future()
        self._open.append((prepared(asked, body), future))
        if self._batch is None or self._batch.done():
            self._batch = asyncio.get_running_loop().create_task(self._work())
        return dict(await future)

    async def _work(self) -> None:
        while self._open:
            await asyncio.sleep(self.window)
            taken, self._open = self._open, []
            answers = await asyncio.to_thread(compute, [one for one, _ in taken])
            for one, future in taken:
                if not future.done():
                    future.set_result(answers[one.key])


def prepared(asked: dict[str, Any], body: bytes) -> Prepared:
    tokenizer = weights().tokenizer
    prompt = asked.get("prompt")
    if prompt is None:
        text = tokenizer.apply_chat_template(
            asked["messages"], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    elif isinstance(prompt, str):
        prompt = tokenizer(prompt)["input_ids"]
    names = ("max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty")
    given = {name: asked[name] for name in names if name in asked}
    logprobs = asked.get("top_logprobs") or asked.get("logprobs") or 0
    choice = tuple(asked.get("structured_outputs", {}).get("choice", ()))
    decoding = Decoding(
        **given, stop=tuple(asked.get("stop", ())), choice=choice, logprobs=logprobs
    )
    key = blake2b(body, digest_size=16).hexdigest()
    return Prepared(key, "", "", tuple(prompt), decoding)


def compute(rows: list[Prepared]) -> dict[str, dict[str, Any]]:
    from pipeline.models.engines.transformers import _answer, batches

    loaded = weights()
    unique = list({row.key: row for row in rows}.values())
    return {
        row.key: response
        for width, batch in batches(unique, "cpu")
        for row, response in _answer(loaded, width, batch)
    }


_weights: list[Any] = []


def weights() -> Any:
    if not _weights:
        from pipeline.models.engines.transformers import load

        _weights.append(load(LanguageModel(model=str(TINYLM))))
    return _weights[0]


def dressed(response: dict[str, Any], chat: bool) -> dict[str, Any]:
    """The form in which OpenAI's endpoints put an answer."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": response["finish_reason"]}
    noted = response.get("logprobs")
    if chat:
        choice["message"] = {"role": "assistant", "content": response["text"]}
        choice["logprobs"] = noted and {
            "content": [
                {
                    "token": token,
                    "logprob": logprob,
                    "top_logprobs": [{"token": t, "logprob": p} for t, p in top],
                }
                for token, logprob, top in noted
            ]
        }
    else:
        choice["text"] = response["text"]
        choice["logprobs"] = noted and {
            "tokens": [token for token, *_ in noted],
            "token_logprobs": [logprob for _, logprob, _ in noted],
            "top_logprobs": [dict(top) for *_, top in noted],
        }
    return {"id": "x", "object": "answer", "choices": [choice], "usage": response["usage"]}


FAULTS = (
    *("429", "429 after", "500", "hang", "reset", "half", "garbled", "page"),
    *("asked twice", "answered twice"),
)


@dataclass
class Proxy:
    """Passes requests on, and spoils a share of the answers to POSTs.

    delivered: how often each body got a whole and right answer. made: faults by kind.
    """

    upstream: int
    share: float = 0.2
    kinds: tuple[str, ...] = FAULTS
    noise: random.Random = field(default_factory=lambda: random.Random(130))
    delivered: Counter[bytes] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (came := await read_message(reader)) is not None:
            first, head, body = came
            spoilt = first.startswith("POST") and self.noise.random() < self.share
            fault = self.noise.choice(self.kinds) if spoilt else ""
            self.made[fault] += 1
            with suppress(ConnectionError):
                await self._pass(first, head, body, fault, writer)
                await writer.drain()
            if fault in ("reset", "half") or head.get("connection") == "close":
                break
        writer.close()

    async def _pass(
        self, first: str, head: Head, body: bytes, fault: str, writer: asyncio.StreamWriter
    ) -> None:
        if fault in ("429", "429 after"):
            more = {"retry_after": "0.1"} if fault == "429 after" else {}
            writer.write(refusal("429 Too Many Requests", "slow down", **more))
        elif fault == "500":
            writer.write(refusal("500 Internal Server Error", "oh no"))
        elif fault == "hang":
            await asyncio.sleep(60)
        elif fault == "reset":
            writer.transport.abort()
        elif fault == "page":
            writer.write(message("200 OK", b"<html>welcome</html>", "text/html"))
        else:
            response = await self._asked(first, head, body)
            if fault == "asked twice":
                response = await self._asked(first, head, body)
            if fault == "half":
                writer.write(response[: len(response) - 20])
                return
            if fault == "garbled":
                _, text = response.split(b"\r\n\r\n", 1)
                writer.write(message("200 OK", text[:-20]))
                return
            if first.startswith("POST") and b" 200 " in response.split(b"\r\n", 1)[0]:
                self.delivered[body] += 1
            writer.write(response * (2 if fault == "answered twice" else 1))

    async def _asked(self, first: str, head: Head, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        lines = [f"{name}: {value}" for name, value in head.items()]
        writer.write("\r\n".join([first, *lines, "", ""]).encode("latin-1") + body)
        came = await read_message(reader)
        writer.close()
        assert came is not None
        status, answered, text = came
        return message(status.partition(" ")[2], text, answered["content-type"])


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
