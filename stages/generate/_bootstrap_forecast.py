"""What `generate.self_instruct` will ask, if all that it is given in return is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from types import SimpleNamespace

from pipeline.forecast import Asking
from pipeline.models.base import LanguageModel
from stages._prompts import size
from stages._sizes import mean
from stages.generate._instances import CLASSIFYING
from stages.generate._presets import Settings
from stages.generate._tasks import Seed

_FOLDER = "generate/self_instruct"


def forecast(
    options: SimpleNamespace, chosen: Settings, seeds: Sequence[Seed] | None
) -> list[Asking]:
    """Lists in whole rounds until they hold `count` tasks, and the instances of every task.

    The last round is used whole: of what it brings beyond the count, half is expected.

    seeds: None where they are not there yet; the length of a prompt is then unknown.
    """
    each = chosen.last - chosen.demonstrations - 1
    rounds = ceil(ceil(options.count / each) / options.requests_per_round)
    yes_no = sum(options.classification_demonstrations)
    sent = min(rounds * options.requests_per_round, options.max_requests)
    shown = [_characters(seed, chosen.fields) for seed in seeds or ()]
    listed = size(f"{_FOLDER}/{chosen.prompt}") + chosen.demonstrations * mean(shown)
    asked = [Asking(options.model, sent, listed, chosen.max_tokens)]
    tasks = (min(options.count, sent * each) + sent * each) / 2
    asked += _instances(options.model, chosen, tasks, seeds or (), yes_no)
    return asked if seeds is not None else [one._replace(prompt=None) for one in asked]


def _instances(
    model: LanguageModel, chosen: Settings, tasks: float, seeds: Sequence[Seed], classified: int
) -> list[Asking]:
    """What is asked about each task. classified: demonstrations of what is classification."""
    instruction = mean([len(seed.instruction) for seed in seeds])
    whole = mean([seed.characters for seed in seeds])
    first, second = chosen.instance_max_tokens
    shots = mean(chosen.instance_demonstrations)

    def ask(prompt: float, answer: int, *shown: int) -> Asking:
        return Asking(model, tasks, prompt, answer, shown)

    def after(name: str, each: float, number: float) -> float:
        return size(f"{_FOLDER}/{name}") + number * each + instruction

    bare = chosen.prompting == "chat" and not shots
    answered = instruction if bare else after("answer", whole, shots)
    ways: dict[str, list[Asking]] = {
        "turns": [ask(instruction, first), ask(instruction, first, first)],
        "simple": [ask(after("simple", whole, shots), max(first, second))],
        "answered": [ask(answered, max(first, second))],
        "examples": [
            ask(after("classification", instruction, classified), CLASSIFYING.max_tokens),
            ask(after("input_first", whole, shots), max(first, second)),
        ],
    }
    return ways.get(chosen.instances, [])


def _characters(seed: Seed, fields: Sequence[str]) -> int:
    """Of a demonstration: its instruction, or the task field by field."""
    if not fields:
        return len(seed.instruction)
    one = seed.instances[0] if seed.instances else None
    known = {
        "instruction": seed.instruction,
        "input": one.input if one else "",
        "output": one.output if one else "",
    }
    values = {**{name: seed.fields.get(name) for name in fields}, **known}
    return sum(len(name) + len(str(values[name] or "")) for name in fields)
