"""How prompts become what is sent: the text and the tokens, or messages for a server.

Where a tokenizer is at hand, prompts are rendered and tokenized here, and the key
contains the rendered text: the same request to the same weights has one key, whichever
engine answers it. A model that is known only by the name that a server gives it gets
messages as they are, and the key contains those; the server applies the model's own
chat template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from pipeline.errors import UserError
from pipeline.models.base import PLAIN, LanguageModel, Request
from pipeline.models.journal.requests import PreparedRequest, prepare
from pipeline.models.local.chat_template import (
    context_tokens,
    load_tokenizer,
    plain_prompt,
    renders_here,
)


class Rendering:
    """How a model's prompts are rendered: by its tokenizer, plainly, or by the server.

    Args:
        model: The model.
        context: Tokens of the model's context, where the engine knows them already.
        tokenizer: The tokenizer, where the engine has loaded it already.

    Attributes:
        here: Whether prompts are rendered and tokenized in this process.
        context_tokens: `context`, the engine option max_model_len, or what model and
            tokenizer say; None where only the server knows.
    """

    def __init__(
        self, model: LanguageModel, context: int | None = None, tokenizer: Any = None
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self.here = renders_here(model)
        self.context_tokens: int | None = context or model.engine_options.get("max_model_len")
        if self.here and self.context_tokens is None:
            self.context_tokens = context_tokens(model, self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer with its chat template.

        Raises:
            UserError: Only the server has it.
        """
        if not self.here:
            raise UserError(
                "this needs the model's tokenizer, which only the server has",
                where=self.model.model,
                hint="give the model tokenizer: FOLDER (or a name on the hub)",
            )
        return load_tokenizer(self.model) if self._tokenizer is None else self._tokenizer

    def prepare(
        self,
        requests: Sequence[Request],
        identity: dict[str, Any],
        instead_of: Mapping[str, Any] | None = None,
    ) -> list[PreparedRequest]:
        """Render the requests and compute their keys.

        Args:
            requests: The requests of a stage.
            identity: The identity of the model.
            instead_of: That of the model in whose place it answers.
        """
        tokenizer = self.tokenizer if self.here else None
        if tokenizer is None and self.model.chat_template == PLAIN:
            requests = [_rendered_plainly(request) for request in requests]
        common = identity, tokenizer, self.context_tokens, self.model.reasoning, instead_of
        return [prepare(request, *common) for request in requests]


def _rendered_plainly(request: Request) -> Request:
    if isinstance(request.prompt, str):
        return request
    return replace(request, prompt=plain_prompt(request.prompt))
