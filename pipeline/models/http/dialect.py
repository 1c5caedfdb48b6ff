"""How one server spells a request: what the recipe says, and what its refusals taught.

A stage asks for an answer in one form (`Decoding`), and that is the key. What a server
calls the same thing, and which part of it it does not take, is learned from its first
refusal and holds for all requests to that model of that server in this process. Only a
spelling that means the same is learned: the other name of the token limit, no seed (the
sampling stays random, and the journal is the truth), another form of structured output or
none (the answer is checked either way), a temperature of 1 left out (it is the default).
Everything else is the user's decision, so a refusal of it stops the stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pipeline.models.api import Api
from pipeline.models.base import Decoding, LanguageModel
from pipeline.models.journal.requests import PreparedRequest

Form = Literal[
    "response_format", "lenient_response_format", "json_object", "structured_outputs", "guided"
]
"""How structured output is requested; see `Api.structured_output`."""

FALLBACKS: Final[Mapping[Form, Form | None]] = {
    "response_format": "lenient_response_format",
    "lenient_response_format": "json_object",
    "json_object": None,
    "structured_outputs": "guided",
    "guided": None,
}
"""The form that is tried after a refused one; None sends the request without any."""

OPENAI: Final = frozenset({"openai", "azure"})
"""Providers with OpenAI's form of a request."""

DEFAULT_TEMPERATURE: Final = 1.0
"""The temperature of a request that names none, in every interface with a documented default."""


@dataclass
class Dialect:
    """The spelling of requests to one model of one server.

    Args:
        api: What the recipe says.
        schema_form: How a JSON schema is requested; None for not at all.
        choice_form: How a choice is requested; None for not at all.
        max_tokens_field: What OpenAI's form calls the limit of an answer.
        omitted: Parameters that are not sent.
        stream: Whether answers are streamed.
        default_temperature: Whether a temperature of 1 is sent.

    Attributes:
        plain: Whether requests are spelled as OpenAI's form has them.
    """

    api: Api
    schema_form: Form | None
    choice_form: Form | None
    max_tokens_field: str
    omitted: set[str]
    stream: bool
    default_temperature: bool = True
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        api = self.api
        self.plain = not (
            api.provider not in OPENAI
            or self.omitted or self.stream or api.extra_body or api.chat_template_kwargs
            or api.structured_output or self.max_tokens_field != "max_tokens"
        )  # fmt: skip

    @classmethod
    def of(cls, model: LanguageModel) -> Dialect:
        """The spelling before anything is learned."""
        api = model.api
        return cls(
            api=api,
            schema_form=(api.structured_output or "response_format") if model.guided else None,
            choice_form=(api.structured_output or "structured_outputs") if model.guided else None,
            max_tokens_field=api.max_tokens_field or "max_tokens",
            omitted=set(api.omit),
            stream=api.stream,
        )

    def learn(self, parameter: str, decoding: Decoding) -> str | None:
        """Spell what the server refused in another form, from now on.

        Args:
            parameter: What it refused, by its name here; see `refusals.PARAMETERS`.
            decoding: What the refused request asked for.

        Returns:
            What is different now, for people; None where no spelling means the same.
        """
        if self.api.dialect == "fixed":
            return None
        note = self._learn(parameter, decoding)
        if note is not None:
            self.plain = False
        return note

    def _learn(self, parameter: str, decoding: Decoding) -> str | None:
        if parameter == "max_tokens" and self._may_rename_limit:
            self.max_tokens_field = "max_completion_tokens"
            return "takes max_completion_tokens instead of max_tokens"
        if parameter in ("seed", "stream_options") and parameter not in self.omitted:
            self.omitted.add(parameter)
            return f"takes no {parameter}: it is left out"
        if parameter == "stream" and not self.stream:
            self.stream = True
            return "only streams: answers are streamed"
        if parameter == "temperature" and decoding.temperature == DEFAULT_TEMPERATURE:
            if self.default_temperature:
                self.default_temperature = False
                return "takes no temperature: one of 1, the default, is left out"
        elif parameter == "structured_output":
            return self._weaken(decoding)
        return None

    @property
    def _may_rename_limit(self) -> bool:
        return self.api.max_tokens_field is None and self.max_tokens_field == "max_tokens"

    def _weaken(self, decoding: Decoding) -> str | None:
        """Request an answer of a form in the next spelling, or not at all: it is checked anyway."""
        kind: Literal["choice", "schema"] = "choice" if decoding.choice else "schema"
        form = self.choice_form if kind == "choice" else self.schema_form
        if form is None or self.api.structured_output is not None:
            return None
        other = FALLBACKS[form] if self.api.provider in OPENAI else None
        if kind == "choice":
            self.choice_form = other
        else:
            self.schema_form = other
        refused = form if self.api.provider in OPENAI else "structured output"
        consequence = f"{other} is sent" if other else "answers are checked, and not restricted"
        return f"takes no {refused} for a {kind}: {consequence}"


def sampling(prepared: PreparedRequest, dialect: Dialect) -> dict[str, Any]:
    """The parameters of a request that are sent, by their names here; defaults are left out.

    Args:
        prepared: The request.
        dialect: How the server spells them.
    """
    decoding = prepared.decoding
    values: dict[str, Any] = {"temperature": decoding.temperature, "seed": prepared.seed}
    if decoding.top_p != 1:
        values["top_p"] = decoding.top_p
    for option in ("presence_penalty", "frequency_penalty", "top_k", "logprobs"):
        if value := getattr(decoding, option):
            values[option] = value
    if decoding.stop:
        values["stop"] = list(decoding.stop)
    if decoding.reasoning_effort is not None:
        values["reasoning_effort"] = decoding.reasoning_effort
    if not dialect.default_temperature and decoding.temperature == DEFAULT_TEMPERATURE:
        del values["temperature"]
    for name in dialect.omitted:
        values.pop(name, None)
    return values


def merged(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A body with further fields; mappings within it are merged, other values replaced.

    Example:
        >>> merged({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}})
        {'a': 1, 'b': {'c': 2, 'd': 3}}
    """
    result = dict(body)
    for name, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result
