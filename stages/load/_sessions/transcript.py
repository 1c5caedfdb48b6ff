"""What an agent's session is while its lines are read: requests of the user and what follows each.

The readers of the kinds of sessions (`claude_code.py`, `codex.py`) fill it line by line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from stages.load._chat.calls import checked_arguments
from stages.load._chat.turns import Row, Unusable, json_type

TEXT_PARTS: Final = ("text", "input_text", "output_text", "summary_text", "reasoning_text")
"""The types of content parts that are texts."""


class Limits(NamedTuple):
    """What of a session is left out.

    Attributes:
        max_result_chars: The length at which results of tools are cut; None for no limit.
        mark_media: Whether images and other parts that are no text are marked in the text
            instead of making their request fail.
    """

    max_result_chars: int | None
    mark_media: bool


@dataclass
class Request:
    """A request of the user and all that follows it until the next.

    Attributes:
        line: Where it begins.
        turns: Its messages.
        error: Why it cannot be used, behind the line; None if it can.
        rewound: Whether the user went back to before it.
        counts: What was cut and left out.
        ignored: Lines that hold no turn, by their kind.
    """

    line: int
    turns: list[Row] = field(default_factory=list)
    error: tuple[int, str] | None = None
    rewound: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)


@dataclass
class Transcript:
    """A session, or a side chain of one.

    Attributes:
        agent: What wrote it.
        line: Its first line.
        limits: What is left out.
        side_chain: Whether it is what another agent did within a session.
        about: The session's id, the models, the folder and so on.
        system: The system turn.
        requests: The requests, in their order; the first may lack one of the user.
    """

    agent: str
    line: int
    limits: Limits
    side_chain: bool = False
    about: Row = field(default_factory=dict)
    system: str = ""
    requests: list[Request] = field(default_factory=list)
    _names: dict[str, str] = field(default_factory=dict)

    def note(self, **facts: Any) -> None:
        """Keep facts about the session, of each the first that is known; of models all."""
        for name, value in facts.items():
            if value in (None, "", {}):
                continue
            if name == "models":
                models = self.about.setdefault("models", [])
                models += [value] if value not in models else []
            else:
                self.about.setdefault(name, value)

    def ignore(self, kind: str, line: int) -> None:
        """Count a line that holds no turn."""
        self.request(line).ignored[kind] += 1

    def request(self, line: int) -> Request:
        """The request that is being answered."""
        if not self.requests:
            self.requests.append(Request(line))
        return self.requests[-1]

    @property
    def last_turn(self) -> Row | None:
        """The last turn so far."""
        turns = self.requests[-1].turns if self.requests else []
        return turns[-1] if turns else None

    def ask(self, content: Any, line: int) -> None:
        """Begin a request of the user.

        Args:
            content: A text, or parts.
            line: Where it stands.
        """
        if self.requests and not self.requests[-1].turns:
            self.requests[-1].line = line
        else:
            self.requests.append(Request(line))
        self.add({"role": "user", "content": self.text(content, line)}, line)

    def add(self, turn: Row, line: int) -> Row:
        """Append a turn."""
        self.request(line).turns.append(turn)
        return turn

    def call(self, turn: Row, id: str | None, name: str | None, arguments: Any) -> None:
        """Append a call to an assistant's turn.

        Args:
            turn: The turn.
            id: What its result answers to.
            name: The tool's name.
            arguments: A JSON value, or JSON text.

        Raises:
            Unusable: It has no name, or its arguments are no text.
        """
        if not name:
            raise Unusable("a tool call has no name")
        if id is not None:
            self._names[id] = name
        text = (
            checked_arguments(arguments)
            if isinstance(arguments, str)
            else json.dumps(arguments, ensure_ascii=False)
        )
        turn.setdefault("tool_calls", []).append({"id": id, "name": name, "arguments": text})

    def result(self, id: str | None, content: Any, line: int) -> None:
        """Append the turn of a tool, cut at the limit.

        Args:
            id: The call that it answers.
            content: A text, parts, or any JSON value.
            line: Where it stands.
        """
        text = self.text(content, line)
        limit = self.limits.max_result_chars
        if limit is not None and len(text) > limit:
            removed = len(text) - limit
            text = f"{text[:limit]}\n[{removed} more characters were cut]"
            self.request(line).counts.update(cut_results=1, cut_characters=removed)
        turn = {"role": "tool", "content": text, "tool_call_id": id}
        self.add({**turn, "name": self._names.get(id or "")}, line)

    def text(self, content: Any, line: int) -> str:
        """Content as a text, a line for each part.

        A part that is no text makes the request fail, or is marked as `[image]`.

        Args:
            content: A text, parts, nothing, or any JSON value.
            line: Where it stands.
        """
        if content is None or isinstance(content, str):
            return content or ""
        if not isinstance(content, list):
            return json.dumps(content, ensure_ascii=False)
        return "\n".join(self._part(part, line) for part in content)

    def _part(self, part: Any, line: int) -> str:
        if isinstance(part, str):
            return part
        kind = part.get("type") if isinstance(part, dict) else json_type(part)
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            return str(part["text"])
        kind = str(kind).removeprefix("input_")
        request = self.request(line)
        request.counts["left_out"] += 1
        if not self.limits.mark_media and request.error is None:
            request.error = (line, f"a part of a content is no text ({kind:.80})")
        return f"[{kind:.80}]"

    def rewind(self, request: int, turns: int) -> None:
        """Go back to after a turn: what follows was taken back by the user.

        Results of tools alone stay: those of parallel calls come one after the other.

        Args:
            request: The index of the request of the turn.
            turns: How many of its turns stay.
        """
        current = self.requests[request]
        if any(turn["role"] != "tool" for turn in current.turns[turns:]):
            current.counts["rewound_turns"] += len(current.turns) - turns
            del current.turns[turns:]
        for later in self.requests[request + 1 :]:
            later.rewound = True

    def messages(self, requests: Iterable[Request]) -> list[Row]:
        """The turns of some requests behind the system turn, without empty ones."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        turns = [_finished(turn) for request in requests for turn in request.turns]
        return system + [turn for turn in turns if turn is not None]


