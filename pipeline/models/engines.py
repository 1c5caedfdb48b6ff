"""From a model's description to something that runs.

Weights are loaded once per process and shared by all stages that name the same
model; what depends on the stage (its journal, its counters) is bound anew with
each `open_engine`. An engine is a module with `load(model, device)`, imported
only when it is first needed, since the libraries behind it take seconds.
"""

from __future__ import annotations

import importlib
import json
from typing import Any, Final, Protocol, overload

from pipeline.context import Context
from pipeline.digests import FileDigests
from pipeline.models.base import Embedder, Encoder, Engine, LanguageModel
from pipeline.models.identity import identity

ENGINES: Final[dict[str, str]] = {
    "transformers": "pipeline.models.transformers_engine",
    "sentence-transformers": "pipeline.models.encoders",
}
"""Engines by name, each with the module that loads it."""


class Loaded(Protocol):
    """Weights in memory. `bind` makes the engine that a stage sees."""

    def bind(self, identity: dict[str, Any], ctx: Context) -> Any: ...


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
    key = json.dumps([who, model.engine, model.model, model.device], sort_keys=True)
    if key not in _loaded:
        _loaded[key] = importlib.import_module(ENGINES[model.engine]).load(model)
    return _loaded[key].bind(who, ctx)  # type: ignore[no-any-return]


def close_engines() -> None:
    """Drop all weights that this process holds."""
    import gc
    import sys

    _loaded.clear()
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
