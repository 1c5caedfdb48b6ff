"""Humback's question: how good an example is an answer of what an assistant should say?

Self-Alignment with Instruction Backtranslation (Li et al. 2023, arXiv:2308.06259). As in the
paper: five levels, each described (1 incomplete, off the topic or clutter; 2 not direct; 3 helpful,
but in another voice than an assistant's; 4 an assistant's with little to improve; 5 perfect), and
the reasons in short before a last line "Score: n". Ours: the wording, and the question without
reasons for models too weak to give them. `score.judge` asks it of rows that exist,
`generate.backtranslate` of the pairs that it has just made.
"""

from __future__ import annotations

from typing import Final, Literal

from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

LEVELS: Final = (1, 2, 3, 4, 5)

REASONS_MAX_TOKENS: Final = 512
"""Of the reasons with the score; ours, as the paper does not say."""


Form = Literal["reasons", "label", "number"]
"""What is asked for: reasons and "Score: n", "Score: n" alone, or the number alone."""


def rating_question(instruction: str, answer: str, form: Form) -> str:
    """The question about one pair.

    Args:
        instruction: What was asked for.
        answer: What is rated.
        form: The form of the reply.
    """
    return PROMPTS.render(
        "rating",
        instruction=instruction,
        passage=answer,
        reasoning=form == "reasons",
        number_alone=form == "number",
    )
