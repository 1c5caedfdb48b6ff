"""Parquet shards that `datasets.load_dataset` and TRL read without a hint.

    data/train-00000-of-00002.parquet   messages, id, sources, licenses, further columns
    data/validation-00000-of-00001.parquet
    README.md                           a data set card that names the splits
    shards.json                         rows, bytes, sha256 and lengths of each shard

The bytes are a function of the rows and the options: rows are in id order, a row's index in
its source file is left out, and Parquet is written with fixed settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
from pydantic import AfterValidator, Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Columns, Edges, Records, stage
from pipeline.store.parquet import to_arrow, write_table
from pipeline.types import Count
from schemas.records import turns
from schemas.turns import lists_of, viewed
from stages._common.option_types import Distinct
from stages._common.verdicts import evidence_of, verdict
from stages._selection.columns import shown_columns
from stages._selection.random_draws import uniform
from stages._text.tokens import spaced

_log = logging.getLogger(__name__)

FIXED: Final = ("messages", "id", "sources", "licenses")
"""The columns of every shard; `messages` comes first, as trainers look for it."""

SPLIT: Final = "split"
"""The column of each row's split: added here, unless `select.split` came before."""


def _reads(options: SimpleNamespace) -> list[str]:
    counts = [options.token_column] if options.token_column else []
    return list(
        dict.fromkeys(["messages", "origins", *shown_columns([*options.columns, SPLIT]), *counts])
    )


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    """`split`, unless the rows have one already."""
    if SPLIT not in edges["rows"][0]:
        return {SPLIT: pl.String}
    if options.validation_fraction:
        what = f"must be left out, got {options.validation_fraction}"
        raise OptionError("validation_fraction", f"{what}: the rows have the column {SPLIT!r}")
    return {}


def _further(columns: tuple[str, ...]) -> tuple[str, ...]:
    if reserved := sorted({*FIXED, "origins", SPLIT} & set(columns)):
        raise ValueError(
            f"must be columns other than {', '.join(FIXED)} (always written), origins and "
            f"{SPLIT} (never written), got {', '.join(reserved)}"
        )
    return columns


@stage(
    version=3,
    scope="set",
    reads=_reads,
    adds=_adds,
    files=True,
)
def parquet(
    ctx: Context,
    rows: Records,
    *,
    columns: Annotated[tuple[str, ...], Distinct, AfterValidator(_further)] = (),
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    rows_per_shard: Count = 50_000,
    compression: Literal["zstd", "snappy", "none"] = "zstd",
    token_column: str | None = None,
) -> pl.DataFrame:
    """Write the rows as Parquet shards with checksums and a data set card.

    Dropped as `no_answer` are conversations that do not end with an answer, or with a blank
    one: nothing could be learnt from them. Rows that have a `split` (of `select.split`) are
    written as these splits.

    Args:
        rows: The rows to write.
        columns: Columns to write beside messages, id, sources and licenses. One that only
            another selector adds is left out, with a warning.
        validation_fraction: The fraction of rows that go to the split `validation`, chosen
            by a hash of the id, so that a row stays in its split when others come or go.
        rows_per_shard: The rows of each shard; the last shard of a split may have fewer.
        compression: Of the Parquet files.
        token_column: A column of token counts for the length histograms, such as `tokens`
            of `score.loss`; null to count words between white space.

    Returns:
        `split`, if the rows have none, and the verdicts.

    Example:
        ```yaml
        shards:
          uses: export.parquet
          needs: best
          with: {validation_fraction: 0.02}
        ```

        >>> from tempfile import mkdtemp
        >>> from schemas.records import RECORD_COLUMNS
        >>> messages = [[{"role": role, "content": "Hi"} for role in ("user", "assistant")]]
        >>> row = {"id": "a", "messages": messages[0], "origins": []}
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> parquet(ctx, pl.DataFrame([row], schema=RECORD_COLUMNS))["split"].item()
        'train'
        >>> [path.name for path in (ctx.files / "data").iterdir()]
        ['train-00000-of-00001.parquet']
    """
    if absent := [name for name in columns if name not in rows.columns]:
        _log.warning("export.parquet: the rows have no %s to write", ", ".join(absent))
    columns = tuple(name for name in columns if name not in absent)
    lengths = _words() if token_column is None else pl.col(token_column).cast(pl.Int64)
    # Counting words takes as long as all else before the writing, and runs beside it.
    with ThreadPoolExecutor(1) as pool:
        counted = pool.submit(rows.select, lengths.alias("_length"))
        splits = _splits(rows, validation_fraction)
        messages = _without_absent_fields(rows["messages"])
        table = rows.select(messages, "id", *_provenance(), *columns, splits["split"])
    table = table.with_columns(counted.result())
    _write(ctx.files, table, rows_per_shard, compression, token_column)
    return splits.drop(SPLIT) if SPLIT in rows.columns else splits


def _without_absent_fields(messages: pl.Series) -> pl.Series:
    """The turns without the fields that no turn of any row has: plain rows stay plain."""
    turns = messages.explode(empty_as_null=False, keep_nulls=False).struct.unnest()
    plain = turns.columns[:2]
    present = [name for name in turns.columns[2:] if turns[name].null_count() < len(turns)]
    return lists_of(turns.select(*plain, *present), messages.list.len()).alias(messages.name)


