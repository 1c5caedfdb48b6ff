"""Where in a rendered conversation the assistant's words stand.

They are found with marks: the conversation is rendered again with a mark on each side of every
content and reasoning, and has to be the same text once the marks are taken out. So a place is
never searched for in the text, where the same words may stand twice. Templates strip texts:
then the marks stand within the white space. This needs neither generation marks in a template
nor one that renders the beginning of a conversation as the beginning of all of it.

Two places cannot be marked like that:

- Where a turn without content would have its content is known from a rendering in which it
  has one, and else from the prompt that ends where the turn begins.
- Calls end with the control token that follows the last of them. Which one of all control
  tokens it is, is seen in a rendering with a mark in the arguments; data has none of them.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.local.literal_tokens import control_tokens
from schemas.turns import View, parsed

Message = Mapping[str, Any]
Render = Callable[..., str]
"""Renders messages; further arguments are those of `apply_chat_template`."""

Span = tuple[int, int]
"""Start and end in characters."""

Places = dict[str, list[int]]
"""The positions of each mark, in the text without marks."""

_MARK: Final = re.compile("\ufffc([0-9]+:[a-z<>]+[0-9]*)\ufffc")


@dataclass(frozen=True)
class RenderedAnswer:
    """Where an assistant's turn stands in the rendered text.

    Attributes:
        turn: Its position in the messages.
        start: Where it begins: with what opens its reasoning, or with its content.
        reasoning: Its reasoning; None where the template shows none.
        content: Its content, which may be empty.
        calls: Its tool calls; None without any.
    """

    turn: int
    start: int
    reasoning: Span | None
    content: Span
    calls: Span | None

    @property
    def end(self) -> int:
        """Where it ends, without what the template ends it with."""
        return self.calls[1] if self.calls else self.content[1]

    def span(self, view: View = "all") -> Span:
        """From the first to the last of what a view shows; what is between is shown too."""
        start = self.start if view == "all" else self.content[0]
        return start, self.content[1] if view == "content" else self.end


def answer_places(
    render: Render, tokenizer: Any, text: str, messages: Sequence[Message]
) -> tuple[RenderedAnswer, ...]:
    """Where the answers of a conversation stand in its rendered text.

    Args:
        render: Renders messages as the text was rendered.
        tokenizer: The model's tokenizer.
        text: The rendered conversation; control tokens of its own texts are covered.
        messages: Its turns.

    Raises:
        Unrenderable: The template leaves something out or changes it.
    """
    if _MARK.search(text):
        raise Unrenderable("a text holds what marks the answers here")
    places = _marked_places(render, text, messages)
    for number, message in enumerate(messages):
        if message["role"] != "assistant" and _said(message) and f"{number}:text" not in places:
            raise Unrenderable(
                f"the chat template leaves out turn {number + 1} ({message['role']})"
            )
    blanks = _blank_places(render, text, messages)
    ends = _call_ends(render, tokenizer, text, messages)
    header = _header(render) if any(m.get("reasoning") for m in messages) else ""
    answers: list[RenderedAnswer] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = answers[-1].end if answers else 0
            answer = _answer(text, number, message, places, blanks, ends)
            answer = _opened(text, answer, before, header)
            _check(text, answer, message, before)
            answers.append(answer)
    return tuple(answers)


def prompt_places(render: Render, text: str, messages: Sequence[Message]) -> tuple[Span, ...]:
    """Where what others than the assistant say stands in a rendered conversation.

    Args:
        render: Renders messages as the text was rendered.
        text: The rendered conversation.
        messages: Its turns.

    Raises:
        Unrenderable: The template changes what is said.
    """
    places = _marked_places(render, text, messages)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant" and _said(message):
            value = message["content"]
            shown = value.strip()
            start = places[f"{number}:text"][0] - len(shown) // 2
            if text[start : start + len(shown)] != shown:
                raise _changed()
            spans.append((start, start + len(shown)))
    return tuple(spans)


def _said(message: Message) -> bool:
    return bool((message.get("content") or "").strip())


def _mark(turn: int, name: str) -> str:
    return f"\ufffc{turn}:{name}\ufffc"


def _without_marks(text: str) -> tuple[str, Places]:
    """The text without marks, and where they stood."""
    places: Places = {}
    pieces, length, at = [], 0, 0
    for match in _MARK.finditer(text):
        pieces.append(text[at : match.start()])
        length += len(pieces[-1])
        places.setdefault(match[1], []).append(length)
        at = match.end()
    return "".join([*pieces, text[at:]]), places


def _marked_places(render: Render, text: str, messages: Sequence[Message]) -> Places:
    """The positions of marks at all contents and reasonings."""
    for within in (False, True):
        plain, places = _without_marks(render(_marked(messages, within=within)))
        if plain == text:
            return places
    raise _changed()


def _marked(messages: Sequence[Message], *, within: bool = False) -> list[dict[str, Any]]:
    """The messages with marks; within: not around the white space that surrounds a text."""
    marked = []
    for number, message in enumerate(messages):
        new = dict(message)
        if message["role"] == "assistant":
            for field in ("reasoning", "content"):
                value = message.get(field) or ""
                # A blank reasoning is shown as it is, or left out.
                if value.strip() or (value and field == "reasoning" and not within):
                    new[field] = _surrounded(value, number, field, within=within)
        elif _said(message):
            # In the middle: templates ask how a user's text begins and ends.
            value = message["content"]
            middle = value.index(value.strip()) + len(value.strip()) // 2
            new["content"] = value[:middle] + _mark(number, "text") + value[middle:]
        marked.append(new)
    return marked


def _surrounded(value: str, turn: int, field: str, *, within: bool) -> str:
    shown = value.strip() if within else value
    before, _, after = value.partition(shown)
    return before + _mark(turn, f"{field}<") + shown + _mark(turn, f"{field}>") + after


def _span(text: str, places: Places, turn: int, field: str, value: str) -> Span | None:
    """Where a value stands between its marks; None where it is not shown.

    A template that parts reasoning from content by itself may lose one of the marks.
    """
    starts, ends = (places.get(f"{turn}:{field}{side}", []) for side in "<>")
    if not starts and not ends:
        return None
    for shown in (value, value.strip()):
        start = starts[0] if starts else ends[0] - len(shown)
        end = ends[0] if ends else start + len(shown)
        if text[start:end] == shown and len(starts) < 2 and len(ends) < 2:
            return start, end
    raise _changed()


def _blank_places(render: Render, text: str, messages: Sequence[Message]) -> dict[int, int]:
    """Where the contents of turns without content would stand, as far as that is known."""
    blank = [
        number
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and not _said(message)
    ]
    if not blank:
        return {}
    try:
        return _places_of_added_contents(render, text, messages, blank)
    except Unrenderable:
        return _ends_of_prompts(render, text, messages, blank)


def _places_of_added_contents(
    render: Render, text: str, messages: Sequence[Message], blank: Sequence[int]
) -> dict[int, int]:
    """The same conversation with contents, whose pieces are those of the text."""
    filled = [dict(message) for message in messages]
    for number in blank:
        filled[number]["content"] = _mark(number, "blank")
    first, *rest = _MARK.split(render(filled))
    names, pieces = rest[::2], rest[1::2]
    if names != [f"{number}:blank" for number in blank] or not text.startswith(first):
        raise _changed()
    places, at = {}, len(first)
    for number, piece in zip(blank, pieces, strict=True):
        places[number] = at
        # What is blank may be shown as such, and what follows a content may be parted from it.
        value = messages[number].get("content") or ""
        shown = (head + tail for head in (value, "") for tail in (piece, piece.lstrip()))
        follower = next((each for each in shown if text.startswith(each, at)), None)
        if follower is None:
            raise _changed()
        at += len(follower)
    if at != len(text):
        raise _changed()
    return places


def _ends_of_prompts(
    render: Render, text: str, messages: Sequence[Message], blank: Sequence[int]
) -> dict[int, int]:
    """What precedes each turn, ready for an answer, where the text begins with that."""
    places = {}
    for number in blank:
        try:
            prompt = render(messages[:number], add_generation_prompt=True)
        except Unrenderable:
            continue
        if text.startswith(prompt):
            places[number] = len(prompt)
    return places


def _call_ends(
    render: Render, tokenizer: Any, text: str, messages: Sequence[Message]
) -> dict[int, int]:
    """Where the calls of each turn end."""
    calling = [number for number, message in enumerate(messages) if message.get("tool_calls")]
    if not calling:
        return {}
    marked = render([_with_marked_calls(m, number) for number, m in enumerate(messages)])
    marks: dict[str, int] = {}
    for match in _MARK.finditer(marked):
        marks.setdefault(match[1], match.end())
    control = control_tokens(tokenizer)
    tokens, marked_tokens = (
        list(control.pattern.finditer(each)) if control else [] for each in (text, marked)
    )
    if [match[0] for match in tokens] != [match[0] for match in marked_tokens]:
        raise Unrenderable("the chat template does not show where tool calls end")
    starts = [match.start() for match in marked_tokens]
    ends = {}
    for number in calling:
        names = [f"{number}:call{i}" for i in range(len(messages[number]["tool_calls"]))]
        if not all(name in marks for name in names):
            raise Unrenderable(f"the chat template leaves out a tool call of turn {number + 1}")
        index = bisect_left(starts, max(marks[name] for name in names))
        ends[number] = _end(text, tokens, index, getattr(tokenizer, "eos_token", None))
    return ends


def _end(text: str, tokens: Sequence[re.Match[str]], index: int, eos: str | None) -> int:
    """Where the turn ends that the control token at the index follows.

    Of several without anything between it is the one that ends texts, else the first.
    """
    if index == len(tokens):
        return len(text.rstrip())
    last = index
    while tokens[last][0] != eos:
        if last + 1 == len(tokens) or tokens[last + 1].start() != tokens[last].end():
            return tokens[index].start()
        last += 1
    return tokens[last].start()


def _with_marked_calls(message: Message, turn: int) -> dict[str, Any]:
    """The message with a mark in place of the last argument of each call."""
    calls = [
        {**call, "arguments": _with_mark(call.get("arguments"), _mark(turn, f"call{i}"))}
        for i, call in enumerate(message.get("tool_calls") or ())
    ]
    return {**message, "tool_calls": calls or None}


def _with_mark(arguments: str | None, mark: str) -> str:
    value = parsed(arguments, {})
    if isinstance(value, dict):
        return json.dumps({**value, next(reversed(value), mark): mark}, ensure_ascii=False)
    return json.dumps([*value[:-1], mark], ensure_ascii=False) if isinstance(value, list) else mark


def _header(render: Render) -> str:
    """What opens an answer; empty where the template does not say."""
    probe = [{"role": "user", "content": "?"}]
    try:
        return render(probe, add_generation_prompt=True).removeprefix(render(probe))
    except Unrenderable:
        return ""


def _answer(
    text: str,
    number: int,
    message: Message,
    places: Places,
    blanks: Mapping[int, int],
    call_ends: Mapping[int, int],
) -> RenderedAnswer:
    """A turn's places, as far as they are marked."""
    reasoning = _span(text, places, number, "reasoning", message.get("reasoning") or "")
    content = _span(text, places, number, "content", message.get("content") or "")
    if content is None and _said(message):
        raise Unrenderable(f"the chat template leaves out the content of turn {number + 1}")
    if content is None:
        at = max(blanks.get(number, -1), reasoning[1] if reasoning else -1)
        if at < 0:
            raise Unrenderable(f"the chat template does not show where turn {number + 1} begins")
        content = (at, at)
    calls = (content[1], call_ends[number]) if message.get("tool_calls") else None
    start = reasoning[0] if reasoning else content[0]
    return RenderedAnswer(number, start, reasoning, content, calls)


def _opened(text: str, answer: RenderedAnswer, before: int, header: str) -> RenderedAnswer:
    """The answer with what opens its reasoning, which stands behind the turn's header."""
    if not answer.reasoning or not header:
        return answer
    at = text.rfind(header, before, answer.reasoning[0])
    if at < 0:
        return answer
    start = at + len(header)
    return RenderedAnswer(answer.turn, start, answer.reasoning, answer.content, answer.calls)


def _check(text: str, answer: RenderedAnswer, message: Message, before: int) -> None:
    """Refuse places that cannot be right: out of order, or without the names of the calls."""
    reasoning, content = answer.reasoning or (answer.start,) * 2, answer.content
    order = [before, answer.start, *reasoning, *content, answer.end]
    if order != sorted(order):
        raise _changed()
    at = content[1]
    for call in message.get("tool_calls") or ():
        position = text.find(call["name"], at, answer.end)
        if position < 0:
            raise Unrenderable(f"the chat template leaves out the tool call {call['name']!r}")
        at = position + len(call["name"])


def _changed() -> Unrenderable:
    return Unrenderable("the chat template changes the text of an answer, so it cannot be found")
