"""Mistake tuning: the right and the wrong rationale of a problem, each behind its tag.

Mistake tuning (CoTErrorSet): Can LLMs Learn from Previous Mistakes? Investigating LLMs' Errors to
Boost for Reasoning (Tong et al. 2024, arXiv:2403.20046).

As in the paper: both rationales of a problem are kept and tuned on, each behind the problem and a
tag that says whether it is correct; a model names the cause of each mistake (`explain`), by which
they can be grouped into types; self-rethinking has the model look for its mistake and answer
again, once (`right: rethought`).

Ours: the words of the tags, which stand in the user's turn; the loss is on the answers alone, as
`train.sft` has it (theirs is on all tokens); one wrong rationale for each problem, the first of
the first model, so that no problem has more of one side; the rethought answer is the right side
only where it is right, else the row's own is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import NonEmpty, option_group
from stages._llm.drafts import Draft, Prompt, RowMessages, user
from stages._llm.prompts import Prompts
from stages._llm.rows import task_messages
from stages.rewrite._exchanges import row_as_it_was
from stages.rewrite.correct.solutions import Corrector, is_right
from stages.rewrite.correct.steps import numbered, split_steps

PROMPTS: Final = Prompts(__file__)


@option_group
class MistakeTuning:
    """Right and wrong rationales behind tags (Mistake tuning, Tong et al. 2024).

    Args:
        name: "mistake_tuning".
        right: The right side: the row's own answer ("gold"), or what the model answers after it
            has seen the mistake ("rethought"), where that is right.
        explain: Whether the model names the cause of each mistake, for the row's `extra`.
        correct_tag: What stands behind a problem whose answer is right.
        incorrect_tag: What stands behind one whose answer is wrong.
    """

    name: Literal["mistake_tuning"] = "mistake_tuning"
    right: Literal["gold", "rethought"] = "gold"
    explain: bool = False
    correct_tag: Annotated[str, NonEmpty] = "[correct rationale]"
    incorrect_tag: Annotated[str, NonEmpty] = "[incorrect rationale]"

    decoding: ClassVar[Decoding] = Decoding(1024, 0.0)

    def __post_init__(self) -> None:
        if self.correct_tag == self.incorrect_tag:
            raise ValueError(f"correct_tag and incorrect_tag must differ, got {self.correct_tag}")

    def run(self, corrector: Corrector, problems: Sequence[Draft]) -> list[Draft]:
        """Two drafts for each problem with a wrong solution; one for each other solution."""
        solutions = corrector.wrong_solutions(problems)
        for solution in solutions:
            if solution.active and not is_counting():
                _verify(solution)
        _keep_first(solutions)  # of those that have a right side
        if self.explain:
            self._explain(corrector, solutions)
        if self.right == "rethought":
            self._rethink(corrector, solutions)
        return [side for solution in solutions for side in self._sides(solution)]

    def messages_of(self, draft: Draft) -> RowMessages:
        """The problem with a tag, and the rationale of that kind; else the row itself."""
        if draft["tag"] is None:
            return row_as_it_was(draft)
        tag = self.correct_tag if draft["tag"] == "correct" else self.incorrect_tag
        messages, _ = task_messages(f"{draft['request']}\n\n{tag}", "", draft["rationale"])
        return [*draft["lead"], *messages], None

    def _explain(self, corrector: Corrector, solutions: Sequence[Draft]) -> None:
        """Note the causes of mistakes; a pair whose cause cannot be read goes without one."""
        active = [solution for solution in solutions if solution.active]
        attempts = [solution.child() for solution in active]
        corrector.write(attempts, "cause", _cause)
        for solution, attempt in zip(active, attempts, strict=True):
            solution.journal, solution.error = list(attempt.journal), attempt.error
            solution.notes["cause"] = attempt["cause"] if attempt.active else None

    def _rethink(self, corrector: Corrector, solutions: Sequence[Draft]) -> None:
        """Answer again with the mistake in view; the row's own answer stays where that fails."""
        attempts = [solution.child() for solution in solutions if solution.active]
        corrector.write(attempts, "rethought", _again)
        # Its steps alone, as those of the wrong side.
        for attempt in attempts:
            if attempt.active:
                attempt.fields["rethought"] = "\n".join(split_steps(attempt["rethought"]))
        active = (solution for solution in solutions if solution.active)
        for solution, attempt in zip(active, attempts, strict=True):
            solution.journal, solution.error = list(attempt.journal), attempt.error
            if attempt.active and is_right(attempt["rethought"], solution["short_gold"]):
                solution.fields["right_text"] = attempt["rethought"]
            solution.notes["right_side"] = (
                "rethought" if "right_text" in solution.fields else "gold"
            )

    def _sides(self, solution: Draft) -> list[Draft]:
        if not solution.active:
            return [solution]
        right = solution.fields.get("right_text", solution["response"])
        texts = {"correct": right, "incorrect": solution["wrong_text"]}
        pair = solution.parents[0]
        return [solution.child(tag=tag, rationale=text, pair=pair) for tag, text in texts.items()]


def _keep_first(solutions: Sequence[Draft]) -> None:
    """Reject all wrong solutions of a problem but the first, and of equal problems all but one."""
    seen: dict[str, str] = {}
    for solution in solutions:
        if not solution.active or is_counting():
            continue
        key = f"{solution['lead']} {solution['request']}"
        first = seen.get(key)
        if first is None:
            seen[key] = solution.parents[0]
        else:
            solution.reject("another_is_kept", pair=first)


def _verify(solution: Draft) -> None:
    """Reject a problem whose own answer has not the gold final answer: it is no right side."""
    if not is_right(solution["response"], solution["short_gold"]):
        solution.reject("not_gold", gold=solution["short_gold"])


def _cause(solution: Draft) -> Prompt:
    values = {"request": solution["request"], "response": solution["response"]}
    return user(PROMPTS.render("cause", **values, steps=numbered(solution["steps"])))


def _again(solution: Draft) -> Prompt:
    values = {"request": solution["request"], "steps": numbered(solution["steps"])}
    return user(PROMPTS.render("rethink", **values))
