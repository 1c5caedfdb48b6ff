"""LeMa: the wrong step, why it is wrong, and the solution from there, as an answer to learn.

LeMa: Learning From Mistakes Makes LLM Better Reasoner (An et al. 2023, arXiv:2310.20689;
microsoft/LEMA).

As in the paper: wrong solutions are sampled from several models; a corrector sees the problem and
the numbered steps, names the faulty step, explains it and writes the right solution from there;
corrections whose final answer is not the gold one are left out; a model is trained on plain
solutions and corrections together (`load.concat`).

As in the authors' code: only the final answer decides. Not so: theirs reads 0 where the marker of
the answer is missing, so that an empty correction solves every problem whose answer is 0; here
it is dropped as `unparsed`.

Ours: the wording and the marks; steps before the faulty one are put there from the old solution,
word for word, and a corrector that changes them is dropped as `prefix_changed`; a corrector that
finds no mistake in a wrong solution as `no_mistake`. The paper's evolution of the problems is
`rewrite.evolve`.

LaFFi: LaFFi: Leveraging Hybrid Natural Language Feedback for Fine-tuning Language Models (Li et
al. 2024, arXiv:2401.00907).

As in the paper: a model learns to write the feedback on an answer (`target: feedback`).

Ours: the feedback is a model's and names a step; it counts only where the correction after it is
right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import option_group
from stages._llm.drafts import LABEL_TOKENS, Draft, Prompt, RowMessages, user
from stages._llm.prompts import Prompts
from stages._llm.rows import task_messages
from stages.rewrite._blocks import blocks
from stages.rewrite._exchanges import row_as_it_was
from stages.rewrite.correct.solutions import Corrector, is_right
from stages.rewrite.correct.steps import continued_from, numbered

PROMPTS: Final = Prompts(__file__)

_NAMES: Final = ("Wrong step", "Reason", "Solution")
_TRUTH: Final = ("yes", "no")
_YES_OR_NO: Final = Decoding(LABEL_TOKENS, choice=_TRUTH)
_STEP: Final = re.compile(r"\W*(?:step\W*)?(\d{1,3})\b", re.IGNORECASE)
_NONE: Final = re.compile(r"\W*(?:none|no(?: step| mistake)?|null|n/a)\b", re.IGNORECASE)


@option_group
class LeMa:
    """Mistakes with their correction (LeMa, An et al. 2023).

    Args:
        name: "lema".
        target: What the answer of a new row holds: the whole "correction", or the "feedback",
            that is the step and the reason, alone.
        field_by_field: Request the step, the reason, the solution and its final answer each by
            itself, the step and a yes or no as a choice. This is ours, for models that are too
            weak to keep the form.
    """

    name: Literal["lema"] = "lema"
    target: Literal["correction", "feedback"] = "correction"
    field_by_field: bool = False

    decoding: ClassVar[Decoding] = Decoding(1024, 0.0)

    def run(self, corrector: Corrector, problems: Sequence[Draft]) -> list[Draft]:
        """A draft for each solution, with its correction where that leads to the gold answer."""
        solutions = corrector.wrong_solutions(problems)
        if self.field_by_field:
            _write_fields(corrector, solutions)
        else:
            parse = partial(blocks, names=_NAMES)
            corrector.write(solutions, "correction", _prompt, parse=parse)
        for solution in solutions:
            if solution.active and not is_counting():
                _read(solution)
                _verify(solution)
        return solutions

    def messages_of(self, draft: Draft) -> RowMessages:
        """The problem with the wrong solution, and its correction; else the row itself."""
        steps = draft.fields.get("steps")
        if not steps:
            return row_as_it_was(draft)
        request = PROMPTS.render("task", request=draft["request"], steps=numbered(steps))
        corrected = draft.fields.get("corrected")
        answer = "" if corrected is None else _answer(draft, self.target)
        messages, _ = task_messages(request, "", answer)
        return [*draft["lead"], *messages], None


def _write_fields(corrector: Corrector, solutions: Sequence[Draft]) -> None:
    """The parts of a correction in a request each."""
    for count in sorted({len(s["steps"]) for s in solutions if s.active}):
        own = [s for s in solutions if s.active and len(s["steps"]) == count]
        steps = Decoding(LABEL_TOKENS, choice=tuple(str(n + 1) for n in range(count)))
        corrector.write(own, "step", partial(_field_prompt, "step"), decoding=steps)
    corrector.write(solutions, "reason", partial(_field_prompt, "reason"))
    corrector.write(solutions, "solution", partial(_field_prompt, "solution"))
    truths = [s for s in solutions if s.active and str(s["short_gold"]).casefold() in _TRUTH]
    corrector.write(truths, "final", partial(_field_prompt, "final"), decoding=_YES_OR_NO)
    others = [s for s in solutions if s.active and s not in truths]
    corrector.write(others, "final", partial(_field_prompt, "final"))
    for solution in solutions:
        if solution.active:
            answer = f"{solution['solution']}\nThe answer is {solution['final']}."
            texts = (solution["step"], solution["reason"], answer)
            solution.fields["correction"] = dict(zip(_NAMES, texts, strict=True))


def _answer(solution: Draft, target: str) -> str:
    values: dict[str, Any] = {
        "number": solution["mistake_step"] + 1,
        "reason": solution["reason"],
        "steps": numbered(solution["corrected"]),
        "target": target,
    }
    return PROMPTS.render("answer", **values).strip()


def _read(solution: Draft) -> None:
    """The step, the reason and the steps from there on; rejected where one is missing."""
    parts, steps = solution["correction"], solution["steps"]
    named = _STEP.match(parts["Wrong step"])
    if named is None:
        no_mistake = _NONE.match(parts["Wrong step"]) is not None
        solution.fields["located"] = no_mistake
        solution.reject(
            "no_mistake" if no_mistake else "correction_unparsed", wrong_step=parts["Wrong step"]
        )
        return
    at = int(named[1]) - 1
    if not 0 <= at < len(steps) or not parts["Reason"] or not parts["Solution"]:
        solution.reject("correction_unparsed", wrong_step=parts["Wrong step"], steps=len(steps))
        return
    solution.fields |= {"mistake_step": at, "located": True, "reason": parts["Reason"]}
    rest = continued_from(steps, at, parts["Solution"])
    if rest is None:
        solution.reject("prefix_changed", step=at + 1, solution_start=parts["Solution"][:200])
        return
    solution.fields["corrected"] = [*steps[:at], *rest]
    solution.notes |= {"reason": parts["Reason"], "corrected": "\n".join(solution["corrected"])}


def _verify(solution: Draft) -> None:
    """Reject what does not lead to the gold answer, as the new row itself says it."""
    if not solution.active:
        return
    right = is_right(_answer(solution, "correction"), solution["short_gold"])
    if right is None:
        solution.reject("unparsed", solution_end="\n".join(solution["corrected"])[-200:])
    elif not right:
        solution.reject("not_gold", gold=solution["short_gold"])


def _field_prompt(field: str, solution: Draft) -> Prompt:
    fields = solution.fields
    values = {name: fields.get(name) for name in ("step", "reason", "solution")}
    values |= {"request": solution["request"], "steps": numbered(solution["steps"])}
    return user(PROMPTS.render("field", field=field, **values))


def _prompt(solution: Draft) -> Prompt:
    values = {"request": solution["request"], "steps": numbered(solution["steps"])}
    return user(PROMPTS.render("correct", **values))
