"""Stages of a user's own: the smallest of each kind, to try the engine on.

What must not enter a fingerprint comes through the environment: `TOY_NAP`, the
seconds that a row takes; `TOY_OUTAGE`, a file with a line for every answer (part of
a text) that the model refuses at the moment.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from pipeline.stage import ALL, Documents, Files, InputFiles, Records, stage
from schemas.records import RECORD_COLUMNS, record_id

VERDICT = {"drop_reason": pl.String, "evidence": pl.String, "error": pl.String}


def nap(rows: int) -> None:
    if seconds := float(os.environ.get("TOY_NAP", "0")) * rows:
        time.sleep(seconds)


def refused(text: str) -> bool:
    outage = Path(os.environ.get("TOY_OUTAGE", "/nowhere"))
    return outage.exists() and any(word in text for word in outage.read_text().split())


def conversation(question: str, answer: str, source: str, index: int) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {
        "id": record_id(messages),
        "messages": messages,
        "input_start": None,
        "origins": [{"source": source, "index": index, "license": "CC0-1.0"}],
        "parents": [],
        "extra": "{}",
    }


@stage(version=1, scope="set")
def load(ctx: Context, *, path: InputFiles, source: str = "toy") -> Records:
    """Lines of question and answer, with a tab between; a line without a tab fails."""
    lines: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    index = 0
    for name in path:
        for number, line in enumerate(Path(name).read_text("utf-8").splitlines(), 1):
            question, tab, answer = line.partition("\t")
            if not tab:
                place = {"file": Path(name).name, "line": number}
                lines.append({"error": f"no tab in {line!r}", **place})
            else:
                row = conversation(question, answer, source, index)
                if (first := seen.setdefault(row["id"], index)) != index:
                    evidence = json.dumps({"id": row["id"], "kept": first, "dropped": index})
                    row |= {"drop_reason": "duplicate", "evidence": evidence}
                lines.append(row)
            index += 1
    places = {"file": pl.String, "line": pl.Int64}
    return pl.DataFrame(lines, schema={**RECORD_COLUMNS, **VERDICT, **places})


@stage(version=1, scope="set")
def texts(ctx: Context, *, path: InputFiles) -> Documents:
    """A document for each file."""
    bodies = [Path(name).read_text("utf-8") for name in path]
    rows = [
        {"id": record_id([{"role": "user", "content": b}]), "text": b, "title": None}
        | {"origins": [{"source": "toy", "index": i, "license": "CC0-1.0"}], "extra": "{}"}
        for i, b in enumerate(bodies)
    ]
    return pl.DataFrame(rows)


def answers() -> pl.Expr:
    return pl.col("messages").list.last().struct.field("content")


@stage(version=1, scope="row", reads=["messages"], adds={"length": pl.Int32})
def length(ctx: Context, rows: Records, *, plus: int = 0) -> pl.DataFrame:
    """Characters of the answer; an answer that is no number of them at all fails."""
    nap(len(rows))
    ctx.count(rows=len(rows))
    return rows.select(
        (answers().str.len_chars() + plus).cast(pl.Int32).alias("length"),
        pl.when(answers() == "unreadable").then(pl.lit("cannot be read")).alias("error"),
    )


@stage(version=1, scope="row", reads=["messages"], adds={"length": pl.Int32})
def hungry(ctx: Context, rows: Records, *, most: int) -> pl.DataFrame:
    """As `length`; a worker that gets more rows than `most` is killed, as by lack of memory."""
    nap(len(rows))
    if len(rows) > most and os.getpid() != int(os.environ["TOY_DRIVER"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rows.select(answers().str.len_chars().cast(pl.Int32).alias("length"))


@stage(version=1, scope="row", reads=["length"], adds={"even": pl.Int8})
def parity(ctx: Context, rows: Records) -> pl.DataFrame:
    """1 for an even length, else 0."""
    return rows.select((pl.col("length") % 2 == 0).cast(pl.Int8).alias("even"))


@stage(version=1, scope="row", reads=lambda options: [options.column])
def at_most(ctx: Context, rows: Records, *, maximum: int, column: str = "length") -> pl.DataFrame:
    """Drops what is longer."""
    long = pl.col(column) > maximum
    return rows.select(
        pl.when(long).then(pl.lit("too_long")).alias("drop_reason"),
        pl.when(long).then(pl.struct(column).struct.json_encode()).alias("evidence"),
    )


@stage(version=1, scope="row", reads={"rows": ["messages"], "banned": ["messages"]})
def unlike(ctx: Context, rows: Records, banned: Records) -> pl.DataFrame:
    """Drops the answers that stand in `banned`."""
    nap(len(rows))
    unwanted = banned.select(answers().alias("a"))["a"].implode()
    return rows.select(
        pl.when(answers().is_in(unwanted)).then(pl.lit("banned")).alias("drop_reason")
    )


@stage(version=1, scope="set", reads=["messages"], adds={"rank": pl.UInt32})
def distinct(ctx: Context, rows: Records) -> pl.DataFrame:
    """Of equal answers the first by id stays; the others name it."""
    nap(len(rows))
    first = pl.col("id").first().over(answers())
    later = pl.col("id") != first
    return rows.select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("rank"),
        pl.when(later).then(pl.lit("duplicate")).alias("drop_reason"),
        pl.when(later)
        .then(pl.struct(first.alias("duplicate_of")).struct.json_encode())
        .alias("evidence"),
    )


@stage(version=1, scope="set", reads=ALL)
def merge(ctx: Context, rows: list[Records]) -> Records:
    """All rows of all inputs; equal ones are dropped as duplicates."""
    pool = pl.concat([frame.select(*RECORD_COLUMNS) for frame in rows])
    again = ~pl.col("id").is_first_distinct()
    return pool.with_columns(
        pl.when(again).then(pl.lit("duplicate")).alias("drop_reason"),
        pl.when(again).then(pl.struct("id").struct.json_encode()).alias("evidence"),
    )


@stage(version=1, scope="set", reads=["messages"], adds={"score": pl.Float32})
def invent(ctx: Context, seeds: Records, *, model: LanguageModel, count: int) -> Records:
    """A variation of each of the first seeds, in turn; every third repeats its seed and is dropped.

    Its journal is a folder of one file an answer in ctx.work.
    """
    rows = []
    for i, messages in enumerate((seeds["messages"].to_list() * count)[:count]):
        answer = ctx.work / f"{i}"
        if refused(f"variation {i}"):
            rows.append({"error": "the model is out"})
            continue
        if not answer.exists():
            nap(1)
            ctx.count(requests=1)
            answer.write_text(f"variation {i} of {messages[-1]['content']}")
        row = conversation(messages[0]["content"], answer.read_text(), "invent", i)
        row["score"] = i / 8
        if i % 3 == 2:
            row |= {"drop_reason": "copy", "evidence": json.dumps({"seed": i})}
        rows.append(row)
    return pl.DataFrame(rows, schema={**RECORD_COLUMNS, "score": pl.Float32, **VERDICT})


@stage(
    version=1,
    scope="row",
    reads=["messages"],
    adds=lambda options, edges: dict.fromkeys(options.criteria, pl.Float32),
)
def judge(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    criteria: tuple[str, ...] = ("quality",),
) -> pl.DataFrame:
    """A mark for each answer; those that the model refuses fail."""
    nap(len(rows))
    ctx.count(requests=len(rows))
    texts = rows.select(answers().alias("a"))["a"].to_list()
    errors = ["refused" if refused(text) else None for text in texts]
    marks = {c: [len(text) / len(c) for text in texts] for c in criteria}
    return pl.DataFrame({**marks, "error": pl.Series(errors, dtype=pl.String)})


@stage(version=1, scope="set", reads=["messages"])
def export(ctx: Context, rows: Records) -> None:
    """The answers as a text, and a summary for people."""
    nap(len(rows))
    lines = rows.select(answers().alias("a"))["a"].to_list()
    (ctx.files / "answers.txt").write_text("\n".join(lines), "utf-8")
    (ctx.files / "summary.md").write_text(f"{len(lines)} answers\n")


@stage(version=1, scope="set", reads=["messages"])
def train(ctx: Context, rows: Records, *, steps: int = 1) -> None:
    """A model that holds how many rows it saw."""
    folder = ctx.files / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"rows": len(rows) // 10}))
    (ctx.files / "log.txt").write_text(f"{steps} steps")


@stage(version=1, scope="set", reads=[], adds={"rows_seen": pl.Int64})
def apply(ctx: Context, rows: Records, *, model: LanguageModel) -> pl.DataFrame:
    """How many rows the model saw, for every row."""
    seen = json.loads((Path(model.model) / "config.json").read_text())["rows"]
    return pl.DataFrame({"rows_seen": [seen] * len(rows)}, schema={"rows_seen": pl.Int64})


@stage(version=1, scope="set")
def sizes(ctx: Context, files: Files) -> None:
    """The size of every file."""
    listed = {p.name: p.stat().st_size for p in sorted(files.rglob("*")) if p.is_file()}
    (ctx.files / "sizes.json").write_text(json.dumps(listed))


def _positive(options: SimpleNamespace) -> None:
    if options.maximum < 0:
        raise UserError("maximum is below 0", hint="give 0 or more")


@stage(version=1, scope="row", reads=[], adds={"ratio": pl.Float64}, check=_positive)
def typed(
    ctx: Context,
    rows: Records,
    *,
    maximum: int = 1,
    ratio: float = 0.5,
    names: tuple[str, ...] = (),
    flag: bool = False,
) -> pl.DataFrame:
    """Options of every plain type."""
    return pl.DataFrame({"ratio": [ratio] * len(rows)})


# Stages that break the contract.


@stage(version=1, scope="row", reads=["messages"], adds={"length": pl.Int32})
def short(ctx: Context, rows: Records) -> pl.DataFrame:
    """Loses the last row of every chunk."""
    return rows.head(len(rows) - 1).select(answers().str.len_chars().alias("length"))


@stage(version=1, scope="set", reads=["messages"], adds={"length": pl.Int32})
def silent(ctx: Context, rows: Records) -> pl.DataFrame:
    """Returns nothing."""
    return None  # type: ignore[return-value]


@stage(version=1, scope="row", reads=["messages"])
def undeclared(ctx: Context, rows: Records) -> pl.DataFrame:
    """Adds what it did not declare."""
    return rows.select(pl.col("id").alias("surprise"))


@stage(version=1, scope="set", reads=["messages"], adds={"length": pl.Int32})
def mistyped(ctx: Context, rows: Records) -> pl.DataFrame:
    """Adds another type than it declared."""
    return rows.select(pl.col("id").alias("length"))


@stage(version=1, scope="set")
def twice(ctx: Context, rows: Records) -> Records:
    """Keeps one id two times."""
    row = conversation("a", "b", "twice", 0)
    return pl.DataFrame([row, row], schema=RECORD_COLUMNS)


@stage(version=1, scope="row", reads=["messages"])
def crash(ctx: Context, rows: Records) -> pl.DataFrame:
    """Has a bug."""
    raise ZeroDivisionError("a bug of the stage")
