"""Language models on the nodes of a Ray cluster: an actor for each GPU, or for each node without.

An actor holds a model's weights and answers requests and scores sequences; that is all. The
driver renders prompts, looks answers up, decides what the budget admits and makes every answer
durable, as with weights of its own: so a request with a durable answer is sent nowhere twice,
and an actor that dies takes with it what it was computing and nothing else. Batches are cut here
as the engine itself would cut them, so that the shape of a batch, and with it the last bits of
an answer, does not depend on how many nodes there are.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.models.base import EngineContext, LanguageModel, Scored
from pipeline.models.engines.journaled import JournaledEngine, scored_tokens
from pipeline.models.engines.ray_actors import Actors, Dispatch
from pipeline.models.journal.gate import Gate
from pipeline.models.journal.requests import Batch, PreparedRequest
from pipeline.models.local.rendering import Rendering

BATCH: Final = 512
"""Requests of a batch for an engine that forms batches of its own."""

SCORED_TOKENS: Final = 32_768
"""Tokens that are scored with one call."""


class RayModel:
    """A model that actors of a cluster hold; see `registry.Loaded`.

    Args:
        model: The model.
    """

    process = True

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.rendering = Rendering(model)
        self._actors: Actors | None = None

    def bind(self, model: LanguageModel, identity: dict[str, Any], ctx: EngineContext) -> RayEngine:
        """The engine for one stage; see `registry.Loaded`."""
        self._actors = self._actors or Actors(self.model, identity)
        return RayEngine(self, self._actors, model, identity, ctx)

    @cached_property
    def here(self) -> Any:
        """The weights in this process, for stages that need more than answers and scores."""
        return importlib.import_module("pipeline.models.engines.transformers").load(self.model)

    def close(self) -> None:
        """End the actors."""
        if self._actors is not None:
            self._actors.close()


class RayEngine(JournaledEngine):
    """A model on a cluster as one stage sees it.

    Args:
        loaded: The model.
        actors: Its actors.
        model: The model, as the stage names it.
        identity: The identity of the model.
        ctx: The store, the budget and the counters of the stage.
    """

    def __init__(
        self,
        loaded: RayModel,
        actors: Actors,
        model: LanguageModel,
        identity: dict[str, Any],
        ctx: EngineContext,
    ) -> None:
        super().__init__(loaded.rendering, model, identity, ctx)
        self._loaded, self._actors = loaded, actors

    @property
    def weights(self) -> Any:
        """The model of transformers in this process; see `pipeline.models.base.Engine`."""
        return self._loaded.here.model if self._model.engine == "transformers" else super().weights

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        """See `pipeline.models.base.Engine`: the actors score, in parts."""
        self._ctx.count(tokens=scored_tokens(sequences))
        scores: list[Any] = [None] * len(sequences)
        dispatch: Dispatch[tuple[int, Scored]] = Dispatch(self._actors, "score")
        remaining, done = deque(_parts(sequences)), 0
        while remaining or dispatch.busy:
            while remaining and dispatch.has_room:
                dispatch.send(remaining.popleft())
            for batch, result in dispatch.receive():
                for i, score in result:
                    scores[i] = score
                done += len(batch)
                self._ctx.progress(done, len(sequences))
        return scores

    def _send(self, prepared: list[PreparedRequest], gate: Gate) -> Iterator[Batch]:
        remaining = deque(self._batches(prepared, gate))
        dispatch: Dispatch[PreparedRequest] = Dispatch(self._actors, "answer")
        while remaining or dispatch.busy:
            while remaining and dispatch.has_room:
                admitted = list(takewhile(gate.admit, remaining[0]))
                if not admitted:
                    break
                dispatch.send(admitted)
                rest = remaining.popleft()[len(admitted) :]
                if rest:
                    remaining.appendleft(rest)
            if not dispatch.busy:
                return
            for _, answers in dispatch.receive():
                yield answers

    def _batches(
        self, prepared: list[PreparedRequest], gate: Gate
    ) -> Iterator[list[PreparedRequest]]:
        """The requests without an answer in the batches in which the engine would send them."""
        if self._model.engine == "transformers":
            from pipeline.models.engines.transformers import batches

            self._actors.ensure()
            cut: Iterator[list[PreparedRequest]] = (
                rows for _, rows in batches(prepared, self._actors.device)
            )
        else:
            cut = (prepared[i : i + BATCH] for i in range(0, len(prepared), BATCH))
        for rows in cut:
            if missing := [request for request in rows if request.key in gate.missing]:
                yield missing


def _parts(sequences: Sequence[Scored]) -> Iterator[list[tuple[int, Scored]]]:
    """The sequences with their numbers, those behind one prefix together, in parts of a size."""
    part: list[tuple[int, Scored]] = []
    tokens = 0
    for i in sorted(range(len(sequences)), key=lambda i: sequences[i].prefix):
        part.append((i, sequences[i]))
        tokens += len(sequences[i].tokens)
        if tokens >= SCORED_TOKENS:
            yield part
            part, tokens = [], 0
    if part:
        yield part
