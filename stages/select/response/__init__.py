"""One answer to each prompt, or the best few: by a score, by the majority, by consensus.

Answers to one prompt are rows that are equal up to the last assistant turn; several
samples, several models, an old row and its rewriting give them. What papers keep, in these
options:

- WarriorCoder (Feng et al. 2024, arXiv:2412.17395): `score: arena_score`;
- InverseCoder (Wu et al. 2024, arXiv:2407.05700): the judge's P(yes) as the score;
- Selective Reflection-Tuning (Li et al. 2024, arXiv:2402.10110): the old row or the new
  one, `group: parent, score: ifd`, or for answers `score: r_ifd, descending: false`;
- rejection sampling, many right answers to a question: `max_per_group: 4`;
- Self-consistency (Wang et al. 2022, arXiv:2203.11171) and LMSI (Huang et al. 2022,
  arXiv:2210.11610): `method: {name: majority, answer_column: answer}`, with the final
  answers in a column `answer`;
- Ensemble-Instruct (Lee et al. 2023, arXiv:2310.13961): `method: consensus`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.stage import Columns, Edges, Records, stage
from pipeline.types import Count
from schemas.records import prompt_id
from stages._selection.budget import check_unused
from stages._selection.groups import group_columns, groups_of
from stages._selection.held import held_rows
from stages._selection.scores import Expression, expression_columns, scores
from stages.select.response.best import Best, best
from stages.select.response.consensus import CONSENSUS_COLUMNS, Consensus, by_consensus
from stages.select.response.majority import Majority, majority

Method = Annotated[Best | Majority | Consensus, Field(discriminator="name")]

_GROUPS: Final = {"prompt": ["messages", "tools"], "parent": ["parents"]}


def _reads(options: SimpleNamespace) -> list[str]:
    columns = _GROUPS.get(options.group) or group_columns(options.group)
    columns = [*columns, *expression_columns(options.score)]
    match options.method:
        case Majority(answer_column=answer):
            columns += ["messages", "origins", *([answer] if answer else [])]
        case Consensus(voter_column=voter):
            columns += ["messages", "origins", *([voter] if voter != "source" else [])]
    return list(dict.fromkeys(columns))


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    match options.method:
        case Majority():
            return {"response_rank": pl.Int32, "response_votes": pl.Int32}
        case Consensus():
            return CONSENSUS_COLUMNS
    return {"response_rank": pl.Int32}


def _check(options: SimpleNamespace) -> None:
    if isinstance(options.method, Best) and options.score is None:
        raise OptionError("score", "must be given with method: best, got null")
    if isinstance(options.method, Consensus):
        check_unused(options, "max_per_group", 1, "with method: consensus, which keeps one answer")
        check_unused(options, "score", None, "with method: consensus")
    if options.score is None:
        check_unused(options, "descending", True, "without a score")


@stage(version=2, scope="set", reads=_reads, adds=_adds, check=_check, later=("held",))
def response(
    ctx: Context,
    rows: Records,
    held: Records | None = None,
    *,
    method: Method = Best(),
    score: Expression | None = None,
    descending: bool = True,
    max_per_group: Count = 1,
    group: Expression = "prompt",
) -> pl.DataFrame:
    """Keep the best rows of every group, drop the others as `not_selected`.

    A record that was given several times is one row with as many `origins`, and as many
    votes. Adds `response_rank` (in the group, 1 for the best; null where nothing ranks it),
    `response_votes` (of the row's answer; `majority`), `consensus` (for the row that is
    kept: "own" where another voter confirmed the primary one, "others" or "rouge_l") and
    `consensus_score` (the sum of its ROUGE-L with all others, where that decided). Dropped:
    `not_selected`, `missing_score`, `no_majority`, `no_consensus`, `no_answer`.

    Args:
        rows: The answers.
        held: Answers that were chosen before: those that are among the rows rank first in their
            group, under `majority` among the rows with the winning answer. One without a score
            is dropped for that. `consensus` knows none: the other answers decide.
        method: `best`, `majority` or `consensus`. Under `majority`, of answers with equal
            votes, that of the best row by the score wins, else that of the first id.
        score: A column or an SQL expression; equal scores rank by id. A missing score (null,
            NaN; not 0) never wins: `missing_score`.
        descending: Whether large scores are the best ones.
        max_per_group: How many rows of a group are kept; under `majority`, of those with the
            winning answer.
        group: `prompt`: rows with one prompt; `parent`: a row with the rows that were made
            of it, wherever both are here; or a column, an SQL expression or `source` (see
            `stages/_selection/groups.py`).

    Raises:
        UserError: Rows are held under `consensus`.

    Example:
        ```yaml
        best:
          uses: select.response
          needs: scored
          with: {method: best, score: ifd, group: prompt}
        ```

        >>> from pathlib import Path
        >>> ctx = Context(Path(), Path(), Path())
        >>> rows = pl.DataFrame({"id": ["a", "b"], "question": [1, 1], "ifd": [0.2, 0.9]})
        >>> response(ctx, rows, score="ifd", group="question")["drop_reason"].to_list()
        ['not_selected', None]
    """
    if held is not None and isinstance(method, Consensus):
        raise UserError(
            "held must be left out with method: consensus, got rows on that edge",
            why="it keeps the answer that agrees most with the others, whichever was kept before",
        )
    groups, is_held = _groups(rows, group), held_rows(rows, held)
    values = np.zeros(len(rows)) if score is None else scores(rows, score)
    keys = -values if descending else values
    match method:
        case Majority():
            return majority(rows, groups, keys, is_held, max_per_group, method)
        case Consensus():
            return by_consensus(rows, groups, method)
    keys = np.where(is_held & ~np.isnan(keys), -np.inf, keys)
    return best(rows, groups, values, keys, max_per_group)


def _groups(rows: pl.DataFrame, group: str) -> NDArray[np.int64]:
    """The number of each row's group, shape (rows,)."""
    if group not in _GROUPS:
        return groups_of(rows, group).codes
    if group == "prompt":
        # A loop, because no column operation computes a digest of canonical JSON.
        prompts = rows.select("messages", "tools").iter_rows()
        keys = [prompt_id(messages or [], tools) for messages, tools in prompts]
    else:
        keys = _roots(rows)
    return np.unique(np.array(keys, dtype=str), return_inverse=True)[1].astype(np.int64)


def _roots(rows: pl.DataFrame) -> list[str]:
    """For each row the id of its oldest ancestor among the rows."""
    parents = dict(rows.select("id", "parents").iter_rows())
    roots = []
    for id_ in rows["id"]:
        path = {id_}
        while parent := next((p for p in parents[id_] or () if p in parents), None):
            if parent in path:
                break
            path.add(parent)
            id_ = parent
        roots.append(id_)
    return roots
