"""Take-down: drop the rows that a list names, and all that was made of them.

Place it behind the stages that load: then nothing is generated from such a row either, and
every later release is without it. Rows whose `parents` are on the list, or are rows here that
go, go too. The gate of a publication checks the same list (`publish: {takedown: FILE}`) over
the whole graph and refuses a release that still holds such a row; `publish --erase` removes
what was published before.
"""

from __future__ import annotations

import polars as pl

from pipeline.context import Context
from pipeline.stage import Documents, InputFiles, Pairs, Records, stage
from stages._common.takedown import read_takedown, taken_down
from stages._common.verdicts import evidence_of, verdict


@stage(version=1, scope="set", reads=["origins", "parents"])
def takedown(ctx: Context, rows: Records | Documents | Pairs, *, path: InputFiles) -> pl.DataFrame:
    """Drop as `taken_down` every row on the list, and every row that was made from one.

    Args:
        rows: Records, documents or pairs.
        path: The list: ids (32 hex digits) or `SOURCE#INDEX`, one a line; or a `.csv` or
            `.jsonl` with `id`, or `source` and `index`. It may be empty.

    Returns:
        The verdicts. Evidence: `cause` (`id`, `origin` or `parent`), and `by`: the entry of the
        list, or the parent that goes.

    Raises:
        UserError: A line of the list is neither an id nor an origin.

    Example:
        ```yaml
        allowed: {uses: select.takedown, needs: pool, with: {path: takedown.txt}}
        ```

        >>> from tempfile import NamedTemporaryFile
        >>> from pathlib import Path
        >>> rows = pl.DataFrame({"id": ["a" * 32, "b" * 32], "parents": [[], ["a" * 32]]})
        >>> with NamedTemporaryFile("w", suffix=".txt") as file:
        ...     _ = file.write("a" * 32)
        ...     file.flush()
        ...     verdicts = takedown(Context(Path(), Path(), Path()), rows, path=(file.name,))
        >>> verdicts["evidence"].to_list()[1]
        '{"cause":"parent","by":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}'
    """
    causes = taken_down([rows], read_takedown(path))
    joined = rows.select("id").join(causes, on="id", how="left", maintain_order="left")
    evidence = evidence_of("cause", "by")
    return joined.select(verdict(pl.col("cause").is_not_null(), "taken_down", evidence))
