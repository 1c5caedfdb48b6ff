"""From shards to rows and blocks in the order of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from stages._training.dataset import (
    HIDDEN,
    cut,
    dataset,
    hidden_counts,
    pack,
    passes,
    read_in_order,
    read_shards,
    reversed_pairs,
)
from stages._training.encoding import ANSWER_PARTS, LossPart, encode, refused_rows
from stages._training.indicators import Indicator, Metadata, with_words
from stages._training.losses.base import NLL, Loss
from stages._training.losses.mixup import Mixup
from stages._training.responses import answers_alone


@dataclass(frozen=True)
class Reader:
    """Reads rows of shards as tokens.

    Attributes:
        tokenizer: The model's tokenizer.
        template: A chat template that marks what the assistant says.
        max_length: Tokens of a row, at most.
        loss: What is minimised: it may read columns, add rows and weigh tokens.
        loss_on: The parts of a conversation that loss is on.
        reverse: Whether the first user's turn is to be learned, given its answer.
        response_only: Whether answers are learned without what they answer.
        indicator: Words in what users say.
        weight_column: The weights of the rows; None for equal ones.
        order: The column of positions that rows are read at; None for their ids' order.
        seed: Of what an indicator draws.
        refused: Where rows are noted that the template cannot show.
    """

    tokenizer: Any
    template: str
    max_length: int
    loss: Loss = field(default_factory=NLL)
    loss_on: Sequence[LossPart] = ANSWER_PARTS
    reverse: bool = False
    response_only: bool = False
    indicator: Indicator | None = None
    weight_column: str | None = None
    order: str | None = None
    seed: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)

    def training(self, shards: Path) -> tuple[pl.DataFrame, dict[str, int]]:
        """The rows of the split `train`, and what became of them.

        Args:
            shards: What `export.parquet` wrote.

        Raises:
            UserError: There are none, or a column is missing or has no valid weights.
        """
        further = [*self.loss.columns()]
        further += [self.indicator.column] if self.indicator else []
        further += [self.weight_column] if self.weight_column else []
        files = sorted((shards / "data").glob("train-*.parquet"))
        if not files:
            raise UserError("there are no data/train-*.parquet", where=str(shards))
        rows = read_shards(files, self.order, further)
        if self.indicator:
            rows = with_words(rows, self.indicator, self.seed)
        if self.response_only:
            rows = answers_alone(rows)
        usable, counts = self._encoded(self.loss.rows(self._turned(rows)), "train")
        if self.order:
            usable = usable[read_in_order(usable[self.order])]
        return usable, counts

    def validation(self, shards: Path) -> pl.DataFrame:
        """The rows of the split `validation`, without weights and words; perhaps none.

        Args:
            shards: What `export.parquet` wrote.
        """
        files = sorted((shards / "data").glob("validation-*.parquet"))
        if not files:
            return pl.DataFrame()
        plain = replace(self, loss=NLL(), weight_column=None, order=None)
        return plain._encoded(self._turned(read_shards(files)), "validation")[0]

    def _turned(self, rows: pl.DataFrame) -> pl.DataFrame:
        if not self.reverse:
            return rows
        return rows.with_columns(reversed_pairs(rows["messages"])).drop("tools", strict=False)

    def _encoded(self, rows: pl.DataFrame, split: str) -> tuple[pl.DataFrame, dict[str, int]]:
        encoded = encode(self.tokenizer, self.template, rows, self.loss_on)
        self.refused.extend({"split": split, **row} for row in refused_rows(rows["id"], encoded))
        hidden = hidden_counts(encoded) if split == "train" else {}
        weighed = self.loss.weigh(rows, encoded, self.tokenizer).drop("error", HIDDEN)
        names = ["id", *self.loss.columns(), *([self.order] if self.order else [])]
        kept = [rows[name] for name in dict.fromkeys(names) if name in rows.columns]
        if self.weight_column:
            weighed = _times(weighed, row_weights(rows, self.weight_column))
        usable, counts = cut(weighed.with_columns(kept), self.max_length)
        return usable, counts | hidden


def row_weights(rows: pl.DataFrame, column: str) -> pl.Series:
    """The weights of rows.

    Args:
        rows: The rows.
        column: Their weights.

    Raises:
        UserError: One is missing, negative or not finite.
    """
    weights = rows[column].cast(pl.Float64, strict=False)
    valid = weights.is_finite() & (weights >= 0)
    wrong = rows.filter(~valid.fill_null(value=False))
    if len(wrong):
        raise UserError(
            f"{column} must be a number from 0 on in every row, got {wrong[column][0]!r}",
            where=f"row {wrong['id'][0]}",
            why=f"train.sft weighs rows by it; {len(wrong)} rows have no valid weight",
            hint="drop these rows, or give them a weight, before they are exported",
        )
    return weights


def _times(encoded: pl.DataFrame, weights: pl.Series) -> pl.DataFrame:
    """The encoded rows with the weights of the rows in those of their tokens."""
    if "weights" in encoded.columns:
        own = encoded["weights"].to_list()
        pairs = zip(own, weights, strict=True)
        lists = [tokens and [token * weight for token in tokens] for tokens, weight in pairs]
        return encoded.with_columns(pl.Series("weights", lists, dtype=pl.List(pl.Float32)))
    length = pl.col("input_ids").list.len()
    return encoded.with_columns(weights=weights.cast(pl.Float32)).with_columns(
        weights=pl.when(length.is_not_null()).then(pl.col("weights").repeat_by(length))
    )


@dataclass(frozen=True)
class Arrangement:
    """Rows as they are trained on.

    Attributes:
        packing: Whether several rows share a block.
        max_length: Tokens of a block, at most.
        seed: Of the order; None for the order of the rows.
    """

    packing: bool
    max_length: int
    seed: int | None

    def blocks(self, rows: pl.DataFrame) -> Any:
        """What one pass consists of: blocks, or rows by themselves.

        Args:
            rows: Encoded rows.
        """
        tokens = rows.select(c for c in ("input_ids", "labels", "weights") if c in rows.columns)
        return pack(tokens, self.max_length) if self.packing else dataset(tokens)

    def positions(self, count: int, number: int) -> NDArray[np.int64]:
        """Which blocks are trained on, in their order.

        Args:
            count: How many there are.
            number: How many are trained on, repeats included.
        """
        return passes(count, number, self.seed)


def with_plain_end(
    arrangement: Arrangement,
    reader: Reader,
    shards: Path,
    blocks: Any,
    positions: NDArray[np.int64],
) -> Any:
    """The blocks in their order, the last of them from rows without the indicator's words.

    Args:
        arrangement: How rows become blocks.
        reader: How rows are read.
        shards: What they are read from.
        blocks: Those with the words.
        positions: Which are trained on.
    """
    indicator = reader.indicator
    if not isinstance(indicator, Metadata) or not indicator.cooldown:
        return blocks.select(positions)
    from datasets import concatenate_datasets

    plain, _ = replace(reader, indicator=None, refused=[]).training(shards)
    without = arrangement.blocks(plain)
    number = round(len(positions) * indicator.cooldown)
    first = len(positions) - number
    at = arrangement.positions(len(without), len(positions))[first:]
    return concatenate_datasets([blocks.select(positions[:first]), without.select(at)])


def ordered_blocks(
    arrangement: Arrangement,
    reader: Reader,
    shards: Path,
    rows: pl.DataFrame,
    blocks: Any,
    number: int,
) -> Any:
    """What is trained on, in its order, repeats included.

    Args:
        arrangement: How rows become blocks.
        reader: How rows are read.
        shards: What they are read from.
        rows: The encoded rows.
        blocks: One pass of them.
        number: How many to train on.
    """
    if isinstance(reader.loss, Mixup):
        return blocks.select(reader.loss.pairs(rows, number, reader.seed))
    positions = arrangement.positions(len(blocks), number)
    return with_plain_end(arrangement, reader, shards, blocks, positions)


def replayed(rows: pl.DataFrame, old: pl.DataFrame, fraction: float, seed: int) -> pl.DataFrame:
    """The rows with so many of earlier ones that these are a fraction of all.

    Args:
        rows: The encoded rows.
        old: The encoded earlier rows; repeated where they are too few.
        fraction: The fraction, below 1.
        seed: Of the draw.

    Example:
        >>> new, old = pl.DataFrame({"id": list("abc")}), pl.DataFrame({"id": list("xyz")})
        >>> len(replayed(new, old, 0.25, seed=0))
        4
    """
    number = round(len(rows) * fraction / (1 - fraction))
    if not number or old.is_empty():
        return rows
    return pl.concat([rows, old[passes(len(old), number, seed)]])
