"""Exact duplicates: rows that are equal once chosen differences are taken out.

Rows of equal messages are one record already at load. This stage finds those that
differ only in case, spacing, punctuation or Unicode encoding, or that share one
field. Digits, signs and operators always count.
"""

from __future__ import annotations

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._order import order_columns, ordering
from stages._text import Field, Step, field_reads, field_text, normalise
from stages._verdicts import dropped


@stage(
    version=1,
    scope="set",
    reads=lambda options: [*field_reads(options.field), *order_columns(options.order_by)],
)
def exact(
    ctx: Context,
    rows: Records,
    *,
    field: Field = "conversation",
    normalise: tuple[Step, ...] = ("unicode", "space"),
    order_by: str = "id",
) -> pl.DataFrame:
    """Keep the first row of each set of equals; drop the others as `exact_duplicate`.

    field: what is compared: the whole conversation with its roles, the prompt (first
        user turn with its input), the instruction (without it), or the response.
    normalise: the kinds of difference that do not count; () compares as it stands.
    order_by: which of the equals is the first: id, origin or a column.

    A row whose text is empty, as it stands or once normalised, equals nothing and
    is kept. Evidence: `twin`, the id of the row kept.
    """
    keyed = rows.select("id", _key(field, normalise), pl.int_range(pl.len()).alias("position"))[
        ordering(rows, order_by)
    ]
    twins = (
        keyed.filter(pl.col("key").is_not_null())
        .with_columns(pl.col("id").first().over("key").alias("twin"))
        .filter(pl.col("twin") != pl.col("id"))
    )
    evidence = {
        position: {"twin": twin} for position, twin in twins.select("position", "twin").iter_rows()
    }
    return dropped(len(rows), "exact_duplicate", evidence)


def _key(field: Field, steps: tuple[Step, ...]) -> pl.Expr:
    """What equal rows share; null for a row without text."""
    if field != "conversation":
        text = normalise(field_text(field), steps)
        return pl.when(text.str.strip_chars() != "").then(text).alias("key")
    role = pl.element().struct.field("role")
    content = normalise(pl.element().struct.field("content").fill_null(""), steps)
    # Lengths make the joined text unambiguous, whatever the turns contain.
    turn = pl.concat_str(role, pl.lit(" "), content.str.len_chars(), pl.lit(":"), content)
    key = pl.col("messages").list.eval(turn).list.join("")
    some = pl.col("messages").list.eval(content.str.strip_chars() != "").list.any()
    return pl.when(some).then(key).alias("key")
