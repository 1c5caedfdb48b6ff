"""The engine that has only the journal: what is not in it is an error that names the request.

Whoever is handed a journal rebuilds the data set with it, without weights and without
a server. Prompts are rendered as by the engine that asked, so a model whose prompts
were rendered here needs its tokenizer again (not its weights, if it has an `id`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError, program
from pipeline.models.base import Completion, LanguageModel, Request, Scored
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import Batch, Gate, Prepared, complete
from pipeline.models.local.rendering import Rendering, only_generates

SHOWN: Final = 200
"""Characters of a missing request that its error shows."""


class Replay:
    """What is needed to render prompts as they were rendered. There is nothing else to load."""

    process = False

    def __init__(self, model: LanguageModel) -> None:
        self.rendering = Rendering(model)

    def bind(self, model: LanguageModel, identity: dict[str, Any], ctx: Context) -> ReplayEngine:
        return ReplayEngine(self.rendering, model, identity, ctx)

    def close(self) -> None:
        """Nothing is running."""


class ReplayEngine:
    """A model's answers as one stage sees them."""

    def __init__(
        self, rendering: Rendering, model: LanguageModel, identity: dict[str, Any], ctx: Context
    ) -> None:
        self._rendering, self._model = rendering, model
        self._identity, self._ctx = identity, ctx

    @property
    def tokenizer(self) -> Any:
        return self._rendering.tokenizer

    @property
    def context_tokens(self) -> int | None:
        return self._rendering.context_tokens

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self._ctx.store / "journal")

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions from the journal. Raises UserError that names the first missing one."""
        prepared = self._rendering.prepare(requests, self._identity)
        return complete(prepared, self._journal, _miss, self._ctx)

    def loglikelihood(
        self,
        sequences: Sequence[Scored],  # noqa: ARG002
    ) -> list[NDArray[np.float32]]:
        raise only_generates(self._model)


def _miss(prepared: list[Prepared], gate: Gate) -> Iterator[Batch]:
    missing = [p for p in prepared if p.key in gate.missing]
    first = missing[0]
    text = first.prompt if isinstance(first.prompt, str) else repr(first.prompt)
    raise UserError(
        f"the journal has no answer to the request {first.key} ({len(missing):,} are missing)",
        why=f"its prompt begins: {' '.join(text.split())[:SHOWN]}",
        hint=f"import the journal that has it ({program()} journal import FILE), "
        "or name an engine that can answer",
    )
    yield []


def load(model: LanguageModel) -> Replay:
    """Make ready to render. Raises UserError where the tokenizer is needed and missing."""
    return Replay(model)
