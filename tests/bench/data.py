"""The rows that everything is measured on: real ones, written once a run for all contestants.

The 52,002 Alpaca rows may not be shipped (CC BY-NC): they are read from the file named
by GRISTMILL_BENCH_POOL, or from the shared data sets beside the checkout. Without them
the shipped sample takes their place, and the demands, which are about 52,002 rows, do
not apply.

Vectors are real too. The shipped embedder has 128 dimensions, so 256 are those of the
instruction and the answer side by side, and 384 with those of the whole row besides;
scaled to length 1.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.models import Embedder
from schemas.records import RECORD_COLUMNS
from stages._text.tokens import field_text, tokens
from tests.bench import ROOT
from tests.bench.pools import edited_pool, records

SHARED_POOL = ROOT.parent / "shared" / "data" / "pools" / "alpaca_52k.json.gz"
SAMPLE = ROOT / "data" / "samples" / "self_instruct.jsonl.gz"
DEMANDED_ROWS = 52_002

EXAMS = ("gsm8k", "humaneval", "mmlu", "ifeval", "truthfulqa")


class Data:
    """Files in a folder, each made when it is first asked for. Properties give their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pool = Path(os.environ.get("GRISTMILL_BENCH_POOL", SHARED_POOL))
        self.pool = pool if pool.exists() else SAMPLE

    @cached_property
    def rows(self) -> pl.DataFrame:
        """The pool as records, in id order. Rows of equal conversations are one record."""
        from stages.load.records import records as load

        ctx = Context.scratch(self.folder / "load")
        loaded = pl.concat(load(ctx, path=(str(self.pool),), source="pool", license="see source"))
        return loaded.filter(pl.col("drop_reason").is_null()).select(*RECORD_COLUMNS).sort("id")

    @property
    def complete(self) -> bool:
        """Whether these are the rows that the demands are about."""
        return sum(len(origins) for origins in self.rows["origins"]) >= DEMANDED_ROWS

    @cached_property
    def texts(self) -> list[str]:
        """The conversations as texts, no two alike, in id order."""
        conversation = self.rows.select(field_text("conversation"))["text"]
        return conversation.unique(maintain_order=True).to_list()

    @cached_property
    def instructions(self) -> list[str]:
        """The instructions, no two alike, in id order."""
        return (
            self.rows.select(field_text("instruction"))["text"]
            .unique(maintain_order=True)
            .to_list()
        )

    @cached_property
    def conversations(self) -> str:
        """The pool itself: records, with `text` and `words` (its tokens with a space between)."""
        return self._with_words("conversations.parquet", self.rows)

    @cached_property
    def edited(self) -> str:
        """40,000 rows: real conversations, repeated with seeded edits; as above."""
        count = 40_000 if self.complete else 8_000
        pool = records(edited_pool(self.texts[: count // 4], count, seed=1))
        return self._with_words("edited.parquet", pool)

    def edited_instructions(self, count: int, repeats: int) -> str:
        """Records of instructions, each repeated so many times with seeded edits."""
        name = f"instructions-{count}-{repeats}.parquet"
        if not (self.folder / name).exists():
            texts = edited_pool(self.instructions[: count // repeats], count, seed=2)
            records(texts).write_parquet(self.folder / name)
        return name

    @cached_property
    def exams(self) -> str:
        """The items of five shipped benchmarks."""
        from stages.load.benchmarks import benchmarks

        ctx = Context.scratch(self.folder / "exams")
        benchmarks(ctx, names=EXAMS).write_parquet(self.folder / "exams.parquet")
        return "exams.parquet"

    def vectors(self, dimensions: int, rows: int) -> str:
        """float32 of shape (rows, dimensions), of length 1 each; fewer if there are not so many."""
        name = f"vectors-{dimensions}-{rows}.npy"
        if not (self.folder / name).exists():
            parts, chosen = self._parts(dimensions, rows)
            lengths = np.linalg.norm(parts[chosen], axis=1, keepdims=True)
            np.save(self.folder / name, parts[chosen] / lengths)
        return name

    def lengths(self, dimensions: int, rows: int) -> str:
        """The characters of the answers of the rows that `vectors` takes: a score, float64."""
        name = f"lengths-{dimensions}-{rows}.npy"
        answers = self.rows.select(field_text("response"))["text"].str.len_chars().to_numpy()
        np.save(self.folder / name, answers[self._parts(dimensions, rows)[1]].astype(np.float64))
        return name

    def _parts(self, dimensions: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of all rows, and the first of them that are not zero."""
        parts = self._embedded[:, : dimensions // 128].reshape(len(self._embedded), -1)
        return parts, np.flatnonzero(parts.any(axis=1))[:rows]

    @cached_property
    def _embedded(self) -> np.ndarray:
        """Shape (rows, 3, 128): instruction, response, whole row."""
        encoder = Context.scratch(self.folder / "embed").open(
            Embedder(model=str(ROOT / "data/models/potion-base-4m"))
        )
        texts = [
            self.rows.select(field_text(field))["text"].to_list()
            for field in ("instruction", "response", "conversation")
        ]
        return np.stack([encoder.encode(part) for part in texts], axis=1)

    def _with_words(self, name: str, rows: pl.DataFrame) -> str:
        text = rows.select(field_text("conversation"))["text"]
        rows.with_columns(text, tokens(text).list.join(" ").alias("words")).write_parquet(
            self.folder / name
        )
        return name
