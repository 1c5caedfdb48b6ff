"""The rows of a release: data sets that build on data sets, and rows that were chosen before.

A release is read from the artifacts that it names, with the ids, origins and parents that its
rows have; no file is parsed again.
"""

from __future__ import annotations

from typing import Final

from pipeline.context import Context
from pipeline.stage import DataKind, Records, stage
from pipeline.store.releases import LATEST
from stages.load._released import FurtherColumns, Name, Version, further_columns, released_rows

READS_RELEASE: Final = True
"""The engine resolves the option `version`, and its rows enter the fingerprint by content."""


@stage(version=1, scope="set", adds=further_columns)
def release(
    ctx: Context,
    *,
    name: Name,
    version: Version | None = LATEST,
    store: str | None = None,
    optional: bool = False,
    columns: FurtherColumns | None = None,
) -> Records:
    """Load the published records of a release; `load.release_pairs` loads one of pairs.

    Args:
        name: The release's name.
        version: `"1.2"`, or `latest`: the newest release of that name. Of the recipe's own
            releases it is the newest that the recipe would not make again as it is: the last
            one from other sources or by another recipe. So a release does not make the recipe
            that made it stale.
        store: The folder of another store in which the release lies, beside the recipe or in
            the repository; null for the recipe's own. It enters the fingerprint by the rows.
        optional: Whether a release that is not there has no rows, as before the first release
            of a recipe that reads its own; else it is an error.
        columns: Further columns of the released rows (scores, tags), with their types.

    Raises:
        UserError: There is no such release, it has no records, its artifacts are not in the
            store, or it has no such column.

    Example:
        ```yaml
        before: {uses: load.release, with: {name: chat, optional: true}}
        chosen: {uses: select.random, needs: {rows: scored, held: before}, with: {budget: 1000}}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> len(release(ctx, name="chat", version=None, optional=True))
        0
    """
    return released_rows(ctx, DataKind.RECORDS, (name, version), store, columns)
