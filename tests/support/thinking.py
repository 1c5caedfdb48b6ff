"""A server whose model reasons before it answers, in every form in which models do.

with listening(FakeServer(thinking("inline", teacher))) as port:
    Context.scratch(folder).open(served(port)).generate(requests)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from tests.support.scripted import Answer
from tests.support.serving import HttpMessage, Responder, http_response

SCRATCH: Final = (
    "SCRATCH: they want a task.\n1. SCRATCH one, at length.\n2. SCRATCH two.\nScore: 1\nYes\n"
    '{"quality": 1, "difficulty": 1, "needs_more": true}\n'
    "Instruction: SCRATCH it.\nAnswer: SCRATCH.\n"
)
"""Reasoning with all in it that a parser could take for an answer."""

USAGE: Final = {"prompt_tokens": 9, "completion_tokens": 9}


def _message(answer: str) -> dict[str, dict[str, Any]]:
    marked = f"<|channel|>analysis<|message|>{SCRATCH}<|end|><|start|>assistant<|channel|>"
    part = {"type": "thinking", "thinking": [{"type": "text", "text": SCRATCH}]}
    return {
        "plain": {"content": answer},
        "inline": {"content": f"<think>\n{SCRATCH}\n</think>\n\n{answer}"},
        "bare": {"content": f"{SCRATCH}</think>{answer}"},
        "upper": {"content": f"[THINK]{SCRATCH}[/THINK]{answer}"},
        "reasoning_content": {"content": answer, "reasoning_content": SCRATCH},
        "reasoning": {"content": answer, "reasoning": SCRATCH},
        "parts": {"content": [part, {"type": "text", "text": answer}]},
        "channel": {"content": f"{marked}final<|message|>{answer}"},
        "bare channel": {"content": f"analysis{SCRATCH}assistantfinal{answer}"},
        "unclosed": {"content": f"<think>\n{SCRATCH}"},
        "unclosed channel": {"content": f"<|channel|>analysis<|message|>{SCRATCH}"},
        "unanswered field": {"content": None, "reasoning_content": SCRATCH},
    }


FORMS: Final = tuple(_message(""))
PARTED: Final = tuple(f for f in FORMS if not f.startswith("un") and f != "plain")
UNCLOSED: Final = tuple(form for form in FORMS if form.startswith("un"))
FIELDS: Final = frozenset({"reasoning_content", "reasoning", "parts", "unanswered field"})
"""Forms that the endpoint for texts does not have."""


def thinking(form: str, script: Callable[[str], Answer]) -> Responder:
    """A responder that reasons in one form and then answers with a script.

    Args:
        form: One of `FORMS`.
        script: From the last turn of a prompt to the text and the finish reason.
    """

    async def answer(request: HttpMessage) -> bytes:
        content = json.loads(request.body)
        is_text = "messages" not in content
        prompt = content["prompt"] if is_text else content["messages"][-1]["content"]
        text, reason = script(prompt)
        messages = _message(text)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if is_text:
            inline = "unclosed" if form in UNCLOSED else "inline"
            choice["text"] = messages[inline if form in FIELDS else form]["content"]
        else:
            choice["message"] = {"role": "assistant", **messages[form]}
        body = {"id": "x", "object": "answer", "choices": [choice], "usage": USAGE}
        return http_response("200 OK", json.dumps(body).encode())

    return answer
