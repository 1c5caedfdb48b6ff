"""OSS-Instruct: problems inspired by a few lines of code.

Magicoder: Empowering Code Generation with OSS-Instruct (Wei et al. 2023, arXiv:2312.02120;
ise-uiuc/magicoder). As in the paper: 1 to 15 consecutive lines of a document are the inspiration
of a programming problem, which the model writes together with its solution, under two headings.
As in the authors' code: 2,500 tokens at temperature 0; the first line is drawn, then the number
of lines; a snippet, a problem and a solution may occur once, white space aside; a solution that
repeats a block of the problem is dropped.

Ours: the wording, and that random numbers belong to the document, where the authors' belong to a
batch. What the paper removes of benchmarks is `decontaminate`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, Range, option_group
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages.generate._parsing.sections import code_blocks, problem_and_solution
from stages.generate.from_documents.context import DocumentMethod, GenerationContext

PROMPTS: Final = Prompts(__file__)


@option_group
class OssInstruct(DocumentMethod):
    """OSS-Instruct: problems inspired by a few lines of code (Wei et al. 2023).

    Drops `empty_snippet`, `repeated_snippet`, `repeated_instruction`, `repeated_response` and
    `solution_copies_problem`.

    Args:
        name: The method.
        per_passage: Snippets of a document.
        snippet_lines: The smallest and the largest number of lines of a snippet.
    """

    name: Literal["oss-instruct"] = "oss-instruct"
    per_passage: Count = 1
    snippet_lines: Range = (1, 15)

    decoding: ClassVar[Decoding] = Decoding(2500, 0.0)
    documents_are_code: ClassVar[bool] = True
    splits_documents: ClassVar[bool] = False

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """A problem with its solution for each snippet of every document."""

        def snippets(document: Draft) -> list[dict[str, str]]:
            rng = context.rng("oss-instruct", document)
            texts = (
                snippet(document["passage"], self.snippet_lines, rng)
                for _ in range(self.per_passage)
            )
            return [{"snippet": text} for text in texts]

        drafts = expand(passages, snippets)
        for draft in drafts:
            if draft.active:
                draft.notes = {"snippet": draft["snippet"]}
                if not draft["snippet"].strip():
                    draft.reject("empty_snippet")
        reject_repeated(drafts, "snippet")
        context.generate(drafts, "problem", _problem_prompt, parse=problem_and_solution)
        for draft in drafts:
            if draft.active:
                draft.fields["instruction"], draft.fields["response"] = draft["problem"]
        reject_repeated(drafts, "instruction", "response")
        filter_drafts(drafts, _copied)
        return drafts


def snippet(code: str, num_lines: tuple[int, int], rng: random.Random) -> str:
    r"""Consecutive lines from a random position; fewer where the code ends before.

    Args:
        code: At least one line.
        num_lines: The smallest and the largest number of lines.
        rng: Draws the first line, then the number of lines.

    Example:
        >>> snippet("a = 1\nb = 2\nc = 3\n", (1, 2), random.Random(0))
        'b = 2\nc = 3\n'
    """
    lines = code.splitlines(keepends=True)
    start, number = rng.randrange(len(lines)), rng.randint(*num_lines)
    return "".join(lines[start : start + number])


def reject_repeated(drafts: Sequence[Draft], *fields: str) -> None:
    """Reject every draft that shares one of the fields with an earlier one.

    White space does not count, and neither do the fields of rejected drafts.
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
    """Reject a solution that repeats a block of code of the problem."""
    in_problem, in_solution = (
        {"".join(block.split()) for block in code_blocks(draft[name])}
        for name in ("instruction", "response")
    )
    return ("solution_copies_problem", {}) if in_problem & in_solution - {""} else None


def _problem_prompt(draft: Draft) -> Prompt:
    text = PROMPTS.render("problem", snippet=draft["snippet"])
    return user(text, system=PROMPTS.render("system"))
