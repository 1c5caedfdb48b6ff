"""How many tokens an answer is billed, read from the raw answers of all providers.

Providers agree on little. Prompts read from a cache are part of the prompt (OpenAI, Gemini) or
stand beside it (Anthropic). Reasoning is part of the completion (OpenAI, Anthropic), or is
billed on top of it: Gemini's thoughts, xAI's reasoning tokens and whatever speaks OpenAI's form
in front of such a model. There the total says so, which is then more than prompt and
completion: the difference is billed as output.

What is counted is what is billed: a number that cannot be one (negative, infinite, a text, more
than any answer has) makes the answer unreadable instead of a sum wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_COUNT: Final = 10**8
"""Tokens; no context is near that long."""

_Counts = Mapping[str, Any]


@dataclass(frozen=True)
class TokenUsage:
    """The tokens of an answer, or of several together. What a server does not say is 0.

    Args:
        prompt: All tokens of the prompt, cached ones among them.
        cached: Those of them that were read from the provider's cache.
        completion: All tokens that are billed as output, reasoning among them.
        reasoning: Those of them that are reasoning, as far as the server says.
        cache_written: Tokens of the prompt that were written to the provider's cache, where
            they are billed at a price of their own.

    Example:
        >>> TokenUsage(9, 4, 5) + TokenUsage(1, 0, 2, 2)
        TokenUsage(prompt=10, cached=4, completion=7, reasoning=2, cache_written=0)
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    cache_written: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.reasoning + other.reasoning,
            self.cache_written + other.cache_written,
        )


def usage_of(raw: Mapping[str, Any]) -> TokenUsage:
    """The tokens that a raw answer is billed.

    Args:
        raw: The answer of an engine or of a provider: OpenAI's chat completions, completions
            and responses, Anthropic's messages, Gemini's generateContent.

    Returns:
        Its tokens; all 0 for an answer without them.

    Raises:
        TypeError: A number is none, or what holds the numbers is no mapping.
        ValueError: A number is negative, fractional, infinite or larger than any can be.

    Example:
        >>> usage_of({"usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 44}})
        TokenUsage(prompt=9, cached=0, completion=35, reasoning=30, cache_written=0)
        >>> usage_of({"usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 60}})
        TokenUsage(prompt=9, cached=0, completion=60, reasoning=60, cache_written=0)
    """
    if "usageMetadata" in raw:
        return _of_gemini(_mapping(raw, "usageMetadata"))
    usage = _mapping(raw, "usage")
    if "input_tokens" in usage and "prompt_tokens" not in usage:
        return _of_input_and_output(usage)
    return _of_prompt_and_completion(usage)


def billed(raw: Any) -> TokenUsage | None:
    """The tokens that something is billed which is no answer; None where it does not say.

    Args:
        raw: What a server sent, as parsed JSON.
    """
    try:
        usage = usage_of(raw)
    except (TypeError, ValueError):
        return None
    return usage if usage.prompt or usage.completion else None


def _of_prompt_and_completion(usage: _Counts) -> TokenUsage:
    """OpenAI's chat completions, and what follows their form."""
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    prompts = _mapping(usage, "prompt_tokens_details")
    # DeepSeek's name, and that of Anthropic's behind gateways, which count them as OpenAI does.
    other_names = ("prompt_cache_hit_tokens", "cache_read_input_tokens")
    cached = _count(prompts, "cached_tokens") or _first(usage, other_names)
    details = _mapping(usage, "completion_tokens_details")
    reasoning = _count(details, "reasoning_tokens") or _count(usage, "reasoning_tokens")
    written = _count(usage, "cache_creation_input_tokens")
    tokens = TokenUsage(prompt, cached, completion, reasoning, written)
    return _with_total(usage, "total_tokens", tokens)


def _of_input_and_output(usage: _Counts) -> TokenUsage:
    """OpenAI's responses, and Anthropic's messages, whose input leaves the cached part out."""
    plain, completion = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    read, written = (
        _count(usage, name) for name in ("cache_read_input_tokens", "cache_creation_input_tokens")
    )
    cached = _count(_mapping(usage, "input_tokens_details"), "cached_tokens")
    details = _mapping(usage, "output_tokens_details")
    reasoning = _first(details, ("reasoning_tokens", "thinking_tokens"))
    tokens = TokenUsage(plain + read + written, cached + read, completion, reasoning, written)
    return _with_total(usage, "total_tokens", tokens)


def _of_gemini(usage: _Counts) -> TokenUsage:
    prompt = _count(usage, "promptTokenCount") + _count(usage, "toolUsePromptTokenCount")
    thoughts = _count(usage, "thoughtsTokenCount")
    completion = _count(usage, "candidatesTokenCount") + thoughts
    cached = _count(usage, "cachedContentTokenCount")
    return _with_total(usage, "totalTokenCount", TokenUsage(prompt, cached, completion, thoughts))


def _with_total(usage: _Counts, name: str, tokens: TokenUsage) -> TokenUsage:
    """The tokens as the total has them: what it has beyond prompt and completion is output.

    Without a total, reasoning that is more than the completion cannot be a part of it.
    """
    completion, reasoning = tokens.completion, tokens.reasoning
    if total := _count(usage, name):
        completion = max(completion, total - tokens.prompt)
        reasoning = min(reasoning or completion - tokens.completion, completion)
    elif reasoning > completion:
        completion += reasoning
    cached = min(tokens.cached, tokens.prompt)
    written = min(tokens.cache_written, tokens.prompt - cached)
    return TokenUsage(tokens.prompt, cached, completion, reasoning, written)


def _mapping(raw: Any, name: str) -> _Counts:
    """A mapping in a mapping; empty where there is none, or null."""
    if not isinstance(raw, Mapping):
        raise TypeError(f"must be a mapping, got {type(raw).__name__}")
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, got {type(value).__name__}")
    return value


def _first(usage: _Counts, names: tuple[str, ...]) -> int:
    return next(filter(None, (_count(usage, name) for name in names)), 0)


def _count(usage: _Counts, name: str) -> int:
    """A number of tokens; 0 where it is not there, or null."""
    value = usage.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= MAX_COUNT or value != int(value):
        raise ValueError(f"{name} must be a number of tokens, got {value}")
    return int(value)
