"""The later steps of Self-Instruct: is it classification, and inputs and outputs for each task.

How they are written is an option group: see `instance_options.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, Request, chat
from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.structured_output import Unreadable
from stages._llm.drafts import user
from stages._llm.preambles import without_preamble
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages.generate._parsing.lists import (
    Instance,
    continued_turn,
    input_first,
    judge_instances,
    labelled_instance,
    output_first,
)
from stages.generate._user_turn import opening_and_stops
from stages.generate.self_instruct.instance_options import (
    Answered,
    Examples,
    Instances,
    Simple,
    Turns,
    Written,
)
from stages.generate.self_instruct.tasks import Seed, Task

PROMPTS: Final = Prompts(__file__)

_MAX_SHOT_CHARACTERS: Final = 1000
"""Characters of a task with its instances in a prompt; the authors' longest have about as many."""


@dataclass(frozen=True)
class InstanceWriter:
    """Gives tasks their instances.

    Attributes:
        method: How instances are written; None leaves the output open.
        with_input: Whether the seeds shown by `Simple` have an input.
        chat: Whether prompts are user's turns.
        seed: Seed of the choice of shots and of the sampling.
    """

    method: Instances | None
    with_input: bool
    chat: bool
    seed: int

    def write(self, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]) -> None:
        """Set `instances` of every task, or its `error` or `rejection`.

        Args:
            engine: The model that writes.
            tasks: Accepted tasks; changed in place.
            seeds: Human tasks to show.
        """
        match self.method:
            case Examples() as method:
                self._by_examples(method, engine, tasks, seeds)
            case Simple() as method:
                self._by_simple_examples(method, engine, tasks, seeds)
            case Turns() as method:
                self._by_turns(method, engine, tasks)
            case Answered() as method:
                self._by_answers(method, engine, tasks, seeds)
            case Written():
                for task in tasks:
                    output = str(task.fields.get("output", ""))
                    empty: Rejection | None = None if output else ("empty_output", {})
                    task.instances = [(Instance(task.input, output), empty)]
            case None:
                for task in tasks:
                    task.instances = [(Instance(task.input, ""), None)]

    def _by_examples(
        self, method: Examples, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]
    ) -> None:
        """Classify the tasks, then request instances with the prompt for each kind."""
        self._classify(method, engine, tasks, seeds)
        for kind, parse in ((False, input_first), (True, output_first)):
            active = [task for task in tasks if task.active and task.is_classification is kind]
            requests = [self._instance_request(method, task, seeds) for task in active]
            for task, answer in _asked(engine, active, requests, "output", _listed(parse)):
                self._set_instances(task, answer.value, answer, method.max_instances)

    def _by_simple_examples(
        self, method: Simple, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]
    ) -> None:
        """Request one instance for each task, with an input or without."""
        with_input = self.with_input
        usable = [s for s in seeds if s.instances and bool(s.input) is with_input]
        rng = random.Random(f"{self.seed} simple")
        shots = _sample_shots(rng, usable, method.num_shots[not with_input])
        decoding = replace(
            _decoding(method),
            max_tokens=method.max_tokens[not with_input],
            stop=("|EoS|", "\ninstruction:"),
        )
        requests = [
            self._request(
                "simple",
                decoding,
                demonstrations=shots,
                instruction=task.instruction,
                with_input=with_input,
            )
            for task in tasks
        ]
        parse = _listed(lambda text: list(filter(None, [labelled_instance(text, with_input)])))
        for task, answer in _asked(engine, tasks, requests, "output", parse):
            self._set_instances(task, answer.value, answer)

    def _by_answers(
        self, method: Answered, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]
    ) -> None:
        """Request the output, after a few tasks with theirs or of the task alone."""
        requests = [self._answer_request(method, task, seeds) for task in tasks]
        for task, answer in _asked(engine, tasks, requests, "output", _text, "empty_output"):
            task.reasoning = answer.completion.reasoning
            rejection: Rejection | None = None
            if answer.completion.finish_reason == "length":
                rejection = "instance_cut", {"finish_reason": "length"}
            task.instances = [(Instance(task.input, answer.value), rejection)]

    def _answer_request(self, method: Answered, task: Task, seeds: Sequence[Seed]) -> Request:
        kind = 0 if task.input else 1
        decoding = replace(_decoding(method), max_tokens=method.max_tokens[kind])
        shots = _sample_shots(
            random.Random(f"{self.seed} answers"),
            [seed for seed in seeds if seed.instances],
            method.num_shots[kind],
        )
        constraints = task.fields.get("constraints")
        if self.chat and not shots and not constraints:
            turn = task_messages(task.instruction, task.input)[0]
            return Request(chat(turn), decoding, self.seed)
        return self._request(
            "answer",
            replace(decoding, stop=("\n###",)),
            demonstrations=shots,
            instruction=task.instruction,
            input=task.input,
            constraints=constraints,
        )

    def _request(self, name: str, decoding: Decoding, **values: Any) -> Request:
        """A prompt file as a text to continue, or as a user's turn."""
        text = PROMPTS.render(f"{name}", **values)
        return Request(user(text.rstrip()) if self.chat else text, decoding, self.seed)

    def _by_turns(self, method: Turns, engine: Engine, tasks: Sequence[Task]) -> None:
        """Let the model finish the user's turn, then answer it; one instance per task."""
        try:
            opening, stops = opening_and_stops(engine)
        except Unrenderable as refusal:
            for task in tasks:
                task.error = str(refusal)
            return
        decoding = replace(_decoding(method), max_tokens=method.max_tokens)
        to_closing = replace(decoding, stop=stops)
        requests = [Request(opening + task.instruction, to_closing, self.seed) for task in tasks]
        inputs: list[tuple[Task, str]] = []
        for task, answer in _asked(engine, tasks, requests, "input", continued_turn):
            if answer.completion.finish_reason == "length":
                self._set_instances(task, [Instance(answer.value, "")], answer)
            else:
                inputs.append((task, answer.value))
        turns = [task_messages(task.instruction, text)[0] for task, text in inputs]
        requests = [Request(chat(turn), decoding, self.seed) for turn in turns]
        text_of = {id(task): text for task, text in inputs}
        answered = [task for task, _ in inputs]
        for task, answer in _asked(engine, answered, requests, "output", _text, "empty_output"):
            task.reasoning = answer.completion.reasoning
            self._set_instances(task, [Instance(text_of[id(task)], answer.value)], answer)

    def _classify(
        self, method: Examples, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]
    ) -> None:
        rng = random.Random(f"{self.seed} classification")
        yes, no = (
            _sample_shots(rng, [s for s in seeds if s.is_classification is kind], number)
            for kind, number in zip((True, False), method.classification_num_shots, strict=True)
        )
        shots = [*yes, *no]
        rng.shuffle(shots)
        requests = [
            self._request(
                "classification",
                Decoding(max_tokens=method.classification_max_tokens, stop=("\n", "Task")),
                demonstrations=shots,
                instruction=task.instruction,
            )
            for task in tasks
        ]
        for task, answer in _asked(engine, tasks, requests, "classification", yes_or_no_word):
            task.is_classification = answer.value

    def _instance_request(self, method: Examples, task: Task, seeds: Sequence[Seed]) -> Request:
        kind = bool(task.is_classification)
        name = "output_first" if kind else "input_first"
        rng = random.Random(f"{self.seed} {name}")
        usable = [s for s in seeds if s.is_classification is kind and s.instances]
        stop = ("Task:",) if kind else (f"Example {method.max_instances + 1}", "Task:")
        return self._request(
            name,
            replace(_decoding(method), max_tokens=method.max_tokens[kind], stop=stop),
            demonstrations=_sample_shots(rng, usable, method.num_shots[kind]),
            instruction=task.instruction,
        )

    def _set_instances(
        self, task: Task, instances: Sequence[Instance], answer: ParsedCompletion, limit: int = 1
    ) -> None:
        """Judge the instances; of more good ones than the limit, a random choice is kept."""
        judged = judge_instances(instances, cut=answer.completion.finish_reason == "length")
        good = [i for i, (_, rejection) in enumerate(judged) if rejection is None]
        rng = random.Random(f"{self.seed} {task.key}")
        selected = set(rng.sample(good, min(len(good), limit)))
        surplus: Rejection = "over_max_instances", {"max_instances": limit}
        task.instances = [
            (instance, rejection or (None if i in selected else surplus))
            for i, (instance, rejection) in enumerate(judged)
        ]


