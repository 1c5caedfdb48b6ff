"""The calls to a server about batches: one at a time, and patient.

Whatever can be repeated without harm is repeated as long as the server is unreachable or busy,
up to `Limits.patience`. A submission is not: where its answer is lost it may have been taken.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import suppress
from os import SEEK_END
from typing import IO, Any, Final, TypeVar

from pipeline.errors import UserError
from pipeline.models.http.batches import (
    NO_STATE,
    BatchInterface,
    BatchState,
    anthropic,
    name,
    openai,
)
from pipeline.models.http.client import HttpClient, error_answer
from pipeline.models.http.rate_limit import backoff
from pipeline.models.http.reading import ErrorAnswer
from pipeline.models.http.refusals import error_message
from pipeline.models.http.scheduler import Retry

INTERFACES: Final[dict[str, BatchInterface]] = {"openai": openai, "anthropic": anthropic}
"""The modules by `Api.provider`; the others have none."""
MISSING: Final = frozenset({404, 405, 501})
"""Status codes of what a server does not have: this batch, or batches at all."""
REFUSED_SURELY: Final = frozenset({429})
"""Status codes of a submission that was not taken, and may be later."""
PART: Final = 1 << 16
"""Bytes of a submission that are in memory at one time."""
T = TypeVar("T")


class NoAnswerError(Exception):
    """The server did not answer in time, or with what is no answer."""


class UnknownBatchError(Exception):
    """The server has no batch of this name."""


class _Parts:
    """A file as it is sent in parts, from its beginning each time that it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._file.seek(0)
        while part := self._file.read(PART):
            yield part


