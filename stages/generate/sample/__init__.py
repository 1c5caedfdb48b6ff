"""Sampler columns: the attributes of rows that are yet to be written.

Categories, numbers, lines of a file (personas), constants and expressions, each of them under
conditions. What is drawn makes rows of its own, to be prompts, or stands beside rows that there
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import ALL, Edges, InputFiles, Records, stage
from pipeline.types import Count, NonEmpty
from schemas.records import RECORD_COLUMNS, Message
from stages._llm.row_prompts import NULL_VALUE
from stages._llm.row_values import check_names, row_values
from stages._llm.rows import Rejection, Row, make_row, rows_to_frame
from stages._llm.template_options import TemplateText
from stages._llm.templates import NullValue, Template
from stages.generate.sample.draws import Sampler, file_of
from stages.generate.sample.samplers import FromFile, Samplers, dtype_of, names_of, several

_ATTEMPTS: Final = 16
"""How often a row is drawn again that is equal to one before it."""

_VERDICT: Final = ("drop_reason", "evidence", "error")


def _dtypes(columns: Mapping[str, Samplers]) -> dict[str, Any]:
    dtypes = {}
    for name, samplers in columns.items():
        try:
            dtypes[name] = dtype_of(several(samplers))
        except ValueError as error:
            raise OptionError(f"columns.{name}", str(error)) from None
    return dtypes


def _check(options: SimpleNamespace) -> None:
    _dtypes(options.columns)
    for name, value in options.columns.items():
        samplers = several(value)
        for sampler in samplers:
            if isinstance(sampler, FromFile):
                file_of(sampler.file, options.files, name)
        unreachable = [s for s in samplers[:-1] if s.when is None]
        if unreachable:
            what = "must have a condition for each sampler but the last, got one without"
            raise OptionError(f"columns.{name}", what, hint="when: \"level == 'hard'\"")


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    sampled = _dtypes(options.columns)
    came = edges.get("rows") or [{}]
    _check_mode(options, bool(edges.get("rows")))
    carried = {name: dtype for name, dtype in came[0].items() if name not in RECORD_COLUMNS}
    before: list[str] = []
    for name, samplers in options.columns.items():
        check_names(f"columns.{name}", names_of(several(samplers)), came[0], other=before)
        if name in carried:
            raise OptionError(f"columns.{name}", "must be a new name, got one that is there")
        before.append(name)
    for option in ("user", "system"):
        source = getattr(options, option)
        if source is not None:
            check_names(option, Template(source).names, {}, other=before)
    return {**carried, **sampled}


def _check_mode(options: SimpleNamespace, has_rows: bool) -> None:
    """Rows that there are keep their number and their turns."""
    if has_rows:
        for option in ("num_rows", "user", "system"):
            if getattr(options, option) is not None:
                hint = "rewrite.turns writes turns out of columns"
                raise OptionError(option, "must be left out where rows come in", hint=hint)
    elif options.num_rows is None:
        raise OptionError("num_rows", "must be given where no rows come in", hint="num_rows: 100")


@stage(version=1, scope="set", reads=ALL, adds=_adds, check=_check)
def sample(
    ctx: Context,
    rows: Records | None = None,
    *,
    columns: Annotated[dict[str, Samplers], NonEmpty],
    num_rows: Count | None = None,
    files: InputFiles = (),
    user: TemplateText | None = None,
    system: TemplateText | None = None,
    seed: int = 0,
    source: str = "sample",
    license: str = "unspecified",
) -> Records:
    """New records with values that are drawn, or the rows that come in with such values.

    Each column is drawn by one sampler, or by the first of several whose `when` holds, else it
    is null. Conditions and expressions see the columns before theirs and, where rows come in,
    all that a row has. What is drawn for a row depends on the seed and its id (without rows,
    its number) alone.

    A new row is one turn of the user's, and rows with equal turns are one record: a row that
    repeats another is drawn again, up to 16 times, and then dropped as `duplicate`. Where there
    are fewer combinations than rows are wanted, have each answered several times
    (`num_samples` of `generate.column`, `num_answers` of `generate.respond`).

    Args:
        rows: Rows that get the columns; they stay as they are, with all columns that they have.
        columns: The samplers of each column: categorical, integer, uniform, file, constant or
            expression.
        num_rows: New rows, where none come in.
        files: Files for `file`: a line each, or JSON Lines.
        user: The template of the user's turn of a new row; without it the values, a line each.
        system: The template of its system prompt.
        seed: Of what is drawn.
        source: The source of new rows.
        license: The license of new rows.

    Returns:
        The rows. Dropped: `duplicate`, and new rows whose template would show a null as
        `null_value`.

    Raises:
        UserError: A file or an expression cannot be read.

    Example:
        ```yaml
        tasks:
          uses: generate.sample
          with:
            num_rows: 100
            columns:
              language: {name: categorical, values: [Python, Rust], weights: [3, 1]}
              topic:
                - {name: categorical, values: [ownership, traits], when: "language == 'Rust'"}
                - {name: categorical, values: [decorators, generators, classes]}
              minutes: {name: integer, low: 5, high: 60}
            user: "Write an exercise of {{ minutes }} minutes about {{ topic }} in {{ language }}."
        ```
    """
    sampler = Sampler(columns, files, seed)
    dtypes = _dtypes(columns)
    if rows is not None:
        return _beside(rows, sampler, dtypes)
    templates = {
        role: Template(text) for role, text in (("system", system), ("user", user)) if text
    }
    records: list[Row] = []
    seen: set[str] = set()
    for number in range(num_rows or 0):
        row = _new_row(sampler, templates, number, license, seen)
        seen.add(row["id"])
        records.append(row)
    return rows_to_frame(records, source, dtypes)


def _beside(rows: pl.DataFrame, sampler: Sampler, dtypes: Mapping[str, Any]) -> pl.DataFrame:
    """The rows with the columns."""
    names = {name for samplers in sampler.columns.values() for name in names_of(several(samplers))}
    values = row_values(rows, sorted(names - {*sampler.columns}))
    drawn = [sampler.draw(id_, row) for id_, row in zip(rows["id"], values, strict=True)]
    added = [pl.Series(n, [row[n] for row in drawn], dtype=dtype) for n, dtype in dtypes.items()]
    verdict = (pl.lit(None, pl.String).alias(name) for name in _VERDICT)
    return rows.with_columns(*added, *verdict)


def _new_row(
    sampler: Sampler,
    templates: Mapping[str, Template],
    number: int,
    license: str,
    seen: set[str],
) -> Row:
    """A row that is like none before it, if one is drawn within the attempts."""
    for attempt in range(_ATTEMPTS):
        values = sampler.draw(f"{number} {attempt}", {})
        messages, rejection = _conversation(templates, values)
        row = (
            make_row(messages, license=license, parents=(), extra={}, rejection=rejection) | values
        )
        if row["id"] not in seen:
            break
    return row


def _conversation(
    templates: Mapping[str, Template], values: Mapping[str, Any]
) -> tuple[list[Message], Rejection | None]:
    """The turns of a new row; where a template would show a null, the values with the reason."""
    listed = "\n".join(f"{name}: {value}" for name, value in values.items() if value is not None)
    plain: list[Message] = [{"role": "user", "content": listed}]
    try:
        turns: list[Message] = [
            {"role": role, "content": template.render(values)}
            for role, template in templates.items()
        ]
    except NullValue as null:
        return plain, (NULL_VALUE, {"name": str(null)})
    return turns if "user" in templates else [*turns, *plain], None
