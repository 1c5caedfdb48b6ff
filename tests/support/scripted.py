"""Language models for tests whose answers are a function of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.models import Completion, LanguageModel, Request, Scored

Answer = tuple[str, str]
"""Text and finish reason."""


class Scripted:
    """An engine that answers with a function of the prompt and records everything.

    Args:
        script: From the last turn of a prompt to the text and the finish reason; the finish
            reason "error" makes the request fail with the text as the message.

    Attributes:
        calls: The requests of each call.
        answers: The texts of each call.
    """

    name = "scripted"
    resample = 0
    fallback = None
    tokenizer: Any = None
    context_tokens: int | None = None
    weights: Any = None

    def __init__(self, script: Callable[[str], Answer]) -> None:
        self.script = script
        self.calls: list[list[Request]] = []
        self.answers: list[list[str]] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.calls.append(list(requests))
        answers = [self._answer(request) for request in requests]
        self.answers.append([answer.text for answer in answers])
        return answers

    def _answer(self, request: Request) -> Completion:
        prompt = request.prompt
        text = prompt if isinstance(prompt, str) else "".join(t for _, t in prompt[-1:])
        key = blake2b(repr(request).encode(), digest_size=16).hexdigest()
        answer, reason = self.script(text)
        if reason == "error":
            return Completion(key, "", "error", 0, 0, error=answer)
        return Completion(key, answer, reason, 0, 0)  # type: ignore[arg-type]

    def known(self, requests: Sequence[Request]) -> list[bool]:
        return [False for _ in requests]

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        raise AssertionError("nothing is scored here")


class ScriptedContext(Context):
    """A context whose every model is the scripted one."""

    engine: Scripted

    def open(self, model: LanguageModel) -> Scripted:  # type: ignore[override]
        return self.engine


def scripted(ctx: Context, script: Callable[[str], Answer]) -> ScriptedContext:
    """A context like another one, whose every model answers with the script."""
    context = ScriptedContext(ctx.files, ctx.work, ctx.store)
    context.engine = Scripted(script)
    return context
