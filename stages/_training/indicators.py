"""Words in front of or behind what a user says that tell the model what kind of row it is.

The trained model is asked with the same words, or without them.

MeCo: Metadata Conditioning Accelerates Language Model Pre-training (Gao et al. 2025,
arXiv:2501.01956; princeton-pli/MeCo).

As in the authors' code: "URL: " and the source stand before a text, without loss, and the last
tenth of the steps has none, in the same training. Ours: the text is a conversation, and the words
begin its first turn.

Conditional training: Pretraining Language Models with Human Preferences (Korbak et al. 2023,
arXiv:2302.08582; tomekkorbak/pretraining-with-human-feedback).

As in the paper: rows above a threshold get one control token and those below another, and some
get none. Ours: whole rows in place of sentences, and the token stands before what the user says.

Context-dependency: On the Loss of Context-awareness in General Instruction Fine-tuning (Wang et
al. 2024, arXiv:2411.02688; YihanWang617/context_awareness).

As in the authors' code: " [IND]" follows what the user says in rows whose score is high. Ours:
the threshold is an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import polars as pl
from pydantic import Field

from pipeline.errors import UserError
from pipeline.types import Fraction, option_group
from stages._selection.random_draws import uniform


@option_group
class Metadata:
    """The value of a column before the first turn, but not in the last steps (MeCo, Gao 2025).

    Args:
        column: The column of the shards; `sources` is always there.
        text: What is written, `{}` for the value.
        cooldown: The fraction of the steps, at the end, in which nothing is written.
    """

    name: Literal["metadata"] = "metadata"
    column: str = "sources"
    text: str = "URL: {}\n\n"
    cooldown: Fraction = 0.1

    def words(self, rows: pl.DataFrame, purpose: str) -> tuple[Sequence[str], Sequence[str]]:  # noqa: ARG002
        """What stands before the first user's turn of each row, and behind the last.

        Args:
            rows: The rows, with the column.
            purpose: What keys the draws, seed included.
        """
        values = rows[self.column].to_list()
        written = [", ".join(map(str, v)) if isinstance(v, list) else v for v in values]
        before = ["" if v in (None, "") else self.text.replace("{}", str(v)) for v in written]
        return before, [""] * len(rows)


@option_group
class Control:
    """One of two words by the score of a row (conditional training, Korbak et al. 2023).

    Args:
        column: The column of the scores; a row without one gets no word.
        threshold: The least score of the upper word.
        above: The word of rows with this score or a higher one.
        below: The word of the others.
        drop: The fraction of rows that get none, drawn by their ids.
    """

    name: Literal["control"] = "control"
    column: str
    threshold: float
    above: str = "<|aligned|>"
    below: str = "<|misaligned|>"
    drop: Fraction = 0.01

    def words(self, rows: pl.DataFrame, purpose: str) -> tuple[Sequence[str], Sequence[str]]:
        """What stands before the first user's turn of each row, and behind the last.

        Args:
            rows: The rows, with the column.
            purpose: What keys the draws, seed included.
        """
        score = pl.lit(finite_scores(rows, self.column))
        word = (
            pl.when(score >= self.threshold).then(pl.lit(self.above)).otherwise(pl.lit(self.below))
        )
        kept = pl.Series(uniform(rows["id"], purpose)) >= self.drop
        chosen = rows.select(pl.when(score.is_not_null() & kept).then(word).otherwise(pl.lit("")))
        return chosen.to_series().to_list(), [""] * len(rows)


@option_group
class Context:
    """A mark behind what the user says last, where a score is high (Wang et al. 2024).

    Args:
        column: The column of the scores; a row without one gets no mark.
        threshold: The least score of rows that get it.
        text: The mark.
    """

    name: Literal["context"] = "context"
    column: str
    threshold: float
    text: str = " [IND]"

    def words(self, rows: pl.DataFrame, purpose: str) -> tuple[Sequence[str], Sequence[str]]:  # noqa: ARG002
        """What stands before the first user's turn of each row, and behind the last.

        Args:
            rows: The rows, with the column.
            purpose: What keys the draws, seed included.
        """
        marked = (finite_scores(rows, self.column) >= self.threshold).fill_null(value=False)
        return [""] * len(rows), [self.text if mark else "" for mark in marked]


def finite_scores(rows: pl.DataFrame, column: str) -> pl.Series:
    """The scores of rows, null for one that is missing or not finite.

    Args:
        rows: The rows.
        column: Their scores.

    Raises:
        UserError: The column holds no numbers.

    Example:
        >>> rows = pl.DataFrame({"score": [1.0, float("nan"), None]})
        >>> finite_scores(rows, "score").to_list()
        [1.0, None, None]
    """
    dtype = rows[column].dtype
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        raise UserError(
            f"the indicator's column {column} must hold numbers, got {dtype}",
            hint="name the column of a score that export.parquet wrote (`columns`)",
        )
    values = rows[column].cast(pl.Float64)
    return values.set(~values.is_finite().fill_null(value=False), None)


Indicator = Annotated[Metadata | Control | Context, Field(discriminator="name")]


def with_words(rows: pl.DataFrame, indicator: Indicator, seed: int) -> pl.DataFrame:
    """The rows with an indicator's words in what their users say.

    Args:
        rows: `id`, `messages` and the indicator's column.
        indicator: What is written.
        seed: Of what is drawn.
    """
    before, behind = indicator.words(rows, f"train.sft:indicator:{seed}")
    turns = [
        _written(turns, first, last)
        for turns, first, last in zip(rows["messages"].to_list(), before, behind, strict=True)
    ]
    return rows.with_columns(pl.Series("messages", turns, dtype=rows["messages"].dtype))


def _written(turns: Sequence[dict[str, Any]], before: str, behind: str) -> list[dict[str, Any]]:
    result = [dict(turn) for turn in turns]
    asked = [turn for turn in result if turn["role"] == "user"]
    if asked:
        asked[0]["content"] = before + (asked[0]["content"] or "")
        asked[-1]["content"] = (asked[-1]["content"] or "") + behind
    return result
