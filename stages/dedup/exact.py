"""Exact duplicates: rows that are equal once chosen differences are taken out.

Rows of equal messages are one record already at load. This stage finds those that
differ only in case, spacing, punctuation or Unicode encoding, or that share one
field. Digits, signs and operators always count, and so does who speaks.
"""

from __future__ import annotations

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._common.verdicts import dropped
from stages._text.tokens import Field, Step, field_reads, field_text, normalise
from stages.dedup._order import order_columns, ordering


@stage(
    version=2,
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

    field: what is compared: the whole conversation, every turn with its role, system
        turns too; the prompt (first user turn with its input), the instruction (without
        it), the response (last assistant turn), or both (prompt and response).
    normalise: the kinds of difference that do not count; () compares as it stands.
        case; space (runs of white space, and at the ends); punctuation (sentence marks
        and quotes, save within numbers); unicode (NFC: one encoding per character);
        nfkc (compatibility forms too, which makes "２" a "2", but also "2³" a "23").
    order_by: which of the equals is the first: id, origin or a column; ` desc` behind
        it turns the order round.

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
    if field == "conversation":
        role = pl.element().struct.field("role")
        content = normalise(pl.element().struct.field("content").fill_null(""), steps)
        key = pl.col("messages").list.eval(pl.concat_str(role, _measured(content))).list.join("")
        some = pl.col("messages").list.eval(_says_something(content)).list.any()
    else:
        fields: tuple[Field, ...] = ("prompt", "response") if field == "both" else (field,)
        texts = [normalise(field_text(name), steps) for name in fields]
        key = pl.concat_str(_measured(text) for text in texts)
        some = pl.any_horizontal(_says_something(text) for text in texts)
    return pl.when(some).then(key).alias("key")


def _measured(text: pl.Expr) -> pl.Expr:
    """The text behind its length: joined, such texts are unambiguous, whatever they hold."""
    return pl.concat_str(pl.lit(" "), text.str.len_chars(), pl.lit(":"), text)


def _says_something(text: pl.Expr) -> pl.Expr:
    return text.str.strip_chars() != ""
