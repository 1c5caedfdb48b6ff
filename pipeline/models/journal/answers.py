"""The answer in a parsed response, without the reasoning before it: pure, and for every engine.

The journal keeps responses as they came; parting happens whenever one is read, so nothing
behind an engine has to know how a model reasons.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from pipeline.models.api import Reasoning
from pipeline.models.base import Decoding, TokenLogprobs
from pipeline.models.journal.responses import ParsedResponse
from schemas.reasoning import MARKS, Mark, Parted, parted

Prompt = str | tuple[tuple[str, str], ...]

_MARK_CHARACTERS: Final = 200
"""Characters of a prompt's end in which a mark of reasoning may stand."""


def answer_of(
    parsed: ParsedResponse, prompt: Prompt, decoding: Decoding, reasoning: Reasoning
) -> Parted:
    """The answer of a response without its reasoning, whatever form that has.

    An answer that was held to a form from its first token on has no reasoning before it, even
    where the prompt had opened it.

    Args:
        parsed: The response.
        prompt: What was sent: a rendered text, or messages that a server rendered.
        decoding: How the answer was sampled.
        reasoning: How the model reasons.

    Example:
        >>> parsed = ParsedResponse("2 and 2.</think>4", "stop", 0, 0)
        >>> answer_of(parsed, "2 + 2?", Decoding(), Reasoning()).answer
        '4'
    """
    if parsed.only_reasoned:
        return Parted("", parsed.reasoning, unclosed=True)
    opened = None if parsed.reasoning or parsed.error else _opened(prompt, reasoning)
    if opened is not None and _has_form(parsed.text, decoding):
        opened = None
    answer = parted(parsed.text, reasoning.marks, opened)
    thoughts = [text for text in (parsed.reasoning, answer.reasoning) if text]
    return replace(answer, reasoning="\n\n".join(thoughts))


def _opened(prompt: Prompt, reasoning: Reasoning) -> Mark | None:
    """The mark that the prompt has opened, as far as that is known."""
    marks = (*reasoning.marks, *MARKS)
    if not isinstance(prompt, str):
        return marks[0] if reasoning.opened else None
    end = prompt[-_MARK_CHARACTERS:].rstrip()
    return next((mark for mark in marks if end.endswith(mark[0])), None)


def _has_form(text: str, decoding: Decoding) -> bool:
    if decoding.choice:
        return text in decoding.choice
    try:
        return decoding.json_schema is not None and json.loads(text) is not None
    except (ValueError, RecursionError):
        return False


def answer_logprobs(
    logprobs: tuple[TokenLogprobs, ...], answer: Parted, reasoning: Reasoning
) -> tuple[TokenLogprobs, ...]:
    """The log-probabilities of the answer's own tokens: servers report those of reasoning too.

    Args:
        logprobs: One entry for each token of the response.
        answer: The answer, parted.
        reasoning: How the model reasons.

    Returns:
        Those of the answer; none where it cannot be told which those are.
    """
    if answer.unclosed:
        return ()
    if not answer.reasoning or not logprobs:
        return logprobs
    text = "".join(entry.token for entry in logprobs)
    start = parted(text, reasoning.marks).start
    rest = text[start:].lstrip()
    if not rest.startswith(answer.answer):
        return ()
    start, at = len(text) - len(rest), 0
    for number, entry in enumerate(logprobs):
        at += len(entry.token)
        if at > start:
            return logprobs[number:]
    return ()
