"""From a model's description to a running engine.

Weights are loaded once per process and shared by all stages that name the same model;
what belongs to a stage (its journal, its counters) is bound anew with each
`open_engine`. An engine is a module with a function `load(model)`, imported only when it
is first needed, since the libraries behind it take seconds.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Protocol, overload

from pipeline.models.base import Embedder, Encoder, Engine, EngineContext, LanguageModel
from pipeline.models.identity import identity
from pipeline.store.file_hashes import FileDigests

ENGINES: Final[dict[str, str]] = {
    "transformers": "pipeline.models.engines.transformers",
    "vllm": "pipeline.models.engines.vllm",
    "openai": "pipeline.models.engines.openai",
    "replay": "pipeline.models.engines.replay",
    "sentence-transformers": "pipeline.models.engines.sentence_transformers",
}
"""Engines by name, each with the module that loads it."""


class Loaded(Protocol):
    """Weights in memory, or a process that has them; shared by all stages of this process.

    Attributes:
        process: Whether it has a process of its own, which `close` ends and which does
            not outlive the stage.
    """

    process: bool

    def bind(self, model: Any, identity: dict[str, Any], ctx: EngineContext) -> Any:
        """The engine for one stage. It may be bound several times.

        Args:
            model: The model, as the stage names it.
            identity: The identity of the model.
            ctx: The store, the budget and the counters of the stage.
        """
        ...

    def close(self) -> None:
        """End whatever process or connection it has."""
        ...


_loaded: dict[str, Loaded] = {}

_hosts: list[Callable[[LanguageModel], Loaded]] = []
"""What loads weights elsewhere, on a cluster; the last one counts."""

HOSTED: Final = ("transformers", "vllm")
"""Engines that compute: what only asks a server asks from here."""


@contextmanager
def hosted_by(load: Callable[[LanguageModel], Loaded]) -> Iterator[None]:
    """Have language models loaded elsewhere: answers and scores are computed there.

    Args:
        load: What loads a model there.
    """
    _hosts.append(load)
    close_engines()
    try:
        yield
    finally:
        _hosts.remove(load)
        close_engines()


@overload
def open_engine(model: LanguageModel, ctx: EngineContext) -> Engine: ...
@overload
def open_engine(model: Embedder, ctx: EngineContext) -> Encoder: ...
def open_engine(model: LanguageModel | Embedder, ctx: EngineContext) -> Engine | Encoder:
    """The running engine of a model for one stage.

    Raises:
        UserError: The model cannot be found or loaded.
    """
    files = FileDigests(ctx.store / "files.json")
    identified = identity(model, files)
    # The key contains the path too: an `id` may be given to two folders, and equal
    # weights in two folders cost no more than memory.
    loaded: Any = model
    if isinstance(model, LanguageModel):
        loaded = replace(model, price=None, fallback=None)
    key = f"{loaded} {json.dumps(identified, sort_keys=True)}"
    if key not in _loaded:
        _loaded[key] = _load(model)
    engine = _loaded[key].bind(model, identified, ctx)
    if isinstance(model, LanguageModel) and model.fallback is not None:
        from pipeline.models.engines.fallback import Fallback

        second = model.fallback
        engine.fallback = Fallback(
            *(second, identity(second, files), identified, ctx),
            open_engine=lambda: open_engine(second, ctx),
        )
    return engine  # type: ignore[no-any-return]


def _load(model: LanguageModel | Embedder) -> Loaded:
    if _hosts and isinstance(model, LanguageModel) and model.engine in HOSTED:
        return _hosts[-1](model)
    loaded: Loaded = importlib.import_module(ENGINES[model.engine]).load(model)
    return loaded


def end_processes() -> None:
    """End the processes of engines, so that a stage that has ended holds no memory there."""
    for key in [key for key, loaded in _loaded.items() if loaded.process]:
        _loaded.pop(key).close()


def close_engines() -> None:
    """Drop all weights that this process or the processes of its engines hold."""
    import gc
    import sys

    for loaded in _loaded.values():
        loaded.close()
    _loaded.clear()
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
