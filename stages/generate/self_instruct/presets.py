"""The settings of Self-Instruct and of what was made of it, by the papers' names.

A preset is one row of this table; an option that a recipe gives wins over it, and
nothing else combines. What a paper or its code states is as stated there; where they
are silent, `ours` says so beside the number.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from stages.generate._parsing.lists import KEYWORDS

Preset = Literal[
    "self-instruct",
    "alpaca",
    "unnatural",
    "ensemble-instruct",
    "lamini",
    "self-guide",
    "self-specialization",
    "bioinstruct",
    "alpacare",
]
Inputs = Literal["any", "with", "without"]
Prompting = Literal["continuation", "chat"]
Instances = Literal["examples", "simple", "turns", "answered", "written", "none"]
Capitalize = Literal["sentence", "first", "none"]
OnLength = Literal["discard", "keep_complete"]


@dataclass(frozen=True)
class Settings:
    """How tasks are written; all but the first three are options of `generate.self_instruct`.

    prompt: the file under `prompts/self_instruct`. fields: what a task is written as;
    without any, the answer is a list of instructions. domain: what the tasks are about.
    clean: whether inputs and outputs that repeat the prompt's marks are dropped.
    list_until: None leaves room for one task behind the demonstrations.
    """

    prompt: str = "instructions"
    fields: tuple[str, ...] = ()
    clean: bool = False
    domain: str | None = None
    inputs: Inputs = "any"
    prompting: Prompting = "continuation"
    demonstrations: int = 8
    machine_demonstrations: int = 2
    demonstration_sets: int = 0
    topics_per_request: int = 0
    list_until: int | None = 16
    temperature: float = 0.7
    top_p: float = 0.5
    presence_penalty: float = 2.0
    max_tokens: int = 1024
    on_length: OnLength = "discard"
    capitalize: Capitalize = "sentence"
    screen: bool = True
    words: tuple[int, int] = (4, 150)
    keywords: tuple[str, ...] = KEYWORDS
    ascii_start: bool = True
    max_rouge_l: float = 0.7
    instances: Instances = "examples"
    instance_demonstrations: tuple[int, int] = (11, 16)
    instance_temperature: float = 0.0
    instance_presence_penalty: float = 1.5
    instance_max_tokens: tuple[int, int] = (350, 300)
    max_instances: int = 5
    length_deviations: float = 0.0

    @property
    def last(self) -> int:
        """The number before which a list ends."""
        return self.list_until or self.demonstrations + 2

    @property
    def attributes(self) -> tuple[str, ...]:
        """The fields beside instruction, input and output."""
        return tuple(name for name in self.fields if name not in ("instruction", "input", "output"))


_WHOLE: Final = Settings(
    fields=("instruction", "input", "output"),
    demonstrations=3,
    machine_demonstrations=0,
    list_until=20,
    temperature=1.0,
    top_p=1.0,
    presence_penalty=0.0,
    max_tokens=3072,
    on_length="keep_complete",
    capitalize="none",
    instances="written",
    instance_presence_penalty=0.0,
    instance_max_tokens=(512, 512),
)
"""What the presets share that have whole tasks written after three seeds."""

PRESETS: Final[dict[str, Settings]] = {
    "self-instruct": Settings(),
    "alpaca": replace(
        _WHOLE,
        prompt="tasks/alpaca",
        keywords=(*KEYWORDS, "video", "audio", "music", "flowchart", "diagram"),
    ),
    "unnatural": replace(
        _WHOLE,
        prompt="tasks/unnatural",
        fields=("instruction", "input", "constraints"),
        demonstration_sets=5,
        list_until=None,
        top_p=0.99,
        max_tokens=1024,  # ours
        on_length="discard",
        screen=False,
        max_rouge_l=1.0,
        instances="answered",
        instance_demonstrations=(3, 3),  # ours
    ),
    "ensemble-instruct": Settings(
        prompt="marked",
        demonstrations=24,
        machine_demonstrations=4,
        list_until=None,
        top_p=1.0,  # ours, as is the temperature: the code leaves both to its service
        presence_penalty=0.0,
        max_tokens=256,
        capitalize="none",
        instances="simple",
        instance_demonstrations=(18, 15),
        instance_temperature=0.7,  # ours
        instance_presence_penalty=0.0,
        instance_max_tokens=(512, 512),
        max_instances=1,
    ),
    "lamini": replace(
        _WHOLE,
        prompt="instructions",
        fields=(),
        prompting="chat",
        topics_per_request=3,
        list_until=24,
        instances="answered",
        instance_demonstrations=(0, 0),
        instance_max_tokens=(1024, 1024),  # ours
    ),
    "self-guide": replace(
        _WHOLE,
        prompt="tasks/input",
        fields=("input",),
        clean=True,
        demonstrations=6,  # ours
        machine_demonstrations=3,  # ours
        list_until=None,
        max_tokens=512,  # ours
        on_length="discard",
        screen=False,
        max_rouge_l=1.0,
        instances="answered",
        instance_demonstrations=(3, 3),  # ours
        length_deviations=2.0,
    ),
    "self-specialization": replace(
        _WHOLE,
        prompt="tasks/domain",
        fields=("instruction", "input"),
        demonstrations=5,  # ours, as are the sampling and the number of tasks
        machine_demonstrations=2,
        list_until=12,
        temperature=0.7,
        instances="none",
    ),
    "bioinstruct": replace(
        _WHOLE,
        prompt="tasks/domain",
        domain="biomedicine and clinical practice",
        prompting="chat",
    ),
    "alpacare": replace(
        _WHOLE,
        prompt="tasks/alpacare",
        fields=("type", "topic", "view", "difficulty", "instruction", "input"),
        domain="medicine",
        prompting="chat",
        list_until=11,
        presence_penalty=1.5,
        screen=False,
        instances="answered",
        instance_demonstrations=(0, 0),
        instance_max_tokens=(1024, 1024),  # ours
    ),
}

OPTIONS: Final = tuple(
    field.name for field in fields(Settings) if field.name not in ("prompt", "fields", "clean")
)
"""What an option may say otherwise."""

WITHOUT_INPUT: Final = 10
"""Demonstrations of Ensemble-Instruct for tasks that need no input; for the others 24."""


def settings(preset: Preset, explicit: dict[str, Any]) -> Settings:
    """The preset's settings, with those that are given (not None) in their place."""
    base = PRESETS[preset]
    if preset == "ensemble-instruct" and explicit.get("inputs") == "without":
        base = replace(base, demonstrations=WITHOUT_INPUT)
    given = {name: explicit[name] for name in OPTIONS if explicit.get(name) is not None}
    return replace(base, **given)
