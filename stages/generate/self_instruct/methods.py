"""The published forms of Self-Instruct: one option group each, with the numbers of its paper.

A group's defaults are what the paper or its released code states; where both are silent, a
comment says "ours". The wording of all prompts is ours, and so are the instruction filter and the
threshold of novelty where a docstring does not name them. All groups have the options of
`TaskWriting` (`task_options.py`), which are described there; a group's own docstring describes
what only that method has.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.types import (
    Count,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    option_group,
)
from stages.generate.self_instruct.instance_options import (
    AlpaCareAnswered,
    Answered,
    Examples,
    Simple,
    Turns,
    Written,
    ZeroShotAnswered,
)
from stages.generate.self_instruct.task_options import (
    AlpacaFilter,
    Capitalize,
    InstructionFilter,
    MixedShots,
    OnLength,
    Prompting,
    TaskWriting,
    check_field_by_field,
)

PlainInstances = Annotated[Examples | Simple | Turns | Answered, Field(discriminator="name")]
"""How instances are written for instructions that came alone."""

PlainChatInstances = Annotated[
    Examples | Simple | Turns | ZeroShotAnswered, Field(discriminator="name")
]
"""The same, where a chat model answers."""

WrittenInstances = Annotated[Written | Answered, Field(discriminator="name")]
"""How instances are written for tasks that come with their output."""

WrittenChatInstances = Annotated[Written | ZeroShotAnswered, Field(discriminator="name")]
"""The same, where a chat model answers."""


@option_group
class SelfInstruct(MixedShots):
    """Self-Instruct (Wang et al. 2022, arXiv:2212.10560).

    As in the paper: (1) instructions, from prompts that list six human and two generated ones,
    less those with a ROUGE-L above 0.7 with an earlier one; (2) is it classification? (3)
    instances: input first or, for classification, label first, lest all inputs get the same
    label; (4) filters on the instances. As in the authors' code (yizhongw/self-instruct): the
    sampling, lists that stop at number 16, whole answers that are dropped where they were cut,
    instructions in lower case but for their first letter, at most five instances of a task.
    Ours: the shots of (2) and (3) are drawn from the seeds instead of being fixed in the
    prompts, so that seeds of another domain or language carry through all steps.

    Args:
        name: "self-instruct".
        instances: How instances are written; null ends a row with the user's turn.
    """

    name: Literal["self-instruct"] = "self-instruct"
    num_shots: NonNegativeInt = 8
    max_generated_shots: NonNegativeInt = 2
    list_until: Count | None = 16
    temperature: NonNegativeFloat = 0.7
    top_p: Fraction = 0.5
    presence_penalty: float = 2.0
    max_tokens: Count = 1024
    on_length: OnLength = "discard"
    capitalize: Capitalize = "sentence"
    instances: PlainInstances | None = Examples()


@option_group
class Alpaca(MixedShots):
    """Alpaca (Taori et al. 2023, tatsu-lab/stanford_alpaca).

    As in the authors' code (there is no paper): three seeds are shown, and complete tasks with
    input and output are written up to number 20, all in one answer; no classification; what
    lacks a field of a task is dropped; Self-Instruct's filters with more keywords, and its
    ROUGE-L. Not so: the authors also forbid the end-of-text token, which no engine here does;
    they keep empty outputs, which are dropped here; and they end a list at any "20.", here
    only where a line begins.

    David vs Goliath (Wang et al. 2023, arXiv:2308.12711) compares such methods with open models
    in the place of closed ones. As in the paper: nothing but the open models. Ours: that it is
    this one; see the recipe `david-vs-goliath`.

    Args:
        name: "alpaca".
        instances: How instances are written; null ends a row with the user's turn.
    """

    template: ClassVar[str] = "tasks/alpaca"
    fields: ClassVar[tuple[str, ...]] = ("instruction", "input", "output")

    name: Literal["alpaca"] = "alpaca"
    num_shots: NonNegativeInt = 3
    instruction_filter: InstructionFilter | None = AlpacaFilter()
    instances: WrittenInstances | None = Written()


@option_group
class Unnatural(TaskWriting):
    """Unnatural Instructions (Honovich et al. 2022, arXiv:2212.09689).

    As in the paper: fifteen seeds in five fixed sets of three; after three tasks, each with an
    instruction, an input and constraints on the output, a fourth is written (nucleus sampling
    of 0.99); its output is then requested greedily; dropped is what lacks one of the three
    fields, what repeats a task of the prompt, and what has instruction and input of an earlier
    task. The seeds need constraints, in a field `constraints` of `extra`, lest the model
    write "None." every time: `data/seeds/unnatural_seed_tasks.jsonl` has fifteen of ours.
    Ours: the wording, three tasks shown before the output is requested, and the limits in
    tokens. The paper's paraphrases of the instructions are another stage's.

    Args:
        name: "unnatural".
        num_shot_sets: Fixed sets of `num_shots` seeds, shown in turn.
        field_by_field: Request each field of a task by itself, up to the end of its line.
            This is ours, for models that are too weak to keep the form.
        instances: How instances are written; null ends a row with the user's turn.
    """

    template: ClassVar[str] = "tasks/unnatural"
    fields: ClassVar[tuple[str, ...]] = ("instruction", "input", "constraints")

    name: Literal["unnatural"] = "unnatural"
    num_shots: NonNegativeInt = 3
    num_shot_sets: Count = 5
    field_by_field: bool = False
    list_until: Count | None = None
    top_p: Fraction = 0.99
    max_tokens: Count = 1024  # ours
    on_length: OnLength = "discard"
    instruction_filter: InstructionFilter | None = None
    max_rouge_l: Fraction = 1.0
    instances: Answered | None = Answered()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.field_by_field and self.chat:
            raise ValueError("field_by_field must be left out with prompting: chat, got true")


@option_group
class EnsembleInstruct(MixedShots):
    """Ensemble-Instruct (Lee et al. 2023, arXiv:2310.13961).

    As in the paper: simple prompts for small models; tasks with an input and tasks without one
    have a pipeline each, that is, a stage each; a ROUGE-L above 0.7 drops an instruction. As in
    the authors' code: 24 or 10 shots, the limits in tokens. Ours: the sampling, which the code
    leaves to its service. Answers by other models and their consensus are `generate.respond`
    and `select.response`.

    Args:
        name: "ensemble-instruct".
        inputs: Which of the two pipelines: tasks "with" or "without" an input.
        num_shots: By default 24 tasks with an input, or 10 without.
        instances: How instances are written; null ends a row with the user's turn.
    """

    template: ClassVar[str] = "marked"

    name: Literal["ensemble-instruct"] = "ensemble-instruct"
    inputs: Literal["with", "without"] = field()
    num_shots: NonNegativeInt | None = None
    max_generated_shots: NonNegativeInt = 4
    list_until: Count | None = None
    max_tokens: Count = 256
    # The sampling is ours: the code leaves it to its service.
    temperature: NonNegativeFloat = 0.7
    on_length: OnLength = "discard"
    instances: PlainInstances | None = Simple()

    @property
    def shots(self) -> int:
        """The number of tasks shown in a prompt."""
        by_inputs = {"with": 24, "without": 10}[self.inputs]
        return by_inputs if self.num_shots is None else self.num_shots


@option_group
class LaMini(MixedShots):
    """LaMini-LM (Wu et al. 2023, arXiv:2304.14402).

    As in the paper: three seeds are shown, a chat model writes 20 more instructions, about three
    random topics in half of the prompts (`topics_per_request: 0` gives the others), and each is
    answered by itself. Its topics are titles of Wikipedia's categories, of which
    `topic_files` takes any list, one on a line. Ours: Self-Instruct's filters, the sampling, the
    limits in tokens, and the built-in topics. No code was released.

    Args:
        name: "lamini".
        instances: How instances are written; null ends a row with the user's turn.
    """

    name: Literal["lamini"] = "lamini"
    num_shots: NonNegativeInt = 3
    list_until: Count | None = 24
    prompting: Prompting = "chat"
    topics_per_request: NonNegativeInt = 3
    instances: PlainChatInstances | None = ZeroShotAnswered()


@option_group
class SelfGuide(MixedShots):
    """SELF-GUIDE (Zhao et al. 2024, arXiv:2407.12874).

    The student itself writes inputs for one task, shown those of a few demonstrations and of its
    own, then outputs; `noisy_text` and `length_outlier` are dropped, and it is trained on the
    rest. The seeds are the demonstrations; all are shown where they are fewer than `num_shots`.

    As in the paper: the steps, both filters, and two standard deviations. As in the authors'
    code, where a recipe says so: all demonstrations with up to 10 inputs of the model's own
    (`max_generated_shots: 10`, and as `num_shots` the number of demonstrations and 10 more),
    temperature 0.7 to 0.9 for inputs, lengths measured against the demonstrations
    (`length_reference: seeds`), and of inputs or outputs alone. Ours: the prompts, the marks of a
    noisy text (the code has words of each task), the greedy answer (the code samples ten at 0.2 and
    takes what most of them say) and the numbers marked as ours. The code's request to repair an
    input, and equally many rows of each class, are left out.

    Args:
        name: "self-guide".
        task: The instruction of the one task, by default the one that all seeds share.
        field_by_field: End an input with its line. This is ours, for models that are too weak
            to keep the form.
        max_length_deviations: Inputs and outputs must lie within this many standard
            deviations of their mean length; null accepts any length.
        length_reference: Whose mean and deviation: those of what was `written`, or of the
            `seeds`.
        instances: How instances are written; null ends a row with the user's turn.
    """

    template: ClassVar[str] = "tasks/input"
    fields: ClassVar[tuple[str, ...]] = ("input",)

    name: Literal["self-guide"] = "self-guide"
    task: str | None = None
    field_by_field: bool = False
    num_shots: NonNegativeInt = 6  # ours
    max_generated_shots: NonNegativeInt = 3  # ours
    list_until: Count | None = None
    max_tokens: Count = 512  # ours
    on_length: OnLength = "discard"
    instruction_filter: InstructionFilter | None = None
    max_rouge_l: Fraction = 1.0
    instances: Answered | None = Answered()
    max_length_deviations: PositiveFloat | None = 2.0
    length_reference: Literal["written", "seeds"] = "written"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field_by_field(self.field_by_field, self.chat)


@option_group
class SelfSpecialization(MixedShots):
    """Self-Specialization (Kang et al. 2023, arXiv:2310.00160).

    As in the paper: tasks with their inputs from the domain's seeds and the model's own, before
    any answer; `generate.respond` with `method: context` answers them with retrieved passages.
    Ours: the prompts, all numbers, and Self-Instruct's filters.

    Args:
        name: "self-specialization".
        domain: What the tasks are about, in words of the prompt; null leaves it to the seeds.
        field_by_field: Request each field of a task by itself, up to the end of its line, one
            task a prompt. This is ours, for models that are too weak to keep the form.
        instances: How instances are written; null ends a row with the user's turn.
    """

    template: ClassVar[str] = "tasks/domain"
    fields: ClassVar[tuple[str, ...]] = ("instruction", "input")

    name: Literal["self-specialization"] = "self-specialization"
    domain: str | None = None
    field_by_field: bool = False
    # The numbers of tasks and the sampling are ours.
    num_shots: NonNegativeInt = 5
    max_generated_shots: NonNegativeInt = 2
    list_until: Count | None = 12
    temperature: NonNegativeFloat = 0.7
    instances: Answered | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field_by_field(self.field_by_field, self.chat)


@option_group
class BioInstruct(MixedShots):
    """BioInstruct (Tran et al. 2023, arXiv:2310.19975).

    As in the paper: as Alpaca, from three random ones of the seeds of a domain (80 there), by a
    chat model (GPT-4). Ours: Alpaca's numbers where the paper is silent, and Self-Instruct's
    filters.

    Args:
        name: "bioinstruct".
        domain: What the tasks are about, in words of the prompt; null leaves it to the seeds.
        instances: How instances are written; null ends a row with the user's turn.
    """

    template: ClassVar[str] = "tasks/domain"
    fields: ClassVar[tuple[str, ...]] = ("instruction", "input", "output")

    name: Literal["bioinstruct"] = "bioinstruct"
    domain: str | None = "biomedicine and clinical practice"
    num_shots: NonNegativeInt = 3
    prompting: Prompting = "chat"
    instances: WrittenChatInstances | None = Written()


@option_group
class AlpaCare(MixedShots):
    """AlpaCare (Zhang et al. 2023, arXiv:2310.14558).

    As in the paper: tasks with type, topic, view and difficulty, which the seeds (167 of
    clinicians) have in `extra`; GPT-4 writes them, ChatGPT answers each by itself; a ROUGE-L
    above 0.7 drops an instruction. As in the authors' code (XZhang97666/AlpaCare): three seeds
    and no generated task in a prompt that goes on to number 10, 500 tokens for the tasks and
    300 for an answer, temperature 1 and presence penalty 1.5 for both. Ours: of two tasks that
    are too similar the second is dropped (the authors drop both, after all are written), a task
    that was cut is dropped, and answers have no system prompt.

    Args:
        name: "alpacare".
        domain: What the tasks are about, in words of the prompt.
        field_by_field: Request each field of a task by itself, up to the end of its line, one
            task a prompt. This is ours, for models that are too weak to keep the form.
        instances: How instances are written; null ends a row with the user's turn.
    """

    template: ClassVar[str] = "tasks/alpacare"
    fields: ClassVar[tuple[str, ...]] = (
        *("type", "topic", "view", "difficulty", "instruction", "input"),
    )

    name: Literal["alpacare"] = "alpacare"
    domain: str = "medicine"
    field_by_field: bool = False
    num_shots: NonNegativeInt = 3
    list_until: Count | None = 11
    prompting: Prompting = "chat"
    presence_penalty: float = 1.5
    max_tokens: Count = 500
    instruction_filter: InstructionFilter | None = None
    instances: AlpaCareAnswered | None = AlpaCareAnswered()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_field_by_field(self.field_by_field, self.chat)


Method = Annotated[
    SelfInstruct
    | Alpaca
    | Unnatural
    | EnsembleInstruct
    | LaMini
    | SelfGuide
    | SelfSpecialization
    | BioInstruct
    | AlpaCare,
    Field(discriminator="name"),
]
"""The published forms, by the names under which their papers are known."""
