"""Reading raw responses: pure functions over what the journal holds, in every form it holds.

Three forms: that of the engines of our own (`text`, `finish_reason`, `usage`, and
`logprobs` as [token, logprob, [[token, logprob], ...]] lists), and a server's chat
and completions, kept exactly as they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.models.base import TokenLogprobs

BROKEN: Final = frozenset({"error", "abort"})
"""Finish reasons of gateways and of vLLM for what broke off on the server's side."""


@dataclass(frozen=True)
class Reading:
    """What a raw response says. error: why there is no answer in it, and never will be."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None


def reading(response: Mapping[str, Any]) -> Reading:
    """Read a raw response. Raises LookupError or TypeError for what is none."""
    choice = response["choices"][0] if "choices" in response else response
    message = choice.get("message")
    text = choice["text"] if message is None else _content(message)
    reason = choice["finish_reason"]
    usage = response.get("usage") or {}
    withheld = reason == "content_filter"
    return Reading(
        text=_sound(text or ""),
        finish_reason="length" if reason == "length" else "stop",
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        logprobs=tuple(_logprobs(choice.get("logprobs"))),
        error="the server withheld the answer (content_filter)" if withheld else None,
    )


def well_formed(response: Any) -> bool:
    """Whether this is a response that can be read; anything else is a fault on the way here."""
    try:
        reading(response)
        choice = response["choices"][0] if "choices" in response else response
        return choice["finish_reason"] not in BROKEN
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def _content(message: Mapping[str, Any]) -> str | None:
    """The text of a message: as it is, in parts, or else why the model refuses.

    A message that calls tools, or whose answer was withheld, may have no content at all.
    """
    content = message.get("content") or message.get("refusal")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content


def _logprobs(given: Any) -> Iterable[TokenLogprobs]:
    if not given:
        return ()
    if isinstance(given, list):
        return (
            TokenLogprobs(token, logprob, tuple((t, p) for t, p in top))
            for token, logprob, top in given
        )
    if given.get("content") is not None:
        return (
            TokenLogprobs(
                _sound(entry["token"]),
                entry["logprob"],
                tuple((_sound(t["token"]), t["logprob"]) for t in entry.get("top_logprobs") or ()),
            )
            for entry in given["content"]
        )
    tops = given.get("top_logprobs") or [{}] * len(given.get("tokens") or ())
    return (
        TokenLogprobs(
            _sound(token),
            logprob,
            tuple(
                sorted(((_sound(t), p) for t, p in (top or {}).items()), key=lambda one: -one[1])
            ),
        )
        for token, logprob, top in zip(
            given.get("tokens") or (), given.get("token_logprobs") or (), tops, strict=True
        )
    )


def _sound(text: str) -> str:
    """Halves of surrogate pairs, which JSON lets through and no file holds, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
