"""13-gram decontamination of the whole pool against five benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from tests.bench.baselines_ngram import word_tuples
from tests.bench.data import Data
from tests.bench.race import Contestant, race
from tests.bench.table import Line, versus


def measure(data: Data) -> list[Line]:
    """GPT-3's rule. The baseline must flag the same rows; datatrove normalizes otherwise."""
    fields = {"file": data.conversations, "benchmarks": data.exams}
    done = race(
        data.folder,
        [
            Contestant("ours", "tests.bench.ours:ngrams", {**fields, "method": "gpt3-13"}),
            Contestant("word tuples", "tests.bench.ngrams:tuples", fields),
            Contestant("datatrove", "tests.bench.peers_ngrams:datatrove", fields, peer=True),
        ],
    )
    ours, tuples, datatrove = done["ours"], done["word tuples"], done["datatrove"]
    kept = ours.outcome["kept"]
    assert np.array_equal(kept, tuples.outcome["kept"]), "decontamination flags other rows"
    work = f"13-gram decontamination, {len(kept):,} rows, 5 benchmarks"
    outcome = ""
    if not datatrove.skipped:
        both = (~kept & ~datatrove.outcome["kept"]).sum()
        outcome = f"theirs flags {(~datatrove.outcome['kept']).sum():,}, {both:,} of them ours too"
    return [
        versus(work, ours, "datatrove", datatrove, outcome, 20),
        versus(work, ours, "set of word tuples", tuples, f"same {(~kept).sum():,} flagged", 2),
    ]


def tuples(folder: Path, file: str, benchmarks: str) -> Callable[[], dict[str, np.ndarray]]:
    """The strong baseline as a contestant."""
    rows, items = pl.read_parquet(folder / file), pl.read_parquet(folder / benchmarks)
    return lambda: {"kept": ~rows["id"].is_in(list(word_tuples(rows, items))).to_numpy()}
