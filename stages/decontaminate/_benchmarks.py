"""Evaluation items as a decontamination stage compares them, and the turns of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.errors import UserError
from schemas.records import digest, tools_text
from schemas.turns import View, viewed

Turns = Literal["all", "user", "assistant"]


def by_benchmark(expected: str, valid: Callable[[float], bool]) -> AfterValidator:
    """Marks a `float | dict[str, float]`: one number, or one for each benchmark.

    Args:
        expected: What each number must be, as the message says it.
        valid: Whether a number is that.
    """

    def check(value: float | dict[str, float]) -> float | dict[str, float]:
        for name, number in value.items() if isinstance(value, dict) else [(None, value)]:
            if not valid(number):
                of = f" for {name}" if name is not None else ""
                raise ValueError(f"must be {expected}{of}, got {number}")
        return value

    return AfterValidator(check)


@dataclass(frozen=True)
class Benchmarks:
    """Evaluation items that hash by their content, so that an index of them is built once.

    Args:
        items: Evaluation items.

    Attributes:
        items: The evaluation items.
        key: A digest of their content.

    Raises:
        UserError: There are no items: an empty benchmark finds nothing, which is not the
            same as clean.
    """

    items: pl.DataFrame = field(compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        if not len(self.items):
            raise UserError("benchmarks must hold evaluation items, got none")
        content = self.items.select("benchmark", "item", "id", "texts").hash_rows().to_list()
        object.__setattr__(self, "key", digest(content))

    def texts(self, fields: tuple[str, ...] | None) -> pl.DataFrame:
        """One row per text of an item: benchmark, item, id, field and text."""
        name = pl.col("texts").struct.field("name").alias("field")
        text = pl.col("texts").struct.field("text").fill_null("")
        texts = (
            self.items.sort("benchmark", "item", "id")
            .select("benchmark", "item", "id", "texts")
            .explode("texts")
            .select("benchmark", "item", "id", name, text.alias("text"))
        )
        return texts if fields is None else texts.filter(pl.col("field").is_in(fields))

    def names(self) -> list[str]:
        """The benchmarks, sorted."""
        return sorted(set(self.items["benchmark"]))

    def require(self, comparable: set[str], why: str) -> None:
        """Check that something of every benchmark can be compared.

        Raises:
            UserError: A benchmark of the items is not among the comparable ones.
        """
        unusable = [name for name in self.names() if name not in comparable]
        if unusable:
            names = self.texts(None)["field"].drop_nulls().unique().sort().to_list()
            raise UserError(
                f"no text of {', '.join(unusable)} can be compared",
                why=why,
                hint=f"the fields are {', '.join(names)}; or lower min_words",
            )

    def limits(
        self, option: str, value: float | Mapping[str, float], texts: pl.DataFrame
    ) -> NDArray[np.float64]:
        """The number that an option sets for each text, for all or by the text's benchmark.

        Args:
            option: Its name, for the message.
            value: Its value.
            texts: Texts of the items, with their `benchmark`.

        Raises:
            UserError: The option names other benchmarks than those of the items.
        """
        if not isinstance(value, Mapping):
            return np.full(len(texts), float(value))
        names = self.names()
        if sorted(value) != names:
            raise UserError(
                f"{option} must have a value for each of {', '.join(names)}, "
                f"got values for {', '.join(sorted(value)) or 'none'}",
                hint="give one number for all benchmarks, or one for each",
            )
        numbers = texts["benchmark"].replace_strict(value, return_dtype=pl.Float64)
        return np.asarray(numbers.to_numpy(), dtype=np.float64)


def turns_of(rows: pl.DataFrame, which: Turns, view: View = "all") -> pl.DataFrame:
    """One row per turn: row and turn (positions), role and text.

    Args:
        rows: `messages`, and `tools` where all is seen.
        which: The turns of a role, or all; all are tool results too and, behind the last turn
            and of the role `tools`, the definitions of the tools.
        view: What of a turn is seen.
    """
    messages = rows.select(viewed(view)).to_series()
    turns = rows.select(
        pl.int_range(pl.len()).alias("row"),
        pl.int_ranges(messages.list.len()).alias("turn"),
        messages,
    ).explode("turn", "messages")
    role, text = (pl.col("messages").struct.field(name) for name in ("role", "content"))
    turns = turns.select("row", "turn", role, text.alias("text"))
    if which != "all":
        return turns.filter(pl.col("role") == which)
    if view == "all" and "tools" in rows.columns:
        defined = rows.select(
            pl.int_range(pl.len()).alias("row"),
            messages.list.len().cast(turns.schema["turn"]).alias("turn"),
            pl.lit("tools").alias("role"),
            tools_text().alias("text"),
        ).filter(pl.col("text").is_not_null())
        turns = pl.concat([turns, defined]).sort("row", maintain_order=True)
    return turns
