"""OpenAI's batches: https://platform.openai.com/docs/api-reference/batch.

The requests are a JSON Lines file, uploaded with `purpose: batch`, out of which a batch is
created. What was answered is in its output file, what was refused or expired in its error file;
both are in any order. Our tag is in its metadata, and the file is named in it as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from pipeline.models.http.batches import (
    BatchProblem,
    BatchResult,
    BatchState,
    count,
    moment,
    name,
)

MAX_REQUESTS: int = 50_000
MAX_BYTES: int = 200_000_000
TAKES_FILES: bool = True
KEEPS_TAGS: bool = True
AROUND: tuple[bytes, bytes, bytes] = (b"", b"\n", b"\n")
PAGE: Final = 100
TAG_FIELD: Final = "gristmill"
ENDED: Final = frozenset({"failed", "completed", "expired", "cancelled"})


def line(custom_id: str, path: str, body: Mapping[str, Any]) -> bytes:
    """One line of the file.

    Args:
        custom_id: Our name of it.
        path: Where it would go by itself.
        body: What would be sent.
    """
    url = _endpoint(path)
    fields = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(fields).encode()


def submission(tag: str, file: str, path: str, window: str) -> dict[str, Any]:
    """What creates a batch.

    Args:
        tag: Our own name of it.
        file: The file.
        path: Where its requests would go by themselves.
        window: See `Batching.completion_window`.
    """
    return {
        "input_file_id": file,
        "endpoint": _endpoint(path),
        "completion_window": window,
        "metadata": {TAG_FIELD: tag},
    }


def _endpoint(path: str) -> str:
    return "/v1/" + path.partition("?")[0]


def address(id: str = "") -> str:
    """The path of all batches, or of one."""
    return f"batches/{quote(id, safe='')}" if id else "batches"


def listing(after: str | None) -> str:
    """The path of the newest batches, or of those after one."""
    return f"batches?limit={PAGE}" + (f"&after={quote(after, safe='')}" if after else "")


def state(raw: Any) -> BatchState:
    """What the provider says of a batch; see `BatchInterface`."""
    counts, status = raw.get("request_counts") or {}, name(raw["status"])
    files = [raw.get("output_file_id"), raw.get("error_file_id")]
    errors = (raw.get("errors") or {}).get("data") or ()
    return BatchState(
        id=name(raw["id"]),
        status=status,
        ended=status in ENDED,
        refused=status == "failed",
        requests=count(counts.get("total")),
        answered=count(counts.get("completed")),
        failed=count(counts.get("failed")),
        created=moment(raw.get("created_at")),
        results=tuple(f"files/{quote(str(file), safe='')}/content" for file in files if file),
        problems=tuple(_problem(error) for error in errors),
        tag=(raw.get("metadata") or {}).get(TAG_FIELD),
        file=raw.get("input_file_id"),
    )


def _problem(error: Mapping[str, Any]) -> BatchProblem:
    number = error.get("line")
    is_line = isinstance(number, int) and not isinstance(number, bool)
    message = str(error.get("message") or error.get("code"))
    return BatchProblem(str(error.get("code")), message, number if is_line else None)


def result(raw: Any) -> BatchResult:
    """One line of the output file or of the error file.

    Example:
        >>> error = {"code": "batch_expired", "message": "It could not be executed in time."}
        >>> result({"custom_id": "a", "response": None, "error": error})
        BatchResult(custom_id='a', code=None, content='It could not be executed in time.')
    """
    response = raw.get("response")
    if response is None:
        error = raw["error"]
        return BatchResult(str(raw["custom_id"]), None, str(error.get("message") or error["code"]))
    return BatchResult(str(raw["custom_id"]), int(response["status_code"]), response["body"])
