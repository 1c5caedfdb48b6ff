"""Anthropic's batches: https://platform.claude.com/docs/en/api/messages/batches.

The requests are submitted at once, and the results are one stream of JSON Lines, in any order,
once all have ended. A batch has no field for a tag of ours: it is recognised by the names of
its requests, which only its results show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from pipeline.models.http.batches import BatchResult, BatchState, count, moment, name

MAX_REQUESTS: int = 100_000
MAX_BYTES: int = 256_000_000
TAKES_FILES: bool = False
KEEPS_TAGS: bool = False
AROUND: tuple[bytes, bytes, bytes] = (b'{"requests":[', b",", b"]}")
PAGE: Final = 1000
CODES: Final = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402,
    "permission_error": 403, "not_found_error": 404, "request_too_large": 413,
    "rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip
"""The status codes that errors have which come by themselves."""
UNKNOWN_ERROR: Final = 500


def line(custom_id: str, path: str, body: Mapping[str, Any]) -> bytes:  # noqa: ARG001
    """One of the requests.

    Args:
        custom_id: Our name of it.
        path: Where it would go by itself.
        body: What would be sent.
    """
    return json.dumps({"custom_id": custom_id, "params": body}).encode()


def submission(
    tag: str, file: str, path: str, window: str  # noqa: ARG001
) -> dict[str, Any]:  # fmt: skip
    """Nothing: there are no files.

    Args:
        tag: Our own name of it.
        file: The file.
        path: Where its requests would go by themselves.
        window: See `Batching.completion_window`.
    """
    return {}


def address(id: str = "") -> str:
    """The path of all batches, or of one."""
    return f"messages/batches/{quote(id, safe='')}" if id else "messages/batches"


def listing(after: str | None) -> str:
    """The path of the newest batches, or of those after one."""
    end = f"&after_id={quote(after, safe='')}" if after else ""
    return f"messages/batches?limit={PAGE}{end}"


def state(raw: Any) -> BatchState:
    """What the provider says of a batch; see `BatchInterface`."""
    counts = {kind: count(number) for kind, number in raw["request_counts"].items()}
    status = name(raw["processing_status"])
    ended = status == "ended"
    id = name(raw["id"])
    return BatchState(
        id=id,
        status=status,
        ended=ended,
        refused=False,
        requests=sum(counts.values()),
        answered=counts.get("succeeded", 0),
        failed=sum(counts.get(kind, 0) for kind in ("errored", "canceled", "expired")),
        created=moment(raw.get("created_at")),
        # Not `results_url`: a key goes to the server that the recipe names, and nowhere else.
        results=(f"{address(id)}/results",) if ended else (),
    )


def result(raw: Any) -> BatchResult:
    """One line of the results.

    Example:
        >>> result({"custom_id": "a", "result": {"type": "expired"}})
        BatchResult(custom_id='a', code=None, content='the request expired')
    """
    custom_id, outcome = str(raw["custom_id"]), raw["result"]
    kind = outcome["type"]
    if kind == "succeeded":
        return BatchResult(custom_id, 200, outcome["message"])
    if kind == "errored":
        error = outcome["error"]
        inner = error.get("error") or error
        return BatchResult(custom_id, CODES.get(inner.get("type"), UNKNOWN_ERROR), error)
    if kind not in ("expired", "canceled"):
        raise ValueError(f"a result must have ended, got {kind}")
    return BatchResult(custom_id, None, f"the request {'was ' * (kind == 'canceled')}{kind}")
