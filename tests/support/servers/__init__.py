"""A server whose behaviour is chosen by name: how its models answer, and what goes wrong.

    with switched(teacher) as server:
        Context.scratch(folder).open(server.model("inline reasoning")).generate(requests)
    assert server.bill("inline reasoning").completion

The behaviour is that of the model's name, up to a slash: "inline reasoning/2" is another model
that behaves alike. The answers are a script's, from the last turn of a prompt to a text and a
finish reason; what may go on between it and the client is in `behaviours.BEHAVIOURS`.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.models import LanguageModel
from pipeline.models.base import Limits
from pipeline.models.budget import Price
from pipeline.models.engines.registry import close_engines
from tests.support.scripted import Answer
from tests.support.servers import reasoning as forms
from tests.support.servers.behaviours import BEHAVIOURS, Behaviour
from tests.support.servers.writing import choices
from tests.support.serving import (
    FakeServer,
    HttpMessage,
    error_response,
    http_response,
    listening,
)

PRICE: Final = Price(prompt=3.0, completion=15.0)
ATTEMPTS: Final = 40
"""Of 429s at 60% the longest row among thousands of requests."""


@dataclass
class Bill:
    """What a server charges: the tokens of its answers, reasoning among those of completions."""

    prompt: int = 0
    completion: int = 0

    @property
    def money(self) -> float:
        """At `PRICE`."""
        return (self.prompt * PRICE.prompt + self.completion * PRICE.completion) / 1e6


@dataclass
class Switched:
    """Answers POSTs with a script, each model as its behaviour has it; a `serving.Responder`.

    Args:
        script: From the last turn of a prompt to the text and the finish reason.
        behaviours: The behaviours by name.

    Attributes:
        bills: What was charged, by behaviour.
        answered: How many requests were answered, by behaviour.
    """

    script: Callable[[str], Answer]
    behaviours: dict[str, Behaviour]
    bills: defaultdict[str, Bill] = field(default_factory=lambda: defaultdict(Bill))
    answered: Counter[str] = field(default_factory=Counter)
    rng: random.Random = field(default_factory=lambda: random.Random(15))

    async def __call__(self, request: HttpMessage) -> bytes:
        body = json.loads(request.body)
        name = body["model"].partition("/")[0]
        behaviour = self.behaviours[name]
        if message := behaviour.refuses and behaviour.refuses(body):
            return error_response("400 Bad Request", message)
        if self.rng.random() < behaviour.overloaded:
            return error_response("429 Too Many Requests", "slow down")
        if self.rng.random() < behaviour.broken:
            return error_response("500 Internal Server Error", "it broke")
        if behaviour.quota is not None and self.answered[name] >= behaviour.quota:
            error = {"message": "You exceeded your current quota.", "code": "insufficient_quota"}
            content = json.dumps({"error": {**error, "type": "insufficient_quota"}}).encode()
            return http_response("429 Too Many Requests", content)
        self.answered[name] += 1
        answer = self._content(behaviour, body, self.bills[name])
        if body.get("stream"):
            return http_response("200 OK", streamed(answer).encode(), "text/event-stream")
        return http_response("200 OK", json.dumps(answer).encode())

    def _content(self, behaviour: Behaviour, body: Mapping[str, Any], bill: Bill) -> dict[str, Any]:
        is_text = "messages" not in body
        prompt = str(body["prompt"] if is_text else body["messages"][-1]["content"])
        written, reason = self.script(prompt)
        answer = behaviour.write(written, body)
        choice: dict[str, Any] = {"index": 0}
        if behaviour.finish_reason:
            choice["finish_reason"] = reason
        if is_text:
            choice["text"] = forms.text(behaviour.reasoning, answer)
        else:
            shown = forms.message(behaviour.reasoning, answer)
            choice["message"] = {"role": "assistant", **shown}
            if behaviour.logprobs and body.get("logprobs") and choices(body):
                choice["logprobs"] = {"content": [label_logprobs(answer, choices(body))]}
        usage = charged(behaviour, json.dumps(body.get("messages") or prompt), answer, bill)
        return {"id": "x", "object": "answer", "choices": [choice], **usage}


def charged(behaviour: Behaviour, prompt: str, answer: str, bill: Bill) -> dict[str, Any]:
    """What a server says of the tokens of an answer, which it bills whatever it says."""
    prompted, completed = 1 + len(prompt) // 4, 1 + len(answer) // 4
    reasoned = 0 if behaviour.reasoning == "plain" else len(forms.SCRATCH) // 4
    bill.prompt += prompted
    bill.completion += completed + reasoned
    usage: dict[str, Any] = {"prompt_tokens": prompted}
    if behaviour.usage == "apart":
        usage |= {"completion_tokens": completed, "total_tokens": prompted + completed + reasoned}
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoned}
    else:
        usage["completion_tokens"] = completed + reasoned
    return {} if behaviour.usage == "missing" else {"usage": usage}


def label_logprobs(answer: str, labels: tuple[str, ...]) -> dict[str, Any]:
    """The entry of a label's token: the label is nearly certain, others are in small letters."""
    others = [label.lower() for label in labels if label.casefold() != answer.casefold()]
    top = [(answer, -0.01), *((f" {label}", -5.0 - n) for n, label in enumerate(others))]
    entries = [{"token": token, "logprob": logprob} for token, logprob in top]
    return {**entries[0], "top_logprobs": entries}


def streamed(content: Mapping[str, Any]) -> str:
    """An answer as a stream of events, its text in two pieces."""
    (choice,) = content["choices"]
    base = {"id": "x", "object": "chunk"}
    events: list[dict[str, Any]] = []
    for piece in (0, 1):
        part: dict[str, Any] = {"index": 0, "finish_reason": None}
        if "text" in choice:
            part["text"] = halves(choice["text"])[piece]
        else:
            part["delta"] = {"content": halves(choice["message"]["content"])[piece]}
        events.append({**base, "choices": [part]})
    end = {"index": 0, "finish_reason": choice["finish_reason"]}
    end |= {"text": ""} if "text" in choice else {"delta": {}}
    events += [{**base, "choices": [end]}, {**base, "choices": [], "usage": content["usage"]}]
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def halves(text: str) -> tuple[str, str]:
    """A text in two pieces."""
    return text[: len(text) // 2], text[len(text) // 2 :]


@dataclass
class Running:
    """A server that listens.

    Attributes:
        port: Where.
        server: The connections, with all requests.
        answers: What answers them.
    """

    port: int
    server: FakeServer
    answers: Switched

    def model(self, name: str, **more: Any) -> LanguageModel:
        """The model of a behaviour, with a price and what a recipe says of such a server."""
        behaviour = self.answers.behaviours[name.partition("/")[0]]
        limits = Limits(patience=20.0, attempts=ATTEMPTS)
        base_url = f"http://127.0.0.1:{self.port}/v1"
        options = {"price": PRICE, "api": behaviour.api, "limits": limits, **more}
        return LanguageModel(name, "openai", base_url=base_url, **options)

    def bill(self, name: str) -> Bill:
        """What the models of a behaviour have charged."""
        return self.answers.bills[name]


@contextmanager
def switched(script: Callable[[str], Answer], **more: Behaviour) -> Iterator[Running]:
    """A server that listens, until the end of the block.

    Args:
        script: What its models answer.
        more: Further behaviours by name.
    """
    answers = Switched(script, {**BEHAVIOURS, **more})
    server = FakeServer(answers)
    with listening(server) as port:
        try:
            yield Running(port, server, answers)
        finally:
            close_engines()
