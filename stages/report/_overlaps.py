"""What must have nothing in common, and how much chosen sets have in common.

Rows overlap where they are equal or share a run of NGRAM words in any turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from pipeline.errors import UserError
from schemas.turns import viewed
from stages._text.ngram_index import build_index, find_overlaps

NGRAM: Final = 13
"""Words in a run that an evaluation row and a training row must not share (GPT-3's rule)."""


def refuse_overlaps(
    arms: Mapping[str, pl.DataFrame], eval_sets: Mapping[str, pl.DataFrame]
) -> None:
    """Stop where an evaluation row could be trained on, or is in two sets, all or a run of it.

    Args:
        arms: The rows that could be trained on, by name.
        eval_sets: The sets of evaluation rows, by name.

    Raises:
        UserError: Rows of two of them overlap, of which one is a set of evaluation rows.
    """
    messages = _overlaps(arms, [*eval_sets.values()])
    problems = [_problem(f"`{name}`", those) for name, those in messages.items() if those]
    if problems:
        raise UserError(
            "the arms contain evaluation rows",
            why="\n    ".join(problems),
            hint="take them out of the pool before selecting: select.except, with the pool on the "
            "edge rows, the evaluation rows on the edge except, and match: near",
        )
    sets = list(eval_sets.items())
    for number, (name, rows) in enumerate(sets[1:], start=1):
        (those,) = _overlaps({name: rows}, [frame for _, frame in sets[:number]]).values()
        if those:
            raise UserError(
                "the sets of evaluation rows overlap",
                why=_problem(f"`{name}`", those),
                hint="each row must count once: take those of one set out of the other with "
                "select.except and match: near, or split one pool with select.split",
            )


def _problem(name: str, messages: list[str]) -> str:
    more = f"; and {len(messages) - 5} more" if len(messages) > 5 else ""
    return f"{len(messages)} rows of {name}: {'; '.join(messages[:5])}{more}"


def _overlaps(
    arms: Mapping[str, pl.DataFrame], eval_sets: Sequence[pl.DataFrame]
) -> dict[str, list[str]]:
    """For each set of rows what is wrong with them; a row of several sets is looked at once."""
    eval_turns, turns = _turns(eval_sets), _turns([*arms.values()])
    eval_ids = eval_turns["id"].unique().implode()
    index = build_index(eval_turns, NGRAM, NGRAM)
    hits = find_overlaps(index, turns["text"])
    pairs = pl.DataFrame(
        {"row": turns["id"][hits.row], "eval_row": eval_turns["id"][hits.text]}
    ).unique("row", keep="first", maintain_order=True)
    problems = {}
    for name, rows in arms.items():
        same = rows["id"].filter(rows["id"].is_in(eval_ids))
        others = pairs.join(rows, left_on="row", right_on="id", how="semi", maintain_order="left")
        near = others.filter(~pl.col("row").is_in(same.implode())).iter_rows()
        problems[name] = [f"{row} is an evaluation row" for row in same]
        problems[name] += [f"{row} shares {NGRAM} words with {other}" for row, other in near]
    return problems


def _turns(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Every turn's text with the id of its row, those of equal rows once."""
    text = pl.col("messages").struct.field("content").alias("text")
    turns = (f.select("id", viewed("all")).explode("messages").select("id", text) for f in frames)
    return pl.concat(turns).unique(maintain_order=True)


def jaccard(sets: Mapping[str, pl.Series]) -> list[list[float]]:
    """The overlap of each set of ids with each: shared ids over all ids of both.

    Args:
        sets: Ids by name, each once; none is empty.

    >>> jaccard({"a": pl.Series(["1", "2"]), "b": pl.Series(["2", "3"])})
    [[1.0, 0.3333333333333333], [0.3333333333333333, 1.0]]
    """
    ids = [set(series) for series in sets.values()]
    return [[len(a & b) / len(a | b) for b in ids] for a in ids]
