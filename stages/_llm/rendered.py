"""A conversation as a chat template renders it, and where in the text the assistant's words are.

What the assistant wrote is found by rendering the conversation a second time with a mark in
place of every answer. This needs neither generation marks in the template nor one that
renders the beginning of a conversation as the beginning of all of it.

A template that cannot show a row makes the row `Unrenderable`, never a poorer text: one that
refuses the roles, that leaves out the tools or the calls, and a text that holds one of the
tokenizer's own control tokens, which would be read as the end of a turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from schemas.turns import View, template_messages, template_tools

Span = tuple[int, int]
"""Start and end in characters."""

CONTENT_MARK: Final = "\ufffcanswer\ufffc"
REASONING_MARK: Final = "\ufffcreasoning\ufffc"
_MARKED: Final = re.compile(f"(?:{REASONING_MARK}(.*?))?{CONTENT_MARK}", re.DOTALL)


class Unrenderable(ValueError):
    """A conversation that the chat template cannot render, or renders changed."""


@dataclass(frozen=True)
class RenderedAnswer:
    """Where an assistant's turn stands in the rendered text.

    Attributes:
        turn: Its position in the messages.
        reasoning: Its reasoning; None where the template shows none.
        content: Its content, which may be empty.
        calls: Its tool calls; None without any.
    """

    turn: int
    reasoning: Span | None
    content: Span
    calls: Span | None

    def span(self, view: View = "all") -> Span:
        """From the first to the last of what a view shows; what is between is shown too."""
        start, end = self.content
        if view == "all" and self.reasoning:
            start = self.reasoning[0]
        if view != "content" and self.calls:
            end = self.calls[1]
        return start, end


@dataclass(frozen=True)
class RenderedText:
    """A conversation as text.

    Attributes:
        text: What the chat template gives.
        answers: The assistant's turns in it.
    """

    text: str
    answers: tuple[RenderedAnswer, ...]


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: str | None = None,
    template: str | None = None,
) -> RenderedText:
    """Render a conversation and say where its answers are.

    Args:
        tokenizer: The model's tokenizer.
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
        template: The text of a template in place of the tokenizer's own.

    Raises:
        Unrenderable: The template refuses the conversation, leaves something of it out or
            changes an answer, or a text holds a control token.
    """
    refuse_control_tokens(tokenizer, messages, tools)
    text = rendered_text(tokenizer, messages, tools, template)
    if tools and text == rendered_text(tokenizer, messages, None, template):
        raise Unrenderable("the chat template leaves out the tools")
    marked = [_marked(message) for message in messages]
    if any(message.get("tool_calls") for message in messages):
        without = [{**message, "tool_calls": None} for message in messages]
        if text == rendered_text(tokenizer, without, tools, template):
            raise Unrenderable("the chat template leaves out the tool calls")
    pattern = rendered_text(tokenizer, marked, tools, template)
    return RenderedText(text, _answers(text, pattern, messages))


def rendered_text(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: str | None = None,
    template: str | None = None,
    **options: bool,
) -> str:
    """The conversation as the chat template renders it.

    Args:
        tokenizer: The model's tokenizer.
        messages: The turns.
        tools: The definitions of the tools, as JSON text.
        template: The text of a template in place of the tokenizer's own.
        options: Further arguments of `apply_chat_template`.

    Raises:
        Unrenderable: The template refuses it, or there is none.
    """
    from jinja2 import TemplateError

    own = template or getattr(tokenizer, "chat_template", None)
    turns = template_messages(messages, own if isinstance(own, str) else "")
    try:
        text = tokenizer.apply_chat_template(
            turns, tools=template_tools(tools), chat_template=template, tokenize=False, **options
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise Unrenderable(f"the chat template refuses the conversation: {error}") from error
    return str(text)


def refuse_control_tokens(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: str | None = None
) -> None:
    """Refuse a conversation of which a text holds a control token of the tokenizer.

    Args:
        tokenizer: The model's tokenizer.
        messages: The turns.
        tools: The definitions of the tools, as JSON text.

    Raises:
        Unrenderable: One does; it would be read as what the template writes.
    """
    pattern = _control_tokens(tuple(sorted(_special(tokenizer))))
    if pattern is None:
        return
    for number, message in enumerate(messages, 1):
        for text in _texts(message):
            if match := pattern.search(text):
                raise Unrenderable(f"turn {number} holds the control token {match[0]!r}")
    if tools and (match := pattern.search(tools)):
        raise Unrenderable(f"the tools hold the control token {match[0]!r}")


def _special(tokenizer: Any) -> set[str]:
    return {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}


@cache
def _control_tokens(tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    alternatives = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, alternatives))) if alternatives else None


def _texts(message: Mapping[str, Any]) -> list[str]:
    texts = [message.get("content"), message.get("reasoning"), message.get("name")]
    for call in message.get("tool_calls") or ():
        texts += [call["name"], call["arguments"]]
    return [text for text in texts if text]


def _marked(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] != "assistant":
        return dict(message)
    reasoning = REASONING_MARK if message.get("reasoning") else None
    return {"role": "assistant", "content": CONTENT_MARK, "reasoning": reasoning}


def _answers(
    text: str, pattern: str, messages: Sequence[Mapping[str, Any]]
) -> tuple[RenderedAnswer, ...]:
    """The places of the answers: those of the marks, in the text without marks."""
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    # What precedes the first mark, then for each turn what joins its reasoning to its content
    # (None where no reasoning is shown) and what follows it.
    first, *rest = _MARKED.split(pattern)
    joints, followers = rest[::2], rest[1::2]
    if len(followers) != len(turns) or not text.startswith(first):
        raise _changed()
    at = len(first)
    answers = []
    for turn, joint, follower in zip(turns, joints, followers, strict=True):
        last = turn == turns[-1]
        answer = _answer(text, at, messages[turn], turn, joint, follower, last=last)
        answers.append(answer)
        at = answer.span()[1] + len(follower)
    if at != len(text):
        raise _changed()
    return tuple(answers)


def _answer(
    text: str,
    at: int,
    message: Mapping[str, Any],
    turn: int,
    joint: str | None,
    follower: str,
    *,
    last: bool,
) -> RenderedAnswer:
    reasoning = None
    if joint is not None:
        reasoning = _shown(text, at, message["reasoning"], joint)
        at = reasoning[1] + len(joint)
    content, calls = message.get("content") or "", None
    if message.get("tool_calls"):
        start = _shown(text, at, content, "")
        end = len(text) - len(follower) if last else text.find(follower, start[1])
        if end < start[1]:
            raise _changed()
        calls = (start[1], end)
    else:
        start = _shown(text, at, content, follower)
    if not text.startswith(follower, calls[1] if calls else start[1]):
        raise _changed()
    return RenderedAnswer(turn, reasoning, start, calls)


def _shown(text: str, at: int, value: str, follower: str) -> Span:
    """Where a value stands, which some templates strip."""
    shown = value if text.startswith(value + follower, at) else value.strip()
    if not text.startswith(shown + follower, at):
        raise _changed()
    return at, at + len(shown)


def _changed() -> Unrenderable:
    return Unrenderable("the chat template changes the text of an answer, so it cannot be found")
