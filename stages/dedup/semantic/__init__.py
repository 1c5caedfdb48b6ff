"""Semantic duplicates: rows whose vectors point in the same direction.

Up to `exact_up_to` rows every pair that matters is compared (`stages._vectors.greedy_dedup`):
no pair above the threshold is missed, as an approximate index would. Beyond, the rows are
compared within k-means clusters only (`stages.dedup.semantic.clusters`).

Vectors do not distinguish all rows that differ. With the bundled potion-base-4m and the
threshold of 0.9, of 196 problems of GSM8K, each with a copy in other numbers, one of
every pair is dropped unless `compare_numbers` is set, and so are 149 of 200 Chinese rows,
because it knows English only.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.stage import Records, stage
from pipeline.types import PositiveFraction, option_group
from stages._common.verdicts import dropped
from stages._text.tokens import field_reads, field_text, group_by_numbers
from stages.dedup._cosine import CosineRule, dedup_all, dedup_within, ordered_vectors
from stages.dedup._order import order_columns, ordering
from stages.dedup.semantic.clusters import Clusters, dedup_by_clusters


@option_group
class Exact:
    """Compare every row with all rows kept before it, however many there are.

    The time grows with the square of the rows: two cores take 2 to 3 seconds for 50,000
    rows of 384 dimensions.

    Args:
        compare_numbers: Rows whose prompts hold different numbers (in digits) are never
            duplicates. Vectors hardly see numbers: word problems that differ in nothing
            else are similar, and are different problems.
    """

    name: Literal["exact"] = "exact"
    compare_numbers: bool = False


Method = Annotated[Exact | Clusters, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    by_numbers = isinstance(options.method, Exact) and options.method.compare_numbers
    compared = [options.vector, *(field_reads("prompt") if by_numbers else [])]
    columns = dict.fromkeys([*compared, *order_columns(options.order_by)])
    return {"rows": list(columns), "held": compared}


@stage(version=1, scope="set", reads=_reads, files=True)
def semantic(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    threshold: PositiveFraction = 0.9,
    inclusive: bool = False,
    method: Method = Clusters(),
    order_by: str = "id",
    vector: str = "vector",
) -> pl.DataFrame:
    """Go through the rows in order and drop duplicates in meaning as `semantic_duplicate`.

    A dropped row does not count against later ones.

    Files: `semantic.json`: the mode (exact or clusters), the number of rows, held and
    dropped rows; with clusters also their number and the size of the largest, how many
    of the kept rows were `sampled` and compared with all rows kept before them, how
    many of those were duplicates that the clusters had `missed`, and from this the
    estimated `recall`: the fraction of duplicates that was found.

    Args:
        rows: The rows to judge.
        held: Rows that exist already: they count as kept from the start.
        threshold: A row is dropped if its cosine with a kept row is above this.
        inclusive: Drop at the threshold, too.
        method: `exact` compares all pairs; `clusters` does so up to `exact_up_to` rows, and
            beyond compares within k-means clusters (SemDeDup).
        order_by: id, origin or a column: `quality desc` keeps the best row of a group.
        vector: The column of vectors. A zero vector is similar to nothing and is kept; a
            missing vector is an error.

    Returns:
        The verdicts. Evidence: `duplicate_of`, the id of the most similar row kept before,
        and `cosine`.

    Example:
        ```yaml
        distinct:
          uses: dedup.semantic
          needs: vectors
          with: {threshold: 0.9, method: {name: exact, compare_numbers: true}}
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> vectors = pl.Series([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=pl.List(pl.Float32))
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "vector": vectors})
        >>> verdicts = semantic(Context.scratch(Path(tempfile.mkdtemp())), rows, threshold=0.7)
        >>> verdicts["drop_reason"].to_list()
        [None, None, 'semantic_duplicate']
    """
    order = ordering(rows, order_by).to_numpy()
    ordered = ordered_vectors(rows, held, order, vector)
    vectors, n_held = ordered.vectors, ordered.n_held
    rule = CosineRule(threshold, inclusive)
    report: dict[str, object] = {"mode": "exact"}
    match method:
        case Clusters(exact_up_to=limit) if len(vectors) > limit:
            result, report = dedup_by_clusters(vectors, n_held, rule, method, ctx.progress)
        case Exact(compare_numbers=True):
            edges = [rows[order]] if held is None else [held, rows[order]]
            prompts = pl.concat(edge.select(field_text("prompt")) for edge in edges)["text"]
            groups = group_by_numbers(prompts)
            result = dedup_within(vectors, n_held, rule, groups, ctx.progress)
            report |= {"groups_of_numbers": len(groups)}
        case _:
            result = dedup_all(vectors, n_held, rule, ctx.progress)
    evidence = ordered.evidence(result)
    report |= {"rows": len(rows), "held": n_held, "dropped": len(evidence)}
    (ctx.files / "semantic.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return dropped(len(rows), "semantic_duplicate", evidence)
