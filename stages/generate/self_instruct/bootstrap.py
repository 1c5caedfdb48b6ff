"""The first step of Self-Instruct: a model writes new tasks after known ones, in rounds.

It writes a list of instructions, or complete tasks field by field (see `methods.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

from pipeline.context import Context
from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, Request
from pipeline.models.counting import is_counting
from pipeline.models.structured_output import Unreadable
from stages._llm.drafts import Prompt, user
from stages._llm.lists import listed_items
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection
from stages._text.rouge import NoveltyPool
from stages.generate._parsing.lists import (
    Rules,
    field_tasks,
    numbered_items,
    without_mark,
)
from stages.generate.self_instruct.methods import (
    EnsembleInstruct,
    Method,
    Unnatural,
)
from stages.generate.self_instruct.tasks import Seed, Task

PROMPTS: Final = Prompts(__file__)

_MOST_SIMILAR: Final = 10
Proposals = list[tuple[str, dict[str, str] | None]]
"""Instructions, each with the other fields of its task; None where one is missing."""

_EVIDENCE_CHARACTERS: Final = 200
"""Characters of an unparsed text that are kept as evidence."""


class Shots(NamedTuple):
    """What a prompt shows.

    Attributes:
        tasks: The tasks, in their order.
        parents: Ids of the seeds among them.
        topics: Topics that the prompt asks for.
    """

    tasks: Sequence[Seed | Task]
    parents: tuple[str, ...]
    topics: Sequence[str]


@dataclass(frozen=True)
class Bootstrap:
    """Writes tasks; all but the last two fields are options of `generate.self_instruct`.

    Attributes:
        method: The published form, with its numbers.
        num_rows: Tasks to accept.
        max_requests: Prompts to send at most.
        requests_per_round: Prompts that are sent before what they bring can be shown.
        seed: Seed of the choice of shots and of the sampling.
        topics: Topics to draw from.
        task: The one instruction for which inputs are written.
    """

    method: Method
    num_rows: int
    max_requests: int
    requests_per_round: int
    seed: int
    topics: tuple[str, ...] = ()
    task: str = ""

    def tasks(self, ctx: Context, engine: Engine, seeds: Sequence[Seed]) -> list[Task]:
        """All tasks that the model proposed, in order; those that are `active` are accepted.

        The shots of a round are drawn from the pool as it stands when the round begins.
        Proposals are accepted one by one, in the order of the prompts.
        """
        pool = NoveltyPool()
        for seed in seeds:
            pool.add(seed.id, seed.instruction)
        proposed: list[Task] = []
        accepted: list[Task] = []
        keys: set[str] = set()
        sent = 0
        while len(accepted) < self.num_rows and sent < self.max_requests:
            numbers = range(sent, min(sent + self.requests_per_round, self.max_requests))
            for task in self._round(engine, seeds, accepted, numbers):
                self._reject_similar(task, pool, keys)
                if task.active:
                    pool.add(task.key, task.instruction)
                    keys.add(task.key)
                    accepted.append(task)
                proposed.append(task)
            sent = numbers.stop
            ctx.progress(len(accepted), self.num_rows)
            if ctx.budget.not_sent:
                break  # the next run goes on here: further rounds would only be left out as well
        return proposed

    def _reject_similar(self, task: Task, pool: NoveltyPool, accepted: set[str]) -> None:
        """Reject a task that is too similar to another, or a complete one that equals another."""
        if is_counting():
            return
        complete = bool(self.method.fields)
        if task.active and (self.method.max_rouge_l < 1 or not complete):
            self._compare(task, pool)
        if task.active and complete and task.key in accepted:
            task.rejection = "duplicate", {"duplicate_of": task.key}

    def _round(
        self, engine: Engine, seeds: Sequence[Seed], accepted: Sequence[Task], numbers: range
    ) -> Iterator[Task]:
        shots = [self._sample_shots(number, seeds, accepted) for number in numbers]
        decoding = self._decoding()
        requests = [
            Request(self._prompt(shown), decoding, self.seed, sample=number)
            for number, shown in zip(numbers, shots, strict=True)
        ]
        first = self.method.shots + 1
        if self._one_field_each:
            answers = ask(engine, requests, parse=_not_empty, repair=False)
            self._add_fields(engine, requests, answers)
        else:
            parse = partial(self._proposals, first=first)
            answers = ask(engine, requests, parse=parse, repair=False)
        for number, shown, answer in zip(numbers, shots, answers, strict=True):
            yield from self._parse(answer, number, shown)

    @property
    def _one_field_each(self) -> bool:
        return bool(getattr(self.method, "field_by_field", False))

    def _add_fields(
        self,
        engine: Engine,
        requests: Sequence[Request],
        answers: Sequence[ParsedCompletion],
    ) -> None:
        """Request what follows the first field of each task, one field after the other.

        Args:
            engine: The model.
            requests: The requests for the first field.
            answers: Their answers; changed in place: the value becomes the task's proposals.
        """
        written = [answer.value or "" for answer in answers]
        for name in self.method.fields[1:]:
            label = f"\n{self.method.shots + 1}. {name.capitalize()}:"
            going = [i for i, answer in enumerate(answers) if _is_complete(answer)]
            for i in going:
                written[i] = written[i].rstrip() + label
            following = [
                replace(requests[i], prompt=f"{requests[i].prompt}{written[i]}") for i in going
            ]
            parse = str if name in self._optional else _not_empty
            for i, new in zip(
                going, ask(engine, following, parse=parse, repair=False), strict=True
            ):
                answer = answers[i]
                # While requests are only counted, the sample of an answer is a whole task.
                written[i] = answer.value if is_counting() else written[i] + (new.value or "")
                tokens = answer.completion.completion_tokens + new.completion.completion_tokens
                answer.completion = replace(new.completion, completion_tokens=tokens)
                answer.error, answer.rejection = new.error, new.rejection
                answer.journal += new.journal
                answer.fallback = answer.fallback or new.fallback
        for answer, text in zip(answers, written, strict=True):
            if answer.readable:
                answer.value = self._proposals(text, self.method.shots + 1)

    def _sample_shots(self, number: int, seeds: Sequence[Seed], accepted: Sequence[Task]) -> Shots:
        """The shots of a request: drawn anew, or one of a few fixed sets in turn."""
        method = self.method
        rng = random.Random(f"{self.seed} {number}")
        shots: list[Seed | Task]
        if isinstance(method, Unnatural):
            size, turn = method.shots, number % method.num_shot_sets
            all_sets = random.Random(f"{self.seed} sets").sample(seeds, size * method.num_shot_sets)
            human = all_sets[turn * size : (turn + 1) * size]
            shots = [*human]
        else:
            generated = rng.sample(accepted, min(method.max_generated_shots, len(accepted)))
            human = rng.sample(seeds, min(len(seeds), method.shots - len(generated)))
            shots = [*generated, *human]
            rng.shuffle(shots)
        topics = rng.sample(self.topics, method.topics_per_request)
        return Shots(shots, tuple(sorted({seed.id for seed in human})), topics)

    def _decoding(self) -> Decoding:
        method = self.method
        number = method.list_end
        stops: tuple[str, ...] = ("\n\n", f"\n{number}", f"{number}.", f"{number} .")
        if method.fields:
            # Only where a line begins: "20." also stands in "2020.".
            one = number == method.shots + 2
            stops = ("\n###",) if one else (f"\n{number}.", f"\n{number} .")
            stops = ("\n",) if self._one_field_each else stops
        elif isinstance(method, EnsembleInstruct):
            stops = ("|EoS|", *stops)
        if method.chat:
            stops = ()
        return Decoding(
            *(method.max_tokens, method.temperature, method.top_p),
            presence_penalty=method.presence_penalty,
            stop=stops,
        )

    def _prompt(self, shots: Shots) -> Prompt:
        method = self.method
        listed: list[str] | list[dict[str, str]] = (
            [{name: _field(task, name) for name in method.fields} for task in shots.tasks]
            if method.fields
            else [_listed(task) for task in shots.tasks]
        )
        text = PROMPTS.render(
            f"{method.template}",
            tasks=listed,
            fields=method.fields,
            count=method.list_end - len(listed) - 1,
            topics=shots.topics,
            inputs=method.inputs,
            domain=getattr(method, "domain", None),
            task=self.task,
            chat=method.chat,
        )
        return user(text.rstrip()) if method.chat else text

    def _parse(self, answer: ParsedCompletion, number: int, shots: Shots) -> Iterator[Task]:
        """The tasks that one response proposes, with the rejections of the filter."""
        topics = {"topics": list(shots.topics)} if shots.topics else {}
        fallback = {"task": answer.fallback} if answer.fallback else {}

        def task(text: str, fields: Mapping[str, Any] | None = None) -> Task:
            written = {**topics, **(fields or {})}
            keys = [*answer.journal]
            return Task(number, text, keys, shots.parents, written, fallback=dict(fallback))

        completion = answer.completion
        unread, cut = task(completion.text.strip()), completion.finish_reason == "length"
        evidence = {"tokens": completion.completion_tokens}
        if answer.error is not None:
            unread.error = answer.error
            yield unread
        elif cut and (answer.rejection or self.method.on_length == "discard"):
            unread.rejection = "response_cut", evidence
            yield unread
        elif answer.rejection is not None:
            reason, why = answer.rejection
            unread.rejection = "nothing_parsed" if reason == "unreadable" else reason, why
            yield unread
        else:
            shown = {(_listed(each), each.input) for each in shots.tasks}
            for position, (text, fields) in enumerate(answer.value):
                proposal = task(text, fields)
                proposal.rejection = self._rejection(text, fields, shown)
                if cut and position == len(answer.value) - 1:
                    proposal.rejection = "response_cut", evidence
                yield proposal

    def _proposals(self, text: str, first: int) -> Proposals:
        """Instructions, each with the other fields of its task.

        Args:
            text: The response.
            first: The number of the first task, which in a continuation stands in the prompt.

        Returns:
            The instruction and the fields, or the text and None where a field is missing.

        Raises:
            Unreadable: There are none.
        """
        proposals = self._proposed(text, first)
        if not proposals:
            raise Unreadable("the answer must list tasks")
        return proposals

    def _proposed(self, text: str, first: int) -> Proposals:
        method = self.method
        if not method.fields:
            items = listed_items(text) if method.chat else numbered_items(text)
            instructions = [without_mark(item) for item in items]
            return [(self._capitalized(item), {}) for item in instructions if item]
        begun = "" if method.chat else f"{first}. {method.fields[0].capitalize()}:"
        return [
            self._complete_task(part, values)
            for part, values in field_tasks(begun + text, method.fields)
        ]

    def _complete_task(
        self, part: str, values: dict[str, str] | None
    ) -> tuple[str, dict[str, str] | None]:
        """A task out of its fields; its bare text where a field that it needs is missing."""
        if values is None or not all(v for n, v in values.items() if n not in self._optional):
            return part, None
        if values.get("constraints", "").lower().rstrip(".") == "none":
            values["constraints"] = ""
        instruction = values.pop("instruction", self.task)
        return self._capitalized(" ".join(instruction.split())), values

    @property
    def _optional(self) -> set[str]:
        """Fields of a task that may be empty."""
        return {"output"} | ({"input"} if "instruction" in self.method.fields else set())

    def _rejection(
        self, text: str, fields: Mapping[str, str] | None, shown: set[tuple[str, str]]
    ) -> Rejection | None:
        if fields is None:
            return "fields_missing", {"response": text[:_EVIDENCE_CHARACTERS]}
        if self.method.fields and (_unwrapped(text), fields.get("input", "")) in shown:
            return "repeats_demonstration", {}
        rules = self.method.instruction_filter
        if rules is None or is_counting():
            return None
        return Rules(*rules.words, rules.banned_keywords, rules.ascii_start).rejection(text)

    def _capitalized(self, item: str) -> str:
        match self.method.capitalize:
            case "sentence":
                return item.capitalize()
            case "first":
                return item[:1].upper() + item[1:]
            case "none":
                return item

    def _compare(self, task: Task, pool: NoveltyPool) -> None:
        """Note the task's similarity to the pool, and reject it above the threshold."""
        scores = pool.scores(task.instruction)
        nearest = (-scores).argsort(kind="stable")[:_MOST_SIMILAR]
        task.scores = [(pool.keys[i], float(scores[i])) for i in nearest]
        task.mean = float(scores.mean())
        most_similar, highest = task.scores[0]
        if highest > self.method.max_rouge_l:
            task.rejection = "not_novel", {"duplicate_of": most_similar, "rouge_l": highest}


def _not_empty(text: str) -> str:
    if not text.strip():
        raise Unreadable("the answer must not be empty")
    return text


def _is_complete(answer: ParsedCompletion) -> bool:
    return answer.readable and answer.completion.finish_reason == "stop"


def _listed(task: Seed | Task) -> str:
    """An instruction as it stands in the list: on one line, without a colon at its end."""
    return _unwrapped(task.instruction)


def _unwrapped(text: str) -> str:
    return " ".join(text.split()).rstrip(":")


def _field(task: Seed | Task, name: str) -> str:
    """One field of a shot as it is shown."""
    if name == "instruction":
        return _listed(task)
    if name == "input":
        return task.input or "<noinput>"
    if isinstance(task, Task):
        return str(task.fields.get(name) or "None.")
    return task.instances[0].output if name == "output" else str(task.fields.get(name) or "None.")
