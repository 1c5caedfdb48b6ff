"""Parsing raw responses: pure functions over what the journal stores.

A raw response has one of three forms: that of the engines of this package (`text`,
`finish_reason`, `usage`, and `logprobs` as [token, logprob, [[token, logprob], ...]]
lists), or a server's chat completion or text completion, stored exactly as received.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.models.base import TokenLogprobs

RawResponse = dict[str, Any] | str
"""A raw response: a JSON object, or the JSON text that a server sent."""

ABORTED: Final = frozenset({"error", "abort"})
"""Finish reasons of gateways and of vLLM for an answer that the server broke off."""

UNREADABLE: Final = (
    LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
"""What parsing raises for a response that is not of one of the three forms."""


@dataclass(frozen=True)
class ParsedResponse:
    """A raw response, parsed.

    Args:
        text: The answer.
        finish_reason: "stop" for a complete answer, "length" for one that was cut.
        prompt_tokens: Tokens of the prompt; 0 where the server does not say.
        completion_tokens: Tokens of the answer; 0 where the server does not say.
        logprobs: One entry for each token of the answer, if the request asked for them.
        error: Why the response has no answer, and will not have one if it is repeated.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None


def parse_response(response: Mapping[str, Any]) -> ParsedResponse:
    """Parse a raw response of any of the three forms.

    Raises:
        LookupError: A field is missing.
        TypeError: A field has another type.

    Example:
        >>> choice = {"message": {"content": "Yes"}, "finish_reason": "stop"}
        >>> parse_response({"choices": [choice], "usage": {"prompt_tokens": 9}}).text
        'Yes'
    """
    choice = response["choices"][0] if "choices" in response else response
    message = choice.get("message")
    text = choice["text"] if message is None else _content(message)
    reason = choice["finish_reason"]
    usage = response.get("usage") or {}
    withheld = reason == "content_filter"
    return ParsedResponse(
        text=_replace_surrogates(text or ""),
        finish_reason="length" if reason == "length" else "stop",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        logprobs=tuple(_logprobs(choice.get("logprobs"))),
        error="the server withheld the answer (content_filter)" if withheld else None,
    )


def well_formed(response: Any) -> bool:
    """Whether this is a complete response; anything else is a transmission error."""
    try:
        parse_response(response)
        choice = response["choices"][0] if "choices" in response else response
        return choice["finish_reason"] not in ABORTED
    except UNREADABLE:
        return False


def _content(message: Mapping[str, Any]) -> str | None:
    """The text of a message: its content, whole or in parts, else the model's refusal.

    A message that calls tools, or whose answer was withheld, may have no content.
    """
    content = message.get("content") or message.get("refusal")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content


def _logprobs(raw: Any) -> Iterable[TokenLogprobs]:
    if not raw:
        return ()
    if isinstance(raw, list):
        return (
            TokenLogprobs(token, logprob, tuple((t, p) for t, p in top))
            for token, logprob, top in raw
        )
    if raw.get("content") is not None:
        return (
            _token_logprobs(
                entry["token"],
                entry["logprob"],
                [(top["token"], top["logprob"]) for top in entry.get("top_logprobs") or ()],
            )
            for entry in raw["content"]
        )
    tokens = raw.get("tokens") or ()
    tops = raw.get("top_logprobs") or [{}] * len(tokens)
    return (
        _token_logprobs(token, logprob, sorted((top or {}).items(), key=lambda item: -item[1]))
        for token, logprob, top in zip(tokens, raw.get("token_logprobs") or (), tops, strict=True)
    )


def _token_logprobs(token: str, logprob: float, top: Iterable[tuple[str, float]]) -> TokenLogprobs:
    pairs = tuple((_replace_surrogates(t), p) for t, p in top)
    return TokenLogprobs(_replace_surrogates(token), logprob, pairs)


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON allows and UTF-8 does not, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