class BatchCalls:
    """Calls about batches to one model on one server.

    Args:
        client: The connections.
        loop: Their event loop, which runs in another thread.
    """

    def __init__(self, client: HttpClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._loop = client, loop
        self._provider = client.model.api.provider
        self._version = client.model.api.version if self._provider != "anthropic" else None
        self._rng = random.Random()
        self.interface = INTERFACES[self._provider]

    def check(self) -> None:
        """Connect to the server.

        Raises:
            UserError: No connection can be made.
        """
        self._run(self._client.check())

    def upload(self, tag: str, content: IO[bytes]) -> str:
        """Upload a file with requests; its name there.

        Args:
            tag: Our own name of the batch.
            content: The file.

        Raises:
            NoAnswerError: The server does not answer.
            UserError: It takes no files.
        """
        file = (f"gristmill-{tag}.jsonl", content, "application/jsonl")
        raw = self._patiently("POST", "files", data={"purpose": "batch"}, files={"file": file})
        try:
            return name(raw["id"])
        except NO_STATE:
            raise NoAnswerError("the server named no file") from None

    def submit(self, content: dict[str, Any] | IO[bytes]) -> BatchState:
        """Create a batch; nothing is repeated but what was surely not taken.

        Args:
            content: What creates it out of a file; a provider that takes none gets the requests.

        Raises:
            NoAnswerError: It may have been created, or not.
            UserError: The server does not take it.
        """
        sent: dict[str, Any] = {"json": content}
        if not isinstance(content, dict):
            size = content.seek(0, SEEK_END)
            headers = {"content-type": "application/json", "content-length": str(size)}
            sent = {"content": _Parts(content), "headers": headers}
        return self._state(self._patiently("POST", self.interface.address(), once=True, **sent))

    def state(self, id: str) -> BatchState:
        """What the server says of a batch.

        Args:
            id: Its name there.

        Raises:
            NoAnswerError: The server does not answer.
            UnknownBatchError: The server has none of that name.
            UserError: It refuses.
        """
        return self._state(self._patiently("GET", self.interface.address(id)))

    def newest(self) -> Iterator[BatchState]:
        """The batches on the server, the newest first.

        Raises:
            NoAnswerError: The server does not answer.
            UserError: It refuses.
        """
        after, known = None, set[str | None]()
        while after not in known:
            known.add(after)
            try:
                page = self._patiently("GET", self.interface.listing(after))
                entries, more = list(page["data"]), bool(page.get("has_more"))
            except NO_STATE:
                raise NoAnswerError("the list of batches is none") from None
            except UnknownBatchError:
                raise self._refused("it lists no batches") from None
            states = list(self._readable(entries))
            yield from states
            if not (entries and more):
                return
            after = states[-1].id if states else None
        raise NoAnswerError("the list of batches does not go on after its first pages")

    def download(self, path: str, to: IO[bytes]) -> None:
        """Write results to a file, and go back to its beginning.

        Args:
            path: Where they are.
            to: The file.

        Raises:
            NoAnswerError: The server does not answer.
            UnknownBatchError: They are not there, or not any more.
            UserError: It refuses.
        """
        self._patiently("GET", path, to=to)
        to.seek(0)

    # How

    def _readable(self, entries: Sequence[Any]) -> Iterator[BatchState]:
        """The batches of a list; what else is in it, such as another tool's, is left out."""
        for raw in entries:
            with suppress(*NO_STATE):
                yield self.interface.state(raw)

    def _state(self, raw: Any) -> BatchState:
        try:
            return self.interface.state(raw)
        except NO_STATE:
            raise NoAnswerError("the server's answer is no batch") from None

    def _patiently(self, method: str, path: str, **content: Any) -> Any:
        return self._run(self._call(method, path, **content))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def _call(
        self,
        method: str,
        path: str,
        once: bool = False,
        to: IO[bytes] | None = None,
        **content: Any,
    ) -> Any:
        """The parsed answer; of a download nothing.

        Args:
            method: Of HTTP.
            path: Where to.
            once: Whether it is not to be repeated where it may have been taken.
            to: The file of a download.
            content: What is sent.
        """
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            result = await self._attempt(method, path, to, content)
            if not isinstance(result, ErrorAnswer | Retry):
                return result
            again = self._explained(result, method, once)
            wait = (again.after or 0.0) + backoff(attempt, self._rng)
            if time.monotonic() - began + wait > self._client.model.limits.patience:
                raise NoAnswerError(again.why)
            await asyncio.sleep(wait)

    def _explained(self, result: ErrorAnswer | Retry, method: str, once: bool) -> Retry:
        """Why a call is to be repeated.

        Args:
            result: What came of it.
            method: Of HTTP.
            once: Whether it is not to be repeated where it may have been taken.

        Raises:
            NoAnswerError: It is not to be repeated, and may have been taken.
            UnknownBatchError: There is no such batch.
            UserError: The server refuses.
        """
        if isinstance(result, ErrorAnswer):
            if result.code in MISSING and method == "GET":
                raise UnknownBatchError
            if result.code in MISSING:
                message = self._client.reader.one_line(error_message(result.content))
                raise self._refused(f"the server answered {result.code}: {message}")
            again = self._client.reader.failed(result)
            if not isinstance(again, Retry):
                raise self._refused(again.why)
            if once and result.code not in REFUSED_SURELY:
                raise NoAnswerError(again.why)
            return again
        if once:
            raise NoAnswerError(result.why)
        return result

    def _refused(self, why: str) -> UserError:
        return UserError(
            "the server must take batches, and refuses this one",
            where=self._client.base_url,
            why=why,
            hint="leave `batch` out of the model to send its requests one by one",
        )

    async def _attempt(
        self, method: str, path: str, to: IO[bytes] | None, content: dict[str, Any]
    ) -> Any:
        import httpx2

        if self._version is not None:
            path += f"{'&' if '?' in path else '?'}api-version={self._version}"
        try:
            if to is None:
                response = await self._client.request(method, path, **content)
            else:
                response = await self._client.download(path, to)
        except TimeoutError:
            return Retry(f"no answer within {self._client.model.limits.timeout:g} s")
        except httpx2.RequestError as error:
            return Retry(f"the connection broke: {self._client.reader.one_line(error)}")
        if not response.is_success:
            return error_answer(response)
        if to is not None:
            return None
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            return Retry("the answer is no valid JSON")
