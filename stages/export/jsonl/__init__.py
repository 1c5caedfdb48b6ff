"""JSON Lines in the forms that other programs train on: OpenAI's, ShareGPT's, Alpaca's, axolotl's.

    data/train-00000-of-00001.jsonl     a row a line (`.jsonl.gz` where they are compressed)
    README.md, shards.json              as `export.parquet` writes them

Each form has a module of its own. What a form has no place for is never left out in silence: the
row is dropped with the name of the field. The bytes are a function of the rows and the options.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Records, stage
from pipeline.types import Count
from schemas.turns import View
from stages._common.option_types import Distinct
from stages._common.verdicts import evidence_json
from stages._selection.columns import shown_columns
from stages.export._files import (
    SPLIT,
    FileForm,
    FilesWriter,
    added_split,
    lost_reasoning,
    provenance,
    split_rows,
    words,
)
from stages.export._turns import Reasoning, json_line, place_reasoning, present_fields
from stages.export.jsonl._form import Conversation, Form, FormLacks, Omitted, held
from stages.export.jsonl.alpaca import ALPACA
from stages.export.jsonl.axolotl import AXOLOTL
from stages.export.jsonl.openai import OPENAI
from stages.export.jsonl.sharegpt import SHAREGPT

FormName = Literal["openai", "sharegpt", "alpaca", "axolotl"]

FORMS: Final[dict[FormName, Form]] = {
    "openai": OPENAI,
    "sharegpt": SHAREGPT,
    "alpaca": ALPACA,
    "axolotl": AXOLOTL,
}

AT_ONCE: Final = 10_000
"""Rows that are held as Python objects at one time."""


def _reads(options: SimpleNamespace) -> list[str]:
    always = ["messages", "tools", "input_start", "origins"]
    return list(dict.fromkeys([*always, *shown_columns([*options.columns, SPLIT])]))


def _check(options: SimpleNamespace) -> None:
    reserved = {*FORMS[options.form].keys, "origins", SPLIT} & {*options.columns}
    if reserved:
        keys = ", ".join(FORMS[options.form].keys)
        raise OptionError(
            "columns",
            f"must be columns other than {keys} (keys of the form), origins and {SPLIT} (never "
            f"written), got {', '.join(sorted(reserved))}",
        )


@stage(version=3, scope="set", reads=_reads, adds=added_split, files=True, check=_check)
def jsonl(
    ctx: Context,
    rows: Records,
    *,
    form: FormName = "openai",
    reasoning: Reasoning = "field",
    omit: Annotated[tuple[Omitted, ...], Distinct] = (),
    columns: Annotated[tuple[str, ...], Distinct] = (),
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    rows_per_file: Count = 50_000,
    compression: Literal["none", "gzip"] = "none",
) -> pl.DataFrame:
    """Write the rows as JSON Lines in a form that other programs read, with checksums and a card.

    `load.records` reads from the files the conversations that were written; JSON within them
    (arguments, definitions of tools) may come back with other white space.

    Dropped as `no_answer` are conversations that do not end with an answer, and as
    `form_lacks: FIELD` those with what the form has no place for; evidence: the field, and the
    number of the turn. What the forms lack:

    - `openai`: `train` on turns that are not the assistant's; `tools` that are no list.
    - `axolotl`: such tools; `arguments` that are no JSON object.
    - `sharegpt`: these; `reasoning` in a field, `tool_call_id` (ids of calls too), `name`,
      `train`, `content` beside calls, and a `role` that is not on turn (user or tool, then
      assistant, to the end).
    - `alpaca`: these; `tool_calls`, `tools`, and the `role` tool.

    Args:
        rows: The rows to write.
        form: `openai` (`messages`, `tools`; `weight` for `train`), `sharegpt` (LLaMA-Factory's
            `conversations`, `system`, `tools`), `alpaca` (`instruction`, `input`, `output`,
            `system`, `history`), or `axolotl` (its `chat_template` form: `messages` with
            `train`, `tools`).
        reasoning: Where the reasoning of an assistant's turn is written: `field`, as
            `reasoning_content`, which ShareGPT's and Alpaca's forms lack; `inline`, before the
            content, between `<think>` and `</think>`; `last`, as a field of the last
            assistant turn alone; `drop`, nowhere. The card, `shards.json` and a warning say how
            many rows lost some, and how much.
        omit: What is left out where the form lacks it, so that its rows are not dropped:
            `name`, `tool_call_id` (of calls and of results), `train`, `tools`.
        columns: Columns to write beside the keys of the form, such as `id`. One that only
            another selector adds is left out where the rows have none.
        validation_fraction: The fraction of rows that go to the split `validation`; the same
            rows as in `export.parquet`.
        rows_per_file: The rows of each file; the last one of a split may have fewer.
        compression: Of the files.

    Returns:
        `split`, if the rows have none, and the verdicts.

    Example:
        ```yaml
        lines:
          uses: export.jsonl
          needs: best
          with: {form: sharegpt, reasoning: inline, omit: [tool_call_id, name]}
        ```

        >>> from tempfile import mkdtemp
        >>> from schemas.records import RECORD_COLUMNS
        >>> messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant")]
        >>> row = {"id": "a", "messages": messages, "origins": []}
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> _ = jsonl(ctx, pl.DataFrame([row], schema=RECORD_COLUMNS), form="alpaca")
        >>> print((ctx.files / "data/train-00000-of-00001.jsonl").read_text().strip())
        {"instruction": "Hi", "input": "", "output": "Hi", "system": "", "history": []}
    """
    columns = tuple(name for name in columns if name in rows.columns)
    placed = place_reasoning(rows["messages"], reasoning)
    view: View = "calls" if reasoning == "drop" else "all"
    result = split_rows(rows, validation_fraction)
    lines = _lines(
        rows.with_columns(placed.messages),
        result["split"].is_not_null(),
        FORMS[form],
        omit,
        columns,
    )
    result = _with_lacks(result, lines)
    table = rows.select(lines["line"], *provenance(), words(view).alias("_length"), result["split"])
    lost = placed.lost.filter(result["split"].is_not_null())
    described, notes = lost_reasoning(lost, reasoning)
    described, notes = {"form": form, **described}, [FORMS[form].usage, *notes]
    suffix, write = (".jsonl.gz", _write_gzip) if compression == "gzip" else (".jsonl", _write)
    files = FilesWriter(ctx.files, rows_per_file, FileForm(suffix, write))
    files.add(table)
    files.finish(None, described, notes)
    return result.drop(SPLIT) if SPLIT in rows.columns else result


def _lines(
    rows: pl.DataFrame,
    is_answered: pl.Series,
    form: Form,
    omit: tuple[Omitted, ...],
    columns: tuple[str, ...],
) -> pl.DataFrame:
    """The line of each row; for what the form cannot hold, the field that it lacks and a turn."""
    beside = pl.struct(columns).struct.json_encode() if columns else pl.lit(None, pl.String)
    shown = rows.select("messages", "tools", "input_start", beside.alias("_beside"))
    schema = {"line": pl.String, "field": pl.String, "turn": pl.Int64}
    parts = [pl.DataFrame(schema=schema)]
    for start in range(0, len(rows), AT_ONCE):
        part, answered = shown.slice(start, AT_ONCE), is_answered.slice(start, AT_ONCE)
        # Most rows have little of what a form may lack, and each turn is searched for it.
        present = {*present_fields(part["messages"]), "tools"}
        lacking = form._replace(lacks=tuple(name for name in form.lacks if name in present))
        lines = [
            _line(Conversation(*row), others, lacking, omit) if is_kept else (None, None, None)
            for (*row, others), is_kept in zip(part.iter_rows(), answered, strict=True)
        ]
        parts.append(pl.DataFrame(lines, schema, orient="row"))
    return pl.concat(parts)


def _line(
    conversation: Conversation, beside: str | None, form: Form, omit: tuple[Omitted, ...]
) -> tuple[str | None, str | None, int | None]:
    """The line of one row, or the field that the form lacks and the number of the turn."""
    try:
        row = form.row(held(conversation, form, omit))
    except FormLacks as lack:
        return None, lack.field, lack.turn
    return json_line(row | json.loads(beside) if beside else row), None, None


def _with_lacks(result: pl.DataFrame, lines: pl.DataFrame) -> pl.DataFrame:
    """The verdicts with those on rows that the form cannot hold, which are in no split."""
    evidence = [
        None
        if field is None
        else evidence_json({"field": field} | ({"turn": turn} if turn else {}))
        for field, turn in lines.select("field", "turn").iter_rows()
    ]
    lacks = lines["field"].is_not_null()
    reasons = "form_lacks: " + lines["field"]
    return result.with_columns(
        pl.when(~lacks).then("split").alias("split"),
        pl.when(lacks).then(reasons).otherwise("drop_reason").alias("drop_reason"),
        pl.coalesce(pl.Series(evidence, dtype=pl.String), "evidence").alias("evidence"),
    )


def _write(path: Path, rows: pl.DataFrame) -> None:
    path.write_bytes(_text(rows))


def _write_gzip(path: Path, rows: pl.DataFrame) -> None:
    path.write_bytes(gzip.compress(_text(rows), mtime=0))


def _text(rows: pl.DataFrame) -> bytes:
    return "".join(f"{line}\n" for line in rows["line"]).encode()
