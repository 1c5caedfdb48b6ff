"""From requests to what is sent, for engines whose weights are not in this process.

Where a tokenizer is at hand, prompts are rendered and tokenized here, and the key holds
the rendered text: the same request to the same weights has one key, whichever engine
answers. A model that is known only by the name that a server gives it gets messages
as they are, and the key holds those; the server applies the model's own template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from pipeline.errors import UserError
from pipeline.models.base import PLAIN, LanguageModel, Request
from pipeline.models.journal.requests import Prepared, prepare
from pipeline.models.local.chat_template import (
    context_tokens,
    load_tokenizer,
    plain_prompt,
    renders_here,
)


class Rendering:
    """How a model's prompts are rendered: by its tokenizer, plainly, or by the server.

    context_tokens: the option max_model_len, or what model and tokenizer say; None where
        only the server knows.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.here = renders_here(model)
        self.context_tokens: int | None = model.engine_options.get("max_model_len")
        if self.here and self.context_tokens is None:
            self.context_tokens = context_tokens(model, self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises UserError where there is none at hand."""
        if not self.here:
            raise UserError(
                "this needs the model's tokenizer, which only the server has",
                where=self.model.model,
                hint="give the model tokenizer: FOLDER (or the name of one on the hub)",
            )
        return load_tokenizer(self.model)

    def prepare(self, requests: Sequence[Request], identity: dict[str, Any]) -> list[Prepared]:
        """The requests, rendered and keyed."""
        tokenizer = self.tokenizer if self.here else None
        if tokenizer is None and self.model.chat_template == PLAIN:
            requests = [_plain(request) for request in requests]
        return [prepare(r, identity, tokenizer, self.context_tokens) for r in requests]


def _plain(request: Request) -> Request:
    if isinstance(request.prompt, str):
        return request
    return replace(request, prompt=plain_prompt(request.prompt))


def only_generates(model: LanguageModel) -> UserError:
    """The error of an engine that is asked for likelihoods."""
    return UserError(
        f"the engine {model.engine!r} only generates; likelihoods need the weights here",
        where=model.model,
        hint="give the stage a model with engine: transformers",
    )
