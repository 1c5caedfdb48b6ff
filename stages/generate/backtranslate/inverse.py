"""Inverse-Instruct: the code in the answers of a pool is described as new instructions.

InverseCoder (Wu et al. 2024, arXiv:2407.05700). Several instructions are written for each
code, and the model says which of them the code really answers: p(yes) / (p(yes) + p(no)).
"""

from __future__ import annotations

import re
from typing import Final, Literal

import polars as pl

from pipeline.types import Count, option_group
from schemas.records import response
from stages._llm.drafts import Draft, Prompt, user
from stages._llm.prompts import Prompts
from stages._llm.rows import license_of
from stages.generate.backtranslate.curation import Curation

PROMPTS: Final = Prompts(__file__)

_FENCED: Final = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_IDLE: Final = re.compile(r"^\s*(?:#|//|/\*|\*|\*/|--|<!--|print\s*\(|console\.log\s*\(|$)")
"""Lines that only print or only comment."""


@option_group
class Inverse:
    """Inverse-Instruct (Wu et al. 2024, arXiv:2407.05700).

    Args:
        name: "inverse".
        num_candidates: Instructions written for each code, of which the best is kept.
        curation: How pairs are rated besides; null keeps all.
    """

    name: Literal["inverse"] = "inverse"
    num_candidates: Count = 10
    curation: Curation | None = None


def code_of(text: str) -> str | None:
    r"""The fenced code of an answer, blocks one after another; None where there is none.

    >>> code_of("Here:\n```python\nreturn 1\n```\nDone.")
    'return 1'
    """
    blocks = [block.strip("\n") for block in _FENCED.findall(text) if block.strip()]
    return "\n\n".join(blocks) or None


def is_idle(code: str) -> bool:
    r"""Whether the code does nothing but print and comment, so that it answers nothing.

    >>> is_idle("# A greeting\nprint('Hi')")
    True
    """
    return all(map(_IDLE.match, code.splitlines()))


def codes(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each row with the code of its last answer as `passage`."""
    columns = rows.select("id", response().alias("text"), "origins").iter_rows()
    drafts = []
    for id_, text, origins in columns:
        code = code_of(text or "")
        passage = f"```\n{code}\n```" if code else text or ""
        draft = Draft((id_,), {"passage": passage}, license_of(origins))
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
