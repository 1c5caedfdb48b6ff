"""What a store's journal knows of the requests of a step, before the step runs.

A stage that was stopped has answers in the journal; what is left to send is known by looking
its requests up just as the stage will: rendered by the model's own tokenizer, under the key
of the full payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.models.base import Completion, LanguageModel, Request
from pipeline.models.counting import CountingEngine, RequestCount
from pipeline.models.identity import identity
from pipeline.models.journal.journal import Journal, Lengths, journal_in, parse_stored
from pipeline.models.journal.requests import completion_of
from pipeline.store.store import Store


class KnownRequests:
    """What the journal of a store knows of the models of a step.

    Args:
        store: The store.
        models: The models.

    Attributes:
        lengths: Lengths by model, of those that have answers in the journal.
    """

    def __init__(self, store: Store, models: Sequence[LanguageModel]) -> None:
        self._journal: Journal | None = journal_in(store.root)
        self._identities: dict[LanguageModel, dict[str, Any]] = {}
        self.lengths: dict[LanguageModel, Lengths] = {}
        named = {*models, *(model.fallback for model in models if model.fallback)}
        for model in named if self._journal else ():
            assert self._journal is not None
            identified = identity(model, store.files())
            known = self._journal.lengths(identified)
            self._identities[model] = identified
            if known is not None:
                self.lengths[model] = known

    def engine(
        self, model: LanguageModel, instead_of: LanguageModel | None = None
    ) -> CountingEngine:
        """What counts the requests to a model, and to its fallback.

        Args:
            model: The model.
            instead_of: The model whose fallback it is.
        """
        lengths = self.lengths.get(model)
        engine = CountingEngine(model)
        if lengths:
            engine.mean_answer, engine.beyond = lengths.answer, lengths.beyond
        if model.fallback is not None:
            engine.fallback = self.engine(model.fallback, model)
        if lengths and self._journal:
            try:
                self._look_up(engine, self._journal, instead_of)
            except Exception:
                # Without its tokenizer prompts cannot be looked up; the run will say so.
                engine.answers = None
        return engine

    def _look_up(
        self, engine: CountingEngine, journal: Journal, instead_of: LanguageModel | None
    ) -> None:
        # Only a model that the journal knows needs its tokenizer, which takes seconds to load.
        from pipeline.models.local.rendering import Rendering

        rendering, identified = Rendering(engine.model), self._identities[engine.model]
        first = None if instead_of is None else self._identities.get(instead_of)

        def answers(requests: Sequence[Request]) -> list[Completion | None]:
            prepared = rendering.prepare(requests, identified, first)
            responses = journal.get_many([p.key for p in prepared if p.error is None])
            stored = {k: parse_stored(journal.path, k, r) for k, r in responses.items()}
            return [completion_of(p, stored[p.key]) if p.key in stored else None for p in prepared]

        engine.answers = answers
        engine.context_tokens = rendering.context_tokens
        if rendering.here:
            engine.tokenizer = rendering.tokenizer

    def close(self) -> None:
        """Close the journal."""
        if self._journal:
            self._journal.close()


def by_model(engines: Iterable[CountingEngine]) -> dict[LanguageModel, RequestCount]:
    """What engines have counted; what was handed over is counted for the fallback.

    Args:
        engines: The engines, each of another model.
    """
    engines = list(engines)
    counts = {engine.model: engine.count for engine in engines}
    for second in [engine.fallback for engine in engines if engine.fallback]:
        if any(vars(second.count).values()):
            before = vars(counts.get(second.model, RequestCount()))
            both = {name: value + before[name] for name, value in vars(second.count).items()}
            counts[second.model] = RequestCount(**both)
    return counts
