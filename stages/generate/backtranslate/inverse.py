"""Instructions for answers that are known: for code, and for pairs that show a task.

- Inverse-Instruct (Wu et al. 2024, arXiv:2407.05700): the code in the answers of a
  pool is described as new instructions, several for each, and the model says which
  of them the code really answers: p(yes) / (p(yes) + p(no)).
- Instruction induction (Honovich et al. 2022, arXiv:2205.10782; APE, Zhou et al. 2022,
  arXiv:2211.01910): from a few pairs of input and output the instruction is inferred
  that turns one into the other; all pairs of the group then get it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from pipeline.models.base import Engine
from schemas.records import first_user_turn, response
from stages._llm.drafts import Draft, GenerateField, expand, score_field, user
from stages._llm.prompts import Prompts
from stages._selection.groups import groups_of

PROMPTS: Final = Prompts(__file__)

_FENCED: Final = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_IDLE: Final = re.compile(r"^\s*(?:#|//|/\*|\*|\*/|--|<!--|print\s*\(|console\.log\s*\(|$)")
"""Lines that only print or only comment."""


def code_of(text: str) -> str | None:
    """The fenced code of an answer, blocks one after another; None where there is none."""
    blocks = [block.strip("\n") for block in _FENCED.findall(text) if block.strip()]
    return "\n\n".join(blocks) or None


def is_idle(code: str) -> bool:
    """Whether the code does nothing but print and comment, so that it answers nothing."""
    return all(_IDLE.match(line) for line in code.splitlines())


def codes(rows: pl.DataFrame) -> list[Draft]:
    """The code of each row's last answer, with its licence."""
    columns = rows.select("id", response().alias("text"), "origins").iter_rows()
    drafts = []
    for id_, text, origins in columns:
        license = next((origin["license"] for origin in origins or ()), None)
        code = code_of(text or "")
        draft = Draft((id_,), {"passage": f"```\n{code}\n```" if code else text or ""}, license)
        if code is None:
            draft.reject("no_code")
        elif is_idle(code):
            draft.reject("idle_code")
        drafts.append(draft)
    return drafts


def tasks(rows: pl.DataFrame, group: str, examples: int, seed: int) -> list[Draft]:
    """Each group of pairs as a task to be named, with the examples that are shown."""
    named = groups_of(rows, group)
    pairs = rows.select(
        "id", first_user_turn().alias("input"), response().alias("output"), "origins"
    )
    drafts = []
    for number, name in enumerate(named.names):
        of = pairs.filter(pl.Series(named.codes == number)).to_dicts()
        shown = random.Random(f"{seed} induction {name}").sample(of, min(examples, len(of)))
        fields = {"group": name, "pairs": of, "examples": shown}
        drafts.append(Draft(tuple(sorted(pair["id"] for pair in shown)), fields))
    return drafts


def write_candidates(
    ask: GenerateField, drafts: Sequence[Draft], name: str, number: int
) -> list[Draft]:
    """So many instructions for each draft."""
    drafts = expand(drafts, lambda _: [{"candidate": n} for n in range(number)])
    for draft in drafts:
        draft.number = draft.fields.get("candidate", 0)
    ask(drafts, "instruction", lambda d: user(PROMPTS.render(f"{name}", **d.fields)))
    return drafts


def choose(engine: Engine, drafts: Sequence[Draft], name: str, seed: int) -> None:
    """Of each source's candidates keep the one that the model most surely says yes to."""

    def question(draft: Draft) -> Any:
        return user(PROMPTS.render(f"{name}", **draft.fields))

    score_field(engine, drafts, "curation_score", question, seed=seed)
    best: dict[Any, Draft] = {}
    for draft in drafts:
        if draft.active:
            key = draft.parents, draft.fields.get("group")
            first = best.setdefault(key, draft)
            if draft["curation_score"] > first["curation_score"]:
                best[key] = draft
    for draft in drafts:
        key = draft.parents, draft.fields.get("group")
        if draft.active and best[key] is not draft:
            draft.reject("not_best", score=draft["curation_score"])


def applied(drafts: Sequence[Draft]) -> list[Draft]:
    """Each named task as its pairs, which keep their own licences."""
    result = []
    for draft in drafts:
        if not draft.active:
            result.append(draft)
            continue
        for pair in draft["pairs"]:
            made = draft.child(input=pair["input"] or "", passage=pair["output"] or "")
            made.parents = (pair["id"],)
            made.license = next((o["license"] for o in pair["origins"] or ()), None)
            if not made["passage"]:
                made.reject("no_output")
            result.append(made)
    return result
