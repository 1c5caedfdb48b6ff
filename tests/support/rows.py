"""Records for tests, made from plain texts or from the bundled samples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from schemas.records import ITEM_COLUMNS, RECORD_COLUMNS, digest, record_id

DATA = Path(__file__).parents[2] / "data"


def json_lines(path: Path) -> list[dict]:
    """The rows of a JSON Lines file, gzipped or not."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return [json.loads(line) for line in text.splitlines()]


def conversations(talks: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Records in id order; the turns of a talk are the user's and the assistant's in turn.

    `origins` numbers the talks as given.
    """
    lines = []
    for index, talk in enumerate(talks):
        roles = ("user", "assistant") * len(talk)
        messages = [{"role": r, "content": c} for r, c in zip(roles, talk, strict=False)]
        origin = {"source": "test", "index": index, "license": "CC0-1.0"}
        lines.append(
            {"id": record_id(messages), "messages": messages, "origins": [origin], "parents": []}
        )
    return pl.DataFrame(lines, schema=RECORD_COLUMNS).unique("id").sort("id")


def sample(name: str) -> pl.DataFrame:
    """A bundled pool of instruction, input, output or prompt, completion, as records."""
    rows = json_lines(DATA / "samples" / name)
    if "prompt" in rows[0]:
        return conversations([(row["prompt"], row["completion"]) for row in rows])
    prompts = ["\n\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows]
    return conversations([(p, row["output"]) for p, row in zip(prompts, rows, strict=True)])


def exam(benchmark: str, texts: Sequence[dict[str, str | None]]) -> pl.DataFrame:
    """Evaluation items: one for each mapping of names to texts, numbered as given."""
    lines = []
    for number, named in enumerate(texts):
        fields = [{"name": name, "text": text} for name, text in named.items()]
        key = digest([benchmark, str(number), fields])
        lines.append({"id": key, "benchmark": benchmark, "item": str(number), "texts": fields})
    return pl.DataFrame(lines, schema=ITEM_COLUMNS)


def of(frame: pl.DataFrame, text: str) -> str:
    """The id of the record whose first turn is this text."""
    first = pl.col("messages").list.first().struct.field("content")
    return frame.filter(first == text)["id"].item()


def evidence(rows: pl.DataFrame, verdict: pl.DataFrame) -> dict[str, dict]:
    """The evidence of the dropped rows, by id."""
    assert len(verdict) == len(rows)
    assert (verdict["drop_reason"].is_null() == verdict["evidence"].is_null()).all()
    told = zip(rows["id"], verdict["evidence"], strict=True)
    return {key: json.loads(text) for key, text in told if text is not None}
