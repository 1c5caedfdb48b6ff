"""Stand-ins for strong models, whose real answers no test can afford: they say what is scripted."""

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
    """Answers with a function of the prompt, and remembers what it was asked and said."""

    tokenizer: Any = None
    context_tokens: int | None = None

    def __init__(self, script: Callable[[str], Answer]) -> None:
        self.script = script
        self.asked: list[list[Request]] = []
        self.said: list[list[str]] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked.append(list(requests))
        answers = [self._answer(request) for request in requests]
        self.said.append([answer.text for answer in answers])
        return answers

    def _answer(self, request: Request) -> Completion:
        prompt = request.prompt
        text = prompt if isinstance(prompt, str) else prompt[-1][1]
        key = blake2b(repr(request).encode(), digest_size=16).hexdigest()
        said, reason = self.script(text)
        if reason == "error":
            return Completion(key, "", "error", 0, 0, error=said)
        return Completion(key, said, reason, 0, 0)  # type: ignore[arg-type]

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        raise AssertionError("nothing is scored here")


class ScriptedContext(Context):
    """A context whose every model is the scripted one."""

    engine: Scripted

    def open(self, model: LanguageModel) -> Scripted:  # type: ignore[override]
        return self.engine


def scripted(ctx: Context, script: Callable[[str], Answer]) -> ScriptedContext:
    context = ScriptedContext(ctx.files, ctx.work, ctx.store)
    context.engine = Scripted(script)
    return context
