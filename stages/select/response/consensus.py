"""What several models agree on: the answers to one prompt, compared with each other.

Ensemble-Instruct (Lee et al. 2023, arXiv:2310.13961). Answers are compared after
lower-casing, without punctuation and with single spaces; their similarity is ROUGE-L over
stemmed words.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, groupby
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.stage import Columns
from pipeline.types import option_group
from schemas.records import response as last_answer
from stages._common.verdicts import evidence_json
from stages._text.rouge import rouge_l, tokenize

CONSENSUS_COLUMNS: Final[Columns] = {
    "response_rank": pl.Int32,
    "consensus": pl.String,
    "consensus_score": pl.Float64,
}

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@option_group
class Consensus:
    """One answer that several voters support (Ensemble-Instruct).

    Attributes:
        primary_voter: Whose answer the others support or not: a value of `voter_column`.
            null for nobody's.
        voter_column: Who gave a row: `source` (the origins' sources), or a column such as
            `model`.
        agreement: What is kept where only the others agree: their answer, or the primary
            voter's all the same, as the authors' code does.
        min_rouge_l: Two answers with a ROUGE-L of at most this drop the group as
            `no_consensus`, as a single answer does.
    """

    name: Literal["consensus"] = "consensus"
    primary_voter: str | None = None
    voter_column: str = "source"
    agreement: Literal["others", "primary"] = "others"
    min_rouge_l: float = 0.01


class Vote(NamedTuple):
    """One voter's answer.

    Attributes:
        row: The position of the row; a row that two voters gave is two votes.
        text: The answer.
        primary: Whether it is the primary voter's.
    """

    row: int
    text: str
    primary: bool


class Decision(NamedTuple):
    """The result for one prompt.

    Attributes:
        row: The row of the answer that is kept, None for none.
        how: Why it is kept: "own", the primary voter's answer was confirmed by another;
            "others" agree among themselves; "rouge_l", it is the most similar to the rest.
        scores: For each vote, where ROUGE-L decided, the sum with all other votes.
        lowest: The lowest ROUGE-L of two votes, where it was computed.
    """

    row: int | None
    how: str | None = None
    scores: tuple[float, ...] = ()
    lowest: float | None = None


def normalized(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def consensus(votes: Sequence[Vote], keep_primary: bool, min_rouge_l: float) -> Decision:
    """The answer that the votes support.

    1. The primary answer, if another one equals it. 2. Else the one that at least two
    others give (`keep_primary`: the primary answer all the same); where what they agree on
    is empty, the primary one. 3. Else, unless two answers have a ROUGE-L of at most
    min_rouge_l, the one with the largest sum of ROUGE-L with all others; of equal ones the
    first in the order of the votes. A single vote is no consensus.

    Args:
        votes: The answers to one prompt.
        keep_primary: Whether the primary answer is kept where the others agree.
        min_rouge_l: The ROUGE-L that all pairs of answers must exceed in step 3.

    Example:
        >>> votes = [Vote(0, "Blue.", True), Vote(1, "red", False), Vote(2, "Red!", False)]
        >>> consensus(votes, False, 0.01)
        Decision(row=1, how='others', scores=(), lowest=None)
    """
    texts = [normalized(vote.text) for vote in votes]
    primary = next((i for i, vote in enumerate(votes) if vote.primary), None)
    others = [i for i in range(len(votes)) if i != primary]
    if len(votes) < 2:
        return Decision(None)
    if primary is not None and any(texts[i] == texts[primary] for i in others):
        return Decision(votes[primary].row, "own")
    counts = Counter(texts[i] for i in others)
    common, times = counts.most_common(1)[0]
    if times > 1:
        agreeing = next(i for i in others if texts[i] == common)
        kept = primary if primary is not None and (keep_primary or not common) else agreeing
        return Decision(votes[kept].row, "others")
    return _most_similar(votes, texts, min_rouge_l)


def _most_similar(votes: Sequence[Vote], texts: Sequence[str], min_rouge_l: float) -> Decision:
    """Step 3: the answer with the largest sum of ROUGE-L with all others."""
    tokens = [tokenize(text, stem=True) for text in texts]
    sums = [0.0] * len(votes)
    lowest = 1.0
    for i, j in combinations(range(len(votes)), 2):
        score = rouge_l(tokens[i], tokens[j])
        sums[i] += score
        sums[j] += score
        lowest = min(lowest, score)
    best = max(range(len(votes)), key=sums.__getitem__)
    row = votes[best].row if lowest > min_rouge_l else None
    return Decision(row, "rouge_l", tuple(sums), lowest)


def by_consensus(rows: pl.DataFrame, groups: NDArray[np.int64], method: Consensus) -> pl.DataFrame:
    """The consensus of every group. Answers are compared in pairs, group by group: a loop.

    Args:
        rows: The rows.
        groups: The number of each row's group, shape (rows,).
        method: Who votes, and what is kept.

    Returns:
        The columns of the stage.
    """
    schema = {**CONSENSUS_COLUMNS, "drop_reason": pl.String, "evidence": pl.String}
    verdicts: list[dict[str, Any]] = [dict.fromkeys(schema) for _ in range(len(rows))]
    ids = rows["id"].to_list()
    for row, text in enumerate(rows.select(last_answer()).to_series()):
        if text is None:
            verdicts[row].update(drop_reason="no_answer", evidence="{}")
    for votes in _votes(rows, groups, method):
        decision = consensus(votes, method.agreement == "primary", method.min_rouge_l)
        scores: dict[int, float] = dict(
            sorted(zip((v.row for v in votes), decision.scores, strict=False))
        )
        ranked = sorted(scores, key=lambda r: (-scores[r], r != decision.row, r))
        for row in dict.fromkeys(v.row for v in votes):
            verdict = verdicts[row]
            verdict["consensus_score"] = scores.get(row)
            verdict["response_rank"] = ranked.index(row) + 1 if row in scores else None
            if row == decision.row:
                verdict.update(consensus=decision.how, response_rank=1)
            elif decision.row is None:
                evidence: dict[str, Any] = {"votes": len(votes)}
                evidence["lowest_rouge_l"] = decision.lowest
                verdict.update(drop_reason="no_consensus", evidence=evidence_json(evidence))
            else:
                evidence = {"winner": ids[decision.row], "how": decision.how}
                verdict.update(drop_reason="not_selected", evidence=evidence_json(evidence))
    return pl.DataFrame(verdicts, schema=schema)


def _votes(
    rows: pl.DataFrame, groups: NDArray[np.int64], method: Consensus
) -> Iterator[Sequence[Vote]]:
    """The votes of each group: the primary one first, then by name, then in the rows' order."""
    column, primary = method.voter_column, method.primary_voter
    texts = rows.select(last_answer()).to_series().to_list()
    sources = rows["origins"].list.eval(pl.element().struct.field("source")).to_list()
    named = sources if column == "source" else [[name] for name in rows[column].to_list()]
    votes = []
    for row, text in enumerate(texts):
        # Only sources name all who gave a merged row: the other votes have no name.
        names = [*named[row], *[None] * (len(sources[row] or ()) - len(named[row]))]
        votes += [
            (int(groups[row]), name != primary or primary is None, name or "", row, text or "")
            for name in names
            if text is not None
        ]
    for _, members in groupby(sorted(votes), key=lambda member: member[0]):
        yield [Vote(row, text, not other) for _, other, _, row, text in members]
