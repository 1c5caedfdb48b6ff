"""A language model's word on whether a turn and an evaluation item ask the same.

Yang et al. 2023 (LLM decontaminator), arXiv:2311.04850. The answer is read strictly:
"True" or "False", nothing else, with one request to mend what is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from pipeline.models.ask import ask
from pipeline.models.base import Decoding, Engine, Request
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

Kind = Literal["code", "number_substituted", "math", "knowledge"]

ANSWERS: Final = ("True", "False")


class Judgement(NamedTuple):
    """same: the model's answer, None where there is none (`error` says why).

    journal: keys of the completions that it was read from.
    """

    same: bool | None
    error: str | None
    journal: list[str]


def judgements(
    engine: Engine, pairs: Sequence[tuple[Kind, str, str]], temperature: float, max_tokens: int
) -> list[Judgement]:
    """A judgement for each pair of a turn and an item's text, in words that fit the kind."""
    decoding = Decoding(max_tokens, temperature, choice=ANSWERS)
    requests = [
        Request((("user", PROMPTS.render(f"{kind}", turn=turn, item=item)),), decoding)
        for kind, turn, item in pairs
    ]
    return [
        Judgement(None if a.error else a.value == "True", a.error, a.journal)
        for a in ask(engine, requests)
    ]
