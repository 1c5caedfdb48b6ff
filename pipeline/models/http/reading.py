"""What a server's answer to a request means: an answer to store, another attempt, or a failure.

It is the same for a request that is sent by itself and for one in a provider's batch: what comes
in is a status code and parsed JSON.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final, NamedTuple

from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.http.dialect import Dialect
from pipeline.models.http.providers import PROVIDERS
from pipeline.models.http.providers.unsupported import UnsupportedError
from pipeline.models.http.quota import quota_error, quota_is_used_up
from pipeline.models.http.redaction import LeakError, Redaction
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
MAX_SPELLINGS: Final = 10
"""How often a request is spelled anew after refusals; each teaches one thing."""
MAX_MESSAGE: Final = 300
"""Characters of a server's message that an error shows."""


class Asked(NamedTuple):
    """A request as it was sent.

    Attributes:
        prepared: The request.
        body: What was sent, at least all of it beside the prompt.
    """

    prepared: PreparedRequest
    body: Mapping[str, Any]


class ErrorAnswer(NamedTuple):
    """An answer that reports an error.

    Attributes:
        code: Its status code.
        content: Its body, parsed; the text where it is no JSON.
        after: Seconds that the server asks to wait; None where it does not.
    """

    code: int
    content: Any
    after: float | None = None


