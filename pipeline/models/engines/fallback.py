"""The second model of a model: what is asked for what the first one refuses or fails.

Its weights are loaded, or its server is started, once something is handed over to it. Until
then only its prompts are rendered, to know what earlier runs have handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.base import Completion, EngineContext, LanguageModel, Request, Scored
from pipeline.models.engines.journaled import JournaledEngine, NamedEngine, are_known
from pipeline.models.journal.journal import Journal
from pipeline.models.local.rendering import Rendering


class Fallback(NamedEngine):
    """A model in the place of another one, as one stage sees it.

    Args:
        model: The model that is asked.
        identity: Its identity.
        instead_of: The identity of the model in whose place it answers, which is part of every
            key: what it answers to the same request for itself is another answer.
        ctx: The store and the counters of the stage.
        open_engine: Loads it.
    """

    def __init__(
        self,
        model: LanguageModel,
        identity: dict[str, Any],
        instead_of: Mapping[str, Any],
        ctx: EngineContext,
        open_engine: Callable[[], Any],
    ) -> None:
        super().__init__(model, identity, ctx)
        self._instead_of, self._open = instead_of, open_engine

    @cached_property
    def _engine(self) -> JournaledEngine:
        engine: JournaledEngine = self._open()
        engine.instead_of = self._instead_of
        return engine

    @cached_property
    def _rendering(self) -> Rendering:
        return Rendering(self._model)

    def known(self, requests: Sequence[Request]) -> list[bool]:
        """Which of the requests an earlier run has handed over."""
        prepared = self._rendering.prepare(requests, self._identity, self._instead_of)
        return are_known(Journal(self._ctx.store / "journal"), prepared)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """See `pipeline.models.base.Engine`."""
        if not requests:
            return []
        self._ctx.count(handed_over=len(requests))
        return self._engine.generate(requests)

    @property
    def weights(self) -> Any:
        """See `pipeline.models.base.Engine`."""
        return self._engine.weights

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """See `pipeline.models.base.Engine`."""
        return self._engine.loglikelihood(sequences)
