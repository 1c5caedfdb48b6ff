"""Gemini's generateContent: https://ai.google.dev/api/generate-content.

The model stands in the path, the parameters in `generationConfig`. A choice is an enumeration
(`text/x.enum`), a schema `responseJsonSchema`. How a model thinks is a further field
(`extra_body: {generationConfig: {thinkingConfig: {includeThoughts: true}}}`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from pipeline.models.api import Api
from pipeline.models.http.dialect import Dialect, merged, sampling
from pipeline.models.http.providers.unsupported import UnsupportedError
from pipeline.models.journal.requests import PreparedRequest

PROMPT_FIELDS: frozenset[str] = frozenset({"contents", "systemInstruction"})
NAMES: Final = {
    "temperature": "temperature", "top_p": "topP", "top_k": "topK", "seed": "seed",
    "stop": "stopSequences", "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}  # fmt: skip
"""What the interface calls a parameter."""


def headers(key: str | None, api: Api) -> dict[str, str]:  # noqa: ARG001
    """The headers of every request."""
    return {"x-goog-api-key": key} if key else {}


def path(prepared: PreparedRequest, name: str, dialect: Dialect) -> str:  # noqa: ARG001
    """Where a request goes, relative to the base address, with its query.

    Args:
        prepared: The request.
        name: What the server calls the model.
        dialect: How the server spells the parameters.
    """
    model = quote(name if "/" in name else f"models/{name}")
    return (
        f"{model}:streamGenerateContent?alt=sse" if dialect.stream else f"{model}:generateContent"
    )


def body(prepared: PreparedRequest, name: str, dialect: Dialect) -> dict[str, Any]:  # noqa: ARG001
    """The JSON of a request.

    Args:
        prepared: The request.
        name: What the provider calls the model; it is part of the path.
        dialect: How the server spells the parameters.

    Raises:
        UnsupportedError: The interface has nothing for a part of the request.
    """
    if isinstance(prepared.prompt, str):
        raise UnsupportedError("prompt")
    values = sampling(prepared, dialect)
    config = {NAMES[key]: value for key, value in values.items() if key in NAMES}
    config["maxOutputTokens"] = prepared.decoding.max_tokens
    if "logprobs" in values:
        config |= {"responseLogprobs": True, "logprobs": values["logprobs"]}
    if "reasoning_effort" in values:
        config["thinkingConfig"] = {"thinkingLevel": values["reasoning_effort"]}
    config |= _form(prepared, dialect)
    result: dict[str, Any] = {
        "contents": [
            {"role": "model" if role == "assistant" else "user", "parts": [{"text": text}]}
            for role, text in prepared.prompt
            if role != "system"
        ],
        "generationConfig": config,
    }
    if system := [{"text": text} for role, text in prepared.prompt if role == "system"]:
        result["systemInstruction"] = {"parts": system}
    return merged(result, dialect.api.extra_body)


def _form(prepared: PreparedRequest, dialect: Dialect) -> dict[str, Any]:
    """What restricts the answer to a form."""
    decoding = prepared.decoding
    if decoding.choice and dialect.choice_form is not None:
        choice = {"type": "STRING", "enum": list(decoding.choice)}
        return {"responseMimeType": "text/x.enum", "responseSchema": choice}
    if decoding.json_schema is None or dialect.schema_form is None:
        return {}
    config: dict[str, Any] = {"responseMimeType": "application/json"}
    if dialect.api.structured_output != "json_object":
        config["responseJsonSchema"] = json.loads(decoding.json_schema)
    return config


def assembled(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The answer in the events of a stream; None for a stream that was cut.

    Args:
        events: The data of the events: each is an answer with the next parts.
    """
    result: dict[str, Any] = {}
    candidate: dict[str, Any] = {}
    parts: list[Any] = []
    logprobs: dict[str, list[Any]] = {}
    for event in events:
        result |= {k: v for k, v in event.items() if k != "candidates"}
        for piece in event.get("candidates") or ():
            if piece.get("index"):
                continue  # another answer than the first
            candidate |= {k: v for k, v in piece.items() if k not in ("content", "logprobsResult")}
            parts += (piece.get("content") or {}).get("parts") or ()
            for name, values in (piece.get("logprobsResult") or {}).items():
                if isinstance(values, list):
                    logprobs.setdefault(name, []).extend(values)
    if not candidate:
        return result if (result.get("promptFeedback") or {}).get("blockReason") else None
    if not candidate.get("finishReason"):
        return None
    candidate["content"] = {"role": "model", "parts": parts}
    return result | {"candidates": [candidate | ({"logprobsResult": logprobs} if logprobs else {})]}
