"""The later steps of Self-Instruct: is it classification, and inputs and outputs for each task.

Each form of writing instances is an option group:

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

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pipeline.models.ask import unclosed
from pipeline.models.base import Completion, Decoding, Engine, Request, chat
from pipeline.types import Count, NonNegativeFloat, NonNegativeInt, option_group
from stages._llm.drafts import says_yes, user
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
from stages.generate._user_turn import user_turn
from stages.generate.self_instruct.tasks import Seed, Task

PROMPTS: Final = Prompts(__file__)

_MAX_SHOT_CHARACTERS: Final = 1000
"""Characters of a task with its instances in a prompt; the authors' longest have about as many."""
CLASSIFYING: Final = Decoding(max_tokens=3, stop=("\n", "Task"))

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
    """

    name: Literal["examples"] = "examples"
    classification_num_shots: ShotCounts = (12, 19)
    num_shots: ShotCounts = (11, 16)
    max_instances: Count = 5
    temperature: NonNegativeFloat = 0.0
    presence_penalty: float = 1.5
    max_tokens: TokenLimits = (350, 300)


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

    The model needs a chat template here, so it cannot be behind a server.

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
class Written:
    """The output that was written together with the task.

    Args:
        name: "written".
    """

    name: Literal["written"] = "written"


Instances = Examples | Simple | Turns | Answered | Written


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
        active = [task for task in tasks if task.active]
        requests = [self._instance_request(method, task, seeds) for task in active]
        for task, completion in zip(active, engine.generate(requests), strict=True):
            if _note_answer(task, completion):
                parse = output_first if task.is_classification else input_first
                instances = parse(completion.text)
                self._set_instances(task, instances, completion, method.max_instances)

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
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if _note_answer(task, completion):
                instance = labelled_instance(completion.text, with_input)
                self._set_instances(task, [instance] if instance else [], completion)

    def _by_answers(
        self, method: Answered, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]
    ) -> None:
        """Request the output, after a few tasks with theirs or of the task alone."""
        requests = [self._answer_request(method, task, seeds) for task in tasks]
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if _note_answer(task, completion):
                instance = Instance(task.input, without_preamble(completion.text))
                rejection: Rejection | None = None if instance.output else ("empty_output", {})
                if completion.finish_reason == "length":
                    rejection = "instance_cut", {"finish_reason": "length"}
                task.instances = [(instance, rejection)]

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
        opening, closing = user_turn(engine)
        decoding = replace(_decoding(method), max_tokens=method.max_tokens)
        to_closing = replace(decoding, stop=(closing,) if closing else ())
        requests = [Request(opening + task.instruction, to_closing, self.seed) for task in tasks]
        inputs: list[tuple[Task, str]] = []
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if not _note_answer(task, completion):
                continue
            text = continued_turn(completion.text)
            if completion.finish_reason == "length":
                self._set_instances(task, [Instance(text, "")], completion)
            else:
                inputs.append((task, text))
        turns = [task_messages(task.instruction, text)[0] for task, text in inputs]
        requests = [Request(chat(turn), decoding, self.seed) for turn in turns]
        for (task, text), completion in zip(inputs, engine.generate(requests), strict=True):
            if _note_answer(task, completion):
                self._set_instances(
                    task, [Instance(text, without_preamble(completion.text))], completion
                )

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
                CLASSIFYING,
                demonstrations=shots,
                instruction=task.instruction,
            )
            for task in tasks
        ]
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if _note_answer(task, completion):
                task.is_classification = says_yes(completion.text)

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
        self, task: Task, instances: Sequence[Instance], completion: Completion, limit: int = 1
    ) -> None:
        """Judge the instances; of more good ones than the limit, a random choice is kept."""
        judged = judge_instances(instances, cut=completion.finish_reason == "length")
        good = [i for i, (_, rejection) in enumerate(judged) if rejection is None]
        rng = random.Random(f"{self.seed} {task.key}")
        selected = set(rng.sample(good, min(len(good), limit)))
        surplus: Rejection = "over_max_instances", {"max_instances": limit}
        task.instances = [
            (instance, rejection or (None if i in selected else surplus))
            for i, (instance, rejection) in enumerate(judged)
        ]
        if not task.instances:
            task.rejection = "no_instances", {"response": completion.text[:200]}


def _decoding(method: Examples | Simple | Turns | Answered) -> Decoding:
    """The sampling of all answers but those that say what is classification."""
    return Decoding(temperature=method.temperature, presence_penalty=method.presence_penalty)


def _note_answer(task: Task, completion: Completion) -> bool:
    """Note the answer's key and error in the task; whether there is an answer."""
    task.journal.append(completion.key)
    task.error = completion.error
    if completion.finish_reason == "reasoning_unclosed":
        task.rejection = unclosed(completion)
    return task.active


def _sample_shots(rng: random.Random, seeds: Sequence[Seed], number: int) -> list[Seed]:
    """At most `number` of the seeds that are short enough, in random order."""
    short = [seed for seed in seeds if seed.characters <= _MAX_SHOT_CHARACTERS]
    return rng.sample(short, min(number, len(short)))
