"""A language model decides whether a turn and an evaluation item are the same question.

Yang et al. 2023 (LLM decontaminator), arXiv:2311.04850. The answer is "True" or "False",
bare, labelled or with a reason, and is requested again where it is neither or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from pipeline.models.ask import Rejection, ask
from pipeline.models.base import Decoding, Engine, Request
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

TaskType = Literal["code", "number_substituted", "math", "knowledge"]

ANSWERS: Final = ("True", "False")


class Judgment(NamedTuple):
    """A model's decision on a pair.

    Attributes:
        same: The answer, None where there is none.
        error: Why the question was not answered.
        rejection: Why the answer cannot be read.
        journal: Keys of the completions that it was parsed from.
    """

    same: bool | None
    error: str | None
    rejection: Rejection | None
    journal: list[str]


def judge_pairs(
    engine: Engine, pairs: Sequence[tuple[TaskType, str, str]], temperature: float, max_tokens: int
) -> list[Judgment]:
    """Judge pairs of a turn and an item's text.

    Args:
        engine: The language model.
        pairs: Type of the task, which selects the prompt, the turn and the item's text.
        temperature: Of the sampling.
        max_tokens: Of an answer.
    """
    decoding = Decoding(max_tokens, temperature, choice=ANSWERS)
    requests = [
        Request((("user", PROMPTS.render(f"{task_type}", turn=turn, item=item)),), decoding)
        for task_type, turn, item in pairs
    ]
    return [
        Judgment(a.value == "True" if a.readable else None, a.error, a.rejection, a.journal)
        for a in ask(engine, requests)
    ]
