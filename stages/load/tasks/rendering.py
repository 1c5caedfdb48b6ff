"""What a row becomes under a template: a prompt and its target, or the reason why not.

A *renderer* of a method takes a row and gives one or several of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from stages._llm.prompts import Prompts
from stages.load._rows.output import SURROGATE
from stages.load.tasks.drawing import Draws

Row = dict[str, Any]

PROMPTS: Final = Prompts(str(Path(__file__).with_name("__init__.py")))
"""The prompts of the methods that bring their own."""


class Rendered(NamedTuple):
    """A row as an instruction.

    Attributes:
        prompt: The user's turn.
        target: The assistant's turn.
        template: The template's name.
        format: How it is asked: `zero_shot`, `few_shot_options`, ...
        options: The answers that there are; None where any text may be one.
        answer: The answer itself: one of the options where there are any.
        num_shots: How many solved examples the prompt holds.
        feedback: The row's feedback on the scale from 0 to 1; None without any.
    """

    prompt: str
    target: str
    template: str
    format: str
    options: tuple[str, ...] | None
    answer: str
    num_shots: int = 0
    feedback: float | None = None


class Drop(NamedTuple):
    """A row that a template makes nothing of.

    Attributes:
        reason: The drop reason.
        template: The template's name.
        details: What caused it.
    """

    reason: str
    template: str
    details: Mapping[str, Any]


class InvalidRow(Exception):
    """A row that cannot be read as its task says: it has failed."""


class Renderer(Protocol):
    """What a method makes of the rows of one task."""

    @property
    def templates(self) -> Sequence[Template]:
        """The templates of the task."""
        ...

    def render(self, row: Row, context: RowContext, /) -> Iterator[Rendered | Drop]:
        """The instructions of a row.

        Args:
            row: The row.
            context: What is drawn for it.

        Raises:
            InvalidRow: The row cannot be read as the task says.
        """
        ...

    def every(self, row: Row) -> Iterator[Rendered | Drop]:
        """The row under each template in turn, for the linter.

        Args:
            row: The row.

        Raises:
            InvalidRow: The row cannot be read as the task says.
        """
        ...


class Template(NamedTuple):
    """Where a template stands.

    Attributes:
        name: Its name.
        file: The name of its file.
        line: The line at which it begins, from 1.
    """

    name: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.name} ({self.file}:{self.line})"


class RowContext(NamedTuple):
    """What is drawn for a row.

    Attributes:
        draws: Its random choices.
        rank: Its place in a random order of the task's training rows, from 0; any number for a row
            that is held out.
        examples: Training rows of the task that few-shot prompts may show.
    """

    draws: Draws
    rank: int
    examples: Sequence[Example]


class Example(NamedTuple):
    """A row that few-shot prompts may show.

    Attributes:
        key: The row's key: no row is an example for itself or its equal.
        row: The row.
    """

    key: bytes
    row: Row


class Budget(NamedTuple):
    """How long prompts and targets may be.

    Attributes:
        max_input: The most tokens of a prompt; None for no limit.
        max_target: The most tokens of a target; None for no limit.
        length: The number of tokens of a text.
    """

    max_input: int | None
    max_target: int | None
    length: Callable[[str], float]

    def fits(self, text: str, limit: int | None) -> bool:
        """Whether a text is within a limit; no token is shorter than a byte."""
        if limit is None or len(text) * 4 <= limit or len(text.encode()) <= limit:
            return True
        return self.length(text) <= limit

    def fits_input(self, text: str) -> bool:
        """Whether a prompt is short enough."""
        return self.fits(text, self.max_input)

    def check(self, rendered: Rendered) -> Rendered | Drop:
        """The row, or the reason why it is too long."""
        for text, limit, name in (
            (rendered.prompt, self.max_input, "max_input"),
            (rendered.target, self.max_target, "max_target"),
        ):
            if not self.fits(text, limit):
                details = {"characters": len(text), name: limit}
                return Drop("too_long", rendered.template, details)
        return rendered


def checked(rendered: Rendered) -> Rendered | Drop:
    """The row, or the reason why it teaches nothing: no prompt, no target, a foreign answer.

    Raises:
        InvalidRow: It holds what is no text.
    """
    try:
        for text in (rendered.prompt, rendered.target):
            _ = text.isascii() or text.encode()
    except UnicodeEncodeError:
        raise InvalidRow(SURROGATE) from None
    if not rendered.target.strip():
        return Drop("empty_target", rendered.template, {})
    if not rendered.prompt.strip():
        return Drop("empty_prompt", rendered.template, {})
    if rendered.options is not None and rendered.answer not in rendered.options:
        details = {"answer": rendered.answer[:200], "options": [*rendered.options][:26]}
        return Drop("answer_not_in_options", rendered.template, details)
    return rendered


def byte_tokens(text: str) -> float:
    """About how many tokens a text has where no tokenizer is given: a quarter of its bytes."""
    return len(text.encode()) / 4
