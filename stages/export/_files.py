"""What every export writes: the files of each split, `shards.json` and a data set card.

Rows are in id order. Which split a row is in depends on its id alone, so that a row is in the
same split whatever it is exported to.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from pipeline.errors import OptionError, UserError
from pipeline.stage import Columns, Edges
from schemas.turns import View, viewed
from stages._common.verdicts import evidence_of, verdict
from stages._selection.random_draws import uniform
from stages._text.tokens import spaced

_log = logging.getLogger(__name__)

SPLIT: Final = "split"
"""The column of each row's split: added here, unless `select.split` came before."""


def added_split(options: SimpleNamespace, edges: Edges) -> Columns:
    """`split`, unless the rows have one already.

    Args:
        options: With `validation_fraction`.
        edges: The columns of the edge `rows`.

    Raises:
        OptionError: They have one, and `validation_fraction` asks for another.
    """
    if SPLIT not in edges["rows"][0]:
        return {SPLIT: pl.String}
    if options.validation_fraction:
        what = f"must be left out, got {options.validation_fraction}"
        raise OptionError("validation_fraction", f"{what}: the rows have the column {SPLIT!r}")
    return {}


def split_rows(rows: pl.DataFrame, validation_fraction: float) -> pl.DataFrame:
    """The split of each row that ends with an answer, the verdict on each that does not.

    Args:
        rows: Records, with or without a `split`.
        validation_fraction: The fraction of rows that go to the split `validation`.

    Raises:
        UserError: A split that the rows have is no word.
    """
    ends = rows.select(pl.col("messages").list.tail(1)).select(viewed("calls").list.last())
    last = pl.lit(ends.to_series()).struct
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


def provenance() -> list[pl.Expr]:
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


def words(view: View) -> pl.Expr:
    """Words between white space in the turns of user and assistant together (see `spaced`).

    Args:
        view: What of a turn counts.
    """
    is_said = pl.element().struct.field("role").is_in(["user", "assistant"])
    texts = pl.element().filter(is_said).struct.field("content")
    said = viewed(view).list.eval(texts).list.join(" ")
    return spaced(said).str.count_matches(r"\S+").cast(pl.Int64)


class FileForm(NamedTuple):
    """What the files of an export are.

    Attributes:
        suffix: How their names end, with the dot.
        write: Writes rows, without the columns `split` and `_length`, into a file.
    """

    suffix: str
    write: Callable[[Path, pl.DataFrame], None]


