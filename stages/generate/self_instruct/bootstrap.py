"""The first step of Self-Instruct: tasks out of tasks, until there are enough.

What is written is a list of instructions, or whole tasks field by field (`_presets.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pipeline.context import Context
from pipeline.models.base import Completion, Decoding, Engine, Request
from pipeline.models.counting import is_counting
from stages._llm.drafts import Prompt, user
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.rouge import NoveltyPool
from stages.generate._parsing.lists import (
    Rules,
    field_tasks,
    listed_items,
    numbered_items,
    without_mark,
)
from stages.generate.self_instruct.presets import Settings
from stages.generate.self_instruct.tasks import Seed, Task

PROMPTS: Final = Prompts(__file__)

_MOST_SIMILAR: Final = 10
_SHOWN: Final = 200
"""Characters of a text that nothing was read from, kept as evidence."""


class Shown(NamedTuple):
    """What a request shows: tasks, the ids of the human ones among them, and topics."""

    tasks: Sequence[Seed | Task]
    parents: tuple[str, ...]
    topics: Sequence[str]


@dataclass(frozen=True)
class Bootstrap:
    """How tasks are written; the fields are options of `generate.self_instruct`.

    topics: those to draw from. task: the one instruction for which inputs are written.
    """

    settings: Settings
    count: int
    max_requests: int
    requests_per_round: int
    seed: int
    topics: tuple[str, ...] = ()
    task: str = ""

    def tasks(self, ctx: Context, engine: Engine, seeds: Sequence[Seed]) -> list[Task]:
        """All that the model proposed, in order; those that are `alive` are accepted.

        The prompts of a round are drawn from the pool as it stands when the round
        begins; acceptance goes proposal by proposal, in the order of the prompts.
        """
        pool = NoveltyPool()
        for seed in seeds:
            pool.add(seed.id, seed.instruction)
        proposed: list[Task] = []
        accepted: list[Task] = []
        keys: set[str] = set()
        sent = 0
        while len(accepted) < self.count and sent < self.max_requests:
            numbers = range(sent, min(sent + self.requests_per_round, self.max_requests))
            for task in self._round(engine, seeds, accepted, numbers):
                self._judge(task, pool, keys)
                if task.active:
                    pool.add(task.key, task.instruction)
                    keys.add(task.key)
                    accepted.append(task)
                proposed.append(task)
            sent = numbers.stop
            ctx.progress(len(accepted), self.count)
        return proposed

    def _judge(self, task: Task, pool: NoveltyPool, accepted: set[str]) -> None:
        """Reject a task that is not new: too like another, or a whole one that equals another."""
        if is_counting():
            return
        whole = bool(self.settings.fields)
        if task.active and (self.settings.max_rouge_l < 1 or not whole):
            self._compare(task, pool)
        if task.active and whole and task.key in accepted:
            task.rejection = "duplicate", {"twin": task.key}

    def _round(
        self, engine: Engine, seeds: Sequence[Seed], accepted: Sequence[Task], numbers: range
    ) -> Iterator[Task]:
        shown = [self._draw(number, seeds, accepted) for number in numbers]
        decoding = self._decoding()
        requests = [
            Request(self._prompt(each), decoding, self.seed, sample=number)
            for number, each in zip(numbers, shown, strict=True)
        ]
        answers = engine.generate(requests)
        for number, each, completion in zip(numbers, shown, answers, strict=True):
            yield from self._read(completion, number, each)

    def _draw(self, number: int, seeds: Sequence[Seed], accepted: Sequence[Task]) -> Shown:
        """The demonstrations of a request: drawn anew, or one of a few fixed sets in turn."""
        settings = self.settings
        draw = random.Random(f"{self.seed} {number}")
        shown: list[Seed | Task] = []
        if settings.demonstration_sets:
            size, turn = settings.demonstrations, number % settings.demonstration_sets
            all_sets = random.Random(f"{self.seed} sets").sample(
                seeds, size * settings.demonstration_sets
            )
            human = all_sets[turn * size : (turn + 1) * size]
            shown += human
        else:
            machine = draw.sample(accepted, min(settings.machine_demonstrations, len(accepted)))
            human = draw.sample(seeds, settings.demonstrations - len(machine))
            shown += [*machine, *human]
            draw.shuffle(shown)
        topics = draw.sample(self.topics, settings.topics_per_request)
        return Shown(shown, tuple(sorted({seed.id for seed in human})), topics)

    def _decoding(self) -> Decoding:
        settings = self.settings
        number = settings.last
        stops: tuple[str, ...] = ("\n\n", f"\n{number}", f"{number}.", f"{number} .")
        if settings.fields:
            # Only where a line begins: "20." also stands in "2020.".
            one = number == settings.demonstrations + 2
            stops = ("\n###",) if one else (f"\n{number}.", f"\n{number} .")
        elif settings.prompt == "marked":
            stops = ("|EoS|", *stops)
        if settings.prompting == "chat":
            stops = ()
        return Decoding(
            *(settings.max_tokens, settings.temperature, settings.top_p),
            presence_penalty=settings.presence_penalty,
            stop=stops,
        )

    def _prompt(self, shown: Shown) -> Prompt:
        settings = self.settings
        listed: list[str] | list[dict[str, str]] = (
            [{name: _field(task, name) for name in settings.fields} for task in shown.tasks]
            if settings.fields
            else [_listed(task) for task in shown.tasks]
        )
        chat = settings.prompting == "chat"
        text = PROMPTS.render(
            f"{settings.prompt}",
            tasks=listed,
            fields=settings.fields,
            count=settings.last - len(listed) - 1,
            topics=shown.topics,
            inputs=settings.inputs,
            domain=settings.domain,
            task=self.task,
            chat=chat,
        )
        return user(text.rstrip()) if chat else text

    def _read(self, completion: Completion, number: int, shown: Shown) -> Iterator[Task]:
        """What one response proposes: tasks that the rules pass or reject."""
        topics = {"topics": list(shown.topics)} if shown.topics else {}

        def task(text: str, given: Mapping[str, Any] | None = None) -> Task:
            return Task(number, text, [completion.key], shown.parents, {**topics, **(given or {})})

        whole, cut = task(completion.text.strip()), completion.finish_reason == "length"
        proposals = self._proposals(completion.text, len(shown.tasks) + 1)
        if completion.error is not None:
            whole.error = completion.error
            yield whole
        elif not proposals or (cut and self.settings.on_length == "discard"):
            reason = "response_cut" if cut else "nothing_parsed"
            whole.rejection = reason, {"tokens": completion.completion_tokens}
            yield whole
        else:
            known = {(_listed(each), each.input) for each in shown.tasks}
            for position, (text, given) in enumerate(proposals):
                one = task(text, given)
                one.rejection = self._rejection(text, given, known)
                if cut and position == len(proposals) - 1:
                    one.rejection = "response_cut", {"tokens": completion.completion_tokens}
                yield one

    def _proposals(self, text: str, first: int) -> list[tuple[str, dict[str, str] | None]]:
        """Instructions with what was written together with them; None for what has not its form.

        first: the number of the first task, which in a continuation stands in the prompt.
        """
        settings = self.settings
        chat = settings.prompting == "chat"
        if not settings.fields:
            items = listed_items(text) if chat else numbered_items(text)
            read = [without_mark(item) for item in items]
            return [(self._capitalized(item), {}) for item in read if item]
        begun = "" if chat else f"{first}. {settings.fields[0].capitalize()}:"
        return [
            self._whole(part, values) for part, values in field_tasks(begun + text, settings.fields)
        ]

    def _whole(self, part: str, values: dict[str, str] | None) -> tuple[str, dict[str, str] | None]:
        """A task out of its fields; its bare text where a field that it needs is missing."""
        optional = {"output"} | ({"input"} if "instruction" in self.settings.fields else set())
        if values is None or not all(v for name, v in values.items() if name not in optional):
            return part, None
        if values.get("constraints", "").lower().rstrip(".") == "none":
            values["constraints"] = ""
        instruction = values.pop("instruction", self.task)
        return self._capitalized(" ".join(instruction.split())), values

    def _rejection(
        self, text: str, given: Mapping[str, str] | None, shown: set[tuple[str, str]]
    ) -> Rejection | None:
        if given is None:
            return "fields_missing", {"response": text[:_SHOWN]}
        if self.settings.fields and (_tidied(text), given.get("input", "")) in shown:
            return "repeats_demonstration", {}
        if is_counting() or not self.settings.screen:
            return None
        rules = Rules(*self.settings.words, self.settings.keywords, self.settings.ascii_start)
        return rules.rejection(text)

    def _capitalized(self, item: str) -> str:
        how = self.settings.capitalize
        if how == "none":
            return item
        return item.capitalize() if how == "sentence" else item[:1].upper() + item[1:]

    def _compare(self, task: Task, pool: NoveltyPool) -> None:
        """Note how near the task is to the pool, and reject it above the threshold."""
        scores = pool.scores(task.instruction)
        nearest = (-scores).argsort(kind="stable")[:_MOST_SIMILAR]
        task.scores = [(pool.keys[i], float(scores[i])) for i in nearest]
        task.mean = float(scores.mean())
        twin, highest = task.scores[0]
        if highest > self.settings.max_rouge_l:
            task.rejection = "not_novel", {"twin": twin, "rouge_l": highest}


def _listed(task: Seed | Task) -> str:
    """An instruction as it stands in the list: on one line, without a colon at its end."""
    return _tidied(task.instruction)


def _tidied(text: str) -> str:
    return " ".join(text.split()).rstrip(":")


def _field(task: Seed | Task, name: str) -> str:
    """One field of a demonstration as it is shown."""
    if name == "instruction":
        return _listed(task)
    if name == "input":
        return task.input or "<noinput>"
    if isinstance(task, Task):
        return str(task.given.get(name) or "None.")
    return task.instances[0].output if name == "output" else str(task.fields.get(name) or "None.")
