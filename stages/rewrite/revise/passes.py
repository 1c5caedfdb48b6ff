"""Rows on their way through the passes of a method, and what becomes of each attempt.

A row is a draft whose fields are its turns. An attempt is a child of it with the texts that a
model wrote in the place of old ones; `Reviser.conclude` accepts it or keeps the old texts, and
notes why. So an answer that cannot be read, was cut, or says nothing costs the row nothing:
it stays as it was, and its raw end is evidence. Only a request that was not answered fails it.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import polars as pl
from rapidfuzz.distance import Levenshtein

from pipeline.models.base import Encoder, Engine
from pipeline.models.counting import is_counting
from schemas.records import RECORD_COLUMNS
from stages._llm.drafts import Draft, GenerateField
from stages._llm.rows import Row, continued, has_tools, license_of, make_row, to_json
from stages.rewrite.revise.judging import Judge, Verdict

REVISED: Final = "revised"
"""The outcome of a pass whose text was accepted; all others are why the old one was kept."""

ADDS: Final[dict[str, Any]] = {
    "journal": pl.List(pl.String),
    "revision": pl.String,
    "operators": pl.List(pl.String),
    "passes": pl.String,
}

Answers = Literal["last", "all"]

Gate = Callable[[Sequence[Draft]], list[Verdict]]
"""From drafts with a candidate to why each one's is not accepted, and the evidence."""

_log = logging.getLogger(__name__)

