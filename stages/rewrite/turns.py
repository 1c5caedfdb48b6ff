"""Turns out of columns: conversations written from templates over the columns of rows.

What a step of one's own wrote into a column (`generate.column`) becomes a request, an answer or
a system prompt. A row's id is the digest of its turns, so these are new records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models.counting import is_counting
from pipeline.stage import ALL, Edges, Records, stage
from schemas.records import RECORD_COLUMNS
from stages._common.option_types import Distinct
from stages._llm.row_prompts import NULL_VALUE
from stages._llm.row_values import check_names, row_values
from stages._llm.rows import Rejection, Row, license_of, make_row, rows_to_frame
from stages._llm.template_options import TemplateText
from stages._llm.templates import NullValue, Template, TemplateMistake

ROLES: Final = ("system", "user", "assistant")


def _templates(options: Mapping[str, Any]) -> dict[str, Template]:
    """The templates by role."""
    sources = {role: options[role] for role in ROLES if options[role] is not None}
    if not sources:
        hint = 'user: "{{ instruction }}"'
        raise OptionError("user", "or system or assistant must be given, got none", hint=hint)
    return {role: Template(source) for role, source in sources.items()}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    (columns,) = edges["rows"]
    for role, template in _templates(vars(options)).items():
        check_names(role, template.names, columns)
    carried = {name: dtype for name, dtype in columns.items() if name not in RECORD_COLUMNS}
    for name in options.each:
        if not isinstance(carried.get(name), pl.List):
            lists = [n for n, dtype in carried.items() if isinstance(dtype, pl.List)]
            hint = f"there are: {', '.join(lists)}" if lists else "num_samples of generate.column"
            raise OptionError("each", f"must name added columns of lists, got {name!r}", hint=hint)
        carried[name] = carried[name].inner
    return carried


@stage(version=1, scope="set", reads=ALL, adds=_adds)
def turns(
    ctx: Context,
    rows: Records,
    *,
    system: TemplateText | None = None,
    user: TemplateText | None = None,
    assistant: TemplateText | None = None,
    each: Annotated[tuple[str, ...], Distinct] = (),
    source: str = "turns",
) -> Records:
    """New records whose turns are written from templates over the columns of the rows.

    With `user` the conversation is new: the system prompt, the request and the answer for which
    there is a template. Without it the row's own turns stay up to the last one of the user, and
    `assistant` answers that; `system` alone takes the place of the system prompt. A template
    may name what one of `generate.column` may.

    The columns of the rows stay, also scores of the turns before: make these anew. `parents` is
    the row, whose license stays.

    Args:
        rows: The rows.
        system: The template of the system prompt.
        user: The template of the user's turn.
        assistant: The template of the answer.
        each: Columns of lists, such as several samples: each value makes a record of its own;
            of several columns those at the same place go together.
        source: The source of the new records.

    Returns:
        The new records. Dropped: `null_value` (a turn would show a null),
        `blank_turn`, `no_values` (a list of `each` is empty), `no_prompt` (there is no user's turn
        to answer) and `duplicate`.

    Raises:
        UserError: A template cannot be rendered, or lists of one row differ in length.

    Example:
        ```yaml
        brief: {uses: rewrite.turns, needs: pool, with: {user: "In a sentence: {{ instruction }}"}}
        ```

        Requests out of the three samples of a step of one's own, and answers to them:

        ```yaml
        written: {uses: generate.column, needs: topics, with: {
          model: writer, column: task, num_samples: 3, prompt: "Write a task about {{ topic }}."}}
        tasks:   {uses: rewrite.turns, needs: written, with: {user: "{{ task }}", each: [task]}}
        answers: {uses: generate.respond, needs: {rows: tasks}, with: {models: [writer]}}
        ```
    """
    templates = _templates({"system": system, "user": user, "assistant": assistant})
    names = {name for template in templates.values() for name in template.names}
    records: list[Row] = []
    indices: list[int] = []
    chosen: dict[str, list[Any]] = {name: [] for name in each}
    columns = rows.select(*RECORD_COLUMNS, *each).iter_rows(named=True)
    shown = row_values(rows, sorted(names))
    for index, (row, values) in enumerate(zip(columns, shown, strict=True)):
        for own in _each(row, each):
            records.append(_record(row, _written(templates, values, own, row["id"])))
            indices.append(index)
            for name in each:
                chosen[name].append(own and own[name])
    frame = rows_to_frame(records, source, {})
    if is_counting():  # stand-ins for answers are all alike
        frame = frame.with_columns(
            pl.lit(None, pl.String).alias(name) for name in ("drop_reason", "evidence")
        )
    carried = rows.drop(*RECORD_COLUMNS, strict=False)[pl.Series(indices, dtype=pl.UInt32)]
    carried = carried.with_columns(
        pl.Series(name, chosen[name], dtype=carried[name].dtype.inner)  # type: ignore[attr-defined]
        for name in each
    )
    return pl.concat([frame, carried], how="horizontal")


def _each(row: Mapping[str, Any], names: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """The values of the lists at each place; None where they have none.

    Raises:
        UserError: The lists differ in length.
    """
    lists = {name: row[name] or [] for name in names}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        shown = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        what = f"the columns of `each` must be of one length, got {shown}"
        raise UserError(what, where=f"row {row['id']}")
    if not names:
        yield {}
    elif lengths == {0}:
        yield None
    for at in range(max(lengths, default=0)):
        yield {name: values[at] for name, values in lists.items()}


def _written(
    templates: Mapping[str, Template],
    values: Mapping[str, Any],
    own: Mapping[str, Any] | None,
    id_: str,
) -> dict[str, str] | Rejection:
    """The turns that the templates write, or why there are none."""
    if own is None:
        return "no_values", {}
    written = {}
    for role, template in templates.items():
        try:
            written[role] = template.render({**values, **own})
        except NullValue as null:
            return NULL_VALUE, {"name": str(null), "turn": role}
        except TemplateMistake as error:
            raise UserError(f"the {role} turn {error}", where=f"row {id_}") from None
        if not written[role].strip():
            return "blank_turn", {"turn": role}
    return written


def _record(row: Mapping[str, Any], written: dict[str, str] | Rejection) -> Row:
    """The new record; of one without turns the row's own."""
    kept = row["messages"] or []
    rejection = written if isinstance(written, tuple) else None
    new = {} if isinstance(written, tuple) else dict(written)
    is_new = "user" in new
    if is_new:
        kept = []
    elif "assistant" in new:
        last = max((i for i, turn in enumerate(kept) if turn["role"] == "user"), default=-1)
        kept = kept[: last + 1]
        rejection = rejection or (None if kept else ("no_prompt", {}))
    if "system" in new:
        kept = [turn for turn in kept if turn["role"] != "system"]
        kept = [{"role": "system", "content": new.pop("system")}, *kept]
    turns = [*kept, *({"role": role, "content": text} for role, text in new.items())]
    return make_row(
        turns,
        None if is_new else row["input_start"],
        tools=None if is_new else row["tools"],
        license=license_of(row["origins"]),
        parents=[row["id"]],
        extra={},
        rejection=rejection,
    )
