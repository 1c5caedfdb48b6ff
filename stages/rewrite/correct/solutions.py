"""Wrong solutions: sampled from models, there already, or made wrong on purpose.

Whether a solution is wrong is decided by its final answer against the gold one, as
`stages/_text/answers.py` compares them. A solution without a final answer, or with one that
cannot be read, is neither right nor wrong: it is dropped as `unparsed`, and no number takes its
place (LeMa's parser reads 0 where the marker is missing, so that an empty answer "solves" every
problem whose answer is 0).

Injected errors transfer badly to real ones, so each solution says where its error is from.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from pipeline.models.base import Decoding, Engine
from pipeline.models.counting import is_counting
from pipeline.types import Count, NonNegativeFloat, option_group
from stages._llm.drafts import (
    Draft,
    GenerateField,
    Prompt,
    filter_drafts,
    generate_field,
    user,
)
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.answers import equal
from stages._text.final_answer import final_answer
from stages.rewrite.correct.steps import continued_from, numbered, split_steps

PROMPTS: Final = Prompts(__file__)

MAX_ANSWER_WORDS: Final = 6
"""How many words a final answer has at most."""

_NUMBER: Final = re.compile(r"(?<![\w.,])\d{1,15}(?:\.\d{1,15})?(?![\w]|[.,]\d)")
"""A number of a size that people reckon with; longer ones are codes, or noise."""


@option_group
class Sampled:
    """Solutions that models write, of which the wrong ones count.

    Args:
        name: "sampled".
        num_samples: Solutions of each model to each problem.
        temperature: Of the solutions.
        max_tokens: Limit of a solution in tokens.
    """

    name: Literal["sampled"] = "sampled"
    num_samples: Count = 1
    temperature: NonNegativeFloat = 0.7
    max_tokens: Count = 512


@option_group
class Injected:
    """Errors that are put into the row's own answer.

    Args:
        name: "injected".
        by: "model", or "rules": a number of one step is another from there on (for overmiss, a
            run of words is left out or repeated).
    """

    name: Literal["injected"] = "injected"
    by: Literal["model", "rules"] = "model"


@option_group
class InColumn:
    """Wrong solutions that the rows have already.

    Args:
        name: "column".
        wrong: The column, or `extra.FIELD`, of a text, or of a list of steps.
        mistake_step: That of the position of the first wrong step, from 0; null in a row
            without one. Only for the report on what the model locates.
    """

    name: Literal["column"] = "column"
    wrong: str = "extra.wrong"
    mistake_step: str | None = None


Errors = Annotated[Sampled | Injected | InColumn, Field(discriminator="name")]


@dataclass(frozen=True)
class Corrector:
    """What a method needs.

    Attributes:
        write: `generate_field` with the model's engine, decoding and seed filled in.
        solvers: The names of the models that solve.
        each_solver: `side_by_side` of them with the context filled in.
        errors: Where wrong solutions are from.
        seed: Of what is drawn.
    """

    write: GenerateField
    solvers: Sequence[str]
    each_solver: Callable[[Callable[[int, Engine], list[Draft]]], list[list[Draft]]]
    errors: Sampled | Injected | InColumn
    seed: int

    def wrong_solutions(self, problems: Sequence[Draft]) -> list[Draft]:
        """A draft for each solution; those that are not wrong are rejected.

        Args:
            problems: With `gold`, and with an InColumn `wrong` and `known_step`.
        """
        for problem in problems:
            empty = dict.fromkeys(("solver", "mistake_step", "tag", "pair"))
            problem.fields |= {**empty, "error_source": self.error_source}
            problem.fields["short_gold"] = short_answer(problem["gold"])
            if problem.active and problem["short_gold"] is None:
                gold = "" if problem["gold"] is None else str(problem["gold"])
                problem.reject("no_gold", gold_end=gold[-200:])
        if isinstance(self.errors, Sampled):
            solutions = self._sampled(problems, self.errors)
        elif isinstance(self.errors, Injected):
            solutions = [problem.child() if problem.active else problem for problem in problems]
            self._inject(solutions, self.errors)
        else:
            solutions = list(problems)
            for solution in solutions:
                # Also while requests are counted: it is no answer that is missing.
                if solution.active and not _given_steps(solution["wrong"]):
                    solution.reject("no_solution")
        for solution in solutions:
            if solution.active:
                steps = _given_steps(solution["wrong"])
                text = "\n".join(steps)
                solution.fields |= {"steps": steps, "wrong_text": text}
                solution.notes |= {"wrong": text, "gold": solution["gold"]}
        filter_drafts(solutions, _unless_wrong)
        return solutions

    @property
    def error_source(self) -> str:
        """What the column of that name says."""
        return "given" if isinstance(self.errors, InColumn) else self.errors.name

    def _sampled(self, problems: Sequence[Draft], errors: Sampled) -> list[Draft]:
        solutions = [problem for problem in problems if not problem.active]
        decoding = Decoding(errors.max_tokens, errors.temperature)
        unsolved = [problem for problem in problems if problem.active]

        def solutions_of(position: int, engine: Engine) -> list[Draft]:
            name, own = self.solvers[position], []
            for problem in unsolved:
                for number in range(errors.num_samples):
                    child = problem.child(solver=name)
                    child.number = number
                    own.append(child)
            generate_field(engine, own, "wrong", _problem, decoding, seed=self.seed)
            for solution in own:
                solution.fields["solver"] = solution.notes.get("fallback", {}).get("wrong", name)
            return own

        for own in self.each_solver(solutions_of):
            solutions += own
        return solutions

    def _inject(self, solutions: Sequence[Draft], errors: Injected) -> None:
        """Put an error into one step of each gold solution."""
        for solution in solutions:
            if solution.active:
                steps = split_steps(solution["response"])
                rng = random.Random(f"{self.seed} inject {solution.parents}")
                solution.fields |= {"right_steps": steps, "at": rng.randrange(max(1, len(steps)))}
        if errors.by == "model":
            self.write(solutions, "faulty", _faulty)
        for solution in solutions:
            if not solution.active:
                continue
            if errors.by == "model":
                at, steps = solution["at"], solution["right_steps"]
                rest = continued_from(steps, at, solution["faulty"])
                new = None if rest is None else [*steps[:at], *rest]
                changed = new is not None and new[at : at + 1] != steps[at : at + 1]
                wrong = (new, at) if new is not None and (changed or is_counting()) else None
            else:
                rng = random.Random(f"{self.seed} number {solution.parents}")
                wrong = changed_number(solution["right_steps"], solution["short_gold"], rng)
            if wrong is None:
                solution.reject("no_fault", steps=len(solution["right_steps"]))
            else:
                solution.fields["wrong"], solution.fields["known_step"] = wrong


def short_answer(text: object) -> str | None:
    """The final answer of a text, or the value that is one; None without one.

    Args:
        text: A solution or a gold answer.
    """
    plain = "" if text is None else str(text)
    return final_answer(plain, MAX_ANSWER_WORDS) if plain.strip() else None


def changed_number(
    steps: Sequence[str], gold: str | None, rng: random.Random
) -> tuple[list[str], int] | None:
    """Steps of which one has another number, as has all that follows it; and its position.

    Args:
        steps: Of a right solution.
        gold: Its final answer; the new one has to be another.
        rng: Draws the step, the number and its difference.

    Returns:
        None where no change makes the final answer wrong.

    Example:
        >>> steps = ["2 and 2 is 4.", "4 and 1 is 5. The answer is 5."]
        >>> changed_number(steps, "5", random.Random(0))
        (['2 and 2 is 4.', '4 and 1 is 6. The answer is 6.'], 1)
    """
    places = [(at, number) for at, step in enumerate(steps) for number in {*_NUMBER.findall(step)}]
    places.sort()
    rng.shuffle(places)
    # Only a number of the final answer can make that another one.
    final = set(_NUMBER.findall(short_answer("\n".join(steps)) or ""))
    for at, number in places:
        value = str(int(float(number)) + rng.choice((-2, -1, 1, 2, 10)))
        if number not in final:
            continue
        pattern = re.compile(rf"(?<![\w.,]){re.escape(number)}(?![\w]|[.,]\d)")
        new = [*steps[:at], *(pattern.sub(value, step) for step in steps[at:])]
        answer = short_answer("\n".join(new))
        if gold is not None and answer is not None and equal(answer, gold) is False:
            return new, at
    return None


def is_right(text: object, gold: str | None) -> bool | None:
    """Whether a text has the gold final answer; None where one of them cannot be read.

    Args:
        text: A solution.
        gold: A final answer.

    Example:
        >>> is_right("So it is 4.\\nThe answer is 4.", "4"), is_right("", "0")
        (True, None)
    """
    answer = short_answer(text)
    return None if answer is None or gold is None else equal(answer, gold)


def _given_steps(wrong: object) -> list[str]:
    """The steps of a solution: a text, a list of steps, or a value that is the answer alone."""
    if isinstance(wrong, list):
        return [str(step) for step in wrong if step is not None and str(step).strip()]
    return [] if wrong is None else split_steps(str(wrong))


def _unless_wrong(solution: Draft) -> Rejection | None:
    """Only a final answer that can be read and is another one makes a solution wrong."""
    right = is_right(solution["wrong_text"], solution["short_gold"])
    if right is None or not solution["steps"]:
        return "unparsed", {"solution_end": solution["wrong_text"][-200:]}
    if right:
        return "right", {"answer": solution["short_gold"]}
    return None


def _problem(solution: Draft) -> Prompt:
    lead = tuple((turn["role"], turn["content"] or "") for turn in solution["lead"])
    turns = user(PROMPTS.render("solve", request=solution["request"]))
    return (*lead, *turns)


def _faulty(solution: Draft) -> Prompt:
    steps = solution["right_steps"]
    values = {"request": solution["request"], "steps": numbered(steps), "at": solution["at"] + 1}
    return user(PROMPTS.render("inject", **values))