_PLACEHOLDER: Final = re.compile(
    r"""
    \W*+ (?: n \W? a | none | null | nil | empty | unchanged | todo | tbd
      | (?:the[ ])? same (?:[ ]as[ ](?:above|before|the[ ]original))?
      | no[ ](?:changes?|revisions?)(?:[ ](?:is|are))?(?:[ ](?:needed|necessary|required))?
      | (?:(?:the|a|your|my)[ ])?(?:(?:new|revised|rewritten|improved)[ ])?
        (?:answer|response|instruction|text)(?:[ ](?:goes[ ])?here)?
    )? \W*
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_placeholder(text: str) -> bool:
    """Whether a text stands in the place of one: blank, N/A, "your answer here", "...".

    Args:
        text: What a model wrote as a new text.

    Example:
        >>> [is_placeholder(text) for text in ("N/A", "[new answer here]", " ... ", "Non.", "42")]
        [True, True, True, False, False]
    """
    # A sign alone may be an answer, such as "+"; marks of a placeholder are these.
    if text.strip() and not re.search(r"\w", text):
        return not text.strip(" .…-_*[]<>")
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def first_drafts(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each row; `kept_as` says why one is not revised at all.

    Args:
        rows: Records.
    """
    drafts = []
    for record in rows.select(*RECORD_COLUMNS).iter_rows(named=True):
        messages = record["messages"] or []
        turns = [(m["role"], m["content"] or "") for m in messages]
        fields = {"record": record, "turns": turns, "kept_as": _kept_as(record), "passes": []}
        drafts.append(Draft((record["id"],), fields, license_of(record["origins"])))
    return drafts


def _kept_as(record: Mapping[str, Any]) -> str | None:
    """Why a row is kept whole: what belongs to its old answer could not follow a new one."""
    messages = record["messages"] or []
    if has_tools(messages, record["tools"]) or any(m["role"] == "tool" for m in messages):
        return "has_tools"
    if any(message.get("reasoning") for message in messages):
        return "has_reasoning"
    if not messages or messages[-1]["role"] != "assistant":
        return "no_answer"
    if messages[-1].get("train") is False:
        return "not_trained"
    if not (messages[-1]["content"] or "").strip():
        return "no_answer"
    before = messages[-2] if len(messages) > 1 else None
    if before is None or before["role"] != "user" or not (before["content"] or "").strip():
        return "no_instruction"
    return None


def places(drafts: Sequence[Draft], answers: Answers) -> Iterator[list[Draft]]:
    """The drafts that have an answer to revise, once for each place of an answer in a row.

    Each is set to that answer: `at`, `request` (all that precedes it, as text), `instruction`
    (the user's turn before it) and `response`. An answer that was revised is what later ones
    follow.

    Args:
        drafts: The rows.
        answers: The last answer of each row, or each in turn.
    """
    working = [draft for draft in drafts if draft["kept_as"] is None]
    own = [_answer_places(draft) for draft in working]
    own = [at[-1:] for at in own] if answers == "last" else own
    for number in range(max(map(len, own), default=0)):
        here = [
            (draft, at[number]) for draft, at in zip(working, own, strict=True) if len(at) > number
        ]
        for draft, at in here:
            set_place(draft, at)
        yield [draft for draft, _ in here if draft.active]


def _answer_places(draft: Draft) -> list[int]:
    """Where answers to the user stand; those that nothing is trained on are context alone."""
    turns, messages = draft["turns"], draft["record"]["messages"]
    return [
        at
        for at in range(1, len(turns))
        if turns[at][0] == "assistant" and turns[at - 1][0] == "user" and turns[at][1].strip()
        if messages[at].get("train") is not False
    ]


def set_place(draft: Draft, at: int) -> None:
    """Set a draft to one of its answers.

    Args:
        draft: Changed in place.
        at: The position of the answer in its turns.
    """
    turns = draft["turns"]
    request = conversation_text(turns[:at])
    draft.fields |= {"at": at, "request": request, "instruction": turns[at - 1][1]}
    draft.fields["response"] = turns[at][1]


def conversation_text(turns: Sequence[tuple[str, str]]) -> str:
    """Turns as text; one alone is shown as it is.

    Args:
        turns: Role and text of each.

    Example:
        >>> conversation_text([("user", "Why?")])
        'Why?'
        >>> conversation_text([("system", "Be brief."), ("user", "Why?")])
        'System: Be brief.\\n\\nUser: Why?'
    """
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


@dataclass
class Reviser:
    """What a method needs: requests to the model, and the conclusion of its attempts.

    Attributes:
        write: `generate_field` with engine, decoding and seed filled in.
        seed: Of what a method draws.
        judge: Compares new answers with old ones; None to accept what can be read.
        teach: As `write`, with the teacher's engine; None without a teacher.
        encoder: Makes vectors of texts; None without an embedder.
        student: Has the likelihoods of the model that will be tuned; None without a student.
        outcomes: How often each pass ended how, by operator.
    """

    write: GenerateField
    seed: int
    judge: Judge | None = None
    teach: GenerateField | None = None
    encoder: Encoder | None = None
    student: Engine | None = None
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)

    def conclude(
        self,
        drafts: Sequence[Draft],
        attempts: Sequence[Draft],
        operator: str,
        gate: Gate | None = None,
    ) -> list[Draft]:
        """Accept the new texts of attempts, or keep the old ones and note why.

        Args:
            drafts: The rows, each set to one of its answers.
            attempts: A child of each with `new_response`, `new_instruction` or both.
            operator: What the texts were written by.
            gate: What decides on texts that can be read; by default the judge, where there is
                one, on new answers to the old instruction.

        Returns:
            The drafts whose texts were accepted.
        """
        for draft, attempt in zip(drafts, attempts, strict=True):
            draft.journal, draft.notes = list(attempt.journal), dict(attempt.notes)
            draft.error = attempt.error
            draft.fields["candidate"] = _candidate(draft, attempt)
        readable = [d for d in drafts if d.active and d["candidate"].outcome == REVISED]
        if gate is None and self.judge is not None:
            gate = self.judge.compare
            readable = [draft for draft in readable if draft["candidate"].instruction is None]
        if gate is not None:
            for draft, verdict in zip(readable, gate(readable), strict=True):
                draft["candidate"].add_verdict(verdict)
        return [draft for draft in drafts if draft.active and self._accept(draft, operator)]

    def _accept(self, draft: Draft, operator: str) -> bool:
        """Write down what became of a draft's candidate, and put accepted texts in place."""
        candidate: Candidate = draft["candidate"]
        self.outcomes.setdefault(operator, Counter())[candidate.outcome] += 1
        at = draft["at"]
        note = {"operator": operator, "turn": at, "outcome": candidate.outcome}
        draft.fields["passes"] = [*draft["passes"], note | candidate.evidence]
        if candidate.outcome != REVISED:
            return False
        turns = list(draft["turns"])
        if candidate.instruction is not None:
            turns[at - 1] = ("user", candidate.instruction)
        if candidate.response is not None:
            turns[at] = ("assistant", candidate.response)
        draft.fields["turns"] = turns
        set_place(draft, at)
        return True


@dataclass
class Candidate:
    """The new texts of an attempt, and what becomes of them.

    Attributes:
        outcome: "revised", or why the old texts are kept.
        evidence: What the note about the pass holds.
        instruction: The new instruction; None to keep the old one.
        response: The new answer; None to keep the old one.
    """

    outcome: str
    evidence: dict[str, Any]
    instruction: str | None = None
    response: str | None = None

    def add_verdict(self, verdict: tuple[str | None, dict[str, Any]]) -> None:
        """Keep the old texts where a judge does not prefer the new ones.

        Args:
            verdict: Why they are not accepted, None where they are, and the scores.
        """
        reason, scores = verdict
        self.outcome = reason or self.outcome
        self.evidence |= scores


