"""The decontamination certificate of a release: what was compared with what, and what was not.

`release` makes it from the recipe's `decontaminate.*` stages: the benchmarks with their items,
the methods with their options, the rows that each convicted, and the rows that came in past
them, which the graph tells: a branch that joins behind the check is not checked. What a recipe's
`decontaminate.certificate` measured is part of it.

A conviction may be false: an audit of 114 sources elsewhere found 88 of them wholly so. The
*precision sample* therefore shows some convicted pairs, drawn by their ids, with both texts, so
that a person sees what the method takes for a copy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from pipeline.recipe.publication import Gate
from pipeline.releases.options import publication_of
from schemas.records import digest
from schemas.release import Certificate, CertifiedBenchmark, CertifiedStage, ConvictedPair
from schemas.turns import json_words, turn_text
from stages._privacy.redaction import redacted
from stages._privacy.scan import KINDS, scan
from stages.publish._published import entries_past, options_of, passed

FAMILY: Final = "decontaminate."
MEASURES: Final = "decontaminate.certificate"
REASON: Final = "contaminated"
SEED: Final = 0
MAX_CHARACTERS: Final = 400
"""Characters of a text of the precision sample, around what both have in common."""


def certificate(snapshot: Snapshot) -> Certificate | None:
    """The certificate of a recipe's stages; None where published rows pass no such stage.

    Args:
        snapshot: The stages with their artifacts.
    """
    stages = [stage for stage in passed(snapshot) if _checks(stage)]
    measured = [s for s in snapshot.stages.values() if s.uses == MEASURES and s.artifact]
    if not stages and not measured:
        return None
    stages.sort(key=lambda stage: list(snapshot.stages).index(stage.name))
    convicted = {stage.name: _convicted(stage) for stage in stages}
    names = {stage.name: _items(snapshot, stage) for stage in stages}
    benchmarks = _benchmarks(snapshot, names)
    gate = _gate(snapshot)
    return Certificate(
        complete=bool(benchmarks) and not any(b["bypassed_by"] for b in benchmarks.values()),
        benchmarks=benchmarks,
        stages=[_certified(s, names[s.name], convicted[s.name]) for s in stages],
        sample=_sample(snapshot, stages, convicted, gate.precision_sample),
        seed=SEED,
        measured={s.name: _measured(s) for s in measured},
    )


def _checks(stage: SnapshotStage) -> bool:
    """Whether a stage drops contaminated rows, and has run."""
    return stage.uses.startswith(FAMILY) and stage.makes == "columns" and stage.artifact is not None


def _gate(snapshot: Snapshot) -> Gate:
    if snapshot.recipe is not None:
        return snapshot.recipe.publish.gate
    return publication_of(snapshot.release).gate if snapshot.release else Gate()


def _items(snapshot: Snapshot, stage: SnapshotStage) -> dict[str, list[str]]:
    """The sorted ids of the items that a stage compared with, by benchmark."""
    frames = [
        snapshot.rows(name, columns=["benchmark"]) for name in stage.needs.get("benchmarks", ())
    ]
    if not frames:
        return {}
    ids = pl.concat(frames).group_by("benchmark").agg(pl.col("id").unique().sort())
    return dict(ids.sort("benchmark").iter_rows())


def _benchmarks(
    snapshot: Snapshot, names: Mapping[str, Mapping[str, list[str]]]
) -> dict[str, CertifiedBenchmark]:
    """Each benchmark with the stages that checked it, and where rows came in past them."""
    benchmarks: dict[str, CertifiedBenchmark] = {}
    for name in sorted({name for items in names.values() for name in items}):
        checking = [stage for stage, items in names.items() if name in items]
        ids = sorted({i for stage in checking for i in names[stage][name]})
        benchmarks[name] = CertifiedBenchmark(
            items=len(ids),
            digest=digest(ids),
            stages=checking,
            bypassed_by=entries_past(snapshot, lambda stage: stage.name in checking),  # noqa: B023
        )
    return benchmarks


def _convicted(stage: SnapshotStage) -> pl.DataFrame:
    """The rows that a stage dropped as contaminated: `id`, `evidence` and its `benchmark`."""
    assert stage.artifact is not None
    dropped = stage.artifact.read("dropped")
    schema = {"id": pl.String, "evidence": pl.String, "benchmark": pl.String}
    if not dropped.width:
        return pl.DataFrame(schema=schema)
    rows = dropped.filter(pl.col("drop_reason") == REASON).select("id", "evidence")
    return rows.with_columns(benchmark=pl.col("evidence").str.json_path_match("$.benchmark"))


def _certified(
    stage: SnapshotStage, names: Mapping[str, Sequence[str]], convicted: pl.DataFrame
) -> CertifiedStage:
    assert stage.artifact is not None
    counts = stage.artifact.manifest["counts"]
    by_benchmark = dict(convicted["benchmark"].value_counts().sort("benchmark").iter_rows())
    return CertifiedStage(
        name=stage.name,
        uses=stage.uses,
        version=stage.artifact.manifest["version"],
        options=options_of(stage.artifact),
        rows=counts["in"],
        convicted={name: by_benchmark.get(name, 0) for name in names},
        failed=counts["failed"],
        unseen=list(_unseen(stage)),
    )


def _unseen(stage: SnapshotStage) -> Iterator[str]:
    """What a stage did not compare, one sentence each."""
    assert stage.artifact is not None
    options = options_of(stage.artifact)
    method = options.get("method")
    turns = method.get("turns") if isinstance(method, Mapping) else options.get("turns")
    if turns not in (None, "all"):
        yield f"turns other than those of the {turns}"
    if (view := options.get("view", "all")) != "all":
        yield "reasoning" if view == "calls" else "reasoning and tool calls"
    if (fields := options.get("fields")) is not None:
        yield f"texts of the items other than {', '.join(fields)}"
    kept = stage.artifact
    for column in ("exam_unchecked",):
        if column in kept.columns("kept"):
            number = kept.read("kept", [column])[column].count()
            if number:
                yield f"turns of {number:,} rows, in languages that the encoder does not know"
    if stage.uses == "decontaminate.ngram":
        yield "paraphrases, which share no run of words with an item"


def _measured(stage: SnapshotStage) -> Any:
    """What a `decontaminate.certificate` stage wrote."""
    assert stage.artifact is not None
    return json.loads((stage.artifact.files / "certificate.json").read_text("utf-8"))


def _sample(
    snapshot: Snapshot,
    stages: Sequence[SnapshotStage],
    convicted: Mapping[str, pl.DataFrame],
    size: int,
) -> list[ConvictedPair]:
    """Convicted pairs, those with the smallest digests of seed, stage and row."""
    drawn = sorted(
        (digest([SEED, stage.name, row]), stage.name, row, evidence)
        for stage in stages
        for row, evidence in convicted[stage.name].select("id", "evidence").iter_rows()
    )[:size]
    pairs: list[ConvictedPair] = []
    for name in dict.fromkeys(stage for _, stage, _, _ in drawn):
        causes = {row: json.loads(text) for _, stage, row, text in drawn if stage == name}
        pairs += _pairs(snapshot, name, causes)
    return _without_secrets(pairs)


def _pairs(
    snapshot: Snapshot, stage: str, causes: Mapping[str, Mapping[str, Any]]
) -> Iterator[ConvictedPair]:
    """The texts of some rows that a stage convicted, and of their items.

    Args:
        snapshot: The graph.
        stage: The stage.
        causes: The evidence by row.
    """
    dropped = snapshot.rows(stage, "dropped").filter(pl.col("id").is_in([*causes]))
    rows = {row["id"]: row for row in dropped.iter_rows(named=True)}
    names = snapshot.stages[stage].needs.get("benchmarks", ())
    ids = [cause["id"] for cause in causes.values()]
    matching = pl.concat(snapshot.rows(name) for name in names).filter(pl.col("id").is_in(ids))
    items = {item["id"]: item for item in matching.iter_rows(named=True)}
    for row, cause in causes.items():
        item = items.get(cause["id"], {})
        texts = [t["text"] or "" for t in item.get("texts", ()) if t["name"] == cause["field"]]
        shared = str(cause.get("ngram") or "")
        overlap = cause.get("overlap", cause.get("score"))
        yield ConvictedPair(
            stage=stage,
            row=row,
            benchmark=cause["benchmark"],
            item=str(cause["item"]),
            overlap=None if overlap is None else float(overlap),
            row_text=_cut(_turn(rows[row], cause), cause.get("turn_span") or shared),
            item_text=_cut("".join(texts[:1]), cause.get("item_span") or shared),
        )


def _turn(row: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    """The text of the turn that was convicted."""
    part, turn = evidence.get("part", "messages"), int(evidence.get("turn") or 0)
    turns = row.get(part) or () if part != "tools" else ()
    if turn < len(turns):
        return turn_text(turns[turn], "all")
    return json_words(row.get("tools"))


def _cut(text: str, shared: str) -> str:
    """A text around its first words that stand in another one, or its beginning."""
    words = re.findall(r"\w+", shared)[:4]
    match = re.search(r"\W+".join(map(re.escape, words)), text, re.I) if words else None
    start = max(0, (match.start() if match else 0) - MAX_CHARACTERS // 4)
    end = start + MAX_CHARACTERS
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


def _without_secrets(pairs: list[ConvictedPair]) -> list[ConvictedPair]:
    """The pairs as they can be published: convicted rows were never meant to be."""
    texts = pl.DataFrame(
        {"row_text": [pair["row_text"] for pair in pairs]}, {"row_text": pl.String}
    )
    marks: dict[int, dict[str, str]] = {}
    for finding in scan(texts, KINDS, ("US",)).iter_rows(named=True):
        marks.setdefault(finding["row"], {})[finding["value"]] = f"[{finding['name']}]"
    for position, values in marks.items():
        pairs[position]["row_text"] = redacted(pairs[position]["row_text"], values)
    return pairs
