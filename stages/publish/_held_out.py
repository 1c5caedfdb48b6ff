"""Published rows that a recipe holds out: evaluation rows, and what is near to them.

Near is what `report.ablation` and `select.except` mean by it: the same prompt, or a run of 13
words that both have in a turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import polars as pl

from pipeline.execution.snapshot import Snapshot, SnapshotStage
from schemas.records import prompt_id
from schemas.turns import viewed
from stages._common.pairs import PARTS, as_conversations
from stages._text.ngram_index import build_index, find_overlaps
from stages.publish._published import options_of, passed

NGRAM: Final = 13
Match = Literal["id", "prompt", "near"]
_COLUMNS: Final = ("messages", *PARTS, "tools")


def held_out_rows(
    snapshot: Snapshot, rows: pl.DataFrame, named: Sequence[str]
) -> Iterator[tuple[str, str, list[str]]]:
    """The published rows that are held out, by step.

    Args:
        snapshot: The graph.
        rows: The published rows.
        named: Steps whose rows are held out; empty: those on edges `except` (as near as the
            stage that excepts them asks for) and `eval_rows`, and the parts of a
            `select.split` that published rows left behind.

    Yields:
        The step, what its rows are to the published ones, and the ids of these.
    """
    rows = as_conversations(rows)
    by_step: dict[str, Match] = dict.fromkeys(named, "near") or _steps(snapshot)
    for step, match in by_step.items():
        if snapshot.stages[step].view is not None:
            held = as_conversations(snapshot.rows(step, columns=_present(snapshot.stages[step])))
            yield from ((step, why, ids) for why, ids in _matches(rows, held, match))
    for stage in () if named else passed(snapshot):
        if stage.uses == "select.split":
            other = snapshot.rows(stage.name, "dropped")
            other = as_conversations(other)
            part = f"the other parts of {stage.name}"
            yield from ((part, why, ids) for why, ids in _matches(rows, other, "prompt"))


def _present(stage: SnapshotStage) -> list[str]:
    return [c for c in _COLUMNS if stage.view and c in stage.view.columns]


def _steps(snapshot: Snapshot) -> dict[str, Match]:
    """The steps on edges that hold rows out, with how near a row must not be."""
    steps: dict[str, Match] = {}
    for stage in snapshot.stages.values():
        for edge, names in stage.needs.items():
            if edge == "eval_rows":
                steps |= dict.fromkeys(names, "near")
            elif edge == "except" and stage.artifact is not None:
                match: Match = options_of(stage.artifact).get("match", "id")
                steps |= {name: match for name in names if name not in steps}
    return steps


def _matches(
    rows: pl.DataFrame, held: pl.DataFrame, match: Match
) -> Iterator[tuple[str, list[str]]]:
    """What the published rows are to the held-out ones, each row once."""
    same = rows.join(held, on="id", how="semi")["id"].to_list()
    seen = {*same}
    if same:
        yield "are rows", same
    have_turns = "messages" in held.columns and "messages" in rows.columns
    if match != "id" and have_turns:
        prompts = {*_prompts(held)}
        pairs = zip(rows["id"], _prompts(rows), strict=True)
        ids = [i for i, prompt in pairs if prompt in prompts and i not in seen]
        seen |= {*ids}
        if ids:
            yield "have prompts of rows", ids
    if match == "near" and have_turns:
        ids = [i for i in _overlapping(rows, held) if i not in seen]
        if ids:
            yield f"share a run of {NGRAM} words with rows", ids


def _prompts(rows: pl.DataFrame) -> list[str]:
    tools = rows["tools"] if "tools" in rows.columns else [None] * len(rows)
    return [prompt_id(m or [], t) for m, t in zip(rows["messages"].to_list(), tools, strict=True)]


def _overlapping(rows: pl.DataFrame, held: pl.DataFrame) -> list[str]:
    held_turns, turns = _turns(held), _turns(rows)
    if not len(held_turns):
        return []
    index = build_index(held_turns, NGRAM, NGRAM)
    hits = find_overlaps(index, turns["text"])
    return turns["id"].gather(hits.row).unique().sort().to_list()


def _turns(rows: pl.DataFrame) -> pl.DataFrame:
    """Every turn's text with the id of its row."""
    text = pl.col("messages").struct.field("content").alias("text")
    turns = rows.select("id", viewed("all")).explode("messages", empty_as_null=False)
    return turns.select("id", text)
