"""What providers answer when an account has no money or no quota left.

It often is a 429, as for too many requests at once; but waiting helps only until the next
payment or the next day, so everything stops, as when a budget of one's own is reached.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.errors import Exit, UserError

PAYMENT_REQUIRED: Final = 402
CODES: Final = frozenset({
    # OpenAI and Azure
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active",
    # Anthropic
    "billing_error",
    # Mistral, Moonshot, Alibaba and others in OpenAI's form
    "insufficient_balance", "exceeded_current_quota_error", "insufficient_credits", "arrearage",
})  # fmt: skip
"""An error's `code`, `type` or `status`, in lower case."""
PHRASES: Final = re.compile(
    r"credit balance is too low"  # Anthropic, with status 400
    r"|insufficient (?:balance|credits?|funds)"
    r"|used all available credits|monthly spending limit",  # xAI, with status 403
    re.IGNORECASE,
)
"""In an error's message, where its code is a general one."""
PER_DAY: Final = "PerDay"
"""In the name of one of Gemini's quotas: of those by the minute, waiting helps."""


def quota_is_used_up(status: int, content: Any) -> bool:
    """Whether an error says that nothing more is answered until somebody pays, or for the day.

    Args:
        status: The status code, not that of a success.
        content: The body, parsed; the text where it is no JSON.

    Example:
        >>> quota_is_used_up(429, {"error": {"code": "insufficient_quota"}})
        True
        >>> quota_is_used_up(429, {"error": {"code": "rate_limit_exceeded"}})
        False
    """
    return status == PAYMENT_REQUIRED or any(_is_quota(error) for error in _errors(content))


def quota_error(where: str, why: str) -> UserError:
    """The error that ends a run.

    Args:
        where: The server's address.
        why: What it answered.
    """
    return UserError(
        "the provider's quota is used up",
        where=where,
        why=why,
        hint="add credit or raise the limit at the provider, or wait until the quota is renewed, "
        "then run again; all answers are kept",
        code=Exit.BUDGET,
    )


def _errors(body: Any) -> Iterator[Mapping[str, Any]]:
    """The errors in a body: the object itself, or its `error`, whether one or in a list."""
    for item in body if isinstance(body, list) else [body]:
        if isinstance(item, Mapping):
            error = item.get("error")
            yield error if isinstance(error, Mapping) else item


def _is_quota(error: Mapping[str, Any]) -> bool:
    if any(str(error.get(name)).lower() in CODES for name in ("code", "type", "status")):
        return True
    details = error.get("details")
    if _has_quotas(details):  # Gemini says the same of all quotas, and only here of which.
        return PER_DAY in json.dumps(details)
    message = error.get("message") or error.get("error")
    return isinstance(message, str) and PHRASES.search(message) is not None


def _has_quotas(details: Any) -> bool:
    return isinstance(details, list) and "quotaId" in json.dumps(details)
