"""One answer to each prompt, or the best few: by a score, by the majority, by consensus.

Answers to one prompt are rows that are equal up to the last assistant turn; several
samples, several models, an old row and its rewriting give them. What papers keep, in
these options:

- WarriorCoder (Feng et al. 2024, arXiv:2412.17395): `by: arena_score`;
- InverseCoder (Wu et al. 2024, arXiv:2407.05700): `by:` the judge's P(yes);
- Selective Reflection-Tuning (Li et al. 2024, arXiv:2402.10110): the old row or the new
  one, `group: parent, by: ifd`, or for answers `by: r_ifd, descending: false`;
- rejection sampling, many right answers to a question: `keep: 4`;
- Self-consistency (Wang et al. 2022, arXiv:2203.11171) and LMSI (Huang et al. 2022,
  arXiv:2210.11610): `method: majority`, with the final answers in a column `answer`;
- Ensemble-Instruct (Lee et al. 2023, arXiv:2310.13961): `method: consensus`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.stage import Columns, Edges, Records, stage
from schemas.records import prompt_id
from schemas.records import response as answers
from stages._common.unused_options import refuse_idle
from stages._selection.budget import expression_columns, ranks_within, scores
from stages._selection.groups import group_columns, groups_of
from stages.select._consensus import Voice, consensus, normalized

ADDS: Final[dict[str, Columns]] = {
    "best": {"response_rank": pl.Int32},
    "majority": {"response_rank": pl.Int32, "response_votes": pl.Int32},
    "consensus": {
        "response_rank": pl.Int32,
        "consensus": pl.String,
        "consensus_score": pl.Float64,
    },
}
_GROUPS: Final = {"prompt": ["messages"], "parent": ["parents"]}


def _reads(options: SimpleNamespace) -> list[str]:
    columns = _GROUPS.get(options.group) or group_columns(options.group)
    columns = [*columns, *expression_columns(options.by)]
    if options.method != "best":
        columns += ["messages", "origins"]
    columns += [options.answer] if options.answer else []
    columns += [options.voice] if options.voice != "source" else []
    return list(dict.fromkeys(columns))


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    return ADDS[options.method]


def _check(options: SimpleNamespace) -> None:
    expression_columns(options.by)
    if options.group not in _GROUPS:
        group_columns(options.group)
    if options.keep < 1 or options.min_votes < 1:
        raise UserError("keep and min_votes count from 1", hint="keep: 1")
    if options.method == "best" and options.by is None:
        raise UserError("method best ranks by a score", hint="by: COLUMN")
    if options.method == "consensus" and options.keep != 1:
        raise UserError("a consensus is one answer", hint="leave out `keep`")
    if options.method != "consensus" and options.own is not None:
        raise UserError("`own` is for method consensus", hint="method: consensus")
    method = options.method
    refuse_idle(
        *(response, options),
        (options.by is not None, "a score: by", "descending"),
        (method == "majority", "method: majority", "answer min_votes"),
        (method == "consensus", "method: consensus", "voice agreement min_rouge_l"),
    )


@stage(version=1, scope="set", reads=_reads, adds=_adds, check=_check)
def response(
    ctx: Context,
    rows: Records,
    *,
    method: Literal["best", "majority", "consensus"] = "best",
    by: str | None = None,
    descending: bool = True,
    keep: int = 1,
    group: str = "prompt",
    answer: str | None = None,
    min_votes: int = 1,
    own: str | None = None,
    voice: str = "source",
    agreement: Literal["others", "own"] = "others",
    min_rouge_l: float = 0.01,
) -> pl.DataFrame:
    """Keep the chosen rows of every group, drop the others as `not_selected`.

    group: rows with one prompt; "parent": a row with the rows made of it, wherever both
        are here; or a column, an expression or `source`, as `_strata.py` has it.
    by, descending, keep: the best so many by a column or an SQL expression; equal scores
        rank by id. A missing score (null, NaN; not 0) never wins: `missing_score`.
    majority: keeps rows with the answer that most gave, the best `keep` of them. Answers
        are compared in lower case without punctuation, or as the column `answer` has
        them. Of answers with equal votes, that of the best row by `by`, else of the
        first id. min_votes: where the winner has fewer, the group falls as `no_majority`.
    consensus: see `_consensus.py`. own: whose answer it is that others support or not, a
        name in `voice`: the origins' sources, or a column (`model`).
        agreement: what is kept where only the others agree: their answer, or the own
        one, as the authors' code does. min_rouge_l: as unlike as that, two answers bring
        the whole group down as `no_consensus`, as a single answer does.

    A record that was given several times is one row with as many `origins`, and as many
    votes. Adds `response_rank` (in the group, 1 the best; null where nothing ranks it),
    `response_votes` (of the row's answer), `consensus` (for the row that is kept: what
    spoke for it) and `consensus_score` (the sum of its ROUGE-L with all others, where
    that decided). Dropped: the above, and `no_answer`.
    """
    codes = _codes(rows, group)
    values = scores(rows, by) if by is not None else np.zeros(len(rows))
    keys = -values if descending else values
    if method == "best":
        return _best(rows, codes, keys, values, keep)
    if method == "majority":
        return _majority(rows, codes, keys, keep, answer, min_votes)
    return _agreed(rows, codes, own, voice, agreement == "own", min_rouge_l)


def _codes(rows: pl.DataFrame, group: str) -> NDArray[np.int64]:
    """The number of each row's group."""
    if group not in _GROUPS:
        return groups_of(rows, group).codes
    if group == "prompt":
        # The digest is of canonical JSON, which no column operation makes: a loop.
        keys = [prompt_id(messages or []) for messages in rows["messages"].to_list()]
    else:
        keys = _roots(rows)
    return np.unique(np.array(keys, dtype=str), return_inverse=True)[1].astype(np.int64)


