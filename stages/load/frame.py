"""Conversations from an object of a notebook: a data frame or a data set, as records.

    open_recipe("my.yaml", frames={"pool": frame})

stores the rows of `frame` by their content (`pipeline/store/frames.py`) and names that file as
the `path` of the stage `pool`. They are read as `load.records` reads a file of such rows: the
same formats, the same failing rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Literal

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import InputFiles, Records, stage
from stages.load._chat.source import Fields, Reasoning
from stages.load._formats.row_formats import RowFormat
from stages.load.records import _check as check_records
from stages.load.records import records

_OF_FILES = SimpleNamespace(dataset=None, split="train", revision=None, delimiter=None)
"""Options of `load.records` that rows of a frame do not have."""


def _check(options: SimpleNamespace) -> None:
    if not options.path:
        raise OptionError(
            "path",
            "must name the rows of a frame, got none",
            why="the rows come from Python, and no notebook has handed any over in this call",
            hint='open_recipe(RECIPE, frames={"STAGE": frame}), or path: FILE',
        )
    check_records(SimpleNamespace(**{**vars(_OF_FILES), **vars(options)}))


@stage(version=1, scope="set", check=_check)
def frame(
    ctx: Context,
    *,
    path: InputFiles = (),
    format: Literal["auto"] | RowFormat = "auto",
    fields: Fields | None = None,
    reasoning: Reasoning = "split",
    accepted: InputFiles = (),
    source: str,
    license: str,
) -> Iterator[Records]:
    """Load conversations from a data frame of pandas or polars, or a data set of `datasets`.

    A row is a source position, and counts as in `load.records`: kept, dropped as `duplicate` or
    `accepted`, or failed with `file` (the stage's name), `line` (the row, from 1) and `error`.
    Rows enter the fingerprint by content: equal rows are never loaded again.

    Args:
        path: The file of the rows; `open_recipe(..., frames={stage: frame})` writes it, and a
            recipe leaves it out.
        format: Of the rows; each row's own fields decide by default. See `load.records`.
        fields: The names of the frame's columns for a format's fields. See `load.records`.
        reasoning: What becomes of reasoning in an assistant's text. See `load.records`.
        accepted: Failed rows that are accepted, as `gristmill cat RECIPE STAGE --failed -o
            FILE.jsonl` writes them: file, line and error.
        source: Where the rows come from; it stands in `origins`.
        license: On what terms they come; it stands in `origins`.

    Raises:
        UserError: The file cannot be read at all.

    Example:
        ```yaml
        pool:
          uses: load.frame
          with:
            path: data/samples/self_instruct.jsonl.gz # left out where a notebook hands over rows
            source: my-notebook
            license: Apache-2.0
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from pipeline.store.frames import save_rows
        >>> folder = Path(mkdtemp())
        >>> path = save_rows(folder, "pool", [{"prompt": "Why?", "completion": "So."}])
        >>> ctx = Context.scratch(folder)
        >>> rows = next(frame(ctx, path=(str(path),), source="me", license="MIT"))
        >>> [turn["content"] for turn in rows["messages"][0]]
        ['Why?', 'So.']
    """
    return records(
        ctx,
        path=path,
        format=format,
        fields=fields,
        reasoning=reasoning,
        accepted=accepted,
        source=source,
        license=license,
    )
