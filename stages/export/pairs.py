"""Preference pairs as Parquet shards that TRL's trainers read as they are.

    data/train-00000-of-00001.parquet   the columns of the form, tools, id, sources, licenses
    README.md, shards.json              as `export.parquet` writes them

The forms are TRL's data set types: `dpo` (explicit prompt; DPO, IPO, ORPO), `kto` (unpaired;
KTO) and `reward` (implicit prompt; reward models). Turns are conversational data.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import AfterValidator, Field

from pipeline.context import Context
from pipeline.stage import Pairs, stage
from pipeline.store.parquet import write_table
from pipeline.types import Count
from schemas.records import canonical_turns, record_id
from schemas.turns import parsed, viewed
from stages._common.option_types import Distinct
from stages._common.pairs import as_conversations
from stages._common.verdicts import evidence_json
from stages._selection.random_draws import uniform
from stages.export._files import FileForm, FilesWriter, provenance
from stages.export._turns import shard_table, shard_tools, shard_turns

Form = Literal["dpo", "kto", "reward"]

FORMS: Final[dict[Form, tuple[str, ...]]] = {
    "dpo": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "reward": ("chosen", "rejected"),
}
SCORES: Final = ("chosen_score", "rejected_score")
FIXED: Final = frozenset(
    {*(name for form in FORMS.values() for name in form), "id", "sources", "licenses", "tools"}
    | {*SCORES}
)
"""The columns that shards have by themselves."""


def _reads(options: SimpleNamespace) -> list[str]:
    columns = ["prompt", "chosen", "rejected", *SCORES, "tools", "origins", *options.columns]
    return list(dict.fromkeys(columns))


def _further(columns: tuple[str, ...]) -> tuple[str, ...]:
    if reserved := sorted({*FIXED, "origins"} & set(columns)):
        raise ValueError(
            "must be columns that shards do not have by themselves, and not origins (never "
            f"written), got {', '.join(reserved)}"
        )
    return columns


@stage(version=2, scope="set", reads=_reads, adds={"split": pl.String}, files=True)
def pairs(
    ctx: Context,
    rows: Pairs,
    *,
    form: Form = "dpo",
    columns: Annotated[tuple[str, ...], Distinct, AfterValidator(_further)] = (),
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    rows_per_shard: Count = 50_000,
    compression: Literal["zstd", "snappy", "none"] = "zstd",
) -> pl.DataFrame:
    """Write the pairs as Parquet shards with checksums and a data set card.

    `load.pairs` reads from the shards what was written, with equal ids. A pair in the form
    `kto` is two rows, one for each side, with the pair's id. Scores are written where any
    pair has one, but for `kto`, whose rows have a label in their place.

    Dropped: `one_sided`, where a form needs both sides; `no_answer`, where a side is not the
    assistant's, or does not end with an answer; `form_lacks`, with the `field` that the form
    cannot hold: `tools` that are no JSON, and in `reward` the `prompt` of sides that begin with
    equal turns, which would count as parts of the prompt. A call without arguments has `{}`.

    Args:
        rows: The pairs to write.
        form: `dpo`: prompt, chosen and rejected; `kto`: prompt, completion and label;
            `reward`: chosen and rejected, the prompt in both.
        columns: Columns to write beside those of the form, tools, scores, id, sources and
            licenses.
        validation_fraction: The fraction of prompts whose pairs go to the split `validation`,
            chosen by a hash of the prompt, so that no prompt is in both splits.
        rows_per_shard: The rows of each shard; the last shard of a split may have fewer.
        compression: Of the Parquet files.

    Returns:
        `split`, and the verdicts.

    Example:
        ```yaml
        shards:
          uses: export.pairs
          needs: preferences
          with: {form: dpo, validation_fraction: 0.05}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from schemas.pairs import PAIR_COLUMNS
        >>> sides = {name: [{"role": role, "content": name}] for name, role in
        ...          (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))}
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> row = pl.DataFrame([{"id": "a", "origins": [], **sides}], schema=PAIR_COLUMNS)
        >>> pairs(ctx, row)["split"].item()
        'train'
    """
    verdicts = [_verdict(row, form) for row in rows.iter_rows(named=True)]
    prompts = [record_id(turns or [], tools) for turns, tools in _of(rows, "prompt", "tools")]
    held_out = uniform(pl.Series(prompts, dtype=pl.String), "export.pairs") < validation_fraction
    reasons = pl.Series("drop_reason", [reason for reason, _ in verdicts], pl.String)
    split = pl.when(pl.Series(held_out)).then(pl.lit("validation")).otherwise(pl.lit("train"))
    result = pl.select(
        pl.when(reasons.is_null()).then(split).alias("split"),
        reasons,
        pl.Series("evidence", [evidence for _, evidence in verdicts], pl.String),
    )
    table = _table(rows.with_columns(result["split"]), form, columns)
    form_of_files = FileForm(
        ".parquet", lambda path, part: write_table(path, shard_table(part), compression)
    )
    files = FilesWriter(ctx.files, rows_per_shard, form_of_files)
    files.add(table)
    files.finish()
    return result


def _of(rows: pl.DataFrame, *names: str) -> list[tuple[Any, ...]]:
    return rows.select(names).rows()


def _verdict(pair: dict[str, Any], form: Form) -> tuple[str | None, str | None]:
    """Drop reason and evidence of a pair that the form cannot hold; nulls for others."""
    sides = {name: pair[name] for name in ("chosen", "rejected") if pair[name]}
    if len(sides) < (1 if form == "kto" else 2):
        return "one_sided", evidence_json({"sides": [*sides]})
    for name, side in sides.items():
        said = (side[-1]["content"] or "").strip() or side[-1]["tool_calls"]
        if side[0]["role"] != "assistant" or side[-1]["role"] != "assistant" or not said:
            return "no_answer", evidence_json({"side": name, "ends_with": side[-1]["role"]})
    if not isinstance(parsed(pair["tools"], []), list | dict):
        return "form_lacks", evidence_json({"field": "tools", "value": pair["tools"][:200]})
    if form == "reward":
        firsts = [canonical_turns(side[:1]) for side in sides.values()]
        lengths = [len(side) for side in sides.values()]
        if firsts[0] == firsts[1] and min(lengths) > 1:
            return "form_lacks", evidence_json({"field": "prompt", "shared": firsts[0][0]})
    return None, None


def _table(rows: pl.DataFrame, form: Form, columns: tuple[str, ...]) -> pl.DataFrame:
    """The rows of the shards, with what `write_shards` needs beside them."""
    contents = pl.element().struct.field("content")
    words = viewed("all").list.eval(contents).list.join(" ").str.count_matches(r"\S+")
    lengths = as_conversations(rows).select(words.cast(pl.Int64).alias("_length")).to_series()
    rows = rows.with_columns(lengths).filter(pl.col("split").is_not_null())
    if form == "kto":
        good = rows.select(pl.col("chosen").alias("completion"), pl.lit(True).alias("label"), "*")
        bad = rows.select(pl.col("rejected").alias("completion"), pl.lit(False).alias("label"), "*")
        both = pl.concat([good, bad]).filter(pl.col("completion").list.len() > 0)
        rows = both.sort("id", maintain_order=True)
    elif form == "reward":
        rows = rows.with_columns(
            pl.concat_list("prompt", side).alias(side) for side in ("chosen", "rejected")
        )
    turns = [name for name in FORMS[form] if name != "label"]
    optional = ["tools"] if form == "kto" else ["tools", *SCORES]
    present = [name for name in optional if rows[name].null_count() < len(rows)]
    return rows.select(
        *(shard_turns(rows[name]) for name in turns),
        *(["label"] if form == "kto" else []),
        *(shard_tools(rows[name]) if name == "tools" else rows[name] for name in present),
        "id",
        *provenance(),
        *columns,
        "split",
        "_length",
    )
