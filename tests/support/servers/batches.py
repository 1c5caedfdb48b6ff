"""A stand-in for a provider's batches, as OpenAI and Anthropic document theirs: `BatchServer`.

    with batching(teacher, BatchBehaviour(expires=0.5)) as server:
        Context.scratch(folder).open(server.model()).generate(requests)
    assert server.money == pytest.approx(counted, rel=0.01)

It answers single requests as well, so that both can be compared. A batch goes on with each
question how far it is, never by itself: what a test sees does not depend on the clock.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from pipeline.models import Batching, LanguageModel
from pipeline.models.base import Limits
from pipeline.models.engines.registry import close_engines
from tests.support.scripted import Answer
from tests.support.servers import PRICE, Bill, Switched
from tests.support.servers.behaviours import BEHAVIOURS, Behaviour, Rule
from tests.support.serving import (
    HttpMessage,
    error_response,
    http_response,
    listening,
    read_message,
)

ENDED: Final = ("completed", "expired", "failed", "cancelled", "ended")
EAGER: Final = Batching(poll=0.01)


@dataclass
class BatchBehaviour:
    """How the batches of a server go. Numbers of faults are used up, one by each fault.

    Args:
        questions: How often a client asks until a batch has ended.
        expires: The part of each batch's requests that is not run in time, in its first batch.
        broken: The part of requests that fail with 500, in their first batch.
        spoiled: The part of answers that are billed and hold no completion, likewise.
        refuses: What the model does not take: those requests fail with 400.
        missing: The part of requests without any result, in their first batch.
        garbage: Whether there are lines that are no results.
        duplicated: Whether each result comes twice.
        cut: Downloads of results of which a half comes.
        pages: Downloads that are answered with an HTML page instead.
        queue: Most requests that may be under way; a batch beyond it fails.
        problems: What a batch is refused with, as OpenAI lists it.
        lost_uploads: Files that are taken, and not answered.
        nameless_uploads: Files that are answered without a name.
        upload_takes: Seconds that an upload takes.
        lost_answers: Submissions that are taken, and not answered.
        lost_requests: Submissions that are neither.
        listed_after: How often a client lists batches before it sees one that was not answered.
        odd_entries: Whether the list of batches has other things in it.
        unpaged: Whether each page of that list is the first one.
        unknown: Questions that are answered with 404.
        resultless: Downloads of results that are answered so.
        down: Questions that are answered with 503.
        quota: Whether the account has no money.
    """

    questions: int = 2
    expires: float = 0.0
    broken: float = 0.0
    spoiled: float = 0.0
    refuses: Rule | None = None
    missing: float = 0.0
    garbage: bool = False
    duplicated: bool = False
    cut: int = 0
    pages: int = 0
    queue: int | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)
    lost_uploads: int = 0
    nameless_uploads: int = 0
    upload_takes: float = 0.0
    lost_answers: int = 0
    lost_requests: int = 0
    listed_after: int = 0
    odd_entries: bool = False
    unpaged: bool = False
    unknown: int = 0
    resultless: int = 0
    down: int = 0
    quota: bool = False


@dataclass
class StoredBatch:
    """A batch on the server.

    Attributes:
        id: Its name.
        requests: From custom_id to body.
        metadata: What the client sent along.
        file: Of its requests.
        questions: How often it is to be asked for before it has ended.
        created: When, in seconds.
        status: As the provider says it.
        problems: Why it failed.
        lines: The results, once it has ended; answers, then errors.
        hidden: How often it is not listed yet.
    """

    id: str
    requests: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    file: str | None
    questions: int
    created: float
    status: str = "validating"
    problems: list[dict[str, Any]] = field(default_factory=list)
    lines: tuple[list[Any], list[Any]] | None = None
    hidden: int = 0


@dataclass
class BatchServer:
    """A provider with batches.

    Args:
        script: From the last turn of a prompt to the text and the finish reason.
        behaviour: How its batches go.
        provider: Whose form it has: openai or anthropic.
        plain: How its models answer.

    Attributes:
        batches: All batches, in the order in which they were created.
        files: Files by name.
        billed: How often each request was billed.
        batch_bill: What was billed for requests in batches.
        single_bill: What was billed for single requests.
        submissions: How many submissions came.
        port: Where it listens.
    """

    script: Callable[[str], Answer]
    behaviour: BatchBehaviour = field(default_factory=BatchBehaviour)
    provider: str = "openai"
    plain: Behaviour = field(default_factory=lambda: BEHAVIOURS["plain"])
    batches: dict[str, StoredBatch] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    billed: Counter[str] = field(default_factory=Counter)
    batch_bill: Bill = field(default_factory=Bill)
    single_bill: Bill = field(default_factory=Bill)
    submissions: int = 0
    port: int = 0
    _tried: set[str] = field(default_factory=set)
    _rng: random.Random = field(default_factory=lambda: random.Random(16))

    @property
    def money(self) -> float:
        """What all was billed, batches at half the price."""
        return self.batch_bill.money / 2 + self.single_bill.money

    def model(self, batch: bool | Batching = EAGER, **more: Any) -> LanguageModel:
        """Its model."""
        limits = Limits(patience=5.0)
        base_url = f"http://127.0.0.1:{self.port}/v1"
        options = {"price": PRICE, "limits": limits, "batch": batch, **more}
        return LanguageModel("plain", "openai", base_url=base_url, **options)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request of a connection."""
        request = await read_message(reader)
        if request is not None:
            method, target, _ = request.first.split(" ")
            url = urlsplit(target)
            path = url.path.removeprefix("/v1/")
            response = await self._response(method, path, parse_qs(url.query), request)
            if response is None:
                writer.transport.abort()
                return
            writer.write(response)
            await writer.drain()
        writer.close()

    async def _response(
        self, method: str, path: str, query: Mapping[str, list[str]], request: HttpMessage
    ) -> bytes | None:
        """The response; None breaks the connection."""
        batches = "messages/batches" if self.provider == "anthropic" else "batches"
        if path == "models":
            return _json({"object": "list", "data": []})
        if self.behaviour.quota and method == "POST":
            error = {"message": "You exceeded your current quota.", "code": "insufficient_quota"}
            content = json.dumps({"error": {**error, "type": "insufficient_quota"}}).encode()
            return http_response("429 Too Many Requests", content)
        if method == "POST" and path == "files":
            await asyncio.sleep(self.behaviour.upload_takes)
            return self._upload(request)
        if method == "POST" and path == batches:
            return self._create(request)
        if method == "POST":
            return await self._single(request)
        if self.behaviour.down:
            self.behaviour.down -= 1
            return error_response("503 Service Unavailable", "we are down")
        if path == batches:
            return self._listed(query)
        if path.startswith("files/") and path.endswith("/content"):
            return self._file(path.split("/")[1])
        if path.startswith(f"{batches}/"):
            return self._asked(path.removeprefix(f"{batches}/"))
        return error_response("404 Not Found", "there is no such thing")

    # Single requests

    async def _single(self, request: HttpMessage) -> bytes:
        body = json.loads(request.body)
        if message := self.behaviour.refuses and self.behaviour.refuses(body):
            return error_response("400 Bad Request", message)
        return _json(self._answer(body, self.single_bill))

    def _answer(self, body: Mapping[str, Any], bill: Bill) -> dict[str, Any]:
        """The answer to a request, which is billed."""
        self.billed[json.dumps(body, sort_keys=True)] += 1
        answers = Switched(self.script, {"plain": self.plain})
        if self.provider != "anthropic":
            return answers._content(self.plain, body, bill)
        raw = answers._content(self.plain, {**body, "model": "plain"}, bill)
        (choice,), usage = raw["choices"], raw["usage"]
        counts = {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
        }
        content = [{"type": "text", "text": choice["message"]["content"]}]
        return {"type": "message", "content": content, "stop_reason": "end_turn", "usage": counts}

    # Files

    def _upload(self, request: HttpMessage) -> bytes | None:
        head = f"content-type: {request.head['content-type']}\r\n\r\n".encode()
        parts = message_from_bytes(head + request.body).get_payload()
        fields = {part.get_param("name", header="content-disposition"): part for part in parts}  # type: ignore[union-attr]
        assert fields["purpose"].get_payload() == "batch"
        name = f"file-{len(self.files)}"
        self.files[name] = fields["file"].get_payload(decode=True)
        if self.behaviour.lost_uploads:
            self.behaviour.lost_uploads -= 1
            return None
        if self.behaviour.nameless_uploads:
            self.behaviour.nameless_uploads -= 1
            return _json({"error": {"message": "we are busy"}})
        return _json({"id": name, "object": "file", "purpose": "batch"})

    def _file(self, name: str) -> bytes:
        kind, _, id = name.partition("-of-")
        if id not in self.batches or self.batches[id].lines is None:
            return error_response("404 Not Found", "No such File object")
        lines = self.batches[id].lines[kind == "errors"]  # type: ignore[index]
        return self._written(lines)

    def _written(self, lines: list[Any]) -> bytes:
        """The response with the results, in any order, and whatever else is among them."""
        if self.behaviour.resultless:
            self.behaviour.resultless -= 1
            return error_response("404 Not Found", "No such File object")
        return http_response("200 OK", self._lines(lines), "application/octet-stream")

    def _lines(self, lines: list[Any]) -> bytes:
        if self.behaviour.pages:
            self.behaviour.pages -= 1
            return b"<html><body>Sign in</body></html>\n"
        shuffled = [json.dumps(line) for line in lines] * (1 + self.behaviour.duplicated)
        self._rng.shuffle(shuffled)
        if self.behaviour.cut:
            self.behaviour.cut -= 1
            del shuffled[len(shuffled) // 2 :]
        if self.behaviour.garbage:
            shuffled[1:1] = ['{"custom_id": "0', "[]", '{"custom_id": "somebody-else\'s"}']
        return "".join(f"{line}\n" for line in shuffled).encode()

    # Batches

    def _create(self, request: HttpMessage) -> bytes | None:
        self.submissions += 1
        if self.behaviour.lost_requests:
            self.behaviour.lost_requests -= 1
            return None
        content = json.loads(request.body)
        if self.provider == "anthropic":
            requests = {one["custom_id"]: one["params"] for one in content["requests"]}
            file, metadata = None, {}
        else:
            assert content["completion_window"] == "24h"
            file, metadata = content["input_file_id"], content["metadata"]
            lines = [json.loads(line) for line in self.files[file].splitlines()]
            assert all(line["url"] == content["endpoint"] for line in lines)
            assert all(len(line["custom_id"]) <= 64 for line in lines)
            requests = {line["custom_id"]: line["body"] for line in lines}
            assert len(requests) == len(lines), "custom_id must be unique"
        id = f"batch_{len(self.batches)}"
        questions = self.behaviour.questions
        batch = StoredBatch(id, requests, metadata, file, questions, time.time())
        batch.problems = self._problems(batch)
        self.batches[id] = batch
        if self.behaviour.lost_answers:
            self.behaviour.lost_answers -= 1
            batch.hidden = self.behaviour.listed_after
            return None
        return _json(self._shown(batch))

    def _problems(self, batch: StoredBatch) -> list[dict[str, Any]]:
        open_ = [one for one in self.batches.values() if one.status not in ENDED]
        under_way = len(batch.requests) + sum(len(one.requests) for one in open_)
        if self.behaviour.queue is not None and under_way > self.behaviour.queue:
            return [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
        return self.behaviour.problems

    def _listed(self, query: Mapping[str, list[str]]) -> bytes:
        newest = [batch for batch in reversed(self.batches.values()) if not batch.hidden]
        for batch in self.batches.values():
            batch.hidden = max(0, batch.hidden - 1)
        after = (query.get("after") or query.get("after_id") or [None])[0]
        start = (
            0
            if self.behaviour.unpaged
            else next((n for n, batch in enumerate(newest, 1) if batch.id == after), 0)
        )
        page = newest[start : start + 2]  # pages of two, whatever was requested
        for batch in page:
            self._go_on(batch)
        data = [self._shown(batch) for batch in page]
        if self.behaviour.odd_entries:
            data = [{"id": "batch_of_another_tool"}, *data, {"object": "batch"}]
        return _json({"object": "list", "data": data, "has_more": len(newest) > start + 2})

    def _asked(self, rest: str) -> bytes:
        id, _, results = rest.partition("/")
        batch = self.batches.get(id)
        if batch is not None and self.behaviour.unknown:
            self.behaviour.unknown -= 1
            batch = None
        if batch is None:
            return error_response("404 Not Found", f"No batch found with id '{id}'.")
        if results:
            assert batch.lines is not None
            return self._written([*batch.lines[0], *batch.lines[1]])
        self._go_on(batch)
        return _json(self._shown(batch))

    def _go_on(self, batch: StoredBatch) -> None:
        batch.questions -= 1
        if batch.questions <= 0 and batch.status not in ENDED:
            self._end(batch)
        elif batch.status == "validating":
            batch.status = "in_progress"

    def _end(self, batch: StoredBatch) -> None:
        """Run a batch: its requests are answered and billed now."""
        if batch.problems:
            batch.status = "failed"
            return
        answers: list[Any] = []
        errors: list[Any] = []
        expired = False
        for name, body in batch.requests.items():
            key, draw = name[:32], self._rng.random()
            first = key not in self._tried
            self._tried.add(key)
            b = self.behaviour
            if message := b.refuses and b.refuses(body):
                errors.append(self._result(name, 400, {"error": {"message": message}}))
            elif first and draw < b.expires:
                errors.append(self._result(name, None, None))
                expired = True
            elif first and draw < b.expires + b.broken:
                errors.append(self._result(name, 500, {"error": {"message": "it broke"}}))
            elif first and draw < b.expires + b.broken + b.missing:
                continue
            elif first and draw < b.expires + b.broken + b.missing + b.spoiled:
                content = self._answer(body, self.batch_bill)
                spoiled = "content" if self.provider == "anthropic" else "choices"
                answers.append(self._result(name, 200, {**content, spoiled: None}))
            else:
                answers.append(self._result(name, 200, self._answer(body, self.batch_bill)))
        batch.lines = answers, errors
        batch.status = "expired" if expired else "completed"

    def _result(self, name: str, code: int | None, content: Any) -> dict[str, Any]:
        if self.provider == "anthropic":
            kinds = {400: "invalid_request_error", 500: "api_error"}
            if code is None:
                return {"custom_id": name, "result": {"type": "expired"}}
            if code == 200:
                return {"custom_id": name, "result": {"type": "succeeded", "message": content}}
            error = {"type": kinds[code], "message": content["error"]["message"]}
            outcome = {"type": "errored", "error": {"type": "error", "error": error}}
            return {"custom_id": name, "result": outcome}
        response, error = {"status_code": code, "request_id": "r", "body": content}, None
        if code is None:
            response, error = None, {"code": "batch_expired", "message": "It was not run in time."}  # type: ignore[assignment]
        return {"id": "batch_req_1", "custom_id": name, "response": response, "error": error}

    def _shown(self, batch: StoredBatch) -> dict[str, Any]:
        answers, errors = batch.lines or ([], [])
        if self.provider == "anthropic":
            ended = batch.status in ENDED
            left = 0 if ended else len(batch.requests)
            kinds = Counter(line["result"]["type"] for line in [*answers, *errors])
            kinds["errored"] += len(batch.requests) - kinds.total() if ended else 0
            names = ("succeeded", "errored", "canceled", "expired")
            counts = {"processing": left, **{name: kinds[name] for name in names}}
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(batch.created))
            return {
                "id": batch.id, "type": "message_batch", "request_counts": counts,
                "processing_status": "ended" if ended else "in_progress", "created_at": created,
                "results_url": "https://elsewhere.example/results" if ended else None,
            }  # fmt: skip
        return {
            "id": batch.id, "object": "batch", "status": batch.status,
            "input_file_id": batch.file, "created_at": int(batch.created),
            "output_file_id": f"answers-of-{batch.id}" if answers else None,
            "error_file_id": f"errors-of-{batch.id}" if errors else None,
            "errors": {"data": batch.problems} if batch.status == "failed" else None,
            "request_counts": {
                "total": len(batch.requests) if batch.status != "validating" else 0,
                "completed": len(answers), "failed": len(errors),
            },
            "metadata": batch.metadata,
        }  # fmt: skip


def _json(content: Any) -> bytes:
    return http_response("200 OK", json.dumps(content).encode())


@contextmanager
def batching(
    script: Callable[[str], Answer], behaviour: BatchBehaviour | None = None, **more: Any
) -> Iterator[BatchServer]:
    """A server that listens, until the end of the block.

    Args:
        script: What its models answer.
        behaviour: How its batches go.
        more: See `BatchServer`.
    """
    server = BatchServer(script, replace(behaviour or BatchBehaviour()), **more)
    with listening(server) as port:
        server.port = port
        try:
            yield server
        finally:
            close_engines()
