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
from pipeline.models.journal.usage import usage_of

RawResponse = dict[str, Any] | str
"""A raw response: a JSON object, or the JSON text that a server sent."""

ABORTED: Final = frozenset({"error", "abort"})
"""Finish reasons of gateways and of vLLM for an answer that the server broke off."""

CUT: Final = frozenset({"length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "model_length"})
"""Finish reasons of providers for an answer that was cut at its limit."""

THOUGHTS: Final = frozenset({"thinking", "reasoning", "redacted_thinking"})
"""Types of the parts of a content that hold reasoning."""

UNREADABLE: Final = (
    LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
"""What parsing raises for a response that is not of one of the three forms."""


@dataclass(frozen=True)
class ParsedResponse:
    """A raw response, parsed.

    Args:
        text: The answer as it was written; reasoning may still stand in it, in marks.
        finish_reason: "stop" for a complete answer, "length" for one that was cut.
        prompt_tokens: Tokens of the prompt; 0 where the server does not say.
        completion_tokens: Tokens of the answer; 0 where the server does not say.
        logprobs: One entry for each token of the answer, if the request asked for them.
        error: Why the response has no answer, and will not have one if it is repeated.
        reasoning: Reasoning that the server returned apart from the answer.
        only_reasoned: Whether there is such reasoning, and no answer.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None
    reasoning: str = ""
    only_reasoned: bool = False


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
    reasoning = "" if message is None else _reasoning(message)
    reason = choice.get("finish_reason")
    usage = usage_of(response)
    withheld = reason == "content_filter"
    return ParsedResponse(
        text=_replace_surrogates(text or ""),
        finish_reason="length" if reason in CUT else "stop",
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        logprobs=tuple(_logprobs(choice.get("logprobs"))),
        error="the server withheld the answer (content_filter)" if withheld else None,
        reasoning=_replace_surrogates(reasoning),
        only_reasoned=bool(reasoning) and not text and not (message or {}).get("tool_calls"),
    )


def well_formed(response: Any) -> bool:
    """Whether this is a complete response; anything else is a transmission error."""
    try:
        parse_response(response)
        choice = response["choices"][0] if "choices" in response else response
        return choice.get("finish_reason") not in ABORTED
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


def _reasoning(message: Mapping[str, Any]) -> str:
    """What a message holds of reasoning: in a field of its own, or in parts of its content."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(field := message.get(name), str) and field.strip():
            return field.strip()
    content = message.get("content")
    parts = content if isinstance(content, list) else message.get("reasoning_details") or ()
    texts = [_thought(part) for part in parts if isinstance(part, Mapping)]
    return "\n\n".join(text.strip() for text in texts if text.strip())


def _thought(part: Mapping[str, Any]) -> str:
    """The reasoning in one part of a content: a text, or again a list of parts with texts."""
    kind = str(part.get("type"))
    if kind not in THOUGHTS and not kind.startswith("reasoning."):
        return ""
    values = [part.get(name) for name in ("thinking", "reasoning", "text", "summary")]
    value: Any = next(filter(None, values), "")
    if isinstance(value, list):
        return "".join(str(p.get("text") or "") for p in value if isinstance(p, Mapping))
    return str(value)


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
