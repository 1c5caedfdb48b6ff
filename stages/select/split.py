"""A hold-out: rows split into named parts by their prompts, and nothing in two of them.

Rows that are related (`stages/select/_related.py`: one prompt, near-duplicates, a shared run
of 13 words) are in one part, and so is what these are related to: the parts are made of the
connected components. A component's place is a hash of the seed and of its smallest prompt id,
so that rows that are added move no row whose component they leave as it is. Where parts are
numbers of rows, `held` rows keep theirs.

What all rows share connects all rows: a long system prompt, or a template of 13 words around
every question. The evidence says how many rows a component has; such texts are taken out
before, or `shared_ngram_size: null` looks at prompts and near-duplicates alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Records, stage
from pipeline.types import Count, PositiveFraction
from stages._common.verdicts import evidence_of, verdict
from stages._selection.budget import fill
from stages._selection.held import held_first, held_rows
from stages._selection.random_draws import uniform
from stages._text.tokens import Field
from stages.select._related import (
    SHARED_NGRAM,
    Relation,
    prompt_ids,
    related_groups,
    relation_reads,
)

REST: Final = "rest"


def _valid_part(size: float | str) -> float | str:
    is_fraction = isinstance(size, float) and 0 < size < 1
    if not (is_fraction or size == REST or (isinstance(size, int) and size >= 1)):
        what = "a fraction above 0 and below 1, a number of rows from 1 on or `rest`"
        raise ValueError(f"must be {what}, got {size!r}")
    return size


Part = Annotated[int | float | str, AfterValidator(_valid_part)]


def _valid_parts(parts: Mapping[str, Part]) -> Mapping[str, Part]:
    numbers = [size for size in parts.values() if not isinstance(size, str)]
    num_rest = len(parts) - len(numbers)
    if len(parts) < 2 or num_rest > 1:
        raise ValueError(
            f"must be two parts or more, one of them `rest` at most, got {dict(parts)}"
        )
    if len({type(size) for size in numbers}) > 1:
        raise ValueError(f"must be fractions or numbers of rows, not both, got {dict(parts)}")
    if isinstance(numbers[0], int):
        if not num_rest:
            raise ValueError(f"must have a part `rest` beside numbers of rows, got {dict(parts)}")
        return parts
    total = math.fsum(numbers)
    if num_rest and total >= 1:
        raise ValueError(f"must leave something for `rest`, got fractions of {total:g}")
    if not num_rest and not math.isclose(total, 1, abs_tol=1e-9):
        raise ValueError(f"must be fractions that sum to 1, got {total:g} ({dict(parts)})")
    return parts


Parts = Annotated[Mapping[str, Part], AfterValidator(_valid_parts)]
"""An option: the sizes of parts by name."""


def _check(options: SimpleNamespace) -> None:
    if options.keep is not None and options.keep not in options.parts:
        names = ", ".join(options.parts)
        raise OptionError("keep", f"must be one of the parts ({names}), got {options.keep!r}")
    if options.held_part is not None and options.held_part not in options.parts:
        names = ", ".join(options.parts)
        what = f"must be one of the parts ({names}), got {options.held_part!r}"
        raise OptionError("held_part", what)


@stage(
    version=1,
    scope="set",
    reads=relation_reads,
    adds={"split": pl.String},
    check=_check,
    later=("held", "held_part"),
)
def split(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    parts: Parts,
    keep: str | None = None,
    held_part: str | None = None,
    threshold: PositiveFraction | None = 0.8,
    ngram_size: Count = 5,
    field: Field = "prompt",
    shared_ngram_size: Count | None = SHARED_NGRAM,
    seed: int = 0,
) -> pl.DataFrame:
    """Split the rows into parts that have nothing in common, and keep one part or all.

    Adds `split`, the name of the row's part. Dropped: with `keep`, the rows of the other parts
    as `other_split`, with their part and the number of rows related to them (`group_rows`).
    Steps with equal options that keep one part each share the rows out among them.

    Args:
        rows: The rows to split.
        held: Rows of one part of before, such as those of the last release: groups that have one
            keep that part, as far as its number of rows goes. Steps that share the rows out take
            the same ones.
        parts: The size of each part by name: fractions (`{train: 0.9, heldout: 0.1}`), which
            sum to 1 or leave the others to a part `rest`; or numbers of rows with a part
            `rest` (`{heldout: 500, train: rest}`). A fraction is the chance of a group of
            related rows, so that parts are about so large; rows that are added later move no
            group that they leave as it is. A number of rows is never exceeded: groups are
            taken in the order of their hashes, and one that no longer fits is passed over;
            added rows may take the places of others that are not held.
        keep: The part whose rows are kept; null: all rows.
        held_part: The part of the held rows; null: the part that is kept.
        threshold: The Jaccard similarity from which two rows are near-duplicates; null: none.
        ngram_size: Words in the n-grams that are compared for it.
        field: The text compared for it: conversation, prompt (first user turn with its
            input), instruction (without it), response or both.
        shared_ngram_size: Rows that share a run of so many words in any turn are in one part
            (as `report.ablation` demands with 13); null: not looked at.
        seed: Another seed gives other parts.

    Example:
        ```yaml
        heldout:
          uses: select.split
          needs: clean
          with: {parts: {train: 0.9, heldout: 0.1}, keep: heldout}
        train:
          uses: select.split
          needs: clean
          with: {parts: {train: 0.9, heldout: 0.1}, keep: train}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> messages = [[{"role": "user", "content": text}] for text in ("Sing", "Sing", "Dance")]
        >>> columns = {"id": ["a", "b", "c"], "messages": messages, "tools": [None] * 3}
        >>> rows = pl.DataFrame(columns)
        >>> split(ctx, rows, parts={"train": "rest", "heldout": 2})["split"].to_list()
        ['train', 'train', 'heldout']
    """
    if held is not None and (held_part or keep) not in parts:
        what = f"must be one of the parts ({', '.join(parts)}) with held rows, got {held_part!r}"
        raise OptionError("held_part", what)
    relation = Relation(threshold, ngram_size, field, shared_ngram_size)
    prompts = prompt_ids(rows)
    roots = related_groups(rows, prompts, relation)
    groups = (
        pl.DataFrame({"root": roots, "prompt": prompts, "held": held_rows(rows, held)})
        .group_by("root")
        .agg(pl.col("prompt").min(), rows=pl.len(), held=pl.col("held").any())
        .sort("prompt")
    )
    draws = uniform(groups["prompt"], f"select.split:{seed}")
    sizes, fixed = groups["rows"].to_numpy(), groups["held"].to_numpy()
    names = _parts_of(draws, sizes, parts, fixed, held_part or keep)
    named = groups.select("root", group_rows="rows", split=pl.Series(names, dtype=pl.String))
    result = pl.DataFrame({"root": roots}).join(named, on="root", how="left", maintain_order="left")
    is_other = pl.lit(False) if keep is None else pl.col("split") != keep
    return result.select(
        "split", *verdict(is_other, "other_split", evidence_of("split", "group_rows"))
    )


def _parts_of(
    draws: NDArray[np.float64],
    sizes: NDArray[np.integer],
    parts: Mapping[str, Part],
    is_held: NDArray[np.bool_],
    held_part: str | None,
) -> list[str]:
    """The part of each group of rows.

    The order of the parts in a recipe does not matter: they are taken by name, `rest` last.

    Args:
        draws: A number in [0, 1) for each group.
        sizes: Its number of rows.
        parts: The size of each part.
        is_held: Whether it keeps the part of the held rows.
        held_part: That part.
    """
    by_name = sorted(parts.items())
    counts = {name: size for name, size in by_name if isinstance(size, int)}
    fractions = {name: size for name, size in by_name if isinstance(size, float)}
    last = next((name for name, size in by_name if size == REST), by_name[-1][0])
    if fractions:
        names = [name for name in fractions if name != last]
        ends = np.cumsum([fractions[name] for name in names])
        drawn = [[*names, last][i] for i in np.searchsorted(ends, draws, side="right").tolist()]
        return [str(held_part) if h else name for name, h in zip(drawn, is_held, strict=True)]
    result, free = np.full(len(draws), last, dtype=object), np.argsort(draws, kind="stable")
    for name, size in counts.items():
        places = held_first(free, is_held) if name == held_part else free[~is_held[free]]
        selected = fill(sizes.astype(np.int64), places.tolist(), size)
        result[selected] = name
        free = free[~selected[free]]
    return list(result)
