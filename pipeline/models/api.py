"""How a served model is reached and spoken to: its provider, its parameters, its limits.

Nothing here belongs to a request's key, which is what a stage asks: how a server spells that
is stored beside the answer. Only what is sent on top of it (`Api.extra_body`,
`Api.chat_template_kwargs`) may change answers, and is part of the model's identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import GetPydanticSchema
from pydantic_core.core_schema import no_info_wrap_validator_function

from pipeline.types import Count, Duration, Wait
from schemas.reasoning import Mark

Parameter = Literal[
    "temperature", "top_p", "top_k", "seed", "stop", "presence_penalty", "frequency_penalty",
    "logprobs", "reasoning_effort",
]  # fmt: skip
"""Parameters of a request that a server may not take."""

ACCOUNTING_FIELDS: Final = frozenset({
    "cache_salt", "metadata", "priority", "prompt_cache_key", "prompt_cache_retention",
    "request_id", "safety_identifier", "service_tier", "store", "user",
})  # fmt: skip
"""Fields of a request's body that say how it is run and billed; no answer depends on them."""

UNRECORDED: Final = "the journal has no answer that was sampled anew"
"""The error of a replay for a request that an earlier run had no reason to send."""


@dataclass(frozen=True)
class Limits:
    """How fast requests are sent to a server. Execution only: no answer depends on it.

    Args:
        concurrency: Most requests in flight. How many there really are adapts to the
            server (see `pipeline.models.http.rate_limit`).
        requests_per_minute: Cap on requests; None for no cap.
        tokens_per_minute: Cap on tokens, where a request counts with its prompt and its
            longest answer; None for no cap.
        timeout: Seconds for one attempt.
        attempts: How often a request is tried before its row fails.
        patience: Seconds without any answer after which nothing more is sent. A server
            that asks to wait longer than that is not waited for.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    concurrency: int = 256
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 600.0
    attempts: int = 8
    patience: float = 300.0


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True)
class Batching:
    """How requests go to a provider's batches. Execution only: no answer depends on it.

    Args:
        wait: How long a stage waits for its batches before the run ends with exit code 6, to be
            started again later: true for as long as it takes, false for not at all, or a time
            such as "2h".
        poll: The longest time between two questions how far a batch is, such as "60s".
        max_requests: Most requests of a batch; null for the provider's own limit.
        max_bytes: Most bytes of a batch, likewise.
        completion_window: Within which time OpenAI's form asks for the answers: "24h", or what
            else a provider offers.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    wait: Wait = True
    poll: Duration = 60.0
    max_requests: Count | None = None
    max_bytes: Count | None = None
    completion_window: str = "24h"


def _switch_or_options(value: Any, options: Callable[[Any], Any]) -> Any:
    return value if isinstance(value, bool) else options(value)


BatchOption = Annotated[
    bool | Batching,
    GetPydanticSchema(
        lambda _, handler: no_info_wrap_validator_function(_switch_or_options, handler(Batching))
    ),
]
"""True, false, or the options: one type to pydantic, whose errors then name the wrong option."""


@dataclass(frozen=True)
class Reasoning:
    """How a model reasons before it answers. Reasoning is parted from every answer.

    The marks of known models (`<think>`, `[THINK]`, gpt-oss' channels) and the fields of
    servers (`reasoning_content`, `reasoning`, thinking parts) are read without any of this.

    Args:
        marks: Further texts that open and close reasoning, such as [["<plan>", "</plan>"]].
        opened: Whether the template of a server opens the first mark in the prompt: an answer
            that does not close it is then reasoning without an end. Where prompts are
            rendered here, that is seen.
        max_tokens: Room for reasoning: tokens that every request may use beyond those of its
            answer.
        effort: What is sent to the server as `reasoning_effort`, such as "low"; null for nothing.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    marks: tuple[Mark, ...] = ()
    opened: bool = False
    max_tokens: int = 0
    effort: str | None = None


DEFAULT_REASONING: Final = Reasoning()
"""How a model reasons of which a recipe says nothing."""


@dataclass(frozen=True)
class Api:
    """Which interface a server has, and which parameters of a request it takes.

    Args:
        provider: Whose interface it is. `openai`: chat completions and completions, as most
            servers have them. `azure`: the same with Azure's header for the key. `anthropic`:
            messages. `gemini`: generateContent.
        dialect: `auto` learns from a refusal which parameters the server does not take, and
            sends them in another spelling where that means the same; `fixed` does not.
        max_tokens_field: What OpenAI's form calls the limit of an answer; null for
            `max_tokens`, until the server refuses it.
        structured_output: How OpenAI's form asks for an answer of a form. `response_format`:
            a strict JSON schema there; `lenient_response_format`: one that is not strict;
            `json_object`: JSON of any schema; `structured_outputs` and `guided`: vLLM's own, of
            today and of before 0.11. Null: `response_format` for schemas, `structured_outputs`
            for choices, until the server refuses them.
        omit: Parameters that are never sent, though a stage asks for them: the server's own
            values are used.
        extra_body: Further fields of every request's body, merged into it.
        chat_template_kwargs: Variables of the chat template that the server renders with,
            such as {enable_thinking: false}.
        headers: Further headers, each with the NAME of the environment variable that holds
            its value.
        version: The version of the interface: the query `api-version` of `openai` and
            `azure`, the header `anthropic-version`.
        stream: Whether answers are streamed. They are stored like any other.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    provider: Literal["openai", "azure", "anthropic", "gemini"] = "openai"
    dialect: Literal["auto", "fixed"] = "auto"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    structured_output: (
        Literal[
            "response_format", "lenient_response_format", "json_object",
            "structured_outputs", "guided",
        ]
        | None
    ) = None  # fmt: skip
    omit: tuple[Parameter, ...] = ()
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    version: str | None = None
    stream: bool = False

    def identity(self) -> dict[str, Any]:
        """What of it may change an answer; empty where nothing does.

        Example:
            >>> Api(extra_body={"service_tier": "flex"}, stream=True).identity()
            {}
            >>> Api(chat_template_kwargs={"enable_thinking": False}).identity()
            {'chat_template_kwargs': {'enable_thinking': False}}
        """
        extra = {k: v for k, v in self.extra_body.items() if k not in ACCOUNTING_FIELDS}
        parts = {"extra_body": extra, "chat_template_kwargs": dict(self.chat_template_kwargs)}
        return {name: value for name, value in parts.items() if value}


PLAIN_API: Final = Api()
"""An OpenAI-compatible server of which a recipe says nothing more."""
