"""One request over HTTP, through httpx2's asynchronous client.

That is what the openai package sends through as well; its own layer, which builds
and checks types that nobody reads here, cost as much again as all the rest of a
request. What is tried again, and when, is decided in `sending.py`.

Over plain HTTP each request has a connection of its own. On one that is used again, a
response that some proxy delivers twice would be taken for the answer to the next
request, and nothing in it would tell; inside TLS nobody can do that.
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
from pipeline.models.http.scheduler import Again
from pipeline.models.journal.requests import Failure, Prepared
from pipeline.models.journal.responses import well_formed

AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
OVERLOAD: Final = frozenset({408, 429, 503, 529})
NOBODY: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})
"""Status codes: worth another attempt; saying too much is asked; true for every request."""
FORBIDDEN: Final = 403
"""True for every request where the list of models is kept back as well; else it is about one
text: firewalls and moderation answer so."""
SHOWN: Final = 300
"""Characters of a server's own words in an error."""


class HttpClient:
    """A connection to one model on one server. key: None where the server wants none."""

    def __init__(self, model: LanguageModel, base_url: str, name: str, key: str | None) -> None:
        import httpx2

        self.model, self.name, self._key = model, name, key
        self.where = base_url
        most = model.limits.concurrency
        kept = most if urlsplit(base_url).scheme == "https" else 0
        self._client = httpx2.AsyncClient(
            base_url=base_url,
            headers=({"Authorization": f"Bearer {key}"} if key else {})
            | ({} if kept else {"Connection": "close"}),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=kept),
            # Who sits between this machine and others has nothing to do, and no key to see, here.
            trust_env=not on_loopback(base_url),
            # A whole attempt is timed, in `_asked`: a server that sends a byte now and
            # then is never silent for long.
            timeout=None,
        )
        self._reached = self._welcome = False

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def check(self, attempts: int = 5) -> None:
        """Raises UserError when nobody listens there: that is told at once, not after hours."""
        import httpx2

        for attempt in range(attempts):
            if self._reached:
                return
            try:
                self._welcome = (await self._asked("GET", "models")).is_success
            except TimeoutError:
                return
            except (httpx2.RequestError, httpx2.InvalidURL) as error:
                if attempt + 1 == attempts:
                    raise UserError(
                        "no server answers",
                        where=self.where,
                        why=self._told(error),
                        hint="start it, or mend base_url",
                    ) from None
                await asyncio.sleep(0.2 * 2**attempt)
                continue
            # Whoever answers, with an error too, is there; what it means, the requests will tell.
            self._reached = True

    async def attempt(self, prepared: Prepared) -> str | Again | Failure:
        """Send a request once. Raises UserError for what every other request would meet as well."""
        import httpx2

        path = "completions" if isinstance(prepared.prompt, str) else "chat/completions"
        try:
            response = await self._asked("POST", path, body(prepared, self.name, self.model.guided))
        except TimeoutError:
            return Again(f"no answer within {self.model.limits.timeout:g} s", overload=True)
        except httpx2.RequestError as error:
            return Again(f"the connection broke: {self._told(error)}")
        return self._response(response) if response.is_success else self._refused(response)

    async def _asked(self, method: str, path: str, given: dict[str, Any] | None = None) -> Any:
        async with asyncio.timeout(self.model.limits.timeout):
            return await self._client.request(method, path, json=given)

    def _response(self, response: Any) -> str | Again:
        """The raw text, if it is a response; it may be cut, garbled or somebody else's page."""
        kind = response.headers.get("content-type") or "of no type"
        if "json" not in kind.lower():
            return Again(f"the answer is {self._told(kind)} instead of JSON")
        try:
            text = response.content.decode("utf-8")
            parsed = json.loads(text)
            clean = self._clean(parsed)
        except (ValueError, RecursionError):
            return Again("the answer is no valid JSON")
        if not well_formed(clean):
            said = self._told(self._message(response))
            return Again(f"the answer has no completion in it: {said}")
        return text if clean is parsed else json.dumps(clean)

    def _refused(self, response: Any) -> Again | Failure:
        code = response.status_code
        said = self._told(self._message(response))
        if code in AGAIN:
            after = retry_after(response.headers)
            return Again(f"the server answered {code}: {said}", code in OVERLOAD, after)
        if code in NOBODY and not (code == FORBIDDEN and self._welcome):
            raise UserError(
                f"the server answered {code}",
                where=self.where,
                why=said,
                hint="mend base_url, served_name or the key in api_key_env of the model",
            )
        return Failure(f"the server answered {code}: {said}")

    def _told(self, what: object) -> str:
        text = self._clean(str(what))
        return (" ".join(text.split()) or type(what).__name__)[:SHOWN]

    def _message(self, response: Any) -> str:
        """What a server says is wrong: the message of OpenAI's errors, else all its words."""
        try:
            found = self._clean(json.loads(response.content))
        except (ValueError, RecursionError):
            return str(response.content.decode("utf-8", "replace")).strip() or "without a word"
        inner = found.get("error", found) if isinstance(found, dict) else found
        message = inner.get("message") if isinstance(inner, dict) else inner
        return str(message or json.dumps(found, ensure_ascii=False))

    def _clean(self, said: Any) -> Any:
        """A text or parsed JSON without the key; the very object if the key is not in it."""
        if self._key is None or _spelt(self._key) not in _spelt(said):
            return said
        return _without(said, self._key)


def on_loopback(url: str) -> bool:
    """Whether the server is on this machine, so that no proxy of the environment leads to it."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def _spelt(said: Any) -> str:
    """JSON spells a text in many ways; this is one. A text has no quotes about it here."""
    spelt = json.dumps(said, ensure_ascii=False)
    return spelt[1:-1] if isinstance(said, str) else spelt


def _without(said: Any, key: str) -> Any:
    if isinstance(said, str):
        return said.replace(key, "[key]")
    if isinstance(said, list):
        return [_without(one, key) for one in said]
    if isinstance(said, dict):
        return {_without(name, key): _without(one, key) for name, one in said.items()}
    return said


def body(prepared: Prepared, name: str, guided: bool) -> dict[str, Any]:
    """The JSON of a request: what the server need not be told is left out."""
    decoding = prepared.decoding
    made: dict[str, Any] = {
        "model": name,
        "max_tokens": decoding.max_tokens,
        "temperature": decoding.temperature,
        "seed": prepared.seed,
    }
    if isinstance(prepared.prompt, str):
        made["prompt"] = list(prepared.tokens) or prepared.prompt
        made |= {"logprobs": decoding.logprobs} if decoding.logprobs else {}
    else:
        made["messages"] = [{"role": r, "content": text} for r, text in prepared.prompt]
        asked = {"logprobs": True, "top_logprobs": decoding.logprobs}
        made |= asked if decoding.logprobs else {}
    made |= {"top_p": decoding.top_p} if decoding.top_p != 1 else {}
    for option in ("presence_penalty", "frequency_penalty", "top_k"):
        made |= {option: getattr(decoding, option)} if getattr(decoding, option) else {}
    made |= {"stop": list(decoding.stop)} if decoding.stop else {}
    if guided and decoding.choice:
        made["structured_outputs"] = {"choice": list(decoding.choice)}
    if guided and decoding.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(decoding.json_schema), "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    return made


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After asks for: a number, or a date by the server's own clock."""
    given = headers.get("retry-after")
    if given is None:
        return None
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        asked = parsedate_to_datetime(given)
        return max(0.0, (asked - parsedate_to_datetime(headers["date"])).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
