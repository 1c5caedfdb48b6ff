"""One request over HTTP, through httpx2's asynchronous client.

The openai package sends through the same client; its own layer, which builds and checks
types that are not needed here, would double the cost of a request. Whether and when a
request is tried again is decided in `scheduler.py`.

Over plain HTTP each request has a connection of its own. On a reused one, a response that
some proxy delivers twice would be taken for the answer to the next request, unnoticed;
inside TLS that cannot happen.

What a provider calls things is in `providers`, what one server refused is in `dialect.py`, what
an answer means in `reading.py`. An answer is stored as it is written anew from its parsed value,
without any key.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import IO, Any
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.http.dialect import Dialect
from pipeline.models.http.providers import PROVIDERS
from pipeline.models.http.reading import MAX_SPELLINGS, Asked, ErrorAnswer, Reader, retry_after
from pipeline.models.http.redaction import Redaction, secrets_in
from pipeline.models.http.refusals import History
from pipeline.models.http.scheduler import Retry
from pipeline.models.http.streams import StreamError, data_events
from pipeline.models.journal.requests import Failure, PreparedRequest


class HttpClient:
    """The connections to one model on one server.

    Args:
        model: The model with its limits.
        base_url: Address of the server.
        name: What the server calls the model.
        key: The server's key; None where it needs none. It is never shown.
        headers: Further headers; their values are never shown.

    Attributes:
        provider: The interface of the server.
        reader: What its answers mean.
    """

    def __init__(
        self,
        model: LanguageModel,
        base_url: str,
        name: str,
        key: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        import httpx2

        self.model, self.name, self.base_url = model, name, base_url
        self.provider = PROVIDERS[model.api.provider]
        dialect = dialect_of(model, base_url, name)
        redaction = Redaction(secrets_in(key, headers or {}))
        self.reader = Reader(model, base_url, name, dialect, redaction)
        connections = model.limits.concurrency
        is_encrypted = urlsplit(base_url).scheme == "https"
        reused = connections if is_encrypted else 0
        self._client = httpx2.AsyncClient(
            base_url=base_url,
            headers=self.provider.headers(key, model.api)
            | ({} if reused else {"Connection": "close"})
            | dict(headers or {}),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=reused),
            # Plain HTTP has no certificates, and to load those of the system takes time.
            verify=is_encrypted,
            # No proxy for a server on this machine: it would see the key.
            trust_env=not on_loopback(base_url),
            # `request` limits a complete attempt: a server that sends a byte now and
            # then never exceeds a limit for a single read.
            timeout=None,
        )
        self._connected = False

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def check(self, attempts: int = 5) -> None:
        """Connect to the server once, so that a wrong address is reported at once.

        Raises:
            UserError: No connection can be made.
        """
        import httpx2

        for attempt in range(attempts):
            if self._connected:
                return
            try:
                self.reader.lists_models = (await self.request("GET", "models")).is_success
            except TimeoutError:
                return
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                if attempt + 1 == attempts:
                    raise UserError(
                        "cannot connect to the server",
                        where=self.base_url,
                        why=self.reader.one_line(error),
                        hint="start the server, or fix base_url",
                    ) from None
                await asyncio.sleep(0.2 * 2**attempt)
                continue
            # Any status shows that the server runs; what an error means, requests will show.
            self._connected = True

    async def attempt(self, prepared: PreparedRequest, history: History) -> str | Retry | Failure:
        """Send a request once; or again at once, in a spelling that the server's refusal taught.

        Args:
            prepared: The request.
            history: How the server answered the stage so far.

        Returns:
            The raw response, or why there is none.

        Raises:
            UserError: Every other request would fail as well.
        """
        import httpx2

        dialect = self.reader.dialect
        try:
            for _ in range(MAX_SPELLINGS):
                asked = Asked(prepared, self.reader.body(prepared))
                path = self.provider.path(prepared, self.name, dialect)
                response = await self.request("POST", path, json=asked.body)
                if response.is_success:
                    return self._answer(response, asked, history)
                refusal = error_answer(response)
                if (result := self.reader.refused(refusal, asked, history)) is not None:
                    return result
        except TimeoutError:
            return Retry(f"no answer within {self.model.limits.timeout:g} s", overload=True)
        except httpx2.RequestError as error:
            return Retry(f"the connection broke: {self.reader.one_line(error)}")
        return self.reader.failed(refusal)

    async def request(self, method: str, path: str, **content: Any) -> Any:
        """Send anything to the server, once, within the time of an attempt.

        Args:
            method: Of HTTP.
            path: Where to, relative to the base address.
            content: What is sent, as `httpx2.AsyncClient.request` takes it.

        Returns:
            The response, with all of its content.
        """
        async with asyncio.timeout(self.model.limits.timeout):
            return await self._client.request(method, path, **content)

    async def download(self, path: str, to: IO[bytes]) -> Any:
        """Write what a server has to a file; the response, whose content is there if it succeeded.

        Args:
            path: Where it is, relative to the base address.
            to: The file, which will have nothing else.
        """
        async with (
            asyncio.timeout(self.model.limits.timeout),
            self._client.stream("GET", path) as response,
        ):
            if not response.is_success:
                await response.aread()
                return response
            to.seek(0)
            to.truncate()
            async for part in response.aiter_bytes():
                to.write(part)
            return response

    def _answer(self, response: Any, asked: Asked, history: History) -> str | Retry | Failure:
        """The raw text of an answer, if it is one; it may be cut, garbled or another's page."""
        content_type = (response.headers.get("content-type") or "").lower()
        is_stream = "event-stream" in content_type
        if not is_stream and "json" not in content_type:
            got = self.reader.one_line(content_type or "without a content type")
            return Retry(f"the answer is {got} instead of JSON")
        try:
            content = response.content.decode("utf-8")
            parsed = self._assembled(content) if is_stream else json.loads(content)
        except StreamError as error:
            overload = "overloaded" in str(error).lower()
            return Retry(self.reader.one_line(error), overload=overload)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return Retry(f"the answer is no valid {'stream' if is_stream else 'JSON'}")
        result = self.reader.answer(parsed, asked, history)
        if isinstance(result, str) and (sent := self.reader.sent(asked.prepared, asked.body)):
            history.sent[asked.prepared.key] = sent
        return result

    def _assembled(self, content: str) -> Any:
        parsed = self.provider.assembled(data_events(content))
        if parsed is None:
            raise StreamError("the stream ended before the answer did")
        return parsed


def error_answer(response: Any) -> ErrorAnswer:
    """The error that a response reports.

    Args:
        response: The response of httpx2.
    """
    try:
        content = json.loads(response.content)
    except (ValueError, RecursionError):
        content = str(response.content.decode("utf-8", "replace")).strip() or "without a word"
    return ErrorAnswer(response.status_code, content, retry_after(response.headers))


_dialects: dict[tuple[str, str, str], Dialect] = {}


def dialect_of(model: LanguageModel, base_url: str, name: str) -> Dialect:
    """The spelling of one model on one server, with all that this process has learned of it.

    Args:
        model: The model, as the recipe has it.
        base_url: Address of the server.
        name: What the server calls the model.
    """
    key = (base_url, name, f"{model.api} {model.guided}")
    return _dialects.setdefault(key, Dialect.of(model))


def on_loopback(url: str) -> bool:
    """Whether the server is on this machine.

    Example:
        >>> on_loopback("http://127.0.0.1:8000/v1"), on_loopback("https://api.example.org/v1")
        (True, False)
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None
