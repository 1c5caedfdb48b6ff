"""One request over HTTP, through httpx2's asynchronous client.

The openai package sends through the same client; its own layer, which builds and checks
types that are not needed here, would double the cost of a request. Whether and when a
request is tried again is decided in `scheduler.py`.

Over plain HTTP each request has a connection of its own. On a reused one, a response that
some proxy delivers twice would be taken for the answer to the next request, unnoticed;
inside TLS that cannot happen.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.http.quota import quota_error, quota_is_used_up
from pipeline.models.http.scheduler import Retry
from pipeline.models.journal.requests import Failure, PreparedRequest
from pipeline.models.journal.responses import well_formed
from pipeline.models.journal.usage import billed

RETRYABLE: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes after which the request is tried again."""
OVERLOADED: Final = frozenset({408, 429, 503, 529})
"""Status codes after which fewer requests are sent at once."""
UNREAD: Final = frozenset({429, 503, 529})
"""Those of them that say nothing about the request itself."""
FATAL: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})
"""Status codes that every other request would get as well."""
FORBIDDEN: Final = 403
"""Fatal only if the list of models is forbidden too. Else it is about one text: firewalls and
moderation answer so."""
MAX_MESSAGE: Final = 300
"""Characters of a server's message that an error shows."""


class HttpClient:
    """The connections to one model on one server.

    Args:
        model: The model with its limits.
        base_url: Address of the server.
        name: What the server calls the model.
        key: The server's key; None where it needs none. It is never shown.
    """

    def __init__(self, model: LanguageModel, base_url: str, name: str, key: str | None) -> None:
        import httpx2

        self.model, self.name, self._key = model, name, key
        self.base_url = base_url
        connections = model.limits.concurrency
        reused = connections if urlsplit(base_url).scheme == "https" else 0
        self._client = httpx2.AsyncClient(
            base_url=base_url,
            headers=({"Authorization": f"Bearer {key}"} if key else {})
            | ({} if reused else {"Connection": "close"}),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=reused),
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

    async def attempt(self, prepared: PreparedRequest) -> str | Retry | Failure:
        """Send a request once.

        Returns:
            The raw response, or why there is none.

        Raises:
            UserError: Every other request would fail as well.
        """
        import httpx2

        path = "completions" if isinstance(prepared.prompt, str) else "chat/completions"
        body = request_body(prepared, self.name, self.model.guided)
        try:
            response = await self._request("POST", path, body)
        except TimeoutError:
            return Retry(f"no answer within {self.model.limits.timeout:g} s", overload=True)
        except httpx2.RequestError as error:
            return Retry(f"the connection broke: {self._one_line(error)}")
        return self._response(response) if response.is_success else self._refused(response)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async with asyncio.timeout(self.model.limits.timeout):
            return await self._client.request(method, path, json=body)

    def _response(self, response: Any) -> str | Retry:
        """The raw text, if it is a response; it may be truncated, garbled or another's page."""
        content_type = response.headers.get("content-type") or "of no type"
        if "json" not in content_type.lower():
            return Retry(f"the answer is {self._one_line(content_type)} instead of JSON")
        try:
            text = response.content.decode("utf-8")
            parsed = json.loads(text)
            clean = self._redact(parsed)
        except (ValueError, RecursionError):
            return Retry("the answer is no valid JSON")
        if not well_formed(clean):
            message = self._one_line(self._message(response))
            why = f"the answer has no completion in it: {message}"
            return Retry(why, billed=billed(clean))
        return text if clean is parsed else json.dumps(clean)

    def _refused(self, response: Any) -> Retry | Failure:
        code = response.status_code
        message = self._one_line(self._message(response))
        if quota_is_used_up(code, response.content):
            raise quota_error(self.base_url, f"the server answered {code}: {message}")
        if code in RETRYABLE:
            after, overload = retry_after(response.headers), code in OVERLOADED
            why = f"the server answered {code}: {message}"
            return Retry(why, overload, after, unread=code in UNREAD)
        if code in FATAL and not (code == FORBIDDEN and self._lists_models):
            raise UserError(
                f"the server answered {code}",
                where=self.base_url,
                why=message,
                hint="fix base_url, served_name or the key in api_key_env of the model",
            )
        return Failure(f"the server answered {code}: {message}")

    def _one_line(self, message: object) -> str:
        text = self._redact(str(message))
        return (" ".join(text.split()) or type(message).__name__)[:MAX_MESSAGE]

    def _message(self, response: Any) -> str:
        """The message of an error in OpenAI's form, or else the body."""
        try:
            body = self._redact(json.loads(response.content))
        except (ValueError, RecursionError):
            return str(response.content.decode("utf-8", "replace")).strip() or "without a word"
        error = body.get("error", body) if isinstance(body, dict) else body
        message = error.get("message") if isinstance(error, dict) else error
        return str(message or json.dumps(body, ensure_ascii=False))

    def _redact(self, value: Any) -> Any:
        """A text or parsed JSON without the key; the same object if it does not contain it."""
        if self._key is None or _json_text(self._key) not in _json_text(value):
            return value
        return _without(value, self._key)


def on_loopback(url: str) -> bool:
    """Whether the server is on this machine.

    Example:
        >>> on_loopback("http://127.0.0.1:8000/v1"), on_loopback("https://api.example.org/v1")
        (True, False)
    """
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def _json_text(value: Any) -> str:
    """One of the ways to write a value in JSON; a text is without its quotes."""
    text = json.dumps(value, ensure_ascii=False)
    return text[1:-1] if isinstance(value, str) else text


def _without(value: Any, key: str) -> Any:
    if isinstance(value, str):
        return value.replace(key, "[key]")
    if isinstance(value, list):
        return [_without(item, key) for item in value]
    if isinstance(value, dict):
        return {_without(name, key): _without(item, key) for name, item in value.items()}
    return value


def request_body(prepared: PreparedRequest, name: str, guided: bool) -> dict[str, Any]:
    """The JSON of a request for an OpenAI-compatible server; defaults are left out.

    Args:
        prepared: The request.
        name: What the server calls the model.
        guided: Whether the server is asked to restrict the answer to `choice` and
            `json_schema`.
    """
    decoding = prepared.decoding
    body: dict[str, Any] = {
        "model": name,
        "max_tokens": decoding.max_tokens,
        "temperature": decoding.temperature,
        "seed": prepared.seed,
    }
    if isinstance(prepared.prompt, str):
        body["prompt"] = list(prepared.tokens) or prepared.prompt
        body |= {"logprobs": decoding.logprobs} if decoding.logprobs else {}
    else:
        body["messages"] = [{"role": r, "content": text} for r, text in prepared.prompt]
        logprobs = {"logprobs": True, "top_logprobs": decoding.logprobs}
        body |= logprobs if decoding.logprobs else {}
    body |= {"top_p": decoding.top_p} if decoding.top_p != 1 else {}
    for option in ("presence_penalty", "frequency_penalty", "top_k"):
        body |= {option: getattr(decoding, option)} if getattr(decoding, option) else {}
    body |= {"stop": list(decoding.stop)} if decoding.stop else {}
    if decoding.reasoning_effort is not None:
        body["reasoning_effort"] = decoding.reasoning_effort
    if guided and decoding.choice:
        body["structured_outputs"] = {"choice": list(decoding.choice)}
    if guided and decoding.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(decoding.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


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
