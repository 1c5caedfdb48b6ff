"""Formats at the border: from a row of a source to conversations.

Each format is known by a row's keys and turned into one or several
conversations; what the format does not use stays in `extra`. What cannot be a
conversation is `Unusable`, with the reason.

Nothing is normalised. Two empty turns say nothing and are left out: an empty
system turn at the start, and an empty last answer, so that an Alpaca row with
`"output": ""` is a conversation that waits for its answer (Alpaca has 28).
Any other empty turn makes the row fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

RowFormat = Literal[
    "alpaca",
    "prompt_completion",
    "sharegpt",
    "messages",
    "lima",
    "oasst",
    "self_instruct_seeds",
]
Row = dict[str, Any]
Turn = tuple[str, str]
"""Role and content."""

LISTS: Final = ("messages", "conversations", "history", "instances")
"""Fields that hold lists; in a table their cells may be JSON."""

_OPENAI: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SHAREGPT: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
_OASST: Final = {"prompter": "user", "assistant": "assistant"}


class Unusable(ValueError):
    """Why a row, or one of the conversations in it, cannot be used."""


class Conversation(NamedTuple):
    """Turns, the offset of a separate input in the first user turn, the source's other fields."""

    turns: list[Turn]
    input_start: int | None
    extra: Row


Found = Iterator[Conversation | Unusable]


def recognise(row: Row, wanted: RowFormat | None = None) -> RowFormat | None:
    """The first format that a row's fields fit (of `wanted` alone, where it is given)."""
    formats = [wanted] if wanted else _FITS
    for name in formats:
        if _FITS[name](row):
            return name
    return None


_FITS: Final[dict[RowFormat, Callable[[Row], bool]]] = {
    "messages": lambda row: "messages" in row,
    "lima": lambda row: _starts_with_text(row.get("conversations")),
    "sharegpt": lambda row: "conversations" in row and not isinstance(row["conversations"], str),
    "self_instruct_seeds": lambda row: "instruction" in row and "instances" in row,
    "alpaca": lambda row: "instruction" in row and ("output" in row or "response" in row),
    "oasst": lambda row: isinstance(row.get("prompt"), dict) and "role" in row["prompt"],
    "prompt_completion": lambda row: "prompt" in row and "completion" in row,
}


def _starts_with_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def renamed(row: Row, fields: Mapping[str, str]) -> tuple[Row, Row]:
    """The row with `fields` (role -> the source's name) under their roles, and what they hid."""
    names = set(fields.values())
    hidden = {name: row[name] for name in fields if name in row and name not in names}
    kept = {name: v for name, v in row.items() if name not in names and name not in hidden}
    return kept | {role: row[name] for role, name in fields.items() if name in row}, hidden


def conversations(row: Any, wanted: RowFormat | None, fields: Mapping[str, str]) -> Found:
    """The conversations of a row and what is wrong with others: at least one of the two.

    wanted: the format, or null to find it out. The row is used up.
    """
    if not isinstance(row, dict):
        yield Unusable(f"a row must be an object, not {_kind(row)}")
        return
    hidden: Row = {}
    if fields:
        row, hidden = renamed(row, fields)
    name = wanted or recognise(row)
    if name is None:
        keys = ", ".join(sorted(map(str, row))[:8])
        yield Unusable(f"no known format has these fields: {keys or '(none)'}")
        return
    try:
        for found in _CONVERT[name](row):
            if hidden and isinstance(found, Conversation):
                found.extra.update(hidden)
            yield found
    except Unusable as reason:
        yield reason