def _decoding(method: Examples | Simple | Turns | Answered) -> Decoding:
    """The sampling of all answers but those that say what is classification."""
    return Decoding(temperature=method.temperature, presence_penalty=method.presence_penalty)


def _asked(
    engine: Engine,
    tasks: Sequence[Task],
    requests: Sequence[Request],
    step: str,
    parse: Callable[[str], Any],
    unread: str = "no_instances",
) -> Iterator[tuple[Task, ParsedCompletion]]:
    """Ask about each task; the tasks with an answer that can be read, each with it.

    Args:
        engine: The model.
        tasks: The tasks; journal, error and rejection of each are noted in it.
        requests: One for each.
        step: What a fallback's answer is noted under.
        parse: From the text to the value; raises `Unreadable`.
        unread: The drop reason of an answer that stays unreadable.
    """
    answers = ask(engine, requests, parse=parse, repair=False)
    for task, answer in zip(tasks, answers, strict=True):
        task.journal += answer.journal
        task.error, task.rejection = answer.error, answer.rejection
        if answer.fallback is not None:
            task.fallback[step] = answer.fallback
        if answer.rejection and answer.rejection[0] == "unreadable":
            reason = "unreadable" if step == "classification" else unread
            task.rejection = reason, answer.rejection[1]
        if task.active:
            yield task, answer


def yes_or_no_word(text: str) -> bool:
    """Whether the first word is yes; it must be yes or no.

    Raises:
        Unreadable: It is neither.

    Example:
        >>> yes_or_no_word("**Yes**, it is."), yes_or_no_word("No")
        (True, False)
    """
    word = re.match(r"\W*(\w+)", text)
    if word is None or word[1].lower() not in ("yes", "no"):
        raise Unreadable("the answer must be one of: yes, no")
    return word[1].lower() == "yes"


def _listed(parse: Callable[[str], list[Instance]]) -> Callable[[str], list[Instance]]:
    """A parser that raises `Unreadable` where this one finds nothing."""

    def listed(text: str) -> list[Instance]:
        instances = parse(text)
        if not instances:
            raise Unreadable("the answer must have the form of the examples")
        return instances

    return listed


def _text(text: str) -> str:
    answer = without_preamble(text)
    if not answer:
        raise Unreadable("the answer must not be empty")
    return answer


def _sample_shots(rng: random.Random, seeds: Sequence[Seed], number: int) -> list[Seed]:
    """At most `number` of the seeds that are short enough, in random order."""
    short = [seed for seed in seeds if seed.characters <= _MAX_SHOT_CHARACTERS]
    return rng.sample(short, min(number, len(short)))