def append_text(turn: Row, name: str, text: str) -> None:
    """Append a line of text to the content or the reasoning of a turn.

    Args:
        turn: The turn.
        name: The field.
        text: What is appended; nothing for an empty text.
    """
    if text:
        turn[name] = f"{turn[name]}\n{text}" if turn.get(name) else text


def _finished(turn: Row) -> Row | None:
    """A turn as a message of a record; None for an assistant's without anything."""
    content = turn.get("content") or ""
    if turn["role"] == "assistant" and not (
        content or turn.get("reasoning") or turn.get("tool_calls")
    ):
        return None
    return {**turn, "content": content or (None if turn.get("tool_calls") else "")}


def optional_text(row: Mapping[str, Any], name: str) -> str | None:
    """A field that is a text, such as an id; None without.

    Args:
        row: An object.
        name: The field.

    Raises:
        Unusable: It is something else.
    """
    value = row.get(name)
    if value is None or isinstance(value, str):
        return value
    raise Unusable(f"{name!r} is {json_type(value)}, not a text")


def is_empty(parts: Iterable[Mapping[str, Any]]) -> bool:
    """Whether parts of a content hold neither a text nor anything else.

    Args:
        parts: The parts.
    """
    return not any(part.get("text") or part.get("type") not in TEXT_PARTS for part in parts)


def parts_of(content: Any) -> Sequence[Mapping[str, Any]]:
    """The parts of a content, of which a text is one.

    Args:
        content: A text, or a list of objects.

    Raises:
        Unusable: It is neither.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Unusable(f"the content of the message is {json_type(content)}, no text and no parts")
    return content
