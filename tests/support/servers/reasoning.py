"""The forms in which models reason before they answer, as messages of a server."""

from __future__ import annotations

from typing import Any, Final

SCRATCH: Final = (
    "SCRATCH: they want a task.\n1. SCRATCH one, at length.\n2. SCRATCH two.\nScore: 1\nYes\n"
    '{"quality": 1, "difficulty": 1, "needs_more": true}\n'
    "Instruction: SCRATCH it.\nAnswer: SCRATCH.\n"
)
"""Reasoning with all in it that a parser could take for an answer."""


def message(form: str, answer: str) -> dict[str, Any]:
    """What a server says that reasons in a form: the fields of its message.

    Args:
        form: One of `FORMS`.
        answer: The answer.
    """
    return _messages(answer)[form]


def text(form: str, answer: str) -> str:
    """The same as one text, for the endpoint that has no messages."""
    inline = "unclosed" if form in UNCLOSED else "inline"
    return str(_messages(answer)[inline if form in FIELDS else form]["content"])


def _messages(answer: str) -> dict[str, dict[str, Any]]:
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


FORMS: Final = tuple(_messages(""))
PARTED: Final = tuple(f for f in FORMS if not f.startswith("un") and f != "plain")
UNCLOSED: Final = tuple(form for form in FORMS if form.startswith("un"))
FIELDS: Final = frozenset({"reasoning_content", "reasoning", "parts", "unanswered field"})
"""Forms that the endpoint for texts does not have."""