def _kind(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


def _text(row: Row, name: str, *, optional: bool = False) -> str:
    """The text of a field, taken out of the row; an absent optional one is empty."""
    value = row.pop(name, None)
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    raise Unusable(
        f"missing field {name!r}" if value is None else f"{name!r} is {_kind(value)}, not a text"
    )


def _list(row: Row, name: str, *, optional: bool = False) -> list[Any]:
    """The list of a field, taken out of the row; an absent optional one is empty."""
    value = row.pop(name, None)
    if isinstance(value, list):
        return value
    if optional and (value is None or value == ""):
        return []
    raise Unusable(
        f"missing field {name!r}" if value is None else f"{name!r} is {_kind(value)}, not a list"
    )


def _conversation(turns: list[Turn], input_start: int | None, extra: Row) -> Conversation:
    if turns and turns[0] == ("system", ""):
        turns = turns[1:]
    if turns and turns[-1] == ("assistant", ""):
        turns = turns[:-1]
    has_user = False
    for at, (role, content) in enumerate(turns):
        if not content:
            raise Unusable(f"turn {at + 1} ({role}) is empty")
        has_user = has_user or role == "user"
    if not has_user:
        raise Unusable("there is no user turn")
    return Conversation(turns, input_start, extra)


def _asked(instruction: str, separate: str) -> tuple[str, int | None]:
    """Instruction and input as one text, and where the input begins."""
    if not instruction:
        raise Unusable("empty instruction")
    if not separate:
        return instruction, None
    return f"{instruction}\n\n{separate}", len(instruction) + 2


def _alpaca(row: Row) -> Found:
    """Alpaca's fields, or GPTeacher's (`response`), or Dolly's (`context` and `response`)."""
    alias = row.get("output") is None and "response" in row
    dolly = alias and "input" not in row and isinstance(row.get("context"), str)
    separate = _text(row, "context" if dolly else "input", optional=True)
    prompt, start = _asked(_text(row, "instruction"), separate)
    answer = _text(row, "response" if alias else "output")
    turns = [("user", prompt), ("assistant", answer)]
    if "history" in row:
        earlier = [t for pair in _list(row, "history", optional=True) for t in _exchange(pair)]
        turns = earlier + turns
        start = None if earlier else start
    if "system" in row:
        turns.insert(0, ("system", _text(row, "system", optional=True)))
    yield _conversation(turns, start, row)


def _exchange(pair: Any) -> list[Turn]:
    whole = isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
    if not whole:
        raise Unusable("'history' must be a list of [instruction, answer]")
    return [("user", pair[0]), ("assistant", pair[1])]


def _prompt_completion(row: Row) -> Found:
    if isinstance(row.get("prompt"), list):  # TRL's conversational form: messages in both
        yield _conversation(
            [*_messages_of(row, "prompt"), *_messages_of(row, "completion")], None, row
        )
        return
    prompt = _text(row, "prompt")
    if not prompt:
        raise Unusable("empty prompt")
    yield _conversation([("user", prompt), ("assistant", _text(row, "completion"))], None, row)


def _sharegpt(row: Row) -> Found:
    """Turns as {from, value}, with the system prompt among them or in a field of its own.

    Many data sets call the field `conversations` and write OpenAI's turns into it.
    """
    if _turns_have(row.get("conversations"), "role"):
        yield _conversation(_messages_of(row, "conversations"), None, row)
        return
    turns = _turns(row, "conversations", "from", "value", _SHAREGPT)
    if isinstance(row.get("system"), str) and not (turns and turns[0][0] == "system"):
        turns.insert(0, ("system", _text(row, "system")))
    yield _conversation(turns, None, row)


def _turns_have(value: Any, key: str) -> bool:
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and key in value[0]
    )


def _messages(row: Row) -> Found:
    yield _conversation(_messages_of(row, "messages"), None, row)


def _messages_of(row: Row, field: str) -> list[Turn]:
    return _turns(row, field, "role", "content", _OPENAI)


