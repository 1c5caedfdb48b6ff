"""What a refused request (400, 422) says: which parameter, or which text, it is about.

Servers answer in several forms: OpenAI's (`error.param`, `error.code`), pydantic's list of
`loc` and `msg`, Google's status, or a sentence. A parameter is only read where the answer
also says that it is not supported: a limit that is too large names it as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.errors import UserError
from pipeline.models.api import Parameter

REFUSED: Final = frozenset({400, 422})
"""Status codes of a request that the server understands and does not take."""

PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "max_tokens": ("max_tokens", "max_completion_tokens"),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "seed": ("seed", "random_seed"),
    "stop": ("stop", "stop_sequences"),
    "presence_penalty": ("presence_penalty",),
    "frequency_penalty": ("frequency_penalty",),
    "logprobs": ("logprobs", "top_logprobs", "response_logprobs"),
    "reasoning_effort": (
        "reasoning_effort", "reasoning", "effort", "thinking_config", "thinking_level", "thinking",
    ),
    "structured_output": (
        "response_format", "structured_outputs", "guided_choice", "guided_json", "output_config",
        "response_schema", "response_json_schema", "response_mime_type", "json_schema", "json mode",
    ),
    "stream": ("stream",),
    "stream_options": ("stream_options",),
    "chat_template_kwargs": ("chat_template_kwargs",),
}  # fmt: skip
"""What servers call the parameters of a request, in lower case with underscores."""
HINTS: Final[Mapping[str, str]] = {
    "max_tokens": "set api: {max_tokens_field: max_tokens} or max_completion_tokens in the model",
    "temperature": "set temperature: 1 in the stage, or api: {omit: [temperature]} in the model "
    "for the server's own",
    "structured_output": "set guided: false in the model: answers are checked, and not restricted",
    "stream": "set api: {stream: false} in the model",
    "stream_options": "set api: {stream: false} in the model",
    "chat_template_kwargs": "leave api: {chat_template_kwargs: ...} out of the model",
    "logprobs": "set api: {omit: [logprobs]} in the model to read labels in the text of answers, "
    "or choose a method of the stage that needs no log-probabilities",
    "prompt": "name a stage that asks in messages: leave tokenizer and chat_template out of the "
    "model, or name a server that continues texts",
}
"""What to set where a server does not take a parameter; `omit` for the others."""

_OMITTABLE: Final = frozenset(Parameter.__args__)  # type: ignore[attr-defined]
_COMMON: Final = frozenset({"seed", "stop", "stream", "effort", "thinking", "reasoning"})
"""Names that are words as well: they count where something marks them as a name."""
_CODES: Final = frozenset(
    {"unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden"}
)
_UNSUPPORTED: Final = re.compile(
    r"unsupported|not (?:yet )?(?:supported|permitted|allowed|enabled|available|recogni[sz]ed)"
    r"|(?:does not|doesn't|only) support|unrecogni[sz]ed|unknown|extra (?:inputs|fields)"
    r"|unexpected|unavailable|deprecated|cannot both|cannot find field|enable the"
    r"|incompatible|must be (?:set to )?true|invalid schema|must contain the word",
    re.IGNORECASE,
)
_ABOUT_TEXT: Final = re.compile(
    r"context.?(?:length|window|size)|too (?:long|many (?:input )?tokens)|reduce (?:the|your)"
    r"|content.?(?:filter|policy|management|moderation)|moderation|flagged|safety|harmful"
    r"|inappropriate|sensitive|(?:exists|content) risk|string_above_max_length"
    r"|maximum (?:prompt|input)|data_inspection",
    re.IGNORECASE,
)
_KEY: Final = re.compile(
    r"api.?key.{0,20}(?:not valid|invalid|expired)|invalid.{0,10}api.?key", re.IGNORECASE
)
_LOC: Final = re.compile(r"'loc': \('body', ([^)]*)\)")
_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_VARYING: Final = re.compile(r"\(?\brequest.?id\W+[\w-]+\)?|\b(?:req|chatcmpl)[_-]\w+|\d+", re.I)
MAX_NAMED: Final = 600
"""Characters of a message in which a parameter is looked for: what follows may be the request."""


@dataclass(frozen=True)
class Refusal:
    """A refused request.

    Args:
        message: What the server says, on one line.
        parameter: The parameter that the server does not take; None where it is not about one.
        about_text: Whether it is about the text of this request: its length, its content.
        about_key: Whether it is about the key: it holds for all requests.
    """

    message: str
    parameter: str | None
    about_text: bool
    about_key: bool

    @classmethod
    def of(cls, content: Any, message: str, sent: Collection[str]) -> Refusal:
        """What a refusal is about.

        Args:
            content: The body, parsed; the text where it is no JSON.
            message: Its message; see `error_message`.
            sent: The parameters of the request, by their names in `PARAMETERS`.

        Example:
            >>> error = {"message": "Unknown parameter: 'seed'.", "param": "seed"}
            >>> Refusal.of({"error": error}, error["message"], {"seed"}).parameter
            'seed'
        """
        code, param = _code_and_param(content)
        about_text = _ABOUT_TEXT.search(f"{code} {message}") is not None
        parameter = None
        if not about_text and (code in _CODES or _UNSUPPORTED.search(message)):
            named = param and _first_named(param, sent)
            parameter = named or _first_named(message[:MAX_NAMED], sent)
        return cls(message, parameter, about_text, _KEY.search(message) is not None)

    @property
    def kind(self) -> str:
        """The message without what differs from request to request."""
        return _VARYING.sub("#", self.message)


def hint_for(parameter: str | None) -> str:
    """What to set where a server does not take a parameter, or refuses all requests."""
    if parameter in _OMITTABLE - HINTS.keys():
        return f"set api: {{omit: [{parameter}]}} in the model for the server's own"
    default = "fix the options of the model (api: ...) or of the stage that the message names"
    return HINTS.get(parameter or "", default)


def unsupported(parameter: str, where: str, why: str | None) -> UserError:
    """The error for a parameter that a server does not take, and that cannot be left out unsaid.

    Args:
        parameter: The parameter, by its name in `PARAMETERS`; "prompt" for a plain text.
        where: The server.
        why: What it says.
    """
    what = "plain texts" if parameter == "prompt" else parameter.replace("_", " ")
    return UserError(
        f"the server must take what the stage asks for, and does not take {what}",
        where=where,
        why=why,
        hint=hint_for(parameter),
    )


def parameters_in(body: Mapping[str, Any], prompt_fields: Collection[str]) -> set[str]:
    """The parameters that a request's body has, by their names in `PARAMETERS`.

    Args:
        body: The body.
        prompt_fields: Its fields that hold the prompt.
    """
    names = {_snake(name) for name in _names(body, prompt_fields)}
    return {p for p, spellings in PARAMETERS.items() if not names.isdisjoint(spellings)}


def _names(body: Mapping[str, Any], skipped: Collection[str]) -> Iterator[str]:
    """The names of a body's fields, and of those of mappings that hold parameters."""
    for name, value in body.items():
        if name not in skipped:
            yield name
            if name in ("generationConfig", "output_config") and isinstance(value, Mapping):
                yield from _names(value, ())


