"""Meta-tuning: labels in words, each a question to be answered by yes or no.

Meta-tuning: Adapting Language Models for Zero-shot Learning by Meta-tuning on Dataset and Prompt
Collections (Zhong et al. 2021, arXiv:2104.04670; ruiqi-zhong/Meta-tuning).

As in the paper: one row for each text and each description of a label; the answer is yes for the
text's own label and no for the others; whole groups of similar data sets are held out.

As in the authors' code: several descriptions of one label are rows of their own.

Ours: the wording (`prompts: {meta_tuning: FILE}` puts another in its place). All rows of a text,
and of texts that are equal to it, are on one side of a hold-out; `max_rows` counts texts. The
authors train a head over the two words; here they are the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from pipeline.types import Count, option_group
from stages.load.tasks.rendering import (
    PROMPTS,
    Budget,
    Drop,
    Rendered,
    Row,
    RowContext,
    Template,
    checked,
)
from stages.load.tasks.task_list import Task
from stages.load.tasks.values import UnknownLabel, answer_of, options_of, text_of

YES: Final = "Yes"
NO: Final = "No"


@option_group
class MetaTuning:
    """Label descriptions as questions.

    Attributes:
        max_rows: The most training texts of a task; each gives a row for every description.
    """

    name: Literal["meta_tuning"] = "meta_tuning"
    max_rows: Count = 500_000


@dataclass(frozen=True)
class QuestionRenderer:
    """Makes instructions of the texts of one data set.

    Attributes:
        task: The data set.
        budget: How long prompts and targets may be.
    """

    task: Task
    budget: Budget

    @cached_property
    def _questions(self) -> list[tuple[str, str, Template]]:
        """Label, question and template of each description."""
        file, _, line = self.task.where.rpartition(":")
        numbered = []
        for label, written in (self.task.entry.labels or {}).items():
            questions = (written,) if isinstance(written, str) else written
            for number, question in enumerate(questions):
                template = Template(f"{label}/{number}", file, int(line))
                numbered.append((label, question, template))
        return numbered

    @cached_property
    def templates(self) -> Sequence[Template]:
        """The descriptions."""
        return [template for _, _, template in self._questions]

    def render(self, row: Row, _context: RowContext, /) -> Iterator[Rendered | Drop]:
        """An instruction for each description; see `Renderer`.

        Args:
            row: The text and its label.

        Raises:
            InvalidRow: The row cannot be read as the task says.
        """
        for result in self.every(row):
            yield result if isinstance(result, Drop) else self.budget.check(result)

    def every(self, row: Row) -> Iterator[Rendered | Drop]:
        """The row with each description; see `Renderer`."""
        entry = self.task.entry
        fields = entry.text_fields
        texts = [text_of(row.get(name)) for name in fields]
        missing = next((f for f, text in zip(fields, texts, strict=True) if text is None), None)
        try:
            answer = answer_of(row, entry, options_of(row, entry))
        except UnknownLabel as unknown:
            yield Drop("answer_not_in_options", self.templates[0].name, {"answer": str(unknown)})
            return
        if missing is not None:
            yield Drop("unresolved_field", self.templates[0].name, {"field": missing})
            return
        if answer and answer not in (entry.labels or {}):  # a no to each question would be a guess
            yield Drop("answer_not_in_options", self.templates[0].name, {"answer": answer[:200]})
            return
        text = "\n".join(map(str, texts))
        if not answer or not text.strip():
            reason = "empty_prompt" if answer else "empty_target"
            yield Drop(reason, self.templates[0].name, {})
            return
        for label, question, template in self._questions:
            target = YES if label == answer else NO
            prompt = PROMPTS.render("meta_tuning", text=text, question=question, yes=YES, no=NO)
            yield checked(Rendered(prompt, target, template.name, "yes_no", (YES, NO), target))
