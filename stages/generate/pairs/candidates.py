"""Requests of the methods that write: answers to prompts, and what a judge is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, Request
from pipeline.models.structured_output import Unreadable
from schemas.turns import turn_text
from stages._llm.drafts import Prompt
from stages._llm.preambles import without_preamble
from stages.generate.pairs.proposals import Answer, Proposal


def conversation(answer: Answer) -> str:
    """The turns of a prompt as text.

    Args:
        answer: An answer to it.
    """
    turns = ((turn["role"], turn_text(turn, "calls")) for turn in answer.prompt)
    return "".join(f"{role.capitalize()}:\n{text}\n\n" for role, text in turns)


def chat_prompt(answer: Answer) -> Prompt:
    """The turns of a prompt as a model is asked.

    Args:
        answer: An answer to it.
    """
    return tuple((turn["role"], turn_text(turn, "calls")) for turn in answer.prompt)


def written(answer: Answer, text: str) -> Answer:
    """A new answer to the same prompt.

    Args:
        answer: An answer to the prompt.
        text: The new answer.
    """
    return replace(answer, turns=[{"role": "assistant", "content": text}], score=None)


@dataclass(frozen=True)
class Writer:
    """The model that writes answers, and judges them.

    Attributes:
        engine: The model.
        decoding: How it writes.
        seed: Seed of the sampling.
        judge_max_tokens: Limit of a vote in tokens.
        keep_reasoning: Whether new answers get the reasoning before them.
    """

    engine: Engine
    decoding: Decoding
    seed: int
    judge_max_tokens: int
    keep_reasoning: bool = False

    def texts(
        self, prompts: Sequence[Prompt], numbers: Sequence[int] | None = None
    ) -> list[ParsedCompletion]:
        """One text for each prompt, without white space around it.

        Args:
            prompts: The prompts.
            numbers: Sample numbers, where a prompt is asked several times.
        """
        numbers = [0] * len(prompts) if numbers is None else numbers
        requests = [
            Request(prompt, self.decoding, self.seed, number)
            for prompt, number in zip(prompts, numbers, strict=True)
        ]
        answers = ask(self.engine, requests, parse=_text, repair=False)
        for answer in answers:
            if answer.readable and answer.completion.finish_reason == "length":
                tokens = answer.completion.completion_tokens
                answer.value, answer.rejection = None, ("cut", {"tokens": tokens})
        return answers

    def written(self, answer: Answer, text: ParsedCompletion) -> Answer:
        """A new answer to the same prompt.

        Args:
            answer: An answer to the prompt.
            text: The new answer, as `texts` returned it.
        """
        new = written(answer, text.value)
        if self.keep_reasoning and text.completion.reasoning:
            new.turns[0]["reasoning"] = text.completion.reasoning
        return new


def _text(text: str) -> str:
    answer = without_preamble(text)
    if not answer:
        raise Unreadable("the answer must not be empty")
    return answer


def unwritten(answer: Answer, completion: ParsedCompletion, what: str) -> Proposal | None:
    """The proposal of an answer whose text could not be written; None where it was.

    Args:
        answer: The answer that the text is for.
        completion: What the model wrote.
        what: What it is: the drop reasons are `<what>_cut` and `<what>_unparsed`, and those of
            reasoning without an answer and of answers that were withheld.
    """
    proposal = Proposal(answer, None, (answer.id,), journal=list(completion.journal))
    if completion.error is not None:
        proposal.error = completion.error
    elif completion.rejection is not None:
        reason, evidence = completion.rejection
        names = {"cut": f"{what}_cut", "unreadable": f"{what}_unparsed"}
        proposal.rejection = names.get(reason, reason), evidence
    else:
        return None
    return proposal
