"""The forms in which Self-Instruct and its successors write instances, as option groups.

- `Examples`, the paper's: few-shot prompts for plain continuation.
- `Simple`, Ensemble-Instruct's: one prompt for tasks with input and one for tasks without,
  one instance a task, no classification.
- `Turns` needs no few-shot ability, only a chat model: left at the end of an instruction
  inside an open user turn, it adds the input or ends the turn, and then answers. That is
  input-first too; a label-first form of it does not exist.
- `Answered` requests the output of a task that has its input already.
- `Written` takes the output that came with the task.
"""

from __future__ import annotations

from typing import Literal

from pipeline.types import Count, NonNegativeFloat, NonNegativeInt, option_group

ShotCounts = tuple[NonNegativeInt, NonNegativeInt]
TokenLimits = tuple[Count, Count]


@option_group
class Examples:
    """Instances after few-shot examples, as in Self-Instruct.

    The seeds need the field `is_classification`.

    Args:
        name: "examples".
        classification_num_shots: Tasks shown in the question whether a task is
            classification: (those that are, those that are not).
        num_shots: Tasks shown with their instances: (input first, output first).
        max_instances: Instances of a task; of more a random choice is kept.
        temperature: Of the instances. The question about classification is greedy.
        presence_penalty: OpenAI's presence penalty.
        max_tokens: Limits in tokens: (input first, output first).
        classification_max_tokens: Limit in tokens of the answer whether a task is
            classification.
    """

    name: Literal["examples"] = "examples"
    classification_num_shots: ShotCounts = (12, 19)
    num_shots: ShotCounts = (11, 16)
    max_instances: Count = 5
    temperature: NonNegativeFloat = 0.0
    presence_penalty: float = 1.5
    max_tokens: TokenLimits = (350, 300)
    classification_max_tokens: Count = 3


@option_group
class Simple:
    """One instance after Ensemble-Instruct's simple examples, with an input or without.

    Args:
        name: "simple".
        num_shots: Tasks shown: (with input, without).
        temperature: Of the instances.
        presence_penalty: OpenAI's presence penalty.
        max_tokens: Limits in tokens: (with input, without).
    """

    name: Literal["simple"] = "simple"
    num_shots: ShotCounts = (18, 15)
    temperature: NonNegativeFloat = 0.7  # ours: the code leaves it to its service
    presence_penalty: float = 0.0
    max_tokens: TokenLimits = (512, 512)


@option_group
class Turns:
    """A chat model finishes the user's turn and then answers it: one instance, no examples.

    The model's chat template must be at hand: weights here, or a `tokenizer` for a server with a
    completions endpoint.

    Args:
        name: "turns".
        temperature: Of both requests.
        presence_penalty: OpenAI's presence penalty.
        max_tokens: Limit in tokens of the input, and of the answer.
    """

    name: Literal["turns"] = "turns"
    temperature: NonNegativeFloat = 0.0
    presence_penalty: float = 1.5
    max_tokens: Count = 350


@option_group
class Answered:
    """The output of a task that has its input already, after a few tasks with theirs.

    Args:
        name: "answered".
        num_shots: Tasks shown, for tasks (with input, without). With none and
            `prompting: chat` the prompt is the task alone.
        temperature: Of the outputs.
        presence_penalty: OpenAI's presence penalty.
        max_tokens: Limits in tokens, for tasks (with input, without).
    """

    name: Literal["answered"] = "answered"
    num_shots: ShotCounts = (3, 3)  # ours
    temperature: NonNegativeFloat = 0.0
    presence_penalty: float = 0.0
    max_tokens: TokenLimits = (512, 512)


@option_group
class ZeroShotAnswered(Answered):
    """`Answered` with the defaults of the methods for chat models.

    Args:
        num_shots: Tasks shown, for tasks (with input, without). With none and
            `prompting: chat` the prompt is the task alone.
        max_tokens: Limits in tokens, for tasks (with input, without).
    """

    num_shots: ShotCounts = (0, 0)
    max_tokens: TokenLimits = (1024, 1024)  # ours


@option_group
class AlpaCareAnswered(ZeroShotAnswered):
    """`Answered` with the numbers of AlpaCare's code.

    Args:
        temperature: Of the outputs.
        presence_penalty: OpenAI's presence penalty.
        max_tokens: Limits in tokens, for tasks (with input, without).
    """

    temperature: NonNegativeFloat = 1.0
    presence_penalty: float = 1.5
    max_tokens: TokenLimits = (300, 300)


@option_group
class Written:
    """The output that was written together with the task.

    Args:
        name: "written".
    """

    name: Literal["written"] = "written"


Instances = Examples | Simple | Turns | Answered | Written