def candidate_texts(draft: Draft) -> tuple[str, str]:
    """The instruction and the answer that a row would have with its candidate.

    Args:
        draft: A row with a candidate.
    """
    candidate: Candidate = draft["candidate"]
    instruction, response = candidate.instruction, candidate.response
    return (
        draft["instruction"] if instruction is None else instruction,
        draft["response"] if response is None else response,
    )


def _candidate(draft: Draft, attempt: Draft) -> Candidate:
    evidence: dict[str, Any] = dict(attempt.fields.get("evidence", {}))
    if attempt.rejection is not None:
        reason, why = attempt.rejection
        # Reasoning is in no row, also where it did not come to an end.
        evidence |= {name: value for name, value in why.items() if name != "reasoning_end"}
        return Candidate(_without_field(reason), evidence)
    changed: dict[str, str] = {}
    for name in ("instruction", "response"):
        new = attempt.fields.get(f"new_{name}")
        if new is None or attempt.error is not None:
            continue
        if is_placeholder(new) and not is_counting():
            return Candidate("placeholder", evidence | {name: new[:200]})
        if is_counting() or _squeezed(new) != _squeezed(draft[name]):
            changed[name] = new
            evidence[f"{name}_distance"] = Levenshtein.distance(draft[name], new)
            evidence[f"{name}_length_ratio"] = round(len(new) / max(1, len(draft[name])), 3)
    if not changed:
        return Candidate("unchanged", evidence)
    return Candidate(REVISED, evidence, changed.get("instruction"), changed.get("response"))


def _without_field(reason: str) -> str:
    """`cut` and `unparsed` without the name of the field."""
    return next((end for end in ("cut", "unparsed") if reason.endswith(f"_{end}")), reason)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def to_rows(drafts: Sequence[Draft], source: str) -> pl.DataFrame:
    """The rows: revised ones are new records, all others the records that came.

    Args:
        drafts: The rows after all passes.
        source: The source of the new records.
    """
    rows = [_row(draft, source, index) for index, draft in enumerate(drafts)]
    first: dict[str, Row] = {}
    for row in rows:
        if row["error"] is None and row["drop_reason"] is None:
            kept = first.setdefault(row["id"], row)
            if kept is not row:
                kept["origins"] = [*(kept["origins"] or ()), *(row["origins"] or ())]
                row.update(drop_reason="duplicate", evidence=to_json({"duplicate_of": row["id"]}))
    if rows and not first:
        _warn_that_nothing_is_kept(rows, source)
    verdict: dict[str, Any] = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())
    return pl.DataFrame(rows, schema={**RECORD_COLUMNS, **ADDS, **verdict})


def _warn_that_nothing_is_kept(rows: Sequence[Row], source: str) -> None:
    reasons = Counter(row["drop_reason"] or "failed" for row in rows)
    counts = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
    _log.warning("%s: none of %d rows is kept: %s", source, len(rows), counts)


def _row(draft: Draft, source: str, index: int) -> Row:
    record, passes = draft["record"], draft["passes"]
    operators = [note["operator"] for note in passes if note["outcome"] == REVISED]
    turns, revision = draft["turns"], revision_of(draft)
    operators = operators if revision == REVISED else []
    added: dict[str, Any] = {"journal": draft.journal, "operators": operators}
    added["revision"] = revision
    added["passes"] = to_json({"passes": passes})
    if draft.error is not None or not operators:
        reason, evidence = (draft.rejection if draft.error is None else None) or (None, None)
        shown = None if evidence is None else to_json(evidence)
        verdict = {"drop_reason": reason, "evidence": shown, "error": draft.error}
        return {**record, **verdict, **added}
    messages = record["messages"]
    first = next((i for i, (role, _) in enumerate(turns) if role == "user"), None)
    same = first is not None and turns[first][1] == (messages[first]["content"] or "")
    old = {"original": [{"role": role, "content": text} for role, text in _old_turns(record)]}
    row = make_row(
        continued(turns, messages),
        record["input_start"] if same else None,
        license=draft.license,
        parents=draft.parents,
        extra={**draft.notes, **old},
        rejection=draft.rejection,
        **added,
    )
    row["origins"][0].update(source=source, index=index)
    return row


def _old_turns(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"] or "") for m in record["messages"] or ()]


def revision_of(draft: Draft) -> str:
    """How a row ended: "revised", or why it is as it was.

    Args:
        draft: The row after all passes.
    """
    outcomes = [note["outcome"] for note in draft["passes"]]
    if REVISED in outcomes:
        # A later pass may have taken back what an earlier one changed.
        return REVISED if draft["turns"] != _old_turns(draft["record"]) else "unchanged"
    return draft["kept_as"] or (outcomes[-1] if outcomes else "unchanged")
