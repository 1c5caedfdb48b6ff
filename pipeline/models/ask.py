"""Requests in more than one step: with a larger limit, repaired once, or sampled anew.

A stage calls `Engine.generate` for a single step, and `ask` when a truncated answer
deserves a larger limit, or when the answer must have a form. An answer that cannot be read
is not a failure: what stays unreadable is dropped, and the next run gives the same rows.
Engines that can restrict the sampling to a form know it from the request
(`Decoding.choice`, `json_schema`). The answer is parsed and checked here, whichever engine
gave it, so a replay does not need to know that engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.models.base import UNRECORDED, Completion, Engine, Request
from pipeline.models.counting import CountingEngine
from pipeline.models.structured_output import Parser, Unreadable, parser_for

Rejection = tuple[str, dict[str, Any]]
"""A drop reason and the evidence for it."""

Check = Callable[[Completion], object]
"""Raises `Unreadable` for a completion that cannot be used."""

RESAMPLING_TEMPERATURE: Final = 0.7
"""Of answers that are sampled anew where the first one was greedy: it would be the same."""

_EVIDENCE_CHARACTERS: Final = 200
"""How much of the end of an unreadable answer is kept as evidence."""


@dataclass
class ParsedCompletion:
    """The result of a request and its retries.

    Args:
        request: The last request that was sent with the original prompt.
        completion: The last completion.
        journal: The keys of all completions that led to it, in order.
        value: What was parsed from it; None where there is an error or a rejection.
        error: Why there is no answer: the next run asks again.
        rejection: Why there is no value although there is an answer: `unreadable` or
            `reasoning_unclosed`, with the answer's end.
    """

    request: Request
    completion: Completion
    journal: list[str]
    value: Any = None
    error: str | None = None
    rejection: Rejection | None = None

    @property
    def readable(self) -> bool:
        """Whether there is a value."""
        return self.error is None and self.rejection is None


def ask(
    engine: Engine,
    requests: Sequence[Request],
    *,
    parse: Parser | None = None,
    check: Check | None = None,
    retry_max_tokens: Sequence[int] = (),
    repair: bool = True,
) -> list[ParsedCompletion]:
    """Send requests and parse the answers.

    Args:
        engine: The language model.
        requests: The requests.
        parse: From text to value, raising `Unreadable`. By default what each request's own
            decoding says: one of its choices, JSON of its schema, or the text as it is.
        check: Raises `Unreadable` for a completion that cannot be used although it has the
            form, such as one whose probabilities are not those of labels.
        retry_max_tokens: Increasing limits in tokens: an answer that was truncated, also
            within reasoning, is requested again with the next limit. One that is truncated at
            the last limit is parsed as it is.
        repair: Whether an unreadable answer is shown to the model once, with the reason,
            for a better one.

    A complete answer that is unreadable even then is sampled anew `Engine.resample` times.

    Returns:
        One result for each request, in order.

    Raises:
        UserError: See `Engine.generate`.
    """
    answers = _send(engine, requests)
    _note_repeats(engine, answers, retry_max_tokens, repair, any_form=bool(parse or check))
    for limit in retry_max_tokens:
        _retry_truncated(engine, answers, limit)
    for answer in answers:
        _parse(answer, parse, check)
    if repair:
        _repair(engine, [a for a in answers if a.rejection and _is_complete(a)], parse, check)
    for number in range(1, engine.resample + 1):
        unreadable = [a for a in answers if a.rejection and _is_complete(a)]
        _resample(engine, unreadable, number, parse, check)
    return answers


def _send(engine: Engine, requests: Sequence[Request]) -> list[ParsedCompletion]:
    if not requests:
        return []
    completions = engine.generate(requests)
    return [
        ParsedCompletion(request, completion, [completion.key])
        for request, completion in zip(requests, completions, strict=True)
    ]


def _note_repeats(
    engine: Engine,
    answers: Sequence[ParsedCompletion],
    limits: Sequence[int],
    repair: bool,
    any_form: bool,
) -> None:
    """While requests are only counted, count those that may follow; an answer that need not
    have a form is neither repaired nor sampled anew."""
    if not isinstance(engine, CountingEngine):
        return
    for answer in answers:
        decoding = answer.request.decoding
        if answer.completion.key in engine.made_up:
            form = any_form or bool(decoding.choice) or decoding.json_schema is not None
            engine.may_repeat(answer.request, limits, repair=repair and form, resample=form)


def _retry_truncated(engine: Engine, answers: Sequence[ParsedCompletion], limit: int) -> None:
    """Request truncated answers again with a larger limit."""
    truncated = [
        answer
        for answer in answers
        if answer.completion.finish_reason in ("length", "reasoning_unclosed")
        and answer.request.decoding.max_tokens < limit
    ]
    retries = [
        replace(a.request, decoding=replace(a.request.decoding, max_tokens=limit))
        for a in truncated
    ]
    for answer, new in zip(truncated, _send(engine, retries), strict=True):
        if new.completion.error is None:
            answer.request, answer.completion = new.request, new.completion
            answer.journal += new.journal


def _parse(answer: ParsedCompletion, parse: Parser | None, check: Check | None) -> None:
    completion = answer.completion
    answer.value, answer.error, answer.rejection = None, completion.error, None
    if answer.error is not None:
        return
    if completion.finish_reason == "reasoning_unclosed":
        answer.rejection = unclosed(completion)
        return
    try:
        answer.value = (parse or parser_for(answer.request.decoding))(completion.text)
        if check is not None:
            check(completion)
    except Unreadable as error:
        cut = f" (cut at {completion.completion_tokens} tokens)" * (not _is_complete(answer))
        end = completion.text[-_EVIDENCE_CHARACTERS:]
        evidence = {"why": f"{error}{cut}", "response_end": end}
        answer.value, answer.rejection = None, ("unreadable", evidence)


def unclosed(completion: Completion) -> Rejection:
    """The rejection of a completion whose reasoning did not come to an answer.

    Args:
        completion: The completion.
    """
    end = completion.reasoning[-_EVIDENCE_CHARACTERS:]
    evidence = {"tokens": completion.completion_tokens, "reasoning_end": end}
    return "reasoning_unclosed", evidence


def _is_complete(answer: ParsedCompletion) -> bool:
    """Whether there is a complete answer, which can be repaired."""
    return answer.completion.finish_reason == "stop"


def _repair(
    engine: Engine,
    unreadable: Sequence[ParsedCompletion],
    parse: Parser | None,
    check: Check | None,
) -> None:
    """Show the model its answers with what is wrong with them, once."""
    repairs = [replace(answer.request, prompt=_repair_prompt(answer)) for answer in unreadable]
    for answer, new in zip(unreadable, _send(engine, repairs), strict=True):
        answer.journal += new.journal
        if new.completion.error is None:
            answer.completion = new.completion
            _parse(answer, parse, check)


def _resample(
    engine: Engine,
    unreadable: Sequence[ParsedCompletion],
    number: int,
    parse: Parser | None,
    check: Check | None,
) -> None:
    """Sample the answers anew; one that is not answered then has failed."""
    requests = [
        replace(
            answer.request,
            resample=number,
            decoding=replace(
                answer.request.decoding,
                temperature=answer.request.decoding.temperature or RESAMPLING_TEMPERATURE,
            ),
        )
        for answer in unreadable
    ]
    for answer, new in zip(unreadable, _send(engine, requests), strict=True):
        if new.completion.error == UNRECORDED:
            continue
        answer.journal += new.journal
        answer.completion = new.completion
        _parse(answer, parse, check)


def _repair_prompt(answer: ParsedCompletion) -> str | tuple[tuple[str, str], ...]:
    # This text enters the keys of requests: a change would send all repairs again.
    why = answer.rejection[1].get("why", "") if answer.rejection else ""
    plea = f"That cannot be used: {why}. Answer again, with nothing else."
    prompt, text = answer.request.prompt, answer.completion.text
    if isinstance(prompt, str):
        return f"{prompt}{text}\n\n{plea}\n\n"
    reply = (("assistant", text),) if text.strip() else ()
    return (*prompt, *reply, ("user", plea))