def _turns(row: Row, field: str, role: str, content: str, roles: Mapping[str, str]) -> list[Turn]:
    """The turns of a list of objects. What else these say stays in the row, one object a turn."""
    turns: list[Turn] = []
    others: list[Row] = []
    for number, turn in enumerate(_list(row, field), 1):
        if not isinstance(turn, dict):
            raise Unusable(f"turn {number} is {_kind(turn)}, not an object")
        name, said = turn.get(role), turn.get(content)
        if not isinstance(name, str) or name not in roles:
            raise Unusable(f"turn {number}: unknown role {name!r:.80}")
        text = _joined(said, number) if isinstance(said, list) else said
        if not isinstance(text, str):
            raise Unusable(f"turn {number}: {content!r} is {_kind(text)}, not a text")
        turns.append((roles[name], text))
        own = {role} if name != "function_call" else set()
        own |= {content} if text is said else set()
        others.append({k: v for k, v in turn.items() if k not in own and v is not None})
    if any(others):
        row[field] = others
    return turns


def _joined(parts: list[Any], number: int) -> str:
    """OpenAI's content parts as one text, a line each (as vLLM renders them), if all are texts."""
    texts = []
    for at, part in enumerate(parts, 1):
        kind = part.get("type") if isinstance(part, dict) else _kind(part)
        text = part.get("text") if kind == "text" else None
        if not isinstance(text, str):
            raise Unusable(f"turn {number}: part {at} of its content is no text ({kind!s:.80})")
        texts.append(text)
    return "\n".join(texts)


def _lima(row: Row) -> Found:
    turns: list[Turn] = []
    for number, text in enumerate(_list(row, "conversations"), 1):
        if not isinstance(text, str):
            raise Unusable(f"turn {number} is {_kind(text)}, not a text")
        turns.append(("user" if number % 2 else "assistant", text))
    yield _conversation(turns, None, row)


def _seeds(row: Row) -> Found:
    instruction = _text(row, "instruction")
    instances = _list(row, "instances")
    if not instances:
        raise Unusable("'instances' is empty")
    for number, instance in enumerate(instances, 1):
        try:
            if not isinstance(instance, dict):
                raise Unusable(f"it is {_kind(instance)}, not an object")
            prompt, start = _asked(instruction, _text(instance, "input", optional=True))
            turns = [("user", prompt), ("assistant", _text(instance, "output"))]
            yield _conversation(turns, start, row | instance)
        except Unusable as reason:
            yield Unusable(f"instance {number}: {reason}")


def _oasst(row: Row) -> Found:
    """Every path from the root to a leaf; a deleted message is none, with all behind it."""
    root = row.pop("prompt", None)
    if not isinstance(root, dict):
        raise Unusable(f"'prompt' is {_kind(root)}, not a message tree")
    if root.get("deleted"):
        raise Unusable("the first message of the tree is deleted")
    for path in _paths(root):
        try:
            turns = [_oasst_turn(node) for node in path]
            about = [{k: node[k] for k in _ABOUT if k in node} for node in path]
            yield _conversation(turns, None, row | {"lang": root.get("lang"), "path": about})
        except Unusable as reason:
            yield reason


_ABOUT: Final = ("message_id", "lang", "rank", "review_result", "synthetic")


def _paths(root: Row) -> Iterator[list[Any]]:
    waiting: list[tuple[Any, list[Any]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, node]
        replies = node.get("replies") if isinstance(node, dict) else None
        if not isinstance(replies, list):
            replies = []
        alive = [r for r in replies if not (isinstance(r, dict) and r.get("deleted"))]
        waiting += [(reply, path) for reply in reversed(alive)]
        if not alive:
            yield path


def _oasst_turn(node: Any) -> Turn:
    if not isinstance(node, dict):
        raise Unusable(f"a message of the tree is {_kind(node)}, not an object")
    role, text = node.get("role"), node.get("text")
    if not isinstance(role, str) or role not in _OASST:
        raise Unusable(f"a message of the tree has the unknown role {role!r:.80}")
    if not isinstance(text, str):
        raise Unusable(f"the text of a message of the tree is {_kind(text)}")
    return _OASST[role], text


_CONVERT: Final[dict[RowFormat, Callable[[Row], Found]]] = {
    "messages": _messages,
    "lima": _lima,
    "sharegpt": _sharegpt,
    "self_instruct_seeds": _seeds,
    "alpaca": _alpaca,
    "oasst": _oasst,
    "prompt_completion": _prompt_completion,
}
