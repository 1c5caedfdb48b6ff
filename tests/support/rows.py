"""Rows for tests: made from plain texts, or read from the bundled data.

Records, in id order as the runner passes them:

- `conversations(texts)`: from the texts of their turns, numbered in `origins`;
- `record(*contents, ...)`, `frame(records)`: where roles, origins or an input matter;
- `alpaca(rows)`: from instruction, input and output;
- `sample(name)`, `self_instruct(count)`: real pools from `data/samples`;
- `seed_tasks(ctx)`: the 175 seed tasks of Self-Instruct, loaded by `load.records`.

Other kinds: `documents(texts)`; `exam(benchmark, texts)`, evaluation items.

Files: `json_lines(path)`, the rows of a JSON Lines file or a JSON array, gzipped or not.

Results of a stage: `kept(rows)`, the rows without a verdict; `evidence(rows, verdict)`, by id;
`of(frame, text)`, the id of the row that begins with a text.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.context import Context
from schemas.records import (
    DOCUMENT_COLUMNS,
    ITEM_COLUMNS,
    RECORD_COLUMNS,
    Message,
    digest,
    record_id,
)

DATA = Path(__file__).parents[2] / "data"
SAMPLES = DATA / "samples"


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON array or JSON Lines file, gzipped or not."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    if text.startswith(b"["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()]


def record(
    *contents: str,
    input_start: int | None = None,
    origins: list[tuple[str, int, str]] | None = None,
    roles: tuple[str, ...] = ("user", "assistant"),
) -> dict[str, Any]:
    """One record whose turns alternate between the roles. origins: source, index, license."""
    messages: list[Message] = [
        {"role": roles[i % len(roles)], "content": content} for i, content in enumerate(contents)
    ]
    origins = [("here", 0, "MIT")] if origins is None else origins
    return {
        "id": record_id(messages),
        "messages": messages,
        "input_start": input_start,
        "origins": [{"source": s, "index": i, "license": x} for s, i, x in origins],
        "parents": [],
        "extra": "{}",
    }


def plain(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The turns without what they lack, as they are written by hand."""
    return [{name: v for name, v in turn.items() if v is not None} for turn in messages]


def frame(records: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Records in id order, each once, as the runner passes them."""
    rows = pl.DataFrame(list(records), schema=RECORD_COLUMNS)
    return rows.unique("id", keep="first", maintain_order=True).sort("id")


def conversations(texts: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Records in id order from the texts of their turns, the user's first.

    `origins` numbers the conversations; `input_start` and `extra` are null.
    """
    records = []
    for index, contents in enumerate(texts):
        row = record(*contents, origins=[("test", index, "CC0-1.0")])
        records.append({**row, "extra": None})
    return pl.DataFrame(records, schema=RECORD_COLUMNS).unique("id").sort("id")


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


def sample(name: str) -> pl.DataFrame:
    """A bundled pool of instruction, input, output or prompt, completion, as `conversations`."""
    rows = json_lines(SAMPLES / name)
    if "prompt" in rows[0]:
        return conversations([(row["prompt"], row["completion"]) for row in rows])
    prompts = ["\n\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows]
    return conversations([(p, row["output"]) for p, row in zip(prompts, rows, strict=True)])


def self_instruct(count: int = 1000) -> pl.DataFrame:
    """The first rows of the bundled Self-Instruct sample, as `alpaca`: real, noisy data."""
    return alpaca(json_lines(SAMPLES / "self_instruct.jsonl.gz")[:count])


def seed_tasks(ctx: Context) -> pl.DataFrame:
    """The seed tasks of Self-Instruct as a recipe would pass them, in id order."""
    from stages.load.records import records

    path = str(DATA / "seeds/self_instruct_seed_tasks.jsonl")
    loaded = next(records(ctx, path=(path,), source="seeds", license="Apache-2.0"))
    return loaded.select("id", "messages", "input_start", "extra").sort("id")


def documents(texts: Iterable[str], license: str | None = "MIT") -> pl.DataFrame:
    """Documents in id order, numbered in `origins`."""
    rows = [
        {"id": digest(t), "text": t, "origins": [{"source": "s", "index": i, "license": license}]}
        for i, t in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=DOCUMENT_COLUMNS).sort("id")


def exam(benchmark: str, texts: Sequence[dict[str, str | None]]) -> pl.DataFrame:
    """Evaluation items: one for each mapping of names to texts, numbered in their order."""
    items = []
    for number, named in enumerate(texts):
        fields = [{"name": name, "text": text} for name, text in named.items()]
        key = digest([benchmark, str(number), fields])
        items.append({"id": key, "benchmark": benchmark, "item": str(number), "texts": fields})
    return pl.DataFrame(items, schema=ITEM_COLUMNS)


def kept(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that are neither dropped nor failed."""
    verdicts = [name for name in ("drop_reason", "error") if name in rows.columns]
    return rows.filter(pl.all_horizontal(pl.col(verdicts).is_null()))


def of(frame: pl.DataFrame, text: str) -> str:
    """The id of the record whose first turn is this text."""
    first = pl.col("messages").list.first().struct.field("content")
    return frame.filter(first == text)["id"].item()


def evidence(rows: pl.DataFrame, verdict: pl.DataFrame) -> dict[str, dict]:
    """The evidence of the dropped rows, by id."""
    assert len(verdict) == len(rows)
    assert (verdict["drop_reason"].is_null() == verdict["evidence"].is_null()).all()
    by_id = zip(rows["id"], verdict["evidence"], strict=True)
    return {key: json.loads(text) for key, text in by_id if text is not None}


def short_rows(count: int) -> pl.DataFrame:
    """Real rows of some 20 to 40 tokens each."""
    length = pl.col("messages").list.eval(pl.element().struct["content"].str.len_chars())
    return self_instruct(200).filter(length.list.sum().is_between(60, 110)).head(count)
