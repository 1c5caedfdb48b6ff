"""OpenAI's form: chat completions for messages, completions for texts; Azure's differs in a header.

Servers of this form (vLLM, SGLang, llama.cpp, gateways) differ in what they call some
parameters and in which they take; `Dialect` says that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.models.api import Api
from pipeline.models.http.dialect import Dialect, Form, merged, sampling
from pipeline.models.journal.requests import PreparedRequest

PROMPT_FIELDS: frozenset[str] = frozenset({"messages", "prompt"})
TEXT_FIELDS: Final = ("content", "reasoning_content", "reasoning", "refusal")
"""Fields of a message whose pieces are joined."""
PIECES: Final = ("text", "thinking", "summary", "reasoning", "refusal", "data", "signature")
"""Fields of a content's part whose pieces are joined."""
DONE: Final = {"done": True}
"""What stands for the last event of a stream, `data: [DONE]`."""


def headers(key: str | None, api: Api) -> dict[str, str]:
    """The headers of every request."""
    if key is None:
        return {}
    return {"api-key": key} if api.provider == "azure" else {"Authorization": f"Bearer {key}"}


def path(prepared: PreparedRequest, name: str, dialect: Dialect) -> str:  # noqa: ARG001
    """Where a request goes, relative to the base address, with its query.

    Args:
        prepared: The request.
        name: What the server calls the model.
        dialect: How the server spells the parameters.
    """
    end = "completions" if isinstance(prepared.prompt, str) else "chat/completions"
    version = dialect.api.version
    return end if version is None else f"{end}?api-version={version}"


def body(prepared: PreparedRequest, name: str, dialect: Dialect) -> dict[str, Any]:
    """The JSON of a request.

    Args:
        prepared: The request.
        name: What the server calls the model.
        dialect: How the server spells the parameters.
    """
    decoding, api = prepared.decoding, dialect.api
    values = sampling(prepared, dialect)
    logprobs = values.pop("logprobs", 0)
    result: dict[str, Any] = {"model": name}
    if isinstance(prepared.prompt, str):
        result["max_tokens"] = decoding.max_tokens
        result["prompt"] = list(prepared.tokens) or prepared.prompt
        result |= {"logprobs": logprobs} if logprobs else {}
        if prepared.stop_tokens and "stop" not in dialect.omitted:
            # Servers search their texts for stops, and leave control tokens out of these.
            result["stop_token_ids"] = list(prepared.stop_tokens)
    else:
        result[dialect.max_tokens_field] = decoding.max_tokens
        result["messages"] = [{"role": r, "content": text} for r, text in prepared.prompt]
        result |= {"logprobs": True, "top_logprobs": logprobs} if logprobs else {}
        if api.chat_template_kwargs:
            result["chat_template_kwargs"] = dict(api.chat_template_kwargs)
    result |= values
    if decoding.choice and dialect.choice_form is not None:
        result |= _choice(dialect.choice_form, decoding.choice)
    if decoding.json_schema is not None and dialect.schema_form is not None:
        result |= _schema(dialect.schema_form, json.loads(decoding.json_schema))
    if dialect.stream:
        result["stream"] = True
        if "stream_options" not in dialect.omitted:
            result["stream_options"] = {"include_usage": True}
    return merged(result, api.extra_body) if api.extra_body else result


def _choice(form: Form, choice: tuple[str, ...]) -> dict[str, Any]:
    if form == "structured_outputs":
        return {"structured_outputs": {"choice": list(choice)}}
    # A JSON schema would make the answer a text in quotes, so it is not asked to restrict it.
    return {"guided_choice": list(choice)} if form == "guided" else {}


def _schema(form: Form, schema: Any) -> dict[str, Any]:
    if form == "structured_outputs":
        return {"structured_outputs": {"json": schema}}
    if form == "guided":
        return {"guided_json": schema}
    if form == "json_object":
        return {"response_format": {"type": "json_object"}}
    json_schema = {"name": "answer", "schema": schema, "strict": form == "response_format"}
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


def assembled(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The answer in the events of a stream; None for a stream that was cut.

    A stream that ends with `[DONE]` is whole, also without a finish reason: the server has said
    all that it wanted to say, and such an answer counts as complete. One that ends without either
    was cut on the way.

    Args:
        events: The data of the events, `DONE` for the last one.
    """
    result: dict[str, Any] = {}
    choice: dict[str, Any] = {"index": 0, "finish_reason": None}
    ended = False
    for event in events:
        if event == DONE:
            ended = True
            continue
        result |= {k: v for k, v in event.items() if k != "choices" and v is not None}
        for piece in event.get("choices") or ():
            if not piece.get("index"):  # not another answer than the first
                _add(choice, piece)
    if not (ended or choice["finish_reason"]) or not (choice.keys() & {"message", "text"}):
        return None
    result["object"] = str(result.get("object", "")).removesuffix(".chunk")
    return result | {"choices": [choice]}


def joined(parts: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    """Parts of a content with those of a stream's next piece, which go on where these end.

    Args:
        parts: The parts so far.
        more: The next ones.

    Example:
        >>> text = {"type": "text", "text": "Let"}
        >>> joined([text], [{"type": "text", "text": " us"}, {"type": "refusal", "refusal": "No"}])
        [{'type': 'text', 'text': 'Let us'}, {'type': 'refusal', 'refusal': 'No'}]
        >>> thinking = {"type": "thinking", "thinking": [text]}
        >>> joined([thinking], [{"type": "thinking", "thinking": [{"type": "text", "text": "?"}]}])
        [{'type': 'thinking', 'thinking': [{'type': 'text', 'text': 'Let?'}]}]
    """
    result = [*parts]
    for part in more:
        last = result[-1] if result else None
        same = (
            isinstance(part, Mapping)
            and isinstance(last, Mapping)
            and all(part.get(name) == last.get(name) for name in ("type", "index", "id"))
        )
        if not same:
            result.append(part)
            continue
        merged_part = dict(last or {})
        for name, value in part.items():
            earlier = merged_part.get(name)
            if name in PIECES and isinstance(value, str) and isinstance(earlier, str):
                merged_part[name] = earlier + value
            elif isinstance(value, list) and isinstance(earlier, list):
                merged_part[name] = joined(earlier, value)
            else:
                merged_part[name] = value
        result[-1] = merged_part
    return result


def _add(choice: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add one event's piece to a choice."""
    delta = piece.get("delta")
    if delta is not None:
        message = choice.setdefault("message", {"role": "assistant", "content": None})
        for name, value in delta.items():
            if name in TEXT_FIELDS and isinstance(value, str):
                before = message.get(name) or ""
                parts = [{"type": "text", "text": value}] if value else []
                message[name] = before + value if isinstance(before, str) else joined(before, parts)
            elif isinstance(value, list):
                before = message.get(name) or []
                parts = [{"type": "text", "text": before}] if isinstance(before, str) else before
                message[name] = joined(parts, value)
    if piece.get("text") is not None:
        choice["text"] = choice.get("text", "") + piece["text"]
    for name, values in (piece.get("logprobs") or {}).items():
        if isinstance(values, list):
            logprobs = choice.setdefault("logprobs", {})
            logprobs[name] = [*(logprobs.get(name) or ()), *values]
    if piece.get("finish_reason"):
        choice["finish_reason"] = piece["finish_reason"]