def _roots(rows: pl.DataFrame) -> list[str]:
    """For each row the one that it was made from, as far back as rows are here."""
    made_from = dict(rows.select("id", "parents").iter_rows())
    found = []
    for id_ in rows["id"]:
        path = {id_}
        while parent := next((p for p in made_from[id_] or () if p in made_from), None):
            if parent in path:
                break
            path.add(parent)
            id_ = parent
        found.append(id_)
    return found


def _best(
    rows: pl.DataFrame,
    codes: NDArray[np.int64],
    keys: NDArray[np.float64],
    values: NDArray[np.float64],
    keep: int,
) -> pl.DataFrame:
    """Ranks by score within the groups."""
    table = pl.DataFrame(
        {
            "id": rows["id"],
            "group": codes,
            "rank": ranks_within(codes, keys) if len(codes) else codes,
            "score": pl.Series(values, dtype=pl.Float64).fill_nan(None),
        }
    )
    first = (pl.col("rank") == 1) & pl.col("score").is_not_null()
    table = table.with_columns(
        pl.col("id").filter(first).first().over("group").alias("winner"),
        pl.col("score").filter(first).first().over("group").alias("winner_score"),
    )
    missing = pl.col("score").is_null()
    lost = missing | (pl.col("rank") > keep)
    told = pl.struct("winner", "winner_score", "score", "rank").struct.json_encode()
    told_missing = pl.struct("winner", "winner_score").struct.json_encode()
    return table.select(
        pl.when(~missing).then("rank").cast(pl.Int32).alias("response_rank"),
        pl.when(missing)
        .then(pl.lit("missing_score"))
        .when(lost)
        .then(pl.lit("not_selected"))
        .alias("drop_reason"),
        pl.when(missing).then(told_missing).when(lost).then(told).alias("evidence"),
    )


def _majority(
    rows: pl.DataFrame,
    codes: NDArray[np.int64],
    keys: NDArray[np.float64],
    keep: int,
    answer: str | None,
    min_votes: int,
) -> pl.DataFrame:
    """Keep the best rows of each group's most frequent answer."""
    table = pl.DataFrame(
        {
            "id": rows["id"],
            "at": np.arange(len(rows)),
            "group": codes,
            "answer": rows[answer].cast(pl.String) if answer else _normalized(rows),
            "key": pl.Series(keys, dtype=pl.Float64).fill_nan(None),
            "voices": rows["origins"].list.len().fill_null(0).clip(1).cast(pl.Int32),
        }
    )
    found = table.join(_voted(table), on="at", how="left", maintain_order="left")
    told = {
        "no_answer": pl.struct(pl.lit(answer or "messages").alias("answer")),
        "no_majority": pl.struct("winner_votes", pl.lit(min_votes).alias("min_votes")),
        "not_selected": pl.struct("winner", "winner_votes", "votes"),
    }
    reason = (
        pl.when(pl.col("answer").is_null())
        .then(pl.lit("no_answer"))
        .when(pl.col("winner_votes") < min_votes)
        .then(pl.lit("no_majority"))
        .when(~pl.col("wins") | (pl.col("rank") > keep))
        .then(pl.lit("not_selected"))
    )
    return found.with_columns(reason.alias("drop_reason")).select(
        pl.col("rank").alias("response_rank"),
        pl.col("votes").alias("response_votes"),
        "drop_reason",
        pl.coalesce(
            pl.when(pl.col("drop_reason") == name).then(facts.struct.json_encode())
            for name, facts in told.items()
        ).alias("evidence"),
    )


