"""Requests of the methods that write: answers to prompts, and what a judge is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.models.ask import ParsedCompletion, ask
from pipeline.models.base import Decoding, Engine, Request
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


def ask_texts(
    engine: Engine,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    seed: int,
    numbers: Sequence[int] | None = None,
) -> list[ParsedCompletion]:
    """One text for each prompt, without white space around it.

    Args:
        engine: The model.
        prompts: The prompts.
        decoding: How it answers.
        seed: Seed of the sampling.
        numbers: Sample numbers, where a prompt is asked several times.
    """
    numbers = [0] * len(prompts) if numbers is None else numbers
    requests = [
        Request(prompt, decoding, seed, number)
        for prompt, number in zip(prompts, numbers, strict=True)
    ]
    answers = ask(engine, requests, repair=False)
    for answer in answers:
        answer.value = without_preamble(answer.value or "") if answer.error is None else None
    return answers


def unwritten(answer: Answer, completion: ParsedCompletion, what: str) -> Proposal | None:
    """The proposal of an answer whose text could not be written; None where it was.

    Args:
        answer: The answer that the text is for.
        completion: What the model wrote.
        what: What it is: the drop reasons are `<what>_cut` and `<what>_unparsed`.
    """
    proposal = Proposal(answer, None, (answer.id,), journal=list(completion.journal))
    if completion.error is not None:
        proposal.error = completion.error
    elif completion.rejection is not None:
        proposal.rejection = completion.rejection
    elif completion.completion.finish_reason == "length":
        proposal.rejection = f"{what}_cut", {"tokens": completion.completion.completion_tokens}
    elif not completion.value:
        proposal.rejection = f"{what}_unparsed", {}
    else:
        return None
    return proposal
