"""Requests in more than one step: with a larger limit, repaired once, sampled anew, handed over.

A stage calls `ask`, or `Engine.generate` for a single step without any of this. An answer that
cannot be read is not a failure: what stays unreadable is dropped, and the next run gives the
same rows. Only what was not answered has failed.
Engines that can restrict the sampling to a form know it from the request
(`Decoding.choice`, `json_schema`). The answer is parsed and checked here, whichever engine
gave it, so a replay does not need to know that engine.

What a model refuses or fails goes to its `fallback`, if the recipe names one: an answer that
opens by refusing (free text alone: a label or JSON is none), one that the provider withheld, one
that stays unreadable or whose reasoning does not end, and a request that was not answered. The
fallback is asked in the same steps, and what it answers counts, a refusal too. Its answer is
durable in the place of the first model's: whatever that one would say later, the request is not
sent to it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from pipeline.models.api import UNRECORDED
from pipeline.models.base import Completion, Engine, Request
from pipeline.models.budget import NOT_ASKED
from pipeline.models.counting import CountingEngine, is_counting
from pipeline.models.structured_output import Parser, Unreadable, parser_for
from schemas.refusals import REFUSAL

Rejection = tuple[str, dict[str, Any]]
"""A drop reason and the evidence for it."""

Check = Callable[[Completion], object]
"""Raises `Unreadable` for a completion that cannot be used."""

RESAMPLING_TEMPERATURE: Final = 0.7
"""Of answers that are sampled anew where the first one was greedy: it would be the same."""

_EVIDENCE_CHARACTERS: Final = 200
"""How much of the end of an unreadable answer is kept as evidence."""

_OPENING_CHARACTERS: Final = 400
"""How much of the beginning of an answer is searched for a refusal."""

_HANDED_OVER: Final = Completion("", "", "error", 0, 0, "its fallback has answered in its place")
"""In the place of a request that is not sent, because the fallback has answered it before."""


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
            `reasoning_unclosed`, with the answer's end, or `withheld`.
        fallback: The name of the model that answered in the place of the first one.
        handed_over: Whether an earlier run has asked the fallback for it.
    """

    request: Request
    completion: Completion
    journal: list[str]
    value: Any = None
    error: str | None = None
    rejection: Rejection | None = None
    fallback: str | None = None
    handed_over: bool = False

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

    A complete answer that is unreadable even then is sampled anew `Engine.resample` times; what
    the model refuses or fails is handed over to `Engine.fallback`.

    Returns:
        One result for each request, in order.

    Raises:
        UserError: See `Engine.generate`.
    """
    second = engine.fallback
    handed_over = second.known(requests) if second and requests else [False] * len(requests)
    steps = _Steps(engine, parse, check, tuple(retry_max_tokens), repair)
    answers = steps.ask(requests, handed_over)
    if second and not is_counting():
        again = [i for i, answer in enumerate(answers) if _is_left(answer)]
        others = replace(steps, engine=second).ask([requests[i] for i in again])
        for i, other in zip(again, others, strict=True):
            answers[i] = _in_place(answers[i], other, second.name)
    return answers


def _is_left(answer: ParsedCompletion) -> bool:
    """Whether an answer is one that a fallback is asked for."""
    if answer.error is not None and answer.error.startswith(NOT_ASKED):
        return False  # the budget left it out, and would again
    return not answer.readable or is_refusal(answer.request, answer.completion.text)


def _in_place(first: ParsedCompletion, second: ParsedCompletion, name: str) -> ParsedCompletion:
    """The fallback's answer in the place of the first model's."""
    if second.completion.unsent:
        return first
    # A request that was not answered has no entry in the journal.
    keys = first.journal if first.error is None else first.journal[:-1]
    return replace(second, journal=[*keys, *second.journal], fallback=name)


def is_refusal(request: Request, text: str) -> bool:
    """Whether an answer of free text opens by saying that it cannot or will not help.

    Args:
        request: The request.
        text: Its answer.

    Example:
        >>> is_refusal(Request("Why?"), "I'm sorry, but I can't help with that.")
        True
    """
    decoding = request.decoding
    is_free = not decoding.choice and decoding.json_schema is None and request.role == "assistant"
    return is_free and _refusal().match(text[:_OPENING_CHARACTERS]) is not None


@cache
def _refusal() -> re.Pattern[str]:
    return re.compile(REFUSAL)


@dataclass(frozen=True)
class _Steps:
    """The steps in which one model is asked; its fields are those of `ask`."""

    engine: Engine
    parse: Parser | None
    check: Check | None
    limits: tuple[int, ...]
    repair: bool

    def ask(
        self, requests: Sequence[Request], handed_over: Sequence[bool] | None = None
    ) -> list[ParsedCompletion]:
        """One result for each request.

        Args:
            requests: The requests.
            handed_over: Which of them a fallback has answered before: of these nothing more is
                sent, and what the journal has counts.
        """
        flags = handed_over or [False] * len(requests)
        answers = [
            ParsedCompletion(request, completion, [completion.key], handed_over=flag)
            for request, completion, flag in zip(
                requests, self._complete(requests, flags), flags, strict=True
            )
        ]
        self._note_repeats(answers)
        for limit in self.limits:
            self._retry_truncated(answers, limit)
        for answer in answers:
            self._parse(answer)
        if self.repair:
            self._repair([a for a in answers if _may_be_better(a)])
        for number in range(1, self.engine.resample + 1):
            self._resample([a for a in answers if _may_be_better(a)], number)
        return answers

    def _note_repeats(self, answers: Sequence[ParsedCompletion]) -> None:
        """While requests are only counted, count those that may follow them.

        An answer that need not have a form is neither repaired nor sampled anew.
        """
        if not isinstance(self.engine, CountingEngine):
            return
        any_form = self.parse is not None or self.check is not None
        for answer in answers:
            decoding = answer.request.decoding
            if answer.completion.key in self.engine.made_up:
                form = any_form or bool(decoding.choice) or decoding.json_schema is not None
                repair = self.repair and form
                self.engine.may_repeat(answer.request, self.limits, repair=repair, resample=form)

    def _complete(self, requests: Sequence[Request], flags: Sequence[bool]) -> list[Completion]:
        """The completions; of requests that were handed over only those that the journal has."""
        known = self.engine.known(requests) if any(flags) else [True] * len(requests)
        sent = [not flag or has for flag, has in zip(flags, known, strict=True)]
        chosen = [request for request, is_sent in zip(requests, sent, strict=True) if is_sent]
        completions = iter(self.engine.generate(chosen) if chosen else ())
        return [next(completions) if is_sent else _HANDED_OVER for is_sent in sent]

    def _again(
        self, answers: Sequence[ParsedCompletion], requests: Sequence[Request]
    ) -> list[tuple[ParsedCompletion, Request, Completion]]:
        """Send another request for each answer; those that could not be sent are left out.

        One that was not answered has failed, whatever there was before: the next run would get
        another result otherwise.
        """
        completions = self._complete(requests, [answer.handed_over for answer in answers])
        sent = []
        for answer, request, completion in zip(answers, requests, completions, strict=True):
            if completion.unsent or completion.error == UNRECORDED:
                continue
            answer.journal.append(completion.key)
            answer.completion = completion
            sent.append((answer, request, completion))
        return sent

    def _retry_truncated(self, answers: Sequence[ParsedCompletion], limit: int) -> None:
        """Request truncated answers again with a larger limit."""
        truncated = [
            answer
            for answer in answers
            if answer.completion.finish_reason in ("length", "reasoning_unclosed")
            and answer.request.decoding.max_tokens < limit
        ]
        requests = [
            replace(a.request, decoding=replace(a.request.decoding, max_tokens=limit))
            for a in truncated
        ]
        for answer, request, _ in self._again(truncated, requests):
            answer.request = request

    def _parse(self, answer: ParsedCompletion) -> None:
        completion = answer.completion
        answer.value, answer.error, answer.rejection = None, None, None
        if completion.finish_reason == "withheld":
            answer.rejection = "withheld", {"why": completion.error}
            return
        if completion.finish_reason == "reasoning_unclosed":
            answer.rejection = unclosed(completion)
            return
        if completion.error is not None:
            answer.error = completion.error
            return
        try:
            answer.value = (self.parse or parser_for(answer.request.decoding))(completion.text)
            if self.check is not None:
                self.check(completion)
        except Unreadable as error:
            cut = f" (cut at {completion.completion_tokens} tokens)"
            why = str(error) + ("" if completion.finish_reason == "stop" else cut)
            end = completion.text[-_EVIDENCE_CHARACTERS:]
            answer.value, answer.rejection = None, ("unreadable", {"why": why, "response_end": end})

    def _repair(self, unreadable: Sequence[ParsedCompletion]) -> None:
        """Show the model its answers with what is wrong with them, once."""
        requests = [replace(answer.request, prompt=_repair_prompt(answer)) for answer in unreadable]
        for answer, *_ in self._again(unreadable, requests):
            self._parse(answer)

    def _resample(self, unreadable: Sequence[ParsedCompletion], number: int) -> None:
        """Sample the answers anew."""
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
        for answer, *_ in self._again(unreadable, requests):
            self._parse(answer)


def _may_be_better(answer: ParsedCompletion) -> bool:
    """Whether there is a complete answer that cannot be read: it is repaired or sampled anew."""
    return answer.rejection is not None and answer.completion.finish_reason == "stop"


def unclosed(completion: Completion) -> Rejection:
    """The rejection of a completion whose reasoning did not come to an answer.

    Args:
        completion: The completion.
    """
    end = completion.reasoning[-_EVIDENCE_CHARACTERS:]
    evidence = {"tokens": completion.completion_tokens, "reasoning_end": end}
    return "reasoning_unclosed", evidence


def _repair_prompt(answer: ParsedCompletion) -> str | tuple[tuple[str, str], ...]:
    # This text enters the keys of requests: a change would send all repairs again.
    why = answer.rejection[1].get("why", "") if answer.rejection else ""
    plea = f"That cannot be used: {why}. Answer again, with nothing else."
    prompt, text = answer.request.prompt, answer.completion.text
    if isinstance(prompt, str):
        return f"{prompt}{text}\n\n{plea}\n\n"
    reply = (("assistant", text),) if text.strip() else ()
    return (*prompt, *reply, ("user", plea))
