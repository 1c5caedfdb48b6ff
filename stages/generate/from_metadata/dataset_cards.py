"""Data set cards: a YAML or JSON file that describes a table, beside the table.

    name: GSM8K
    description: Grade school mathematics problems with worked solutions.
    license: MIT
    rows: gsm8k.jsonl.gz        # CSV, TSV, JSON Lines (also gzipped) or Parquet

Example:
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "sums.csv").write_text("a,b,sum\\n1,2,3\\n")
    >>> _ = (folder / "sums.yaml").write_text("{name: Sums, license: MIT, rows: sums.csv}")
    >>> read_card(folder / "sums.yaml").license
    'MIT'
    >>> read_table(table_of(folder / "sums.yaml")).to_dicts()
    [{'a': '1', 'b': '2', 'sum': '3'}]
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
    """A data set card.

    Attributes:
        name: Of the data set.
        license: Of its rows.
        rows: The table, relative to the card's folder.
        description: What the data set is.
    """

    model_config = ConfigDict(extra="forbid")

    name: Text
    license: Text
    rows: Text
    description: str | None = None


def read_card(path: Path) -> Card:
    """The card in a file.

    Raises:
        UserError: The file is not a card, or cannot be read.
    """
    try:
        return Card.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("the card cannot be read", where=str(path), why=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            "the file must be a data set card",
            where=str(path),
            why=f"{key}: {first['msg']}",
            hint="write name, license, rows and, if you like, description",
        ) from None


def table_of(path: Path) -> Path:
    """The path of the table that a card names."""
    return path.parent / read_card(path).rows


def read_table(path: Path) -> pl.DataFrame:
    """All rows of a table; columns of CSV and TSV files are texts.

    Raises:
        UserError: The file is not a table, or cannot be read.
    """
    suffixes: Sequence[str] = [s for s in path.suffixes if s != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    try:
        if suffix == ".parquet":
            return read_frame(path)
        if suffix in (".csv", ".tsv"):
            separator = "\t" if suffix == ".tsv" else ","
            return pl.read_csv(path, separator=separator, infer_schema=False)
        if suffix in (".jsonl", ".ndjson"):
            return pl.read_ndjson(path, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError("the table cannot be read", where=str(path), why=str(error)) from error
    raise UserError(
        "the table must be CSV, TSV, JSON Lines or Parquet",
        where=str(path),
        hint="give the file the ending .csv, .tsv, .jsonl, .jsonl.gz or .parquet",
    )