def _splits(rows: pl.DataFrame, validation_fraction: float) -> pl.DataFrame:
    """The split of each row that ends with an answer, the reason of each that does not."""
    last = viewed("calls").list.last().struct
    answer = last.field("content").str.strip_chars().str.len_chars().fill_null(0)
    facts = rows.select(
        ends_with=last.field("role"),
        characters=answer,
        answered=(last.field("role").eq_missing(pl.lit("assistant"))) & (answer > 0),
        held_out=pl.Series(uniform(rows["id"], "export.parquet") < validation_fraction),
    )
    split = pl.when("held_out").then(pl.lit("validation")).otherwise(pl.lit("train"))
    if SPLIT in rows.columns:
        split = pl.lit(_checked_splits(rows[SPLIT]))
    return facts.select(
        pl.when("answered").then(split).alias("split"),
        *verdict(~pl.col("answered"), "no_answer", evidence_of("ends_with", "characters")),
    )


def _checked_splits(splits: pl.Series) -> pl.Series:
    """The splits that the rows have; they become names of files."""
    splits = splits.cast(pl.String)
    wrong = splits.filter(~splits.str.contains(r"^\w+$").fill_null(False)).unique()
    if len(wrong):
        raise UserError(
            f"a split must be a word of letters, digits and _, got {wrong.sort()[0]!r}",
            hint="name the parts of select.split so: parts: {train: 0.9, heldout: 0.1}",
        )
    return splits


def _provenance() -> list[pl.Expr]:
    """Sources and licences, each once and sorted, whatever the order of the origins."""
    field = pl.element().struct.field
    origins = pl.col("origins").list
    return [
        origins.eval(field("source")).list.drop_nulls().list.unique().list.sort().alias("sources"),
        origins.eval(field("license"))
        .list.drop_nulls()
        .list.unique()
        .list.sort()
        .alias("licenses"),
    ]


def _words() -> pl.Expr:
    """Words between white space in the turns of user and assistant together (see `spaced`)."""
    said = pl.concat_list(turns("user"), turns("assistant")).list.join(" ")
    return spaced(said).str.count_matches(r"\S+").cast(pl.Int64)


def _write(
    folder: Path, table: pl.DataFrame, size: int, compression: str, token_column: str | None
) -> None:
    """Write all shards, then the files that describe them. A split without rows has no shard."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    splits = {}
    for name in sorted(table["split"].drop_nulls().unique(), key=lambda n: (n != "train", n)):
        part = table.filter(pl.col("split") == name)
        splits[name] = _write_split(folder, name, part, size, compression)
    described = {
        "format": 1,
        "length_unit": f"column {token_column}" if token_column else "words between white space",
        "splits": splits,
    }
    text = json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (folder / "shards.json").write_text(text, "utf-8")
    (folder / "README.md").write_text(_card(table, splits), "utf-8")


def _write_split(
    folder: Path, name: str, part: pl.DataFrame, size: int, compression: str
) -> dict[str, Any]:
    """Write one split; describe it and each of its shards."""
    starts = range(0, len(part), size)
    shards = []
    for number, start in enumerate(starts):
        path = folder / "data" / f"{name}-{number:05d}-of-{len(starts):05d}.parquet"
        rows = part.slice(start, size)
        write_table(path, to_arrow(rows.drop("_length", "split")), compression)
        raw = path.read_bytes()
        shards.append(
            {
                "file": path.relative_to(folder).as_posix(),
                "rows": len(rows),
                "bytes": len(raw),
                "sha256": hashlib.sha256(raw).hexdigest(),
                "lengths": _histogram(rows["_length"]),
            }
        )
    total = int(part["_length"].sum())
    return {"rows": len(part), "total_length": total, "shards": shards}


def _histogram(lengths: pl.Series) -> dict[str, int]:
    """Rows by length: bins are named by their smallest length, 0, 1, 2, 4, 8 and so on.

    A length that is missing is not 0: such rows are counted as `unknown`.
    """
    _, exponents = np.frexp(lengths.drop_nulls().to_numpy())
    counts = np.bincount(exponents)
    bins = {str(2**e // 2): int(counts[e]) for e in np.flatnonzero(counts).tolist()}
    unknown = lengths.null_count()
    return bins | ({"unknown": unknown} if unknown else {})


def _card(table: pl.DataFrame, splits: dict[str, Any]) -> str:
    """The data set card; its front matter says which files are which split.

    Without rows it names the train split nevertheless: `datasets` then reports that there
    is no data, where it would otherwise take `shards.json` for the data.
    """
    kept = table.filter(pl.col("split").is_not_null())
    files = [f"  - split: {name}\n    path: data/{name}-*.parquet" for name in splits or ("train",)]
    front = ["---", "configs:", "- config_name: default", "  data_files:", *files, "---", ""]
    lines = [*front, "| split | rows |", "|---|---:|"]
    lines += [f"| {name} | {split['rows']} |" for name, split in splits.items()]
    for column in ("sources", "licenses"):
        counts = kept[column].explode().drop_nulls().value_counts().sort(column)
        lines += ["", f"| {column} | rows |", "|---|---:|"]
        lines += [f"| {value} | {count} |" for value, count in counts.iter_rows()]
    return "\n".join(lines) + "\n"
