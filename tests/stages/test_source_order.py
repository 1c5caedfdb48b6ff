"""The order of the rows in a source file changes no outcome, whatever stage of a set follows.

Row-scope stages are called on rows in other orders in `test_all_stages.py`. A set-scope
stage gets its rows in id order by contract of the engine, so here it stands in a recipe
behind the loaders of its inputs, and the lines of their files are shuffled.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.models import Embedder, LanguageModel, Scored
from pipeline.models.counting import CountingEncoder
from pipeline.recipe.discovery import available, find
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT, DataKind, Edge, Stage
from tests.support.examples import ROWS, Example, ExampleEngine, example_of
from tests.support.rows import SAMPLES, json_lines
from tests.support.running import artifact, run

POOL = json_lines(SAMPLES / "self_instruct.jsonl.gz")[:400]
BOOK = [{"text": row["text"][:500]} for row in json_lines(SAMPLES / "rust_book.jsonl.gz")[:4]]
EXAMS = [{"question": f"How much is {n} + {n}?", "answer": f"#### {n + n}"} for n in range(8)]
LICENSED = {"source": "here", "license": "MIT"}


def _follows(stage: Stage) -> bool:
    """Whether it is about rows of others as a set, and does not train."""
    trains = not stage.gives_rows and any(option.is_model for option in stage.options)
    takes_rows = any(edge.kind is not DataKind.FILES for edge in stage.edges)
    return stage.scope == "set" and takes_rows and not trains


STAGES = [name for name in available() if _follows(find(name))]


def test_most_stages_are_among_them() -> None:
    assert {"dedup.exact", "export.parquet", "generate.respond", "select.diverse"} <= {*STAGES}
    assert len(STAGES) >= 25


class _Recipe:
    """The example of a stage as a recipe, its sources' lines in an order of their own.

    Args:
        example: The example.
        folder: Where the sources are written.
        seed: Of the order; 0 for that of the data.
    """

    def __init__(self, example: Example, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.stages: dict[str, Any] = {}
        needs = {
            edge.name: [self._input(example, edge, i) for i in range(len(example.needs[edge.name]))]
            for edge in example.stage.edges
            if edge.name in example.needs and edge.kind is not DataKind.FILES
        }
        options = dict(example.raw)
        for option in example.stage.options:
            if option.names_files and option.name in options:
                options[option.name] = [*getattr(example.options, option.name)]
        self.stages["last"] = {"uses": example.stage.name, "needs": needs, "with": options}
        models = {name: _raw_model(model) for name, model in example.models.items()}
        self.recipe = Recipe.of("shuffled", self.stages, models)

    def _input(self, example: Example, edge: Edge, part: int) -> str:
        """The step that an edge is connected to; its source is written."""
        name = f"{edge.name}_{part}"
        if edge.kind is DataKind.DOCUMENTS:
            self._load(name, "load.documents", BOOK, **LICENSED)
        elif edge.kind is DataKind.ITEMS:
            # The number of an item is its line: an exam has an order.
            path = self._write(name, EXAMS, shuffled=False)
            named = {"path": path, "benchmark": "gsm8k"}
            self.stages[name] = {"uses": "load.benchmarks", "with": named}
        elif edge.kind is DataKind.PAIRS:
            rows = [
                {"prompt": row["instruction"], "chosen": f"{row['output']} {n}", "rejected": "No."}
                for n, row in enumerate([*POOL[part::7][:ROWS], *POOL[part::7][:5]])
            ]
            self._load(name, "load.pairs", [*rows, *rows[:3]], **LICENSED)
        else:
            number = example.source(edge, part)
            rows = POOL[number::7][:ROWS]
            # Some are near-duplicates of one another, and of those on other edges.
            rows += [{**row, "output": f"{row['output']} Yes."} for row in POOL[:21:7]]
            rows += [{**row, "instruction": row["instruction"].upper()} for row in POOL[:21:7]]
            rows += POOL[:14:7]
            self._load(name, "load.records", rows, **LICENSED)
            names = example.columns(edge, part)
            if names:
                columns = {"uses": "tests.support.examples.columns", "with": {"names": names}}
                self.stages[f"{name}_more"] = {**columns, "needs": name}
                return f"{name}_more"
        return name

    def _load(self, name: str, uses: str, rows: list[Any], **options: Any) -> None:
        self.stages[name] = {"uses": uses, "with": {"path": self._write(name, rows), **options}}

    def _write(self, name: str, rows: list[Any], shuffled: bool = True) -> str:
        rows = list(rows)
        if shuffled and self.seed:
            random.Random(self.seed).shuffle(rows)
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)


def _raw_model(model: LanguageModel | Embedder) -> dict[str, str]:
    if isinstance(model, Embedder):
        folder = ROOT / "data/models/potion-base-4m"
        return {"engine": "sentence-transformers", "model": str(folder)}
    return {"engine": model.engine, "model": model.model}


def _outcome(recipe: Recipe, store: Path) -> dict[str, Any]:
    """What became of the rows; a row's index in its source is the order itself."""
    last = artifact(recipe, store, "last")
    frames = {part: last.read(part) for part in ("kept", "dropped", "failed")}
    files = {name: e["sha256"] for name, e in last.manifest["files"].items() if "files/" in name}
    return {
        **{part: _without_positions(frame) for part, frame in frames.items()},
        "files": files,
        "counts": last.manifest["counts"],
    }


def _without_positions(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without the rows' positions in their files, which `load.concat` has as evidence."""
    texts = [name for name in ("evidence", "extra") if name in frame.columns]
    frame = frame.with_columns(pl.col(texts).str.replace_all(r'"index": ?\d+', '"index":0'))
    return frame.drop("origins", strict=False)


class _Engine(ExampleEngine):
    """The engine of examples; likelihoods are a function of the tokens, to save minutes."""

    def loglikelihood(self, sequences: Sequence[Scored]) -> Any:
        return [-(np.array(s.tokens[s.start :]) % 7).astype(np.float32) for s in sequences]


@pytest.mark.parametrize("name", STAGES)
def test_the_order_of_a_source_changes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_model = Context.open

    def opened(self: Context, model: LanguageModel | Embedder) -> Any:
        teacher = _Engine(open_model, self)
        return teacher if isinstance(model, LanguageModel) else CountingEncoder()

    monkeypatch.setattr(Context, "open", opened)
    outcomes = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        recipe = _Recipe(example_of(find(name)), folder, seed).recipe
        run(recipe, folder / "store", workers=1)
        outcomes.append(_outcome(recipe, folder / "store"))
    first, second = outcomes
    assert first["counts"] == second["counts"]
    assert not name.startswith("dedup.") or first["files"] or first["counts"]["dropped"]
    assert first["files"] == second["files"]
    for part in ("kept", "dropped", "failed"):
        assert_frame_equal(first[part], second[part])
