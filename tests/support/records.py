"""Records for the tests of stages: made ones, and real ones from the bundled samples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from schemas.records import RECORD_COLUMNS, Message, record_id

SAMPLES = Path(__file__).parents[2] / "data/samples"


def record(
    *contents: str,
    input_start: int | None = None,
    origins: list[tuple[str, int, str]] | None = None,
    roles: tuple[str, ...] = ("user", "assistant"),
) -> dict[str, Any]:
    """One record whose turns alternate between the roles."""
    messages: list[Message] = [
        {"role": roles[i % len(roles)], "content": content} for i, content in enumerate(contents)
    ]
    places = [("here", 0, "MIT")] if origins is None else origins
    return {
        "id": record_id(messages),
        "messages": messages,
        "input_start": input_start,
        "origins": [{"source": s, "index": i, "license": x} for s, i, x in places],
        "parents": [],
        "extra": "{}",
    }


def frame(records: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Records in id order, each once, as the runner passes them."""
    rows = pl.DataFrame(list(records), schema=RECORD_COLUMNS)
    return rows.unique("id", keep="first", maintain_order=True).sort("id")


def alpaca(rows: Iterable[dict[str, str]], answer: str = "output") -> pl.DataFrame:
    """Rows of instruction, input and answer as records in id order."""
    return frame(
        record(
            "\n\n".join(filter(None, [row["instruction"], row.get("input")])),
            row[answer],
            input_start=len(row["instruction"]) + 2 if row.get("input") else None,
            origins=[("sample", index, "Apache-2.0")],
        )
        for index, row in enumerate(rows)
    )


def read_json(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON array or JSON Lines file."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.splitlines()]


def self_instruct(count: int = 1000) -> pl.DataFrame:
    """The first rows of the bundled Self-Instruct sample: real, noisy data."""
    return alpaca(read_json(SAMPLES / "self_instruct.jsonl.gz")[:count])
