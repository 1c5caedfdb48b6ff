"""All but these: rows without those of another edge, by id, by prompt, or with all that is near.

`match: near` takes out of a pool what `report.ablation` does not allow in it beside its
evaluation rows: the rows themselves, other answers to their prompts, near-duplicates, and
what shares a run of 13 words with one (`stages/select/_related.py`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.stage import Records, stage
from pipeline.types import Count, PositiveFraction
from stages._common.verdicts import dropped
from stages._selection.budget import check_unused
from stages._text.tokens import Field
from stages.select._related import (
    MATCHES,
    SHARED_NGRAM,
    Relation,
    prompt_ids,
    related_rows,
    relation_reads,
)

Match = Literal["id", "prompt", "near"]

DEFAULTS: Final[dict[str, Any]] = {
    "threshold": 0.8,
    "ngram_size": 5,
    "field": "prompt",
    "shared_ngram_size": SHARED_NGRAM,
}
"""The options that `match: near` alone reads."""


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    by_match = {"id": [], "prompt": ["messages", "tools"], "near": relation_reads(options)}
    return {"rows": by_match[options.match], "except": by_match[options.match]}


def _check(options: SimpleNamespace) -> None:
    if options.match != "near":
        for name, default in DEFAULTS.items():
            check_unused(options, name, default, f"with match: {options.match}")


@stage(version=1, scope="set", reads=_reads, check=_check)
def except_(
    ctx: Context,
    rows: Records,
    except_: Records,
    *,
    match: Match = "id",
    threshold: PositiveFraction | None = DEFAULTS["threshold"],
    ngram_size: Count = DEFAULTS["ngram_size"],
    field: Field = DEFAULTS["field"],
    shared_ngram_size: Count | None = DEFAULTS["shared_ngram_size"],
) -> pl.DataFrame:
    """Drop as `excepted` every row that is, or is near to, one of the others.

    Evidence: `excepted`, the id of the row that it matches, and `match`: id, prompt,
    near_duplicate (with `jaccard`) or shared_ngram (with the first `ngram`). Of several
    matches the first in this order is named, then the most similar, then the first id.

    Args:
        rows: The rows to choose from.
        except_: The rows to leave out, on the edge `except`.
        match: `id`: the same conversation. `prompt`: the same up to the last answer. `near`:
            that, near-duplicates, and rows with a run of words in common.
        threshold: For `near`, the Jaccard similarity of near-duplicates; null: none are.
        ngram_size: Words in the n-grams that are compared for it.
        field: The text compared for it: conversation, prompt (first user turn with its
            input), instruction (without it), response or both.
        shared_ngram_size: For `near`, the words of a run that no turn may share with a turn
            of an excepted row; null: not looked at.

    Example:
        ```yaml
        pool: {uses: select.except, needs: {rows: scored, except: heldout}, with: {match: near}}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame({"id": ["a", "b"]})
        >>> except_(ctx, rows, rows.tail(1))["drop_reason"].to_list()
        [None, 'excepted']
    """
    matches = [pl.DataFrame(schema={**MATCHES, "match": pl.String})]
    matches.append(_equal(rows["id"], except_["id"]).with_columns(match=pl.lit("id")))
    if match != "id":
        prompts = _equal(prompt_ids(rows), prompt_ids(except_))
        matches.append(prompts.with_columns(match=pl.lit("prompt")))
    if match == "near":
        relation = Relation(threshold, ngram_size, field, shared_ngram_size)
        kind = pl.when(pl.col("jaccard").is_null()).then(pl.lit("shared_ngram"))
        near = related_rows(rows, except_, relation)
        matches.append(near.with_columns(match=kind.otherwise(pl.lit("near_duplicate"))))
    return _verdicts(len(rows), except_["id"], pl.concat(matches, how="diagonal"))


def _equal(values: pl.Series, others: pl.Series) -> pl.DataFrame:
    """The positions of equal values, in `row` and `other`."""
    left = pl.DataFrame({"value": values}).with_columns(row=pl.int_range(pl.len()))
    right = pl.DataFrame({"value": others}).with_columns(other=pl.int_range(pl.len()))
    return left.join(right, on="value", how="inner").select("row", "other")


def _verdicts(height: int, ids: pl.Series, matches: pl.DataFrame) -> pl.DataFrame:
    """The verdict on each row, with the best of its matches as evidence.

    Args:
        height: The number of rows.
        ids: The ids of the excepted rows.
        matches: The columns of `related_rows`, and `match`.
    """
    order = pl.col("match").replace_strict(
        {"id": 0, "prompt": 1, "near_duplicate": 2, "shared_ngram": 3}, return_dtype=pl.Int8
    )
    first = (
        matches.with_columns(order=order, excepted=ids.gather(matches["other"]))
        .sort("row", "order", -pl.col("jaccard"), "excepted", maintain_order=True)
        .unique("row", keep="first", maintain_order=True)
        .select("row", "excepted", "match", "jaccard", "ngram")
    )
    causes = {
        row: {name: value for name, value in cause.items() if value is not None}
        for row, cause in zip(first["row"], first.drop("row").iter_rows(named=True), strict=True)
    }
    return dropped(height, "excepted", causes)