def error_message(content: Any) -> str:
    """The message in the parsed body of an error, or the body itself.

    Example:
        >>> error_message({"error": {"message": "too long"}})
        'too long'
        >>> error_message({"detail": [{"loc": ["body", "seed"], "msg": "unknown", "input": 1}]})
        'seed: unknown'
    """
    if isinstance(content, list) and len(content) == 1:
        content = content[0]  # Google's compatible interface
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return str(error or json.dumps(content, ensure_ascii=False))
    message: Any = error.get("message") or error.get("detail")
    if isinstance(message, dict):
        message = message.get("detail") or message
    if isinstance(message, list) and (details := [*_details(message)]):
        return "; ".join(details)
    if isinstance(message, dict | list):
        return json.dumps(message, ensure_ascii=False)
    return str(message or json.dumps(content, ensure_ascii=False))


def _details(entries: list[Any]) -> Iterator[str]:
    """The lines of pydantic's list of errors, without the input that it repeats."""
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("loc"), list):
            loc = ".".join(str(part) for part in entry["loc"] if part != "body")
            yield f"{loc}: {entry.get('msg')}"


def _code_and_param(content: Any) -> tuple[str, str | None]:
    """The code and the parameter that an error in OpenAI's form has; pydantic's in a message."""
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return "", None
    param, message = error.get("param"), error.get("message")
    if isinstance(message, str) and (locations := _LOC.findall(message[:MAX_NAMED])):
        return str(error.get("code")), ", ".join(locations)
    return str(error.get("code")), param if isinstance(param, str) and param else None


def _first_named(text: str, sent: Collection[str]) -> str | None:
    """The parameter of those sent that a text names first."""
    normal = _snake(text)
    positions = [
        (match.start(), -len(spelling), parameter)
        for parameter in sent
        for spelling in PARAMETERS.get(parameter, ())
        if (match := _name_pattern(spelling).search(normal)) is not None
    ]
    return min(positions)[2] if positions else None


def _name_pattern(name: str) -> re.Pattern[str]:
    word = rf"(?<!\w){re.escape(name)}(?!\w)"
    if name not in _COMMON:
        return re.compile(word)
    before = r"(?:^|[`'\"“(\[./]|(?:supplied|parameter|argument|field|name|property|enable the):? )"
    after = r"(?=[`'\"”)\]:=]|$| (?:is|are|parameter|mode|must|does)\b)"
    return re.compile(rf"{before}{word}|{word}{after}")


def _snake(text: str) -> str:
    return _CAMEL.sub("_", text).lower()


FIRST: Final = 8
"""Refusals after which a stage stops, if all its requests so far were refused alike."""


@dataclass
class History:
    """How a server answered one stage so far: whether it refuses all requests alike.

    Args:
        answered: Whether it answered any, or refused two in different ways.
        refused: How often it refused.
        kind: How it did.
        accepted: The fields of the bodies that it answered.
        sent: What was sent beside a prompt, by the request's key, where that is not the
            plain spelling of the request.
    """

    answered: bool = False
    refused: int = 0
    kind: str = ""
    accepted: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)

    @property
    def accepted_parameters(self) -> set[str]:
        """The parameters that it took, by their names in `PARAMETERS`."""
        return parameters_in(dict.fromkeys(self.accepted), ()) | (self.accepted & PARAMETERS.keys())

    def add(self, refusal: Refusal) -> bool:
        """Count a refusal; whether all other requests will get it as well.

        A refusal of one text says nothing about the others.
        """
        if self.answered or refusal.about_text:
            return False
        self.answered = bool(self.refused) and refusal.kind != self.kind
        self.kind = refusal.kind
        self.refused += 1
        return not self.answered and self.refused >= FIRST
