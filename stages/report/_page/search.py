"""Every row with its history, in few bytes: what the search box covers.

A row's history is what each stage did with it. There are few different ones, so a row holds
the number of one; the histories themselves are lists of (stage, outcome).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from stages.report._page.lineage import ROW_KINDS, final_ids, ids_of
from stages.report._page.texts import TEXT_COLUMNS, parts_with_texts, short_texts

MAX_EVIDENCE: Final = 160
"""Characters of a row's evidence; `explain` gives all of it."""

SEPARATOR: Final = "\t"
"""Between an outcome and its reason; no reason holds one."""


@dataclass(frozen=True)
class Rows:
    """All rows of a snapshot.

    Attributes:
        frame: By row `id`, `text`, `source`, `license`, `verdict` (kept, dropped, failed or
            other), `stage` and `reason` of a drop, `evidence`, and `history`, a position in
            `histories`.
        histories: Lists of (stage, outcome), in the order of the stages.
    """

    frame: pl.DataFrame
    histories: list[list[tuple[str, str]]]

    def payload(self) -> dict[str, Any]:
        """What the script reads: columns, with repeated texts given by number."""
        outcomes = sorted({outcome for history in self.histories for _, outcome in history})
        stages = list(dict.fromkeys(stage for history in self.histories for stage, _ in history))
        where = pl.when(pl.col("stage").is_not_null()).then(
            pl.concat_str("verdict", "stage", "reason", separator=SEPARATOR)
        )
        verdicts = self.frame.select(where.otherwise("verdict").alias("verdict")).to_series()
        columns = {"verdict": verdicts, "source": self.frame["source"].fill_null("(none)")}
        coded = {name: _coded(series) for name, series in columns.items()}
        return {
            "stages": stages,
            "outcomes": outcomes,
            "histories": [
                [[stages.index(s), outcomes.index(o)] for s, o in history]
                for history in self.histories
            ],
            "names": {name: names for name, (names, _) in coded.items()},
            "rows": {
                **{name: codes for name, (_, codes) in coded.items()},
                "id": self.frame["id"].to_list(),
                "history": self.frame["history"].to_list(),
                "text": self.frame["text"].to_list(),
                "evidence": self.frame["evidence"].fill_null("").to_list(),
            },
        }


def _coded(series: pl.Series) -> tuple[list[str], list[int]]:
    """The distinct values, and for each row the position of its value among them."""
    names = series.unique().sort()
    return names.to_list(), series.cast(pl.Enum(names)).to_physical().to_list()


def rows_of(snapshot: Snapshot) -> Rows:
    """All records, pairs and documents that have an id, sorted by it, with their histories.

    Args:
        snapshot: The stages.
    """
    stages = [s for s in snapshot.stages.values() if s.view is not None and s.kind in ROW_KINDS]
    rows = _distinct(stages)
    outcomes = rows.select("id").with_columns(_outcomes(stage, rows["id"]) for stage in stages)
    names = [stage.name for stage in stages]
    histories = outcomes.select(names).unique(maintain_order=True).with_row_index("history")
    numbered = outcomes.join(
        histories, on=names, how="left", nulls_equal=True, maintain_order="left"
    ).select("history")
    frame = pl.concat([rows, numbered], how="horizontal")
    frame = frame.join(_drops(stages), on="id", how="left", maintain_order="left")
    failed = {i for stage in stages for i in ids_of(stage, "failed")["id"]}
    kept = pl.col("id").is_in(final_ids(snapshot)["id"].implode())
    verdict = (
        pl.when(kept)
        .then(pl.lit("kept"))
        .when(pl.col("reason").is_not_null())
        .then(pl.lit("dropped"))
        .when(pl.col("id").is_in(list(failed)))
        .then(pl.lit("failed"))
        .otherwise(pl.lit("other"))
        .alias("verdict")
    )
    dropped = pl.col("verdict") == "dropped"
    frame = frame.with_columns(verdict).with_columns(
        pl.when(dropped).then(pl.col(name)) for name in ("stage", "reason", "evidence")
    )
    return Rows(frame, [_history(row) for row in histories.drop("history").to_dicts()])


def _history(row: dict[str, str | None]) -> list[tuple[str, str]]:
    return [(stage, outcome) for stage, outcome in row.items() if outcome is not None]


def _distinct(stages: list[SnapshotStage]) -> pl.DataFrame:
    """Every row once: id, text, source and license of its first origin."""
    columns = ("origins", *TEXT_COLUMNS)
    schema = dict.fromkeys(("id", "text", "source", "license"), pl.String)
    frames = [pl.DataFrame(schema=schema)] + [
        frame.select(
            "id", short_texts(frame).alias("text"), *_origin(frame, ("source", "license"))
        ).drop_nulls("id")
        for stage in stages
        for frame in parts_with_texts(stage, columns)
    ]
    return pl.concat(frames).unique("id", keep="first", maintain_order=True).sort("id")


def _origin(frame: pl.DataFrame, fields: tuple[str, ...]) -> list[pl.Expr]:
    if "origins" not in frame.columns:
        return [pl.lit(None, pl.String).alias(field) for field in fields]
    first = pl.col("origins").list.first().struct
    return [first.field(field).alias(field) for field in fields]


def _outcomes(stage: SnapshotStage, ids: pl.Series) -> pl.Series:
    """What a stage did with each of the rows; null for rows that did not come to it.

    An id may be kept and dropped at once: of two equal rows one is dropped as a duplicate.
    """
    kept = ids_of(stage, "kept").select("id", pl.lit("kept").alias("kept"))
    failed = ids_of(stage, "failed").select("id", pl.lit("failed").alias("failed"))
    dropped = _drops([stage]).select("id", (pl.lit("dropped\t") + pl.col("reason")).alias("drop"))
    table = ids.to_frame()
    for frame in (kept, dropped, failed):
        distinct = frame.unique("id")
        table = table.join(distinct, on="id", how="left", maintain_order="left")
    both = pl.col("kept").is_not_null() & pl.col("drop").is_not_null()
    copy = pl.lit("kept, a copy ") + pl.col("drop")
    outcome = pl.when(both).then(copy).otherwise(pl.coalesce("kept", "drop", "failed"))
    return table.select(outcome.alias(stage.name)).to_series()


def _drops(stages: list[SnapshotStage]) -> pl.DataFrame:
    """The last drop of each row that was dropped: id, stage, reason, evidence."""
    schema = dict.fromkeys(("id", "stage", "reason", "evidence"), pl.String)
    frames = [pl.DataFrame(schema=schema)]
    for stage in stages:
        if stage.artifact and "drop_reason" in stage.artifact.columns("dropped"):
            rows = stage.artifact.read("dropped", ["id", "drop_reason", "evidence"])
            name = pl.lit(stage.name).alias("stage")
            evidence = pl.col("evidence").str.head(MAX_EVIDENCE)
            frames.append(rows.select("id", name, pl.col("drop_reason").alias("reason"), evidence))
    return pl.concat(frames).drop_nulls("id").unique("id", keep="last", maintain_order=True)
