"""Instruction Pre-Training: passages with their pairs behind them, several to a row.

Cheng et al. 2024, arXiv:2406.14491. A row holds M passages, each followed by its pairs,
so that a model that is trained on it learns from examples; the synthesizer is shown
what the row holds so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from stages._llm.drafts import Draft, Prompt
from stages._llm.prompts import Prompts
from stages.generate._parsing.sections import PAIR, sections
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)


def pretraining(means: Means, passages: list[Draft]) -> list[Draft]:
    """Rows of `shots` passages with their pairs; the earlier ones are shown for the later.

    The n-th of each row is asked for in round n, with what the row holds so far before
    it. A passage of which nothing was read, or for which the row has become too long,
    ends the row; one that was read begins a new one.
    """
    alive = [draft for draft in passages if draft.active]
    lines = [draft for draft in passages if not draft.active]
    width = -(-len(alive) // means.shots)
    finished: list[list[Draft]] = []
    rows: list[list[Draft]] = [[] for _ in range(width)]
    for number in range(means.shots):
        new = alive[number * width : (number + 1) * width]
        for place, draft in enumerate(new):
            if not _fits(means, [*rows[place], draft]):
                finished.append(rows[place])
                rows[place] = []
            draft.fields["before"] = [*rows[place]]
        means.ask(
            *(new, "pairs", lambda d: _pairs_prompt(means, d)),
            read=synthesized if means.tuned else _pairs,
            keep_cut=means.tuned,
        )
        for place, draft in enumerate(new):
            if draft.active:
                draft.fields["pairs"] = draft["pairs"][: means.per_passage]
                rows[place].append(draft)
            else:
                lines.append(draft)
                finished.append(rows[place])
                rows[place] = []
        means.progress(number + 1, means.shots)
    return [_joined(row, means.form) for row in [*finished, *rows] if row] + lines


def _fits(means: Means, row: Sequence[Draft]) -> bool:
    """Whether a row leaves room for the answer, by the released code's 1.5 tokens a word."""
    if means.context_tokens is None:
        return True
    words = sum(len(d["passage"].split()) for d in row)
    words += sum(len(text.split()) for d in row[:-1] for pair in d["pairs"] for text in pair)
    return len(row) == 1 or 1.5 * words <= means.context_tokens - means.max_tokens


def _pairs_prompt(means: Means, draft: Draft) -> Prompt:
    """What was read of the row before, as the earlier turns of the talk, and the passage."""
    if means.tuned:
        return "".join(map(_read_before, draft["before"])) + _material(draft)
    turns: list[tuple[str, str]] = []
    for earlier in draft["before"]:
        told = "\n\n".join(f"Question: {q}\nAnswer: {a}" for q, a in earlier["pairs"])
        turns += [("user", _asked_for_pairs(means, earlier)), ("assistant", told)]
    return (*turns, ("user", _asked_for_pairs(means, draft)))


def _asked_for_pairs(means: Means, draft: Draft) -> str:
    values = {"passage": draft["passage"], "count": means.per_passage}
    return PROMPTS.render("pairs", **values)


def _material(draft: Draft) -> str:
    """A passage in the form that the released synthesizer was tuned on."""
    return f"<s> <CON> {draft['passage']} </CON>\n\n"


def _read_before(draft: Draft) -> str:
    pairs = "\n\n".join(f"<QUE> {q} <ANS> {a} </END>" for q, a in draft["pairs"])
    return f"{_material(draft)}{pairs}</s>"


def _pairs(text: str) -> list[tuple[str, str]] | None:
    found = [(pair["Question"], pair["Answer"]) for pair in sections(text, PAIR)]
    return _distinct(found) or None


def synthesized(text: str) -> list[tuple[str, str]] | None:
    """The pairs of the released synthesizer's answer; an unfinished last one is left out."""
    found = []
    for part in text.split("</END>")[:-1]:
        question, *answers = part.split("<ANS>")
        if question.strip().startswith("<QUE>") and len(answers) == 1 and answers[0].strip():
            found.append((question.replace("<QUE>", "").strip(), answers[0].strip()))
    return _distinct(found) or None


def _distinct(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of pairs with one question the first."""
    seen: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        seen.setdefault(pair[0].casefold(), pair)
    return list(seen.values())


def _joined(row: Sequence[Draft], form: str) -> Draft:
    """The passages of a row with their pairs, as the turns of one talk or as one text."""
    texts = [(draft["passage"].strip(), draft["pairs"]) for draft in row]
    licenses = {draft.license for draft in row}
    messages: list[dict[str, Any]] = []
    if form == "text":
        messages.append(
            {"role": "assistant", "content": PROMPTS.render("text", texts=texts).strip()}
        )
    for passage, pairs in texts if form == "turns" else ():
        for place, (question, answer) in enumerate(pairs):
            asked = question if place else f"{passage}\n\n{question}"
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": answer})
    return Draft(
        tuple(dict.fromkeys(draft["document"] for draft in row)),
        {"messages": messages},
        None if None in licenses else " AND ".join(sorted(map(str, licenses))),
        notes={"passages": [draft["passage_number"] for draft in row]},
        journal=[key for draft in row for key in draft.journal],
    )
