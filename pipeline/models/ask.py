"""Asking in more than one step: longer where an answer was cut, once more where it is unreadable.

Stages ask through `Engine.generate`; they come here when a cut answer deserves a
larger limit, or when the answer must have a form. An engine that can guide the
sampling was told the form with the request (`Decoding.choice`, `json_schema`). The
answer is read and checked whoever gave it, so a replay needs to know nothing of
the engine that did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.models.base import Completion, Engine, Request
from pipeline.models.structured_output import Read, Unreadable, reader


@dataclass
class ParsedCompletion:
    """What came of a request. completion: the last one asked for.

    value: what was read from it, None where `error` says why there is none.
    journal: the keys of all completions that led to it, in order.
    """

    request: Request
    completion: Completion
    journal: list[str]
    value: Any = None
    error: str | None = None


def ask(
    engine: Engine,
    requests: Sequence[Request],
    *,
    read: Read | None = None,
    larger: Sequence[int] = (),
    repair: bool = True,
) -> list[ParsedCompletion]:
    """The answers, in the order of the requests; each says what was read or why nothing was.

    read: from text to value, raising `Unreadable`; by default what each request's own
        decoding asks for: one of its choices, JSON of its schema, or the text as it is.
    larger: limits in tokens, rising: what was cut at one is asked again with the next,
        only that. What is still cut at the last is read as it stands.
    repair: an unreadable answer is shown to the model once, with what is wrong with it.
    """
    answers = _asked(engine, requests)
    for limit in larger:
        _again(engine, answers, limit)
    for answer in answers:
        _read(answer, read)
    if repair:
        _repair(engine, [a for a in answers if a.error and _repairable(a)], read)
    return answers


def _asked(engine: Engine, requests: Sequence[Request]) -> list[ParsedCompletion]:
    if not requests:
        return []
    completions = engine.generate(requests)
    return [
        ParsedCompletion(request, completion, [completion.key])
        for request, completion in zip(requests, completions, strict=True)
    ]


def _again(engine: Engine, answers: Sequence[ParsedCompletion], limit: int) -> None:
    """Ask what was cut again with a larger limit."""
    cut = [
        answer
        for answer in answers
        if answer.completion.finish_reason == "length"
        and answer.request.decoding.max_tokens < limit
    ]
    longer = [
        replace(a.request, decoding=replace(a.request.decoding, max_tokens=limit)) for a in cut
    ]
    for answer, new in zip(cut, _asked(engine, longer), strict=True):
        if new.completion.error is None:
            answer.request, answer.completion = new.request, new.completion
            answer.journal += new.journal


def _read(answer: ParsedCompletion, read: Read | None) -> None:
    completion = answer.completion
    answer.value, answer.error = None, completion.error
    if answer.error is not None:
        return
    try:
        answer.value = (read or reader(answer.request.decoding))(completion.text)
    except Unreadable as error:
        cut = f" (cut at {completion.completion_tokens} tokens)" * (not _repairable(answer))
        answer.error = f"unreadable: {error}{cut}"


def _repairable(answer: ParsedCompletion) -> bool:
    """Whether there is a whole answer to be repaired."""
    return answer.completion.finish_reason == "stop"


def _repair(engine: Engine, unreadable: Sequence[ParsedCompletion], read: Read | None) -> None:
    """Show the model what it wrote and what is wrong with it, once."""
    repairs = [replace(answer.request, prompt=_repairing(answer)) for answer in unreadable]
    for answer, new in zip(unreadable, _asked(engine, repairs), strict=True):
        answer.journal += new.journal
        if new.completion.error is None:
            answer.completion = new.completion
            _read(answer, read)


def _repairing(answer: ParsedCompletion) -> str | tuple[tuple[str, str], ...]:
    why = (answer.error or "").removeprefix("unreadable: ")
    plea = f"That cannot be used: {why}. Answer again, with nothing else."
    prompt, text = answer.request.prompt, answer.completion.text
    if isinstance(prompt, str):
        return f"{prompt}{text}\n\n{plea}\n\n"
    said = (("assistant", text),) if text.strip() else ()
    return (*prompt, *said, ("user", plea))