@dataclass
class Reader:
    """Reads the answers of one model on one server.

    Args:
        model: The model.
        base_url: Address of the server.
        name: What the server calls the model.
        dialect: How the server spells requests; refusals teach it more.
        redaction: Keeps keys out of what is stored and shown.

    Attributes:
        lists_models: Whether the server lists its models for this key.
    """

    model: LanguageModel
    base_url: str
    name: str
    dialect: Dialect
    redaction: Redaction
    lists_models: bool = False
    _plain: Dialect = field(init=False)

    def __post_init__(self) -> None:
        self.provider = PROVIDERS[self.model.api.provider]
        self._plain = Dialect.of(LanguageModel(self.name, guided=self.model.guided))

    @property
    def _where(self) -> str:
        return f"{self.base_url} ({self.name})"

    def body(self, prepared: PreparedRequest) -> dict[str, Any]:
        """The JSON of a request, as the server spells it.

        Args:
            prepared: The request.

        Raises:
            UserError: The interface has nothing for a part of the request.
        """
        try:
            return self.provider.body(prepared, self.name, self.dialect)
        except UnsupportedError as error:
            raise unsupported(error.parameter, self._where, str(error)) from None

    def one_line(self, message: object) -> str:
        """A message of the server's on one line, without any key.

        Args:
            message: The message, or an error that has one.
        """
        text = self.redaction.text(str(message))
        return (" ".join(text.split()) or type(message).__name__)[:MAX_MESSAGE]

    # Answers

    def answer(self, parsed: Any, asked: Asked, history: History) -> str | Retry | Failure:
        """The raw text of an answer, if it is one; it may be another's page.

        Args:
            parsed: The answer, as parsed JSON.
            asked: The request.
            history: How the server answered the stage so far.
        """
        result = self.storable(parsed)
        if isinstance(result, str):
            history.answered = True
            history.accepted |= asked.body.keys()
            if not self.dialect.plain:
                history.accepted |= parameters_in(asked.body, self.provider.PROMPT_FIELDS)
        return result

    def storable(self, parsed: Any) -> str | Retry | Failure:
        """The text of an answer that is stored, without any key; or why there is none.

        Args:
            parsed: The answer, as parsed JSON.
        """
        try:
            complete = is_complete(parsed)
            text, clean = self.redaction.json(parsed)
            if complete and (clean is parsed or is_complete(clean)):
                return text
        except AbsurdError as error:
            return Failure(f"the server's answer cannot be right: {self.one_line(error)}")
        except LeakError:
            why = "the server's answer holds its key in pieces, so it is not stored"
            return Failure(why, billed(parsed))
        except RecursionError:
            return Retry("the answer is no valid JSON")
        message = self.one_line(error_message(clean))
        return Retry(f"the answer has no completion in it: {message}", billed=billed(clean))

    def sent(self, prepared: PreparedRequest, body: Mapping[str, Any]) -> str | None:
        """What was sent beside the prompt, where it is not the plain spelling of the request.

        Args:
            prepared: The request.
            body: What was sent.
        """
        if self.dialect.plain or body == self.plain_body(prepared):
            return None
        return self._spelling(body)

    def plain_body(self, prepared: PreparedRequest) -> dict[str, Any]:
        """The JSON of a request in the plain spelling.

        Args:
            prepared: The request.
        """
        return PROVIDERS["openai"].body(prepared, self.name, self._plain)

    def _spelling(self, body: Mapping[str, Any]) -> str:
        fields = {k: v for k, v in body.items() if k not in self.provider.PROMPT_FIELDS}
        return self.redaction.text(encode(fields).decode())

    def adopt(self, asked: Asked) -> None:
        """Learn what another process had learned when it sent a request.

        Args:
            asked: The request as it was sent.
        """
        dialect = self.dialect
        forms = dialect.schema_form, dialect.choice_form
        names = self._differing(asked)
        for _ in range(MAX_SPELLINGS):
            notes = [dialect.learn(name, asked.prepared.decoding) for name in sorted(names)]
            if not any(notes):
                break
            names = self._differing(asked)
        if "structured_output" in names:  # it was sent in none of the weaker forms
            dialect.schema_form, dialect.choice_form = forms

    def _differing(self, asked: Asked) -> set[str]:
        """The parameters that would be sent in another spelling now."""
        now, sent = (
            json.loads(self._spelling(body)) for body in (self.body(asked.prepared), asked.body)
        )
        fields = {k: v for k, v in (now | sent).items() if k not in sent or now.get(k) != sent[k]}
        return parameters_in(fields, self.provider.PROMPT_FIELDS)

    # Errors

    def refused(self, error: ErrorAnswer, asked: Asked, history: History) -> Retry | Failure | None:
        """What an error means for its request; None: it is to be spelled anew, and sent again.

        Args:
            error: The error.
            asked: The request.
            history: How the server answered the stage so far.

        Raises:
            UserError: Every other request would fail as well.
        """
        if error.code not in REFUSED:
            return self.failed(error)
        message = self._message(error)
        sent = parameters_in(asked.body, self.provider.PROMPT_FIELDS)
        refusal = Refusal.of(error.content, message, {*sent, "stream"})
        if self._respell(refusal, asked, history):
            return None
        return self._count(refusal, error.code, history)

    def _respell(self, refusal: Refusal, asked: Asked, history: History) -> bool:
        """Whether a refused request can be sent again in another spelling.

        Args:
            refusal: Why it was refused.
            asked: The request.
            history: How the server answered the stage so far.

        Raises:
            UserError: The server does not take what the stage asks for.
        """
        if refusal.about_key:
            raise self._fatal(refusal.message, "fix the key in api_key_env of the model")
        if refusal.parameter is None:
            return False
        if self._spelling(self.body(asked.prepared)) != self._spelling(asked.body):
            return True  # another request was refused meanwhile, and taught something
        note = self.dialect.learn(refusal.parameter, asked.prepared.decoding)
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

    def failed(self, error: ErrorAnswer) -> Retry | Failure:
        """What an error means that is no refusal of a parameter, or not any more.

        Args:
            error: The error.

        Raises:
            UserError: Every other request would fail as well.
        """
        code, message = error.code, self._message(error)
        why = f"the server answered {code}: {message}"
        if code in OVERLOADED and TOO_LARGE.search(message):
            return Failure(why)  # it never fits
        if code in RETRYABLE:
            return Retry(why, code in OVERLOADED, error.after, unread=code in UNREAD)
        if code in FATAL and not (code == FORBIDDEN and self.lists_models):
            hint = "fix base_url, served_name or the key in api_key_env of the model"
            raise self._fatal(message, hint, code)
        return Failure(why)

    def _message(self, error: ErrorAnswer) -> str:
        """The message of an error.

        Raises:
            UserError: The account has no money or no quota left.
        """
        message = self.one_line(error_message(error.content))
        if quota_is_used_up(error.code, error.content):
            raise quota_error(self.base_url, f"the server answered {error.code}: {message}")
        return message

    def _fatal(self, message: str, hint: str, code: int = 400) -> UserError:
        what = f"the server answered {code}"
        return UserError(what, where=self.base_url, why=message, hint=hint)


@cache
def note_once(text: str) -> None:
    """Say something on standard error, once."""
    print(f"note: {text}", file=sys.stderr)


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
