"""Options that the published forms of Self-Instruct have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.types import (
    Count,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Range,
    option_group,
)
from stages.generate._parsing.lists import KEYWORDS

Inputs = Literal["any", "with", "without"]
Prompting = Literal["continuation", "chat"]
Capitalize = Literal["sentence", "first", "none"]
OnLength = Literal["discard", "keep_complete"]


@option_group
class InstructionFilter:
    """The rules of Self-Instruct for instructions.

    An instruction that begins with punctuation or with "write a program" is dropped too.

    Args:
        words: Fewest and most words.
        banned_keywords: Words that a model of texts cannot act on: `banned_keyword`.
        ascii_start: Whether the first letter must be an ASCII letter.
    """

    words: Range = (4, 150)
    banned_keywords: tuple[str, ...] = KEYWORDS
    ascii_start: bool = True


@option_group
class AlpacaFilter(InstructionFilter):
    """The rules of Self-Instruct, with Alpaca's longer list of keywords.

    Args:
        banned_keywords: Words that a model of texts cannot act on: `banned_keyword`.
    """

    banned_keywords: tuple[str, ...] = (
        *KEYWORDS,
        *("video", "audio", "music", "flowchart", "diagram"),
    )


@option_group
class TaskWriting:
    """What all methods have in common.

    Args:
        num_shots: Tasks shown in a prompt. A group without a number of its own derives it.
        list_until: The number before which a list of tasks is stopped; null leaves room for
            one task after those shown.
        inputs: Show only seeds with an input, only seeds without one, or any.
        prompting: Whether the prompt is a text to continue or a user's turn. "chat" is for
            models that follow requests (Wang et al. 2023, arXiv:2308.12711).
        topics_per_request: Topics that each prompt asks for, drawn from the stage's `topics`
            and `topic_files`.
        temperature: Of the lists of tasks, as the next three.
        top_p: Nucleus of the sampling.
        presence_penalty: OpenAI's presence penalty.
        max_tokens: Limit of an answer in tokens.
        on_length: What happens to an answer that reached `max_tokens`: "discard" drops all
            of it (Self-Instruct), "keep_complete" its unfinished last task (Alpaca).
        capitalize: "first" makes the first letter of an instruction upper case, "sentence"
            also the rest lower case, as Self-Instruct's code does.
        instruction_filter: Rules for instructions; null accepts any.
        max_rouge_l: An instruction with a higher ROUGE-L F1 with a seed or an accepted
            instruction is dropped; 1 drops nothing but equal tasks.

    Attributes:
        template: The prompt file under `prompts/bootstrap`.
        fields: What a task is written as; without any, an answer is a list of instructions.
    """

    template: ClassVar[str] = "instructions"
    fields: ClassVar[tuple[str, ...]] = ()

    num_shots: NonNegativeInt | None = None
    list_until: Count | None = 20
    inputs: Inputs = "any"
    prompting: Prompting = "continuation"
    topics_per_request: NonNegativeInt = 0
    temperature: NonNegativeFloat = 1.0
    top_p: Fraction = 1.0
    presence_penalty: float = 0.0
    max_tokens: Count = 3072
    on_length: OnLength = "keep_complete"
    capitalize: Capitalize = "none"
    instruction_filter: InstructionFilter | None = InstructionFilter()
    max_rouge_l: Fraction = 0.7

    def __post_init__(self) -> None:
        if self.list_until is not None and self.list_until < self.shots + 2:
            why = f"as {self.shots} tasks are shown and one must be written"
            raise ValueError(
                f"list_until must be at least {self.shots + 2} ({why}), got {self.list_until}"
            )

    @property
    def shots(self) -> int:
        """The number of tasks shown in a prompt."""
        return self.num_shots or 0

    @property
    def list_end(self) -> int:
        """The number before which a list of tasks ends."""
        return self.list_until or self.shots + 2

    @property
    def chat(self) -> bool:
        """Whether prompts are user's turns."""
        return self.prompting == "chat"

    @property
    def attributes(self) -> tuple[str, ...]:
        """The fields of a task beside instruction, input and output."""
        return tuple(name for name in self.fields if name not in ("instruction", "input", "output"))


def check_field_by_field(field_by_field: bool, chat: bool) -> None:
    """Check that tasks which are written field by field continue a text.

    Args:
        field_by_field: Whether each field is requested by itself.
        chat: Whether prompts are user's turns.

    Raises:
        ValueError: Both: a turn cannot be continued.
    """
    if field_by_field and chat:
        raise ValueError("field_by_field must be left out with prompting: chat")


@option_group
class MixedShots(TaskWriting):
    """A method that draws the shots of each prompt from the seeds and the accepted tasks.

    Args:
        max_generated_shots: How many of the shots may be tasks that the model wrote.
    """

    max_generated_shots: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_generated_shots > self.shots:
            raise ValueError(
                f"max_generated_shots must be at most num_shots ({self.shots}), "
                f"got {self.max_generated_shots}"
            )
