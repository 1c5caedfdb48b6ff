"""All behaviours of the switchable server, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.models import Api
from tests.support.servers.writing import (
    Write,
    as_it_is,
    in_capitals,
    in_markdown,
    noise,
)

Rule = Callable[[Mapping[str, Any]], str | None]
"""From a body to the message with which it is refused; None for an answer."""


def refusing(*names: str) -> Rule:
    """Refuses parameters as OpenAI does."""

    def rule(body: Mapping[str, Any]) -> str | None:
        named = next((name for name in names if name in body), None)
        return named and f"Unsupported parameter: '{named}' is not supported with this model."

    return rule


def refusing_limits(body: Mapping[str, Any]) -> str | None:
    """As servers of chat models do; the endpoint for texts has no other name for it."""
    return refusing("max_tokens")(body) if "messages" in body else None


def refusing_temperatures(body: Mapping[str, Any]) -> str | None:
    if body.get("temperature", 1.0) == 1.0:
        return None
    return "Unsupported value: 'temperature' does not support 0 with this model. Only 1 is."


def refusing_forms(body: Mapping[str, Any]) -> str | None:
    names = "response_format", "structured_outputs", "guided_choice", "guided_json"
    return refusing(*names)(body)


def only_streaming(body: Mapping[str, Any]) -> str | None:
    if body.get("stream"):
        return None
    return "This model only supports streaming: 'stream' must be set to true."


DEFAULT_API: Final = Api()


@dataclass(frozen=True)
class Behaviour:
    """How a server behaves.

    Args:
        reasoning: In which form its model reasons; see `reasoning.FORMS`.
        write: How its model writes an answer.
        refuses: What it does not take.
        logprobs: Whether it gives log-probabilities of labels where it is asked for them.
        usage: What it says of tokens: all, those of reasoning apart from those of the answer, or
            nothing.
        finish_reason: Whether it says why an answer ended.
        overloaded: The part of requests that are answered by 429.
        broken: The part of requests that are answered by 500.
        quota: Answers after which the account has no quota left.
        api: What a recipe says of such a server.
        same: Whether all answers mean the same as those of a plain server.
    """

    reasoning: str = "plain"
    write: Write = as_it_is
    refuses: Rule | None = None
    logprobs: bool = False
    usage: Literal["full", "apart", "missing"] = "full"
    finish_reason: bool = True
    overloaded: float = 0.0
    broken: float = 0.0
    quota: int | None = None
    api: Api = DEFAULT_API
    same: bool = True


BEHAVIOURS: Final[dict[str, Behaviour]] = {
    "plain": Behaviour(),
    "inline reasoning": Behaviour("inline"),
    "fielded reasoning": Behaviour("reasoning_content"),
    "channel reasoning": Behaviour("channel"),
    "unclosed reasoning": Behaviour("unclosed", same=False),
    "separately billed reasoning": Behaviour("reasoning", usage="apart"),
    "capitals": Behaviour(write=in_capitals),
    "capitals with probabilities": Behaviour(write=in_capitals, logprobs=True, same=False),
    "markdown": Behaviour(write=in_markdown, same=False),
    "noise": Behaviour(write=noise, same=False),
    "no max_tokens": Behaviour(refuses=refusing_limits),
    "no temperature": Behaviour(
        refuses=refusing_temperatures, api=Api(omit=("temperature",)),
    ),
    "no logprobs": Behaviour(
        refuses=refusing("logprobs", "top_logprobs"), api=Api(omit=("logprobs",))
    ),
    "no structured output": Behaviour(refuses=refusing_forms),
    "only streaming": Behaviour(refuses=only_streaming),
    "no usage": Behaviour(usage="missing"),
    "no finish_reason": Behaviour(finish_reason=False),
    "overloaded": Behaviour(overloaded=0.6),
    "quota": Behaviour(quota=3, same=False),
}  # fmt: skip
