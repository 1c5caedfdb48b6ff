"""FLAN's templates, the Flan Collection's formats, and feedback on one scale.

FLAN: Finetuned Language Models Are Zero-Shot Learners (Wei et al. 2021, arXiv:2109.01652;
google-research/FLAN).

As in the paper: several templates of a task, some of them inverted (the label is given and the
text is asked for), one drawn for each row; the options of a classification are listed; at most
30,000 rows of a task are trained on; whole clusters of tasks are held out, and nothing of a
data set that is also trained on.

As in the authors' code: a task's first 30,000 rows count, in the order of the file; the templates
are read as they are published (the nine that lost a backslash are refused by the linter); fields
in braces, `{answer}` and `{options_}`.

Ours: the header of the options. A label of -1, a number beyond the options or an empty answer is
dropped. The weights of tasks, min(rows, 3,000), are `mix.weights` with `size_cap: 3000`.

Flan Collection: The Flan Collection: Designing Data and Methods for Effective Instruction Tuning
(Longpre et al. 2023, arXiv:2301.13688; google-research/FLAN, flan/v2).

As in the paper: zero-shot and few-shot, with and without options, in equal shares; inverted tasks;
chains of thought; sources mixed at rates.

As in the authors' code: styles of options are drawn; where options have names and the answer is
one of them, the target is its name; an empty line before an answer, two between examples;
examples have templates of their own (`same_template` gives them the row's); 2,056 tokens of
input and 512 of target; inverted rows at a rate of 0.3 for one that is not.

Ours: the styles; up to five examples. An example that does not fit is passed over, where the
code drops all after it; a row that is left without any is zero-shot, where the code drops it. A
row too long by itself is dropped and never cut.

Scaling Flan (Flan-PaLM): Scaling Instruction-Finetuned Language Models (Chung et al. 2022,
arXiv:2210.11416).

As in the paper: zero-shot, few-shot and chain-of-thought formats side by side; a task whose list
names a `rationale` has the last.

Ours: the templates are the user's.

OPT-IML: OPT-IML: Scaling Language Model Instruction Meta Learning through the Lens of
Generalization (Iyer et al. 2022, arXiv:2212.12017).

As in the paper: three levels of held-out data (`held_out`): whole categories, tasks of categories
that are trained on, and rows of tasks that are trained on; examples-proportional sampling with a
cap, which is `mix.weights` with `size_cap: 4096`.

Ours: the columns and the linter; held-out rows are those with the smallest hashes.

Heterogeneous feedback: A Framework for Fine-Tuning LLMs using Heterogeneous Feedback (Aponte et
al. 2024, arXiv:2408.02861).

As in the paper: binary, numeric and several-aspect feedback becomes one number from 0 to 1.

Ours: the number is the mean of the aspects that a row has, each moved linearly to that range;
values by name count evenly from the worst to the best. A value beyond its scale makes the row
fail; a row without any has none. The choice of good and diverse rows is `select.diverse`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator

from pipeline.types import Count, Fraction, NonNegativeInt, increasing, option_group
from stages.load._chat.turns import is_missing
from stages.load.tasks.patterns import STYLES, Formats, PatternRenderer
from stages.load.tasks.rendering import Drop, InvalidRow, Rendered, Row, RowContext
from stages.load.tasks.task_list import Scale

Sampling = Literal["first", "random"]

Shots = Annotated[tuple[NonNegativeInt, NonNegativeInt], AfterValidator(increasing)]


@option_group
class Flan:
    """FLAN's templates.

    Attributes:
        max_rows: The most training rows of a task.
        sampling: Which: the first ones of its files, or random ones.
        num_shots: Solved examples before each row.
        inverted: Whether inverted templates are used.
    """

    name: Literal["flan"] = "flan"
    max_rows: Count = 30_000
    sampling: Sampling = "first"
    num_shots: NonNegativeInt = 0
    inverted: bool = True

    @property
    def formats(self) -> Formats:
        """How the patterns are used."""
        return Formats(
            shots=(self.num_shots, self.num_shots),
            few_shot=1.0,
            inverted=None if self.inverted else 0.0,
        )


@option_group
class FlanCollection:
    """The Flan Collection's formats.

    Attributes:
        max_rows: The most training rows of a task: 30,000 for FLAN's, 20,000 for T0's, 100,000
            with a chain of thought, 5,000 for Natural Instructions, 200,000 for dialogues.
        sampling: Which: the first ones of its files, or random ones.
        few_shot: The fraction of rows with solved examples.
        with_options: The fraction of rows that show the options, where there are any.
        shots: The least and the most examples of a few-shot prompt.
        same_template: Whether examples have the template of their row.
        inversion_rate: Inverted rows for one that is not, where a task has such templates.
        max_input: The most tokens of a prompt.
        max_target: The most tokens of a target.
    """

    name: Literal["flan_collection"] = "flan_collection"
    max_rows: Count = 30_000
    sampling: Sampling = "random"
    few_shot: Fraction = 0.5
    with_options: Fraction = 0.5
    shots: Shots = (1, 5)
    same_template: bool = False
    inversion_rate: Fraction = 0.3
    max_input: Count = 2056
    max_target: Count = 512

    @property
    def formats(self) -> Formats:
        """How the patterns are used."""
        return Formats(
            shots=self.shots,
            few_shot=self.few_shot,
            with_options=self.with_options,
            styles=STYLES,
            inverted=self.inversion_rate / (1 + self.inversion_rate),
            same_template=self.same_template,
            answer_by_name=True,
        )


@option_group
class Feedback:
    """Heterogeneous feedback: rows with a rating, on one scale.

    Attributes:
        max_rows: The most training rows of a task.
        sampling: Which: the first ones of its files, or random ones.
    """

    name: Literal["feedback"] = "feedback"
    max_rows: Count = 500_000
    sampling: Sampling = "random"

    @property
    def formats(self) -> Formats:
        """How the patterns are used."""
        return Formats(inverted=0.0)


@dataclass(frozen=True)
class FeedbackRenderer(PatternRenderer):
    """Makes instructions of the rows of one task, with their feedback."""

    def render(self, row: Row, context: RowContext, /) -> Iterator[Rendered | Drop]:
        """One instruction; see `Renderer`.

        Args:
            row: The row.
            context: What is drawn for it.

        Raises:
            InvalidRow: The row cannot be read as the task says.
        """
        value = unified(row, self.entry.feedback or {})
        for result in super().render(row, context):
            yield result._replace(feedback=value) if isinstance(result, Rendered) else result


_BOOLEANS: Final = {True: 1.0, False: 0.0}


def unified(row: Mapping[str, Any], scales: Mapping[str, Scale]) -> float | None:
    """The feedback on a row from 0 to 1: the mean of its aspects; None without any.

    Args:
        row: The row.
        scales: The scale of each aspect: its ends, or its values from the worst to the best.

    Raises:
        InvalidRow: A value is not on its scale.

    >>> unified({"stars": 4, "verdict": "good"}, {"stars": (1, 5), "verdict": ("bad", "good")})
    0.875
    """
    values = [
        _unified(name, row[name], scale)
        for name, scale in scales.items()
        if not is_missing(row.get(name)) and row[name] != ""
    ]
    return sum(values) / len(values) if values else None


def _unified(name: str, value: Any, scale: Scale) -> float:
    if isinstance(scale[0], str):
        if value not in scale:
            raise InvalidRow(
                f"{name} must be one of {', '.join(map(str, scale))}, got {value!r:.80}"
            )
        return scale.index(value) / (len(scale) - 1)
    if isinstance(value, bool) and {*scale} != {0, 1}:  # it is neither end of another scale
        raise InvalidRow(f"{name} must be a number, got {value}")
    worst, best = scale[0], float(scale[1])
    try:
        number = _BOOLEANS[value] if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise InvalidRow(f"{name} must be a number, got {value!r:.80}") from None
    low, high = min(worst, best), max(worst, best)
    if not low <= number <= high:
        raise InvalidRow(f"{name} must be from {low:g} to {high:g}, got {number:g}")
    return (number - worst) / (best - worst)
