"""What rows ask, and what models answer to it.

A model is asked alone: what its `fallback` would say is no sample of it. A sample whose reasoning
does not end, which the provider withheld, or which is blank, is no vote; a request that was not
answered fails its row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from pipeline.context import Context
from pipeline.models.base import Completion, Decoding, Engine, LanguageModel, Request
from pipeline.models.side_by_side import side_by_side
from stages._llm.drafts import Prompt
from stages._llm.row_values import row_values
from stages._llm.rows import has_tools
from stages.score.agreement.comparisons import Vote

RESPONSE = "response"
"""The reference that is the row's own answer."""

Turns = tuple[tuple[str, str], ...]


@dataclass
class Question:
    """One row.

    Attributes:
        row: Its position.
        turns: Its turns up to the last request; None where a model cannot be asked: there is no
            request, or there are tools that it would not have.
        reference: The answer that votes are compared with; None without one.
        task_end: Where in the first user turn what it says of the task ends: a separate input, or
            what stands behind every request, follows.
        votes: What was sampled; None for a sample that holds no answer.
        journal: The keys of the completions.
        error: Why a request was not answered.
    """

    row: int
    turns: Turns | None
    reference: str | None
    task_end: int = 0
    votes: list[Vote | None] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def request(self) -> str:
        """The turns as text; one alone is shown as it is."""
        turns = self.turns or ()
        if len(turns) == 1:
            return turns[0][1]
        return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def questions(rows: pl.DataFrame, reference: str, ending: str | None) -> list[Question]:
    """What each row asks.

    Args:
        rows: Records.
        reference: `response`, a column, or `extra.FIELD`.
        ending: What stands behind every request; None for nothing.
    """
    golds = _golds(rows, reference)
    asked = []
    columns = rows.select("messages", "tools", "input_start").iter_rows()
    for row, (messages, tools, input_start) in enumerate(columns):
        turns = [(m["role"], m["content"] or "") for m in messages or ()]
        last = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=-1)
        answers = [text for role, text in turns[last + 1 :] if role == "assistant" and text.strip()]
        gold = golds[row] if golds is not None else (answers[-1] if answers else None)
        shown = [*turns[:last], ("user", _ended(turns[last][1], ending))] if last >= 0 else []
        is_blank = last < 0 or not turns[last][1].strip()
        has_results = any(role == "tool" for role, _ in turns)
        cannot = is_blank or has_results or has_tools(messages, tools)
        first = next((text for role, text in turns if role == "user"), "")
        task_end = len(first) if input_start is None else input_start
        asked.append(Question(row, None if cannot else tuple(shown), gold, task_end))
    return asked


def _ended(text: str, ending: str | None) -> str:
    return f"{text}\n\n{ending}" if ending else text


def _golds(rows: pl.DataFrame, reference: str) -> list[str | None] | None:
    """The values of a column, or of a field of `extra`; None for the rows' own answers."""
    if reference == RESPONSE:
        return None
    source = reference.partition(".")[0] if reference.startswith("extra.") else reference
    values = []
    for named in row_values(rows, [source]):
        value = named[source]
        if source != reference:
            value = (value or {}).get(reference.removeprefix("extra."))
        text = str(value).lower() if isinstance(value, bool) else str(value)
        values.append(None if value is None or not text.strip() else text)
    return values


@dataclass(frozen=True)
class Sampler:
    """Sends requests to models.

    Attributes:
        ctx: Opens models.
        decoding: How answers are sampled.
        seed: Enters the requests' keys.
    """

    ctx: Context
    decoding: Decoding
    seed: int

    def open(self, model: LanguageModel) -> Engine:
        """The engine of a model, without its fallback.

        Args:
            model: The model.
        """
        return self.ctx.open(replace(model, fallback=None))

    def add_votes(
        self, models: Sequence[LanguageModel], prompts: Sequence[tuple[Question, Prompt, int]]
    ) -> None:
        """Sample each model's answer to each prompt, and add it to the votes of its row.

        Args:
            models: Who answers.
            prompts: The row, its prompt, and the number of the sample.
        """
        asked = self._requests([(prompt, number) for _, prompt, number in prompts])

        def answers(_: int, engine: Engine) -> list[Completion]:
            return engine.generate(asked) if asked else []

        alone = [replace(model, fallback=None) for model in models]
        for completions in side_by_side(self.ctx, alone, answers):
            for (question, _, _), completion in zip(prompts, completions, strict=True):
                question.journal.append(completion.key)
                if completion.error is not None and completion.finish_reason == "error":
                    question.error = question.error or completion.error
                question.votes.append(vote_of(completion))

    def complete(
        self, model: LanguageModel, prompts: Sequence[tuple[Prompt, int]]
    ) -> list[Completion]:
        """The completion of each prompt.

        Args:
            model: Who answers.
            prompts: Prompts, each with the number of the sample.
        """
        requests = self._requests(prompts)
        return self.open(model).generate(requests) if requests else []

    def _requests(self, prompts: Sequence[tuple[Prompt, int]]) -> list[Request]:
        return [Request(prompt, self.decoding, self.seed, number) for prompt, number in prompts]


def vote_of(completion: Completion) -> Vote | None:
    """The sample in a completion; None where it holds no answer.

    Args:
        completion: A completion.
    """
    if completion.finish_reason not in ("stop", "length") or not completion.text.strip():
        return None
    return Vote(completion.text, completion.finish_reason == "length")


def answerable(rows: Sequence[Question]) -> Iterator[Question]:
    """The rows that a model can be asked.

    Args:
        rows: All rows.
    """
    return (question for question in rows if question.turns is not None)
