"""The later steps of Self-Instruct: is it classification, and inputs and outputs for each task.

*Examples* is the paper's way to instances: few-shot prompts for plain continuation.
*Simple* is Ensemble-Instruct's: one prompt for tasks with input and one for those
without, one example a task, no classification. *Turns* needs no few-shot ability, only
a chat model: left at the end of an instruction inside an open user turn, it adds the
input or ends the turn, and then answers. That is input-first too; a label-first form of
it does not exist. *Answered* asks for the output of a task whose input is there already,
*written* takes the output that came with the task, *none* leaves the task open.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.models.base import Completion, Decoding, Engine, Request, chat
from stages._llm.drafts import says_yes, user
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
from stages.generate.self_instruct.presets import Settings
from stages.generate.self_instruct.tasks import Seed, Task

PROMPTS: Final = Prompts(__file__)

_LONGEST_DEMONSTRATION: Final = 1000
"""Characters of a task with its instances in a prompt; the authors' longest have about as many."""
CLASSIFYING: Final = Decoding(max_tokens=3, stop=("\n", "Task"))
_PLACEHOLDER: Final = "<the user's words>"


@dataclass(frozen=True)
class Answering:
    """How instances are written; the fields are options of `generate.self_instruct`.

    classification_demonstrations: (yes, no). The pairs of numbers in the settings are
    for (input first, output first), or for tasks (with input, without).
    """

    settings: Settings
    seed: int
    classification_demonstrations: tuple[int, int]

    @property
    def decoding(self) -> Decoding:
        """Of all answers but those that say what is classification."""
        return Decoding(
            temperature=self.settings.instance_temperature,
            presence_penalty=self.settings.instance_presence_penalty,
        )

    def instances(self, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]) -> None:
        """Give every task its instances, in the way that the settings name."""
        how = self.settings.instances
        if how == "examples":
            self.by_examples(engine, tasks, seeds)
        elif how == "turns":
            self.by_turns(engine, tasks)
        elif how == "simple":
            self.by_simple_examples(engine, tasks, seeds)
        elif how == "answered":
            self.by_answers(engine, tasks, seeds)
        else:
            for task in tasks:
                output = str(task.given.get("output", "")) if how == "written" else ""
                one, empty = Instance(task.input, output), how == "written" and not output
                task.instances = [(one, ("empty_output", {}) if empty else None)]

    def by_examples(self, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]) -> None:
        """Ask what is classification, then ask for instances with the prompt for that kind."""
        self._classify(engine, tasks, seeds)
        alive = [task for task in tasks if task.active]
        requests = [self._instance_request(task, seeds) for task in alive]
        for task, completion in zip(alive, engine.generate(requests), strict=True):
            if _noted(task, completion):
                read = output_first if task.is_classification else input_first
                self._settle(task, read(completion.text), completion)

    def by_simple_examples(
        self, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]
    ) -> None:
        """Ask for one instance, with an input or without as the settings say."""
        given = self.settings.inputs != "without"
        fit = [s for s in seeds if s.instances and bool(s.input) is given]
        shown = _some(
            random.Random(f"{self.seed} simple"),
            fit,
            self.settings.instance_demonstrations[not given],
        )
        decoding = replace(
            self.decoding,
            max_tokens=self.settings.instance_max_tokens[not given],
            stop=("|EoS|", "\ninstruction:"),
        )
        requests = [
            self._request(
                "simple",
                decoding,
                demonstrations=shown,
                instruction=task.instruction,
                with_input=given,
            )
            for task in tasks
        ]
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if _noted(task, completion):
                found = labelled_instance(completion.text, given)
                self._settle(task, [found] if found else [], completion)

    def by_answers(self, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]) -> None:
        """Ask for the output: after a few tasks with theirs, or, in a chat, of the task alone."""
        requests = [self._answer_request(task, seeds) for task in tasks]
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if _noted(task, completion):
                one = Instance(task.input, completion.text.strip())
                cut = completion.finish_reason == "length"
                wrong: Rejection | None = None if one.output else ("empty_output", {})
                if cut:
                    wrong = "instance_cut", {"finish_reason": "length"}
                task.instances = [(one, wrong)]

    def _answer_request(self, task: Task, seeds: Sequence[Seed]) -> Request:
        given = bool(task.input)
        decoding = replace(self.decoding, max_tokens=self.settings.instance_max_tokens[not given])
        shown = _some(
            random.Random(f"{self.seed} answers"),
            [seed for seed in seeds if seed.instances],
            self.settings.instance_demonstrations[not given],
        )
        constraints = task.given.get("constraints")
        if self.settings.prompting == "chat" and not shown and not constraints:
            turn = task_messages(task.instruction, task.input)[0]
            return Request(chat(turn), decoding, self.seed)
        return self._request(
            "answer",
            replace(decoding, stop=("\n###",)),
            demonstrations=shown,
            instruction=task.instruction,
            input=task.input,
            constraints=constraints,
        )

    def _request(self, name: str, decoding: Decoding, **values: Any) -> Request:
        """A prompt file as a text to continue, or as a user's turn."""
        text = PROMPTS.render(f"{name}", **values)
        asked = user(text.rstrip()) if self.settings.prompting == "chat" else text
        return Request(asked, decoding, self.seed)

    def by_turns(self, engine: Engine, tasks: Sequence[Task]) -> None:
        """Let the model finish the user's turn, then answer it; one instance per task."""
        opening, closing = user_turn(engine)
        decoding = replace(self.decoding, max_tokens=self.settings.instance_max_tokens[0])
        given = replace(decoding, stop=(closing,) if closing else ())
        requests = [Request(opening + task.instruction, given, self.seed) for task in tasks]
        inputs: list[tuple[Task, str]] = []
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if not _noted(task, completion):
                continue
            text = continued_turn(completion.text)
            if completion.finish_reason == "length":
                self._settle(task, [Instance(text, "")], completion)
            else:
                inputs.append((task, text))
        turns = [task_messages(task.instruction, x)[0] for task, x in inputs]
        requests = [Request(chat(turn), decoding, self.seed) for turn in turns]
        for (task, text), completion in zip(inputs, engine.generate(requests), strict=True):
            if _noted(task, completion):
                self._settle(task, [Instance(text, completion.text.strip())], completion)

    def _classify(self, engine: Engine, tasks: Sequence[Task], seeds: Sequence[Seed]) -> None:
        draw = random.Random(f"{self.seed} classification")
        yes, no = (
            _some(draw, [s for s in seeds if s.is_classification is kind], number)
            for kind, number in zip((True, False), self.classification_demonstrations, strict=True)
        )
        shown = [*yes, *no]
        draw.shuffle(shown)
        requests = [
            self._request(
                "classification",
                CLASSIFYING,
                demonstrations=shown,
                instruction=task.instruction,
            )
            for task in tasks
        ]
        for task, completion in zip(tasks, engine.generate(requests), strict=True):
            if _noted(task, completion):
                task.is_classification = says_yes(completion.text)

    def _instance_request(self, task: Task, seeds: Sequence[Seed]) -> Request:
        kind = bool(task.is_classification)
        name = "output_first" if kind else "input_first"
        draw = random.Random(f"{self.seed} {name}")
        fit = [s for s in seeds if s.is_classification is kind and s.instances]
        most, longest = self.settings.max_instances, self.settings.instance_max_tokens
        stop = ("Task:",) if kind else (f"Example {most + 1}", "Task:")
        return self._request(
            name,
            replace(self.decoding, max_tokens=longest[kind], stop=stop),
            demonstrations=_some(draw, fit, self.settings.instance_demonstrations[kind]),
            instruction=task.instruction,
        )

    def _settle(self, task: Task, instances: Sequence[Instance], completion: Completion) -> None:
        """Judge the instances; of more good ones than allowed, a random few stay."""
        judged = judge_instances(instances, cut=completion.finish_reason == "length")
        good = [i for i, (_, rejection) in enumerate(judged) if rejection is None]
        draw = random.Random(f"{self.seed} {task.key}")
        chosen = set(draw.sample(good, min(len(good), self.settings.max_instances)))
        surplus: Rejection = "over_max_instances", {"max_instances": self.settings.max_instances}
        task.instances = [
            (instance, rejection or (None if i in chosen else surplus))
            for i, (instance, rejection) in enumerate(judged)
        ]
        if not task.instances:
            task.rejection = "no_instances", {"response": completion.text[:200]}


def _noted(task: Task, completion: Completion) -> bool:
    """Whether there is an answer; its key, or what went wrong, is noted in the task."""
    task.journal.append(completion.key)
    task.error = completion.error
    return completion.error is None


def _some(draw: random.Random, seeds: Sequence[Seed], number: int) -> list[Seed]:
    """As many seeds as there are up to a number, in random order."""
    short = [seed for seed in seeds if seed.characters <= _LONGEST_DEMONSTRATION]
    return draw.sample(short, min(number, len(short)))


def user_turn(engine: Engine) -> tuple[str, str]:
    """What the chat template puts before and after the words of the first user turn."""
    text: str = engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": _PLACEHOLDER}], tokenize=False, add_generation_prompt=True
    )
    before, _, after = text.partition(_PLACEHOLDER)
    # A text prompt is given its first token by the tokenizer, which must not come twice.
    return before.removeprefix(engine.tokenizer.bos_token or ""), after.strip()
