"""From a model's description to something that runs.

Weights are loaded once per process and shared by all stages that name the same
model; what depends on the stage (its journal, its counters) is bound anew with
each `open_engine`. An engine is a module with `load(model, device)`, imported
only when it is first needed, since the libraries behind it take seconds.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from typing import Any, Final, Protocol, overload

from pipeline.context import Context
from pipeline.models.base import Embedder, Encoder, Engine, LanguageModel
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
    """Weights in memory, or a process that has them. `bind` makes the engine that a stage sees.

    It may be bound several times. process: whether it holds a process of its own,
    which `close` ends and which does not outlive the stage.
    """

    process: bool

    def bind(self, model: Any, identity: dict[str, Any], ctx: Context) -> Any: ...

    def close(self) -> None: ...


_loaded: dict[str, Loaded] = {}


@overload
def open_engine(model: LanguageModel, ctx: Context) -> Engine: ...
@overload
def open_engine(model: Embedder, ctx: Context) -> Encoder: ...
def open_engine(model: LanguageModel | Embedder, ctx: Context) -> Engine | Encoder:
    """The running engine of a model. Raises UserError if the model cannot be found."""
    who = identity(model, FileDigests(ctx.store / "files.json"))
    # What was loaded is told apart by place as well: an `id` may be given to two
    # folders, and equal weights in two folders cost no more than memory.
    plain = replace(model, price=None) if isinstance(model, LanguageModel) else model
    key = f"{plain} {json.dumps(who, sort_keys=True)}"
    if key not in _loaded:
        _loaded[key] = importlib.import_module(ENGINES[model.engine]).load(model)
    return _loaded[key].bind(model, who, ctx)  # type: ignore[no-any-return]


def end_processes() -> None:
    """End the processes that engines started: a stage that has ended holds no memory there."""
    for key in [key for key, loaded in _loaded.items() if loaded.process]:
        _loaded.pop(key).close()


def close_engines() -> None:
    """Drop all weights that this process or those of its engines hold."""
    import gc
    import sys

    for loaded in _loaded.values():
        loaded.close()
    _loaded.clear()
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
