"""OSS-Instruct (Magicoder, Wei et al. 2023, arXiv:2312.02120): a problem inspired by code."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate._parsing.sections import code_blocks, problem_and_solution
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)


def oss_instruct(means: Means, documents: list[Draft]) -> list[Draft]:
    """A problem with its solution, inspired by a few lines of each document."""

    def snippets(document: Draft) -> list[dict[str, Any]]:
        draw = means.draw("oss-instruct", document)
        found = (snippet(document["passage"], means.snippet_lines, draw) for _ in places)
        return [{"snippet": text} for text in found]

    places = range(means.per_passage)
    drafts = expand(documents, snippets)
    for draft in drafts:
        if draft.active:
            draft.notes = {"snippet": draft["snippet"]}
            if not draft["snippet"].strip():
                draft.reject("empty_snippet")
    once(drafts, "snippet")
    means.ask(drafts, "problem", _problem_prompt, read=problem_and_solution)
    for draft in drafts:
        if draft.active:
            draft.fields["instruction"], draft.fields["response"] = draft["problem"]
    once(drafts, "instruction", "response")
    filter_drafts(drafts, _copied)
    return drafts


def snippet(code: str, lines: tuple[int, int], draw: random.Random) -> str:
    """Consecutive lines from a random place; fewer where the code ends before."""
    every = code.splitlines(keepends=True)
    start, number = draw.randrange(len(every)), draw.randint(*lines)
    return "".join(every[start : start + number])


def _problem_prompt(draft: Draft) -> Prompt:
    text = PROMPTS.render("problem", snippet=draft["snippet"])
    return user(text, system=PROMPTS.render("system"))


def once(drafts: Sequence[Draft], *fields: str) -> None:
    """Reject a draft one of whose fields an earlier one has too, white space apart.

    A rejected draft's other fields do not count.
    """
    seen: dict[str, set[str]] = {name: set() for name in fields}

    def repeated(draft: Draft) -> Rejection | None:
        keys = {name: "".join(draft[name].split()) for name in fields}
        for name, key in keys.items():
            if key in seen[name]:
                return f"repeated_{name}", {name: draft[name][:200]}
        for name, key in keys.items():
            seen[name].add(key)
        return None

    filter_drafts(drafts, repeated)


def _copied(draft: Draft) -> Rejection | None:
    """Code that the problem and the solution share: then it is none."""
    given, found = (
        {"".join(block.split()) for block in code_blocks(draft[name])}
        for name in ("instruction", "response")
    )
    return ("solution_copies_problem", {}) if given & found - {""} else None
