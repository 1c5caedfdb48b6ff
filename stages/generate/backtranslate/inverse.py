"""Inverse-Instruct: the code in the answers of a pool is described as new instructions.

InverseCoder: Self-improving Instruction-Tuned Code LLMs with Inverse-Instruct (Wu et al. 2024,
arXiv:2407.05700; wyt2000/InverseCoder).

As in the paper: the first block of code of each answer is taken, since later ones are tests or
examples, in whatever language it is: shell commands that stand before a program are taken too; the
model describes it in several instructions; the same model says of each whether the code is a
correct answer, scored by p(Yes) / (p(Yes) + p(No)) at the answer's first token; the instruction
with the highest score is kept with the code as its answer. As in the authors' code: 10
instructions, at temperature 0.8, of up to 2,048 tokens, however long; code that only prints,
imports and comments is left out; answers without a fence that are Python count.

Ours: the wording of the prompts (the authors have the model go on from "Write a" and the
like); yes and no count in any spelling, and must together be probable (`min_mass`), where the
authors' code takes a missing "No" for e^-100; without a fence, an answer must define or import
something, lest prose passes for code. The repetition penalty of 1.1 is left out. What the
paper does with the rows (an epoch on them, then two on the pool) is the recipe `inversecoder`.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import ClassVar, Final, Literal

import polars as pl

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from schemas.records import response
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages._llm.rows import license_of
from stages.generate._parsing.sections import fenced_blocks
from stages.generate.backtranslate.curation import Curation

PROMPTS: Final = Prompts(__file__)

_IDLE: Final = re.compile(
    r"^\s*(?:#|//|/\*|\*(?=[\s/]|$)|--(?=\s|$)|<!--|print\b|console\.log\s*\(|(?:import|from)\b|$)"
)
"""Lines that only print, comment or import."""


@option_group
class Inverse:
    """Inverse-Instruct (Wu et al. 2024, arXiv:2407.05700).

    Args:
        name: "inverse".
        num_candidates: Instructions written for each code, of which the best is kept; the
            paper's number.
        curation: How pairs are rated besides; null keeps all.
    """

    name: Literal["inverse"] = "inverse"
    num_candidates: Count = 10
    curation: Curation | None = None

    decoding: ClassVar[Decoding] = Decoding(2048, 0.8)
    instruction_characters: ClassVar[tuple[int, int] | None] = None


def code_of(text: str) -> str | None:
    r"""The first block of code of an answer in its fence; None where there is none.

    >>> code_of("Here:\n```python\nreturn 1\n```\nDone.")
    '```python\nreturn 1\n```'
    >>> code_of("def one():\n    return 1")
    '```python\ndef one():\n    return 1\n```'
    >>> code_of("One") is None
    True
    """
    blocks = [(info, code.strip("\n")) for info, code in fenced_blocks(text) if code.strip()]
    if not blocks and _is_python(text):
        blocks = [("python", text.strip())]
    return f"```{blocks[0][0]}\n{blocks[0][1]}\n```" if blocks else None


def _is_python(text: str) -> bool:
    """Whether a text is Python that defines or imports something."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes, in whatever the text is
        try:
            body = ast.parse(text.strip()).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return any(isinstance(statement, kinds) for statement in body)


def is_idle(code: str) -> bool:
    r"""Whether fenced code does nothing but print, comment and import: it answers nothing.

    >>> is_idle("```python\nimport sys\n# A greeting\nprint('Hi')\n```")
    True
    """
    return all(map(_IDLE.match, code.splitlines()[1:-1]))


def codes(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each row with the code of its last answer as `passage`."""
    columns = rows.select("id", response().alias("text"), "origins").iter_rows()
    drafts = []
    for id_, text, origins in columns:
        code = code_of(text or "")
        draft = Draft((id_,), {"passage": code or text or ""}, license_of(origins))
        if code is None:
            draft.reject("no_code")
        elif is_idle(code):
            draft.reject("idle_code")
        drafts.append(draft)
    return drafts


def prompt(draft: Draft) -> Prompt:
    """The request for an instruction that the code answers."""
    return user(PROMPTS.render("inverse", **draft.fields))


def question(draft: Draft) -> Prompt:
    """The question whether the code answers the instruction."""
    return user(PROMPTS.render("inverse_check", **draft.fields))
