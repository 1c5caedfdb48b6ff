"""The final answer of a row against a gold one, without running anything.

See `stages/_text/answers.py` for what is equal. An answer without a final answer, or with one that
cannot be read as the gold answer's kind, is `unparsed`: neither right nor wrong. Without a gold
answer nothing but the final answer is said, for a majority.
"""

from __future__ import annotations

from typing import Any, Literal

import polars as pl

from pipeline.types import Count, NonNegativeFloat, option_group
from schemas.records import response
from stages._sandbox.results import NOTHING, UNPARSED, Result, combined
from stages._text.answers import equal
from stages.score._final_answers import Pattern, read_answer
from stages.score.execution.options import column_of, values_of


@option_group
class Answer:
    """The final answer against the gold one.

    Args:
        name: The method.
        gold: The column, or `extra.FIELD`, of gold answers. A long one, such as a solution, is
            read like the row's answer.
        pattern: A regular expression whose one group is the final answer; its last match counts,
            on both sides. Without a match, and by default, the answer is in the last
            `\\boxed{}`, behind the last `####`, behind "the answer is", or the whole text where
            that is short.
        last_number: Whether the last number of a text is its answer, where nothing else is.
        max_words: How many words are a short answer.
        tolerance: The relative difference up to which numbers are equal.
    """

    name: Literal["answer"] = "answer"
    gold: str = "answer"
    pattern: Pattern | None = None
    last_number: bool = False
    max_words: Count = 6
    tolerance: NonNegativeFloat = 0.0

    @property
    def columns(self) -> list[str]:
        """The columns that it reads."""
        return ["messages", column_of(self.gold)]

    def run(self, rows: pl.DataFrame) -> list[Result]:
        """Compare each row's answer. A loop: answers are parsed one by one."""
        answers = rows.select(response()).to_series().to_list()
        golds = values_of(rows, self.gold)
        return [self._compared(a, g) for a, g in zip(answers, golds, strict=True)]

    def _compared(self, answer: str | None, gold: Any) -> Result:
        if not answer:
            return NOTHING
        gold_text = "" if gold is None else str(gold)
        gold_text = gold_text.lower() if isinstance(gold, bool) else gold_text
        right, final = self._final(gold_text), self._final(answer)
        if right is None:
            return NOTHING._replace(answer=final)
        is_equal = None if final is None else equal(final, right, self.tolerance)
        if is_equal is None:
            return UNPARSED._replace(answer=final)
        case = ("pass", None) if is_equal else ("fail", f"it is {final}")
        return combined([case])._replace(answer=final)

    def _final(self, text: str) -> str | None:
        return read_answer(text, self.pattern, self.max_words, last_number=self.last_number)
