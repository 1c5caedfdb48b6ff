"""Data set cards: a YAML or JSON file that says what a table is, beside the table.

    name: GSM8K
    description: Grade school mathematics problems with worked solutions.
    license: MIT
    rows: gsm8k.jsonl.gz        # CSV, TSV, JSON Lines (also gzipped) or Parquet

Only what a card says is known of a data set; the table is read as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from pipeline.errors import UserError
from pipeline.store.parquet import read_frame

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class Card(BaseModel):
    """What a card must and may say. rows: the table, named from the card's folder."""

    model_config = ConfigDict(extra="forbid")

    name: Text
    license: Text
    rows: Text
    description: str | None = None


def read_card(path: Path) -> Card:
    """Raises UserError for a file that is no card."""
    try:
        return Card.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("the card cannot be read", where=str(path), why=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        told = ".".join(map(str, first["loc"])) or "it"
        raise UserError(
            "this is no data set card",
            where=str(path),
            why=f"{told}: {first['msg']}",
            hint="name, license and rows, and perhaps a description",
        ) from None


def table_of(path: Path) -> Path:
    """The table of the card at this path."""
    return path.parent / read_card(path).rows


def read_table(path: Path) -> pl.DataFrame:
    """All rows of a table. Raises UserError for one that cannot be read."""
    suffixes: Sequence[str] = [s for s in path.suffixes if s != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    try:
        if kind == ".parquet":
            return read_frame(path)
        if kind in (".csv", ".tsv"):
            separator = "\t" if kind == ".tsv" else ","
            return pl.read_csv(path, separator=separator, infer_schema=False)
        if kind in (".jsonl", ".ndjson"):
            return pl.read_ndjson(path, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError("the table cannot be read", where=str(path), why=str(error)) from error
    raise UserError(
        "the table is of no known kind",
        where=str(path),
        hint="CSV, TSV, JSON Lines or Parquet, told by the end of the name",
    )
