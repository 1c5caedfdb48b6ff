"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import json
from typing import Any, Final

LAST: Final = "[DONE]"


class StreamError(Exception):
    """A stream that ends with an error of the server, or holds what is no JSON object."""


def data_events(text: str) -> list[dict[str, Any]]:
    r"""The data of a stream's events, in order; `{"done": True}` for the last one of OpenAI's.

    Args:
        text: The stream, as far as it came.

    Raises:
        StreamError: An event reports an error, or is no JSON: it may have been cut.

    Example:
        >>> data_events('event: x\ndata: {"a": 1}\n\n: comment\n\ndata: [DONE]\n\n')
        [{'a': 1}, {'done': True}]
    """
    events = []
    # Only these end a line: JSON may hold the other ones that `splitlines` knows.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    data: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            events.append(_event("\n".join(data)))
            data = []
    return events


def _event(data: str) -> dict[str, Any]:
    if data.strip() == LAST:
        return {"done": True}
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise StreamError("an event of the stream is no JSON") from None
    if not isinstance(event, dict):
        raise StreamError("an event of the stream is no JSON object")
    if event.get("type") == "error" or event.get("error"):
        error = event.get("error")
        message = error.get("message") if isinstance(error, dict) else error
        raise StreamError(f"the stream broke off: {message or json.dumps(event)}")
    return event
