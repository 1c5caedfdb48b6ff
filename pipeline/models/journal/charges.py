"""What an answer is billed, whether its server says so or not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from pipeline.models.journal.responses import RawResponse, parse_response
from pipeline.models.journal.usage import TokenUsage, usage_of

BYTES_PER_TOKEN: Final = 3
"""A low guess, to estimate the tokens of texts that only the server tokenizes."""


def billed_tokens(response: RawResponse, prompt_tokens: int) -> TokenUsage:
    """What an answer is billed.

    Where a server does not report tokens they are estimated, so that a budget holds there
    too.

    Args:
        response: The answer.
        prompt_tokens: Tokens of its prompt, as far as they are known here.

    Example:
        >>> billed_tokens({"text": "The sea.", "finish_reason": "stop"}, prompt_tokens=9)
        TokenUsage(prompt=9, cached=0, completion=3, reasoning=0, cache_written=0)
    """
    raw = json.loads(response) if isinstance(response, str) else response
    tokens = usage_of(raw)
    if tokens.prompt and tokens.completion:
        return tokens
    parsed = parse_response(raw)
    written = len(parsed.text.encode()) + len(parsed.reasoning.encode())
    return replace(
        tokens,
        prompt=tokens.prompt or prompt_tokens,
        completion=tokens.completion or -(-written // BYTES_PER_TOKEN),
    )
