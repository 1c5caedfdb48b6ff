"""What all engines that generate have in common: rendering, the journal and counters.

An engine of this package is one class with one method of its own, `_send`, which answers
those requests that the journal does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.models.base import (
    Completion,
    Engine,
    EngineContext,
    LanguageModel,
    Request,
    Scored,
)
from pipeline.models.journal.gate import Billing, Gate
from pipeline.models.journal.journal import Journal
from pipeline.models.journal.requests import Batch, PreparedRequest, complete
from pipeline.models.local.rendering import Rendering
from pipeline.store.hashing import encode


class NamedEngine(ABC):
    """What is known of a model without its weights: its prompts, and what its recipe says.

    Args:
        model: The model.
        identity: The identity of the model, which is part of every key.
        ctx: The store, the budget and the counters of the stage.

    Attributes:
        fallback: What is asked for what this model refuses or fails; None for nothing.
    """

    fallback: Engine | None = None

    def __init__(self, model: LanguageModel, identity: dict[str, Any], ctx: EngineContext) -> None:
        self._model, self._identity, self._ctx = model, identity, ctx

    @property
    @abstractmethod
    def _rendering(self) -> Rendering:
        """How prompts are rendered."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; see `Rendering.tokenizer`."""
        return self._rendering.tokenizer

    @property
    def context_tokens(self) -> int | None:
        """Tokens of prompt and answer together; see `Rendering`."""
        return self._rendering.context_tokens

    @property
    def name(self) -> str:
        """What rows call the model."""
        return self._model.short_name

    @property
    def resample(self) -> int:
        """How often an answer that cannot be read is sampled anew."""
        return self._model.resample


class JournaledEngine(NamedEngine):
    """A language model as one stage sees it: bound to the stage's journal and counters.

    Args:
        rendering: How prompts are rendered.
        model: The model.
        identity: The identity of the model, which is part of every key.
        ctx: The store, the budget and the counters of the stage.

    Attributes:
        instead_of: The identity of the model whose fallback this one is.
    """

    instead_of: Mapping[str, Any] | None = None

    def __init__(
        self,
        rendering: Rendering,
        model: LanguageModel,
        identity: dict[str, Any],
        ctx: EngineContext,
    ) -> None:
        super().__init__(model, identity, ctx)
        self._rendered_by = rendering

    @property
    def _rendering(self) -> Rendering:
        return self._rendered_by

    @cached_property
    def _journal(self) -> Journal:
        journal = Journal(self._ctx.store / "journal")
        digest = self._identity["weights"].get("digest")
        if digest is not None:
            name = self._model.made_by or Path(self._model.model).name
            journal.name_weights(digest, name)
        return journal

    def prepare(self, requests: Sequence[Request]) -> list[PreparedRequest]:
        """The requests with their keys and payloads, as `generate` looks them up."""
        return self._rendering.prepare(requests, self._identity, self.instead_of)

    def known(self, requests: Sequence[Request]) -> list[bool]:
        """Which of the requests the journal answers."""
        return are_known(self._journal, self.prepare(requests))

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `pipeline.models.base.Engine` and `pipeline.models.journal.requests`."""
        prepared = self.prepare(requests)
        # A server bills what it counts; one that is started here, or weights, bill nothing.
        metered = self._model.base_url is not None
        billing = Billing(encode(self._identity).decode(), self._model.price_as_sent, metered)
        return complete(prepared, self._journal, self._send, self._ctx, billing)

    def loglikelihood(
        self,
        sequences: Sequence[Scored],  # noqa: ARG002
    ) -> list[NDArray[np.float32]]:
        """Not here: most engines only generate."""
        raise self._only_generates("likelihoods need")

    @property
    def weights(self) -> Any:
        """Not here: most engines have none in this process."""
        raise self._only_generates("the stage needs")

    def _only_generates(self, who: str) -> UserError:
        return UserError(
            f"the engine {self._model.engine!r} only generates; {who} the weights here",
            where=self._model.model,
            hint="give the stage a model with engine: transformers",
        )

    @abstractmethod
    def _send(self, prepared: list[PreparedRequest], gate: Gate) -> Iterator[Batch]:
        """Answer the requests that the gate admits; see `pipeline.models.journal.requests.Send`."""


def scored_tokens(sequences: Sequence[Scored]) -> int:
    """The tokens that are read to score sequences; prefixes that they share are read once.

    Args:
        sequences: The sequences.
    """
    prefixes = {sequence.prefix for sequence in sequences}
    return sum(map(len, prefixes)) + sum(len(sequence.tokens) for sequence in sequences)


def are_known(journal: Journal, prepared: Sequence[PreparedRequest]) -> list[bool]:
    """Which of the requests the journal answers.

    Args:
        journal: The journal.
        prepared: The requests.
    """
    known = journal.get_many([p.key for p in prepared if p.error is None])
    return [p.key in known for p in prepared]
