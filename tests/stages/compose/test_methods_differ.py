"""On one scripted server any two methods of a stage differ in their requests or rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import polars as pl
import pytest
from pydantic import TypeAdapter

from pipeline.context import Context
from pipeline.models import Embedder, LanguageModel
from pipeline.recipe.discovery import find
from tests.support.rows import DATA, self_instruct
from tests.support.scripted import Scripted, ScriptedContext

TINYLM = LanguageModel(model=str(DATA / "models/tinylm"))
NO_MODEL = LanguageModel(model="none")
EMBEDDER = Embedder(model=str(DATA / "models/potion-base-4m"))
POOL = self_instruct(60)

ALWAYS: dict[str, dict[str, Any]] = {
    "compose.combine": {"model": TINYLM},
    "compose.constraints": {},
    "compose.demonstrations": {"num_shots": (2, 2)},
    "compose.translate": {"model": NO_MODEL, "languages": ("de",)},
}
METHODS: list[tuple[str, Any, dict[str, Any]]] = [
    ("compose.combine", "mosaic", {}),
    ("compose.combine", "sequence", {}),
    ("compose.combine", {"name": "sequence", "task": "paraphrase"}, {"writer": NO_MODEL}),
    ("compose.combine", {"name": "sequence", "task": "translate"}, {"writer": NO_MODEL}),
    ("compose.combine", "self_seq", {"writer": NO_MODEL}),
    ("compose.combine", "chain", {"writer": NO_MODEL}),
    ("compose.constraints", "rules", {}),
    ("compose.constraints", "length_tokens", {}),
    ("compose.constraints", "lengths", {}),
    ("compose.constraints", "drawn", {}),
    ("compose.constraints", "autoif", {"model": NO_MODEL}),
    ("compose.demonstrations", "random", {}),
    ("compose.demonstrations", "bm25", {}),
    ("compose.demonstrations", "vectors", {"embedder": EMBEDDER}),
    ("compose.translate", "selective", {}),
    ("compose.translate", "full", {}),
]


class _Context(ScriptedContext):
    """The server answers for language models; embedders are what they are."""

    def open(self, model: Any) -> Any:
        return Context.open(self, model) if isinstance(model, Embedder) else self.engine


def seen(folder: Path, name: str, method: Any, more: dict[str, Any]) -> str:
    """The requests and rows of a method."""
    base = Context.scratch(folder)
    ctx = _Context(base.files, base.work, base.store)
    ctx.engine = Scripted(lambda text: (f"Said of {len(text)} characters.", "stop"))
    function = find(name).function
    kinds = get_type_hints(function, include_extras=True)["method"]
    chosen = {"name": method} if isinstance(method, str) else method
    options = {"method": TypeAdapter(kinds).validate_python(chosen), **ALWAYS[name], **more}
    result = function(ctx, POOL, **options)
    assert isinstance(result, pl.DataFrame)
    columns = [c for c in ("messages", "drop_reason", "extra") if c in result.columns]
    return str([ctx.engine.calls, result.select(columns).to_dicts()])


@pytest.mark.parametrize("name", sorted({name for name, _, _ in METHODS}))
def test_any_two_methods_differ(tmp_path: Path, name: str) -> None:
    methods = [(method, more) for one, method, more in METHODS if one == name]
    results = [
        seen(tmp_path / str(number), name, method, more)
        for number, (method, more) in enumerate(methods)
    ]
    assert len({*results}) == len(methods) > 1
    assert results[0] == seen(tmp_path / "again", name, *methods[0])
