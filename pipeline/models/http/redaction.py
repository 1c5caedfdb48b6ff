"""Keys are kept out of whatever a server says: its answers, its errors.

What is stored is written anew from the parsed value, so that nothing that parsing drops (the
first of two equal names, the spelling of a number or of a slash) can carry a key along.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

MASK: Final = "[key]"
MIN_KEY_LENGTH: Final = 8
"""Characters. A key as short as `x` or `EMPTY` is part of many an answer: it could neither be
kept out of the journal nor redacted without loss."""


PUBLIC_HEADERS: Final = frozenset({
    "x-title", "http-referer", "referer", "user-agent", "anthropic-version", "anthropic-beta",
    "openai-beta",
})  # fmt: skip
"""Headers that say who asks, or for what: their words may stand in an answer."""
SCHEMES: Final = frozenset({"bearer", "basic", "token", "key", "apikey", "api-key"})
"""What stands before a secret in the value of a header."""


class LeakError(Exception):
    """A value whose JSON has a key in it that no single text or number has."""


class Redaction:
    """Replaces keys in texts and JSON values.

    Args:
        secrets: The keys.

    Example:
        >>> Redaction(["sk-12345678"]).text("not sk-12345678!")
        'not [key]!'
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted(set(secrets), key=len, reverse=True)
        written = {json.dumps(secret)[1:-1] for secret in self._secrets}
        self._spellings = sorted(written | {*self._secrets}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """A text without the keys."""
        for spelling in self._spellings:  # a text may itself be JSON, as the body of an error
            text = text.replace(spelling, MASK)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value without the keys."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(item) for name, item in value.items()}
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return MASK if number and self._is_in(repr(value)) else value

    def json(self, value: Any) -> tuple[str, Any]:
        """The JSON text of a value without the keys, and that value.

        Numbers that JSON has no spelling for (`1e400` is read as infinity) become null.

        Raises:
            LeakError: A key is in the text, though in none of its parts.
        """
        text, value = _written(value)
        if self._is_in(text):
            text, value = _written(self.value(value))
            if self._is_in(text):
                raise LeakError
        return text, value

    def _is_in(self, text: str) -> bool:
        return any(spelling in text for spelling in self._spellings)


def _written(value: Any) -> tuple[str, Any]:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = _finite(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)  # half of a pair has no bytes of its own
    return text, value


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def secrets_in(key: str | None, headers: Mapping[str, str]) -> list[str]:
    """What of keys and headers must be shown nowhere: values, and what follows their scheme.

    Args:
        key: The key; None where there is none.
        headers: Headers with their values; those that say who asks are no secrets.

    Example:
        >>> secrets_in(None, {"Authorization": "Bearer sk-12345678", "X-Title": "Our research"})
        ['Bearer sk-12345678', 'sk-12345678']
    """
    values = []
    for name, value in headers.items():
        scheme, _, rest = value.partition(" ")
        if name.lower() not in PUBLIC_HEADERS:
            values += [value, rest.strip()] if scheme.lower() in SCHEMES else [value]
    return [v for v in dict.fromkeys([key or "", *values]) if len(v) >= MIN_KEY_LENGTH]
