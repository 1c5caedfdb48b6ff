"""A server that keeps its own bill, and bills as providers do: `BillingServer`.

server = BillingServer(shape="xai", reasoning=800)
with listening(FakeServer(server)) as port:
    Context.scratch(folder).open(served(port, price=PRICE)).generate(requests)
assert server.money == pytest.approx(counted, rel=0.01)
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.models import Price
from tests.support.serving import HttpMessage, error_response, http_response

PRICE: Final = Price(prompt=1000.0, completion=5000.0, cached=100.0, cache_write=1250.0)
"""Per million tokens, which makes a request cost about as much as a cent."""

QUOTA: Final = json.dumps(
    {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
).encode()

Bill = tuple[int, int, int, int, int]
"""Of one answer: tokens of the prompt, of those cached, written to the cache, of the text, and
of reasoning."""


def _openai(bill: Bill) -> dict[str, Any]:
    prompt, cached, _, text, reasoning = bill
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": text + reasoning,
            "total_tokens": prompt + text + reasoning,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    }


def _xai(bill: Bill) -> dict[str, Any]:
    content = _openai(bill)
    content["usage"]["completion_tokens"] = bill[3]
    return content


def _total_alone(bill: Bill) -> dict[str, Any]:
    prompt, _, _, text, reasoning = bill
    total = prompt + text + reasoning
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": text, "total_tokens": total}}


def _anthropic(bill: Bill) -> dict[str, Any]:
    prompt, cached, written, text, reasoning = bill
    return {
        "usage": {
            "input_tokens": prompt - cached - written,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "output_tokens": text + reasoning,
        }
    }


def _gemini(bill: Bill) -> dict[str, Any]:
    prompt, cached, _, text, reasoning = bill
    return {
        "usageMetadata": {
            "promptTokenCount": prompt,
            "cachedContentTokenCount": cached,
            "candidatesTokenCount": text,
            "thoughtsTokenCount": reasoning,
            "totalTokenCount": prompt + text + reasoning,
        }
    }


SHAPES: Final[dict[str, Callable[[Bill], dict[str, Any]]]] = {
    "openai": _openai,
    "xai": _xai,
    "total alone": _total_alone,
    "anthropic": _anthropic,
    "gemini": _gemini,
}
"""How usage is reported, by provider. In what the answers themselves are is not part of this."""


@dataclass
class BillingServer:
    """Answers every request with `text`, and bills it.

    Args:
        shape: How usage is reported: a name in SHAPES.
        reasoning: Tokens of reasoning of an answer, at most: it is half of that at least.
        cached: The share of each prompt that is read from a cache.
        written: The share that is written to it; reported and billed by Anthropic alone.
        text: The answer.
        spoiled: The fraction of answers that are billed and hold no completion.
        busy: The fraction of requests that are refused with 429, and billed nothing.
        quota: After so many answers there is nothing but `insufficient_quota`; None for never.
        seconds: How long an answer takes.

    Attributes:
        answers: How many answers were billed.
        tokens: Tokens that were billed.
        money: Their price, by PRICE.
        refused: How many requests were refused.
    """

    shape: str = "openai"
    reasoning: int = 0
    cached: float = 0.0
    written: float = 0.0
    text: str = "a sea"
    spoiled: float = 0.0
    busy: float = 0.0
    quota: int | None = None
    seconds: float = 0.0
    answers: int = 0
    tokens: int = 0
    money: float = 0.0
    refused: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(15))

    async def __call__(self, request: HttpMessage) -> bytes:
        """Answer a POST."""
        if self.quota is not None and self.answers >= self.quota:
            return http_response("429 Too Many Requests", QUOTA)
        if self.rng.random() < self.busy:
            self.refused += 1
            return error_response("429 Too Many Requests", "slow down")
        if self.seconds:
            await asyncio.sleep(self.seconds)
        bill = self._bill(len(request.body) // 4)
        message = {"role": "assistant", "content": self.text}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        if self.rng.random() < self.spoiled:
            choices = []
        content = {"id": "x", "choices": choices, **SHAPES[self.shape](bill)}
        return http_response("200 OK", json.dumps(content).encode())

    def _bill(self, prompt: int) -> Bill:
        cached = int(prompt * self.cached)
        written = int(prompt * self.written) if self.shape == "anthropic" else 0
        text = len(self.text.split())
        reasoning = self.rng.randint(self.reasoning // 2, self.reasoning)
        self.answers += 1
        self.tokens += prompt + text + reasoning
        if self.shape == "total alone":
            cached = 0
        plain = (prompt - cached - written) * PRICE.prompt + (text + reasoning) * PRICE.completion
        self.money += (plain + cached * (PRICE.cached or 0)) / 1e6
        self.money += written * (PRICE.cache_write or 0) / 1e6
        return prompt, cached, written, text, reasoning
