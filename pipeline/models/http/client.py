"""One request over HTTP, through httpx2's asynchronous client.

The openai package sends through the same client; its own layer, which builds and checks
types that are not needed here, would double the cost of a request. Whether and when a
request is tried again is decided in `scheduler.py`.

Over plain HTTP each request has a connection of its own. On a reused one, a response that
some proxy delivers twice would be taken for the answer to the next request, unnoticed;
inside TLS that cannot happen.

What a provider calls things is in `providers`, what one server refused is in `dialect.py`. An
answer is stored as it is written anew from its parsed value, without any key.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.http.dialect import Dialect
from pipeline.models.http.providers import PROVIDERS
from pipeline.models.http.providers.unsupported import UnsupportedError
from pipeline.models.http.quota import quota_error, quota_is_used_up
from pipeline.models.http.redaction import LeakError, Redaction, secrets_in
from pipeline.models.http.refusals import (
    REFUSED,
    History,
    Refusal,
    error_message,
    hint_for,
    parameters_in,
    unsupported,
)
from pipeline.models.http.scheduler import Retry
from pipeline.models.http.streams import StreamError, data_events
from pipeline.models.journal.requests import Failure, PreparedRequest
from pipeline.models.journal.responses import AbsurdError, is_complete
from pipeline.models.journal.usage import billed
from pipeline.store.hashing import encode

RETRYABLE: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes after which the request is tried again."""
OVERLOADED: Final = frozenset({408, 429, 503, 529})
"""Status codes after which fewer requests are sent at once."""
UNREAD: Final = frozenset({429, 503, 529})
"""Those of them that say nothing about the request itself."""
TOO_LARGE: Final = re.compile(r"request too large|must be reduced", re.IGNORECASE)
"""What a server says of a request that exceeds a cap by itself: it never fits."""
FATAL: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})
"""Status codes that every other request would get as well."""
FORBIDDEN: Final = 403
"""Fatal only if the list of models is forbidden too. Else it is about one text: firewalls and
moderation answer so."""
MAX_MESSAGE: Final = 300
"""Characters of a server's message that an error shows."""
MAX_SPELLINGS: Final = 10
"""How often a request is spelled anew after refusals; each teaches one thing."""


