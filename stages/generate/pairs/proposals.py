"""What all methods share: answers to prompts, and the rows of pairs that are proposed.

A proposal is a pair, or a prompt with the reason why it makes none; so every prompt is
accounted for. What follows the last user's turn is the answer, calls and results included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

from schemas.pairs import PAIR_COLUMNS, pair_id
from schemas.records import canonical_turns, record_id
from schemas.turns import turn_text
from stages._llm.rows import Rejection, joint_license, license_of, to_json

ADDS: Final[dict[str, Any]] = {
    "margin": pl.Float64,
    "length_difference": pl.Int32,
    "journal": pl.List(pl.String),
}


@dataclass(frozen=True)
class Answer:
    """An answer of a row.

    Attributes:
        id: The row's id.
        prompt: The turns up to the last one of the user.
        turns: The turns of the answer.
        tools: The definitions of the tools.
        key: What answers to one prompt share.
        origins: The row's origins.
        parents: The row's parents.
        score: How good it is; None where that is not known.
    """

    id: str
    prompt: list[Any]
    turns: list[Any]
    tools: str | None
    key: str
    origins: list[Any]
    parents: list[str]
    score: float | None = None

    @property
    def text(self) -> str:
        """All that it says and calls."""
        return "\n".join(turn_text(turn, "calls") for turn in self.turns)


@dataclass
class Proposal:
    """A pair, or a prompt without one.

    Attributes:
        chosen: The better answer; of a prompt without a pair, any answer of it.
        rejected: The worse answer; None where there is none.
        parents: The rows that it is made of.
        margin: By how much the better one is better.
        notes: What the column `extra` holds.
        journal: The keys of the completions that it was made from.
        rejection: Why it is dropped.
        error: Why it failed.
    """

    chosen: Answer
    rejected: Answer | None = None
    parents: Sequence[str] = ()
    margin: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    journal: list[str] = field(default_factory=list)
    rejection: Rejection | None = None
    error: str | None = None


def answers_of(rows: pl.DataFrame, scores: Sequence[float | None] | None = None) -> list[Answer]:
    """The answers of all rows that end with one, in the order of the rows.

    Args:
        rows: Records.
        scores: The score of each row.

    >>> turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    >>> row = {"id": "a", "messages": turns, "tools": None, "origins": None, "parents": None}
    >>> answers_of(pl.DataFrame([row]))[0].text
    'So.'
    """
    columns = rows.select("id", "messages", "tools", "origins", "parents").iter_rows()
    answers = []
    for at, (id_, messages, tools, origins, parents) in enumerate(columns):
        turns = messages or []
        end = len(turns)
        while end and turns[end - 1]["role"] in ("assistant", "tool"):
            end -= 1
        answer = turns[end:]
        if not end or not answer or answer[-1]["role"] != "assistant":
            continue
        key = record_id([{**turn, "train": None} for turn in turns[:end]], tools)
        score = None if scores is None else scores[at]
        answers.append(
            Answer(id_, turns[:end], answer, tools, key, origins or [], parents or [], score)
        )
    return answers


def by_prompt(answers: Sequence[Answer]) -> dict[str, list[Answer]]:
    """The answers by prompt, in the order of the first answers."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.key, []).append(answer)
    return groups


def paired(chosen: Answer, rejected: Answer, **notes: Any) -> Proposal:
    """The proposal of a pair; equal answers are rejected as `identical`.

    Args:
        chosen: The better answer.
        rejected: The worse one.
        notes: What `extra` holds beside the origin of each.
    """
    origins = {
        name: answer.origins[0] if answer.origins else None
        for name, answer in (("chosen", chosen), ("rejected", rejected))
    }
    margin = None
    if chosen.score is not None and rejected.score is not None:
        margin = chosen.score - rejected.score
    parents = tuple(dict.fromkeys((chosen.id, rejected.id)))
    proposal = Proposal(chosen, rejected, parents, margin, {"origins": origins, **notes})
    if canonical_turns(chosen.turns) == canonical_turns(rejected.turns):
        proposal.rejection = "identical", {"rows": list(parents)}
    return proposal


def without_pair(answers: Sequence[Answer], reason: str, **evidence: Any) -> Proposal:
    """The proposal of a prompt that makes no pair.

    Args:
        answers: Its answers, one at least.
        reason: The drop reason.
        evidence: What shows it.
    """
    parents = tuple(answer.id for answer in answers)
    rejection = reason, {"answers": len(answers), **evidence}
    return Proposal(answers[0], None, parents, rejection=rejection)


def to_frame(proposals: Sequence[Proposal], source: str) -> pl.DataFrame:
    """The table that the stage returns: one row for each proposal.

    The license of a pair is that of both rows together. Of equal pairs the first is kept with
    the origins and parents of all.

    Args:
        proposals: The proposals, in their order.
        source: The source of the pairs.
    """
    rows = [_row(proposal, source, at) for at, proposal in enumerate(proposals)]
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["error"] is None and row["drop_reason"] is None:
            kept = first.setdefault(row["id"], row)
            if kept is not row:
                kept["origins"] = [*kept["origins"], *row["origins"]]
                kept["parents"] = sorted({*kept["parents"], *row["parents"]})
                row.update(drop_reason="duplicate", evidence=to_json({"duplicate_of": row["id"]}))
    verdict = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())
    return pl.DataFrame(rows, schema={**PAIR_COLUMNS, **ADDS, **verdict})


def _row(proposal: Proposal, source: str, number: int) -> dict[str, Any]:
    chosen, rejected = proposal.chosen, proposal.rejected
    reason, evidence = (proposal.rejection if proposal.error is None else None) or (None, None)
    better = None if rejected is None else chosen.turns
    worse = None if rejected is None else rejected.turns
    licenses = [license_of(side.origins) for side in (chosen, rejected) if side is not None]
    origin = {"source": source, "index": number, "license": joint_license(licenses)}
    return {
        "id": pair_id(chosen.prompt, better, worse, chosen.tools),
        "prompt": chosen.prompt,
        "chosen": better,
        "rejected": worse,
        "chosen_score": None if rejected is None else chosen.score,
        "rejected_score": None if rejected is None else rejected.score,
        "tools": chosen.tools,
        "origins": [origin],
        "parents": list(proposal.parents),
        "extra": to_json(proposal.notes),
        "margin": proposal.margin,
        "length_difference": None if rejected is None else len(chosen.text) - len(rejected.text),
        "journal": proposal.journal,
        "drop_reason": reason,
        "evidence": None if evidence is None else to_json(evidence),
        "error": proposal.error,
    }


Drawn = Callable[[str], float]
"""A number in [0, 1) for a text, from a seed and the text alone."""


def best_first(answers: Sequence[Answer]) -> list[Answer]:
    """The answers with a score, the best first; equal ones in their order."""
    scored = [answer for answer in answers if answer.score is not None]
    return sorted(scored, key=lambda answer: -(answer.score or 0.0))


def ids(answers: Sequence[Answer]) -> Mapping[str, Answer]:
    """The answers by id."""
    return {answer.id: answer for answer in answers}
