"""Anthropic's messages: https://platform.claude.com/docs/en/api/messages.

The system prompt is a field of its own. There is no seed, which is left out; penalties and
log-probabilities do not exist, so a request with them is refused here. A schema goes into
`output_config`; a choice is checked, and not restricted. How a model thinks is a further field
(`extra_body: {thinking: {type: adaptive}}`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.models.api import Api
from pipeline.models.http.dialect import DEFAULT_TEMPERATURE, Dialect, merged, sampling
from pipeline.models.http.providers.unsupported import UnsupportedError
from pipeline.models.journal.requests import PreparedRequest

PROMPT_FIELDS: frozenset[str] = frozenset({"messages", "system"})
VERSION: Final = "2023-06-01"
"""The version of the interface; newer features have headers of their own (anthropic-beta)."""
NAMES: Final = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "stop": "stop_sequences",
}  # fmt: skip
"""What the interface calls a parameter."""
PIECES: Final = {
    "text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature",
}  # fmt: skip
"""The text in a piece of a content block, by the type of the piece."""


def headers(key: str | None, api: Api) -> dict[str, str]:
    """The headers of every request."""
    return {"anthropic-version": api.version or VERSION} | ({"x-api-key": key} if key else {})


def path(prepared: PreparedRequest, name: str, dialect: Dialect) -> str:  # noqa: ARG001
    """Where a request goes, relative to the base address.

    Args:
        prepared: The request.
        name: What the server calls the model.
        dialect: How the server spells the parameters.
    """
    return "messages"


def body(prepared: PreparedRequest, name: str, dialect: Dialect) -> dict[str, Any]:
    """The JSON of a request.

    Args:
        prepared: The request.
        name: What the provider calls the model.
        dialect: How the server spells the parameters.

    Raises:
        UnsupportedError: The interface has nothing for a part of the request.
    """
    if isinstance(prepared.prompt, str):
        raise UnsupportedError("prompt")
    decoding, values = prepared.decoding, sampling(prepared, dialect)
    for parameter in ("presence_penalty", "frequency_penalty", "logprobs"):
        if parameter in values:
            raise UnsupportedError(parameter)
    if values.get("temperature") == DEFAULT_TEMPERATURE:
        del values["temperature"]  # newer models take no field of that name
    turns = [{"role": r, "content": text} for r, text in prepared.prompt if r != "system"]
    result: dict[str, Any] = {"model": name, "max_tokens": decoding.max_tokens, "messages": turns}
    if system := [text for role, text in prepared.prompt if role == "system"]:
        result["system"] = "\n\n".join(system)
    result |= {NAMES[key]: value for key, value in values.items() if key in NAMES}
    if decoding.json_schema is not None and dialect.schema_form is not None:
        schema = json.loads(decoding.json_schema)
        result["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if "reasoning_effort" in values:
        effort = {"effort": values["reasoning_effort"]}
        result["output_config"] = result.get("output_config", {}) | effort
    if dialect.stream:
        result["stream"] = True
    return merged(result, dialect.api.extra_body)


def assembled(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The answer in the events of a stream; None for a stream that was cut.

    Args:
        events: The data of the events.
    """
    message: dict[str, Any] | None = None
    blocks: dict[int, dict[str, Any]] = {}
    ended = False
    for event in events:
        kind = event.get("type")
        if kind == "message_start":
            message = dict(event["message"])
        elif kind == "content_block_start":
            blocks[event["index"]] = dict(event["content_block"])
        elif kind == "content_block_delta":
            _add(blocks[event["index"]], event["delta"])
        elif kind == "message_delta" and message is not None:
            message |= event.get("delta") or {}
            message["usage"] = (message.get("usage") or {}) | (event.get("usage") or {})
        ended = ended or kind == "message_stop"
    if message is None or not ended:
        return None
    return message | {"content": [blocks[index] for index in sorted(blocks)]}


def _add(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add one event's piece to a content block."""
    name = PIECES.get(str(delta.get("type")))
    if name is not None:
        block[name] = (block.get(name) or "") + delta[name]
