"""Parsing raw responses: pure functions over what the journal stores.

A raw response has the form of the engines of this package (`text`, `finish_reason`, `usage`,
and `logprobs` as [token, logprob, [[token, logprob], ...]] lists), or that of a provider:
OpenAI's chat completion or completion, Anthropic's message, Gemini's answer. Each is recognised
by its own fields, whatever was sent to get it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from pipeline.models.base import TokenLogprobs
from pipeline.models.journal.usage import usage_of
from schemas.turns import replace_surrogates

RawResponse = dict[str, Any] | str
"""A raw response: a JSON object, or the JSON text that a server sent."""

ABORTED: Final = frozenset({"error", "abort"})
"""Finish reasons of gateways and of vLLM for an answer that the server broke off."""

CUT: Final = frozenset({
    "length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "model_length",
    "model_context_window_exceeded", "pause_turn",
})  # fmt: skip
"""Finish reasons of providers for an answer that was cut at its limit."""

THOUGHTS: Final = frozenset({"thinking", "reasoning", "redacted_thinking"})
"""Types of the parts of a content that hold reasoning."""

WITHHELD: Final = frozenset({
    "content_filter", "refusal",
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "OTHER",
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER", "NO_IMAGE",
    "MALFORMED_RESPONSE", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS",
})  # fmt: skip
"""Finish reasons of providers for an answer that they did not give out."""

MAX_LOGPROB: Final = 1.0
"""Log-probabilities are at most 0, and servers round: more than this is no log-probability."""

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


class AbsurdError(ValueError):
    """An answer with a number that cannot be one of it: no repetition makes it right."""


class _Choice(NamedTuple):
    """The parts of an answer, whatever form it has.

    Attributes:
        text: The text without reasoning that the provider returns apart from it.
        reasoning: That reasoning.
        reason: Why the answer ended, as the provider says it.
        logprobs: One entry for each token.
        acts: Whether it calls tools, so that it needs no text.
        blocked: Whether the provider did not let the model answer at all.
    """

    text: str | None
    reasoning: str
    reason: Any
    logprobs: Iterable[TokenLogprobs] = ()
    acts: bool = False
    blocked: bool = False


def parse_response(response: Mapping[str, Any]) -> ParsedResponse:
    """Parse a raw response of any form.

    Raises:
        LookupError: A field is missing.
        TypeError: A field has another type.
        AbsurdError: A number cannot be one of an answer.

    Example:
        >>> choice = {"message": {"content": "Yes"}, "finish_reason": "stop"}
        >>> parse_response({"choices": [choice], "usage": {"prompt_tokens": 9}}).text
        'Yes'
        >>> parts = [{"text": "Hm.", "thought": True}, {"text": "Yes"}]
        >>> parse_response({"candidates": [{"content": {"parts": parts}}]}).reasoning
        'Hm.'
    """
    choice = _choice(response)
    try:
        usage = usage_of(response)
        logprobs = tuple(choice.logprobs)
    except (TypeError, ValueError) as error:
        raise AbsurdError(str(error)) from None
    withheld = choice.blocked or choice.reason in WITHHELD
    thought = bool(choice.reasoning) or (usage.reasoning > 0 and choice.reason in CUT)
    return ParsedResponse(
        text=replace_surrogates(choice.text or ""),
        finish_reason="length" if choice.reason in CUT else "stop",
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        logprobs=logprobs,
        error=f"the server withheld the answer ({choice.reason})" if withheld else None,
        reasoning=replace_surrogates(choice.reasoning),
        only_reasoned=thought and not choice.text and not choice.acts,
    )


def is_complete(response: Any) -> bool:
    """Whether this is a complete response; anything else is a transmission error.

    Raises:
        AbsurdError: It is one with a number that cannot be right.
    """
    try:
        parse_response(response)
        return _choice(response).reason not in ABORTED
    except AbsurdError:
        raise
    except UNREADABLE:
        return False


def well_formed(response: Any) -> bool:
    """Whether this is a complete response that can be read."""
    try:
        return is_complete(response)
    except AbsurdError:
        return False


def _choice(response: Mapping[str, Any]) -> _Choice:
    """The parts of a response of any form."""
    if "choices" in response:
        return _of_openai(response["choices"][0])
    if "candidates" in response or "promptFeedback" in response:
        return _of_gemini(response)
    if response.get("type") == "message":
        return _of_anthropic(response)
    reason = response.get("finish_reason")
    return _Choice(response["text"], "", reason, _logprobs(response.get("logprobs")))


def _of_openai(choice: Mapping[str, Any]) -> _Choice:
    message, reason = choice.get("message"), choice.get("finish_reason")
    logprobs = _logprobs(choice.get("logprobs"))
    if message is None:
        return _Choice(choice["text"], "", reason, logprobs)
    acts = bool(message.get("tool_calls"))
    return _Choice(_content(message), _reasoning(message), reason, logprobs, acts)


def _of_anthropic(message: Mapping[str, Any]) -> _Choice:
    """Anthropic's message: blocks of text, of thinking, and calls."""
    blocks = message["content"]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    thoughts = [block for block in blocks if block["type"] in THOUGHTS]
    texts = [str(block.get("thinking") or "").strip() for block in thoughts]
    # Thinking may come without its text, which its provider keeps.
    reasoning = "\n\n".join(filter(None, texts)) or (HIDDEN if thoughts and not text else "")
    acts = any(block["type"] == "tool_use" for block in blocks)
    return _Choice(text, reasoning, message.get("stop_reason"), (), acts)


HIDDEN: Final = "(the provider keeps this reasoning)"
"""What stands for reasoning of which only the fact is known, where there is no answer."""


def _of_gemini(response: Mapping[str, Any]) -> _Choice:
    """Gemini's answer: its first candidate, or why the prompt was blocked."""
    candidates = response.get("candidates")
    if not candidates:
        return _Choice("", "", response["promptFeedback"]["blockReason"], blocked=True)
    candidate = candidates[0]
    parts = (candidate.get("content") or {}).get("parts") or ()
    texts: tuple[list[str], list[str]] = ([], [])
    for part in parts:
        texts[bool(part.get("thought"))].append(part.get("text") or "")
    reason = candidate.get("finishReason")
    logprobs = _gemini_logprobs(candidate.get("logprobsResult") or {})
    acts = any("functionCall" in part for part in parts)
    return _Choice("".join(texts[0]), "".join(texts[1]).strip(), reason, logprobs, acts)


def _gemini_logprobs(result: Mapping[str, Any]) -> Iterable[TokenLogprobs]:
    tops = result.get("topCandidates") or ()
    for number, entry in enumerate(result.get("chosenCandidates") or ()):
        top = (tops[number].get("candidates") or ()) if number < len(tops) else ()
        pairs = [(one["token"], one["logProbability"]) for one in top]
        yield _token_logprobs(entry["token"], entry["logProbability"], pairs)


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
    """One token's entry; alternatives without any probability are left out.

    Raises:
        TypeError: A log-probability is no number.
        ValueError: A log-probability is not one.
    """
    pairs = tuple(
        (replace_surrogates(t), _logprob(p)) for t, p in top if p not in (None, -math.inf)
    )
    return TokenLogprobs(replace_surrogates(token), _logprob(logprob), pairs)


def _logprob(value: float) -> float:
    if not -math.inf < value <= MAX_LOGPROB:
        raise ValueError(f"a log-probability must be at most 0, got {value}")
    return value