def _voted(table: pl.DataFrame) -> pl.DataFrame:
    """For each row with an answer its votes and rank, and whether its answer wins.

    Ranked by the answer's votes, then by the best row of the answer, then by the row.
    """
    same = ["group", "answer"]
    order = ["group", "votes", "best", "first", "key", "at"]
    return (
        table.drop_nulls("answer")
        .sort("key", "at", nulls_last=True)
        .with_columns(
            pl.col("voices").sum().over(same).cast(pl.Int32).alias("votes"),
            pl.col("key").first().over(same).alias("best"),
            pl.col("at").first().over(same).alias("first"),
        )
        .sort(order, descending=[name == "votes" for name in order], nulls_last=True)
        .select(
            "at",
            "votes",
            pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("group").alias("rank"),
            pl.col("id").first().over("group").alias("winner"),
            pl.col("votes").first().over("group").alias("winner_votes"),
            (pl.col("first") == pl.col("first").first().over("group")).alias("wins"),
        )
    )


def _normalized(rows: pl.DataFrame) -> pl.Series:
    texts = rows.select(answers()).to_series().to_list()
    return pl.Series([text and normalized(text) for text in texts], dtype=pl.String)


def _agreed(
    rows: pl.DataFrame,
    codes: NDArray[np.int64],
    own: str | None,
    voice: str,
    keep_own: bool,
    min_rouge_l: float,
) -> pl.DataFrame:
    """The consensus of every group. Answers are compared in pairs, group by group: a loop."""
    columns = ("response_rank", "consensus", "consensus_score", "drop_reason", "evidence")
    schema = {**ADDS["consensus"], "drop_reason": pl.String, "evidence": pl.String}
    lines: list[dict[str, Any]] = [dict.fromkeys(columns) for _ in range(len(rows))]
    ids = rows["id"].to_list()
    for row, text in enumerate(rows.select(answers()).to_series()):
        if text is None:
            lines[row].update(drop_reason="no_answer", evidence="{}")
    for voices in _voices(rows, codes, own, voice):
        decision = consensus(voices, keep_own, min_rouge_l)
        by_row: dict[int, float] = dict(
            sorted(zip((v.row for v in voices), decision.scores, strict=False))
        )
        ranked = sorted(by_row, key=lambda r: (-by_row[r], r != decision.row, r))
        for row in dict.fromkeys(v.row for v in voices):
            one = lines[row]
            one["consensus_score"] = by_row.get(row)
            one["response_rank"] = ranked.index(row) + 1 if row in by_row else None
            if row == decision.row:
                one.update(consensus=decision.how, response_rank=1)
            elif decision.row is None:
                told: dict[str, Any] = {"voices": len(voices)}
                told["lowest_rouge_l"] = decision.lowest
                one.update(drop_reason="no_consensus", evidence=json.dumps(told))
            else:
                told = {"winner": ids[decision.row], "how": decision.how}
                one.update(drop_reason="not_selected", evidence=json.dumps(told))
    return pl.DataFrame(lines, schema=schema)


def _voices(
    rows: pl.DataFrame, codes: NDArray[np.int64], own: str | None, voice: str
) -> Iterator[Sequence[Voice]]:
    """The voices of each group: the own one first, then by name, then in the order of the rows."""
    texts = rows.select(answers()).to_series().to_list()
    sources = rows["origins"].list.eval(pl.element().struct.field("source")).to_list()
    named = sources if voice == "source" else [[name] for name in rows[voice].to_list()]
    found = []
    for row, text in enumerate(texts):
        # Who else gave a merged row is known for sources alone.
        given = [*named[row], *[None] * (len(sources[row] or ()) - len(named[row]))]
        found += [
            (int(codes[row]), name != own or own is None, name or "", row, text or "")
            for name in given
            if text is not None
        ]
    for _, members in groupby(sorted(found), key=lambda member: member[0]):
        yield [Voice(row, text, not other) for _, other, _, row, text in members]