class HttpClient:
    """The connections to one model on one server.

    Args:
        model: The model with its limits.
        base_url: Address of the server.
        name: What the server calls the model.
        key: The server's key; None where it needs none. It is never shown.
        headers: Further headers; their values are never shown.
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
        self.dialect = dialect_of(model, base_url, name)
        self._unspoken = Dialect.of(LanguageModel(name, guided=model.guided))
        self._redaction = Redaction(secrets_in(key, headers or {}))
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
            # `_request` limits a complete attempt: a server that sends a byte now and
            # then never exceeds a limit for a single read.
            timeout=None,
        )
        self._connected = self._lists_models = False

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
                self._lists_models = (await self._request("GET", "models")).is_success
            except TimeoutError:
                return
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                if attempt + 1 == attempts:
                    raise UserError(
                        "cannot connect to the server",
                        where=self.base_url,
                        why=self._one_line(error),
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

        try:
            for _ in range(MAX_SPELLINGS):
                learned = self.dialect.learned
                body = self._body(prepared)
                path = self.provider.path(prepared, self.name, self.dialect)
                response = await self._request("POST", path, body)
                if response.is_success:
                    return self._answer(response, prepared, body, history)
                if response.status_code not in REFUSED:
                    break
                refusal = self._refusal(response, body)
                if not self._respell(refusal, learned, prepared, history):
                    return self._count(refusal, response.status_code, history)
        except TimeoutError:
            return Retry(f"no answer within {self.model.limits.timeout:g} s", overload=True)
        except httpx2.RequestError as error:
            return Retry(f"the connection broke: {self._one_line(error)}")
        return self._refused(response)

    def _body(self, prepared: PreparedRequest) -> dict[str, Any]:
        try:
            return self.provider.body(prepared, self.name, self.dialect)
        except UnsupportedError as error:
            raise unsupported(error.parameter, self._where, str(error)) from None

    @property
    def _where(self) -> str:
        return f"{self.base_url} ({self.name})"

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with asyncio.timeout(self.model.limits.timeout):
            return await self._client.request(method, path, json=body)

    # Answers

    def _answer(
        self, response: Any, prepared: PreparedRequest, body: dict[str, Any], history: History
    ) -> str | Retry | Failure:
        """The raw text of an answer, if it is one; it may be cut, garbled or another's page."""
        content_type = (response.headers.get("content-type") or "").lower()
        is_stream = "event-stream" in content_type
        if not is_stream and "json" not in content_type:
            got = self._one_line(content_type or "without a content type")
            return Retry(f"the answer is {got} instead of JSON")
        try:
            content = response.content.decode("utf-8")
            parsed = self._assembled(content) if is_stream else json.loads(content)
        except StreamError as error:
            return Retry(self._one_line(error), overload="overloaded" in str(error).lower())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return Retry(f"the answer is no valid {'stream' if is_stream else 'JSON'}")
        result = self._storable(parsed)
        if isinstance(result, str):
            history.answered = True
            history.accepted |= body.keys()
            if not self.dialect.plain:
                history.accepted |= parameters_in(body, self.provider.PROMPT_FIELDS)
                if sent := self._sent(prepared, body):
                    history.sent[prepared.key] = sent
        return result

    def _assembled(self, content: str) -> Any:
        parsed = self.provider.assembled(data_events(content))
        if parsed is None:
            raise StreamError("the stream ended before the answer did")
        return parsed

    def _storable(self, parsed: Any) -> str | Retry | Failure:
        """The text of an answer that is stored, without any key."""
        try:
            complete = is_complete(parsed)
            text, clean = self._redaction.json(parsed)
            if complete and (clean is parsed or is_complete(clean)):
                return text
        except AbsurdError as error:
            return Failure(f"the server's answer cannot be right: {self._one_line(error)}")
        except LeakError:
            why = "the server's answer holds its key in pieces, so it is not stored"
            return Failure(why, billed(parsed))
        except RecursionError:
            return Retry("the answer is no valid JSON")
        message = self._one_line(error_message(clean))
        return Retry(f"the answer has no completion in it: {message}", billed=billed(clean))

    def _sent(self, prepared: PreparedRequest, body: dict[str, Any]) -> str | None:
        """What was sent beside the prompt, where it is not the plain spelling of the request."""
        openai = PROVIDERS["openai"]
        if body == openai.body(prepared, self.name, self._unspoken):
            return None
        fields = {k: v for k, v in body.items() if k not in self.provider.PROMPT_FIELDS}
        return self._redaction.text(encode(fields).decode())

    # Refusals

    def _refusal(self, response: Any, body: dict[str, Any]) -> Refusal:
        content = self._content(response)
        message = self._refusal_message(response, content)
        sent = parameters_in(body, self.provider.PROMPT_FIELDS)
        return Refusal.of(content, message, {*sent, "stream"})

    def _respell(
        self, refusal: Refusal, learned: int, prepared: PreparedRequest, history: History
    ) -> bool:
        """Whether the request can be sent again in another spelling.

        Args:
            refusal: Why it was refused.
            learned: How much was known of the server when it was sent.
            prepared: The request.
            history: How the server answered the stage so far.

        Raises:
            UserError: The server does not take what the stage asks for.
        """
        if refusal.about_key:
            raise self._fatal(refusal.message, "fix the key in api_key_env of the model")
        if refusal.parameter is None:
            return False
        if self.dialect.learned != learned:
            return True  # another request was refused meanwhile, and taught something
        note = self.dialect.learn(refusal.parameter, prepared.decoding)
        if note is not None:
            note_once(f"{self._where} {note} (it answered: {refusal.message})")
            return True
        if refusal.parameter in history.accepted_parameters:
            return False  # it took others with it, so this is about one request
        raise unsupported(refusal.parameter, self._where, refusal.message)

    def _count(self, refusal: Refusal, code: int, history: History) -> Failure:
        """The failure of a request that was refused.

        Raises:
            UserError: The first ones of a stage were refused alike.
        """
        if history.add(refusal):
            raise UserError(
                f"the server refused the first {history.refused} requests alike with {code}",
                where=self._where,
                why=refusal.message,
                hint=hint_for(refusal.parameter),
            )
        return Failure(f"the server answered {code}: {refusal.message}")

    def _refused(self, response: Any) -> Retry | Failure:
        code = response.status_code
        message = self._refusal_message(response, self._content(response))
        if code in OVERLOADED and TOO_LARGE.search(message):
            return Failure(f"the server answered {code}: {message}")  # it never fits
        if code in RETRYABLE:
            after, overload = retry_after(response.headers), code in OVERLOADED
            why = f"the server answered {code}: {message}"
            return Retry(why, overload, after, unread=code in UNREAD)
        if code in FATAL and not (code == FORBIDDEN and self._lists_models):
            hint = "fix base_url, served_name or the key in api_key_env of the model"
            raise self._fatal(message, hint, code)
        return Failure(f"the server answered {code}: {message}")

    def _refusal_message(self, response: Any, content: Any) -> str:
        """The message of an error.

        Raises:
            UserError: The account has no money or no quota left.
        """
        message = self._one_line(error_message(content))
        if quota_is_used_up(response.status_code, content):
            why = f"the server answered {response.status_code}: {message}"
            raise quota_error(self.base_url, why)
        return message

    def _fatal(self, message: str, hint: str, code: int = 400) -> UserError:
        what = f"the server answered {code}"
        return UserError(what, where=self.base_url, why=message, hint=hint)

    def _content(self, response: Any) -> Any:
        """The body of an error, parsed; as text where it is no JSON."""
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError):
            return str(response.content.decode("utf-8", "replace")).strip() or "without a word"

    def _one_line(self, message: object) -> str:
        text = self._redaction.text(str(message))
        return (" ".join(text.split()) or type(message).__name__)[:MAX_MESSAGE]


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


@cache
def note_once(text: str) -> None:
    """Say something on standard error, once."""
    print(f"note: {text}", file=sys.stderr)


def on_loopback(url: str) -> bool:
    """Whether the server is on this machine.

    Example:
        >>> on_loopback("http://127.0.0.1:8000/v1"), on_loopback("https://api.example.org/v1")
        (True, False)
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the header Retry-After asks to wait; None without a readable one.

    It is a number of seconds, or a date, which counts from the server's own `date`.

    Example:
        >>> retry_after({"retry-after": "7"})
        7.0
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date - parsedate_to_datetime(headers["date"])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