class FilesWriter:
    """Writes rows into the files of their splits as they come, then what describes them.

    Args:
        folder: Where to write.
        rows_per_file: The rows of each file; the last one of a split may have fewer.
        form: What the files are.
    """

    def __init__(self, folder: Path, rows_per_file: int, form: FileForm) -> None:
        self._folder, self._size, self._form = folder, rows_per_file, form
        self._waiting: dict[str, list[pl.DataFrame]] = {}
        self._written: dict[str, list[dict[str, Any]]] = {}
        self._totals: Counter[str] = Counter()
        self._origins = {"sources": Counter[str](), "licenses": Counter[str]()}
        (folder / "data").mkdir(parents=True, exist_ok=True)

    def add(self, table: pl.DataFrame) -> None:
        """Take the next rows.

        Args:
            table: With their `split` (null: not written), `_length`, sources and licenses.
        """
        kept = table.filter(pl.col("split").is_not_null())
        for column, counts in self._origins.items():
            values = kept[column].explode().drop_nulls().value_counts()
            counts.update(dict(values.iter_rows()))
        for split in kept["split"].unique():
            part = kept.filter(pl.col("split") == split)
            self._totals[split] += int(part["_length"].sum())
            waiting = self._waiting.setdefault(split, [])
            while len(part):
                room = self._size - sum(map(len, waiting))
                waiting.append(part.head(room))
                part = part.slice(room)
                if sum(map(len, waiting)) == self._size:
                    self._write(split)

    def _write(self, split: str) -> None:
        """Write one file of a split and describe it; how many there will be is not known yet."""
        files = self._written.setdefault(split, [])
        path = self._path(split, len(files))
        rows = pl.concat(self._waiting[split])
        self._waiting[split].clear()
        self._form.write(path, rows.drop("_length", "split"))
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        described = {"rows": len(rows), "bytes": path.stat().st_size, "sha256": sha256}
        files.append({"file": "", **described, "lengths": _histogram(rows["_length"])})

    def _path(self, split: str, number: int) -> Path:
        return self._folder / "data" / f".{split}-{number:05d}"

    def finish(
        self,
        token_column: str | None = None,
        described: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Write the rest, and the files that describe all. A split without rows has none.

        Args:
            token_column: What `_length` counts; None for words.
            described: What `shards.json` says besides.
            notes: Paragraphs at the end of the card.
        """
        for split, waiting in self._waiting.items():
            if waiting:
                self._write(split)
        splits = {}
        for split in sorted(self._written, key=lambda n: (n != "train", n)):
            files = self._written[split]
            for number, file in enumerate(files):
                name = f"{split}-{number:05d}-of-{len(files):05d}{self._form.suffix}"
                self._path(split, number).rename(self._folder / "data" / name)
                file["file"] = f"data/{name}"
            rows = sum(file["rows"] for file in files)
            splits[split] = {"rows": rows, "total_length": self._totals[split], "shards": files}
        unit = f"column {token_column}" if token_column else "words between white space"
        shards = {"format": 1, "length_unit": unit, **(described or {}), "splits": splits}
        text = json.dumps(shards, indent=2, ensure_ascii=False) + "\n"
        (self._folder / "shards.json").write_text(text, "utf-8")
        card = _card(self._origins, splits, self._form.suffix, notes)
        (self._folder / "README.md").write_text(card, "utf-8")


def _histogram(lengths: pl.Series) -> dict[str, int]:
    """Rows by length: bins are named by their smallest length, 0, 1, 2, 4, 8 and so on.

    A length that is missing is not 0: such rows are counted as `unknown`.
    """
    _, exponents = np.frexp(lengths.drop_nulls().to_numpy())
    counts = np.bincount(exponents)
    bins = {str(2**e // 2): int(counts[e]) for e in np.flatnonzero(counts).tolist()}
    unknown = lengths.null_count()
    return bins | ({"unknown": unknown} if unknown else {})


def _card(
    origins: Mapping[str, Mapping[str, int]],
    splits: dict[str, Any],
    suffix: str,
    notes: Sequence[str],
) -> str:
    """The data set card; its front matter says which files are which split.

    Without rows it names the train split nevertheless: `datasets` then reports that there
    is no data, where it would otherwise take `shards.json` for the data.
    """
    files = [f"  - split: {n}\n    path: data/{n}-*{suffix}" for n in splits or ("train",)]
    # `datasets` caches a folder under what its front matter says: where folders are alike but for
    # their rows, it would give those of the first one that was loaded.
    named = f"  description: shards {_shards_digest(splits)}"
    front = ["---", "configs:", "- config_name: default", named, "  data_files:", *files, "---", ""]
    lines = [*front, "| split | rows |", "|---|---:|"]
    lines += [f"| {name} | {split['rows']} |" for name, split in splits.items()]
    for column, counts in origins.items():
        lines += ["", f"| {column} | rows |", "|---|---:|"]
        lines += [f"| {value} | {count} |" for value, count in sorted(counts.items())]
    for note in notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _shards_digest(splits: dict[str, Any]) -> str:
    """What stands for the bytes of all shards: 16 hex digits."""
    hashes = [[n, *(shard["sha256"] for shard in split["shards"])] for n, split in splits.items()]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def lost_reasoning(lost: pl.Series, reasoning: str) -> tuple[dict[str, Any], list[str]]:
    """What `shards.json` and the card say of rows that lost reasoning; nothing without any.

    It is also said once in a warning.

    Args:
        lost: The characters of reasoning that each written row lost.
        reasoning: The option that made them lose it.
    """
    rows, characters = int((lost > 0).sum()), int(lost.sum())
    if not rows:
        return {}, []
    what = "of all turns but the last" if reasoning == "last" else "of all turns"
    note = (
        f"Reasoning {what} was left out: {rows} rows had some, {characters} characters "
        f"(`reasoning: {reasoning}`)."
    )
    _log.warning("%s", note.replace("`", ""))
    counts = {"rows_without_their_reasoning": rows}
    return counts | {"characters_of_reasoning_left_out": characters}, [note]
