"""The formats of sources: from a row to conversations.

Each format is recognized by a row's keys and turned into one or several
conversations; what the format does not use stays in `extra`. What cannot be a
conversation is `Unusable`, with the reason.

Nothing is normalized. Two empty turns carry nothing and are left out: an empty
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


class ParsedConversation(NamedTuple):
    """A conversation of a row.

    Attributes:
        turns: Role and content of each.
        input_start: Where a separate input begins in the first user turn, in characters.
        extra: The row's other fields.
    """

    turns: list[Turn]
    input_start: int | None
    extra: Row


Parsed = Iterator[ParsedConversation | Unusable]


def recognize(row: Row, format: RowFormat | None = None) -> RowFormat | None:
    """The first format that a row's fields match: any, or `format` alone.

    >>> recognize({"instruction": "Add.", "output": "3"})
    'alpaca'
    """
    if preference_field(row):
        return None
    formats = [format] if format else _MATCHES
    for name in formats:
        if _MATCHES[name](row):
            return name
    return None


def preference_field(row: Row) -> str | None:
    """The field that shows that a row is one of preferences, of which `load.pairs` makes pairs.

    >>> preference_field({"prompt": "Why?", "completion": "So.", "label": False})
    'label'
    """
    if "rejected" in row:
        return "rejected"
    return "label" if isinstance(row.get("label"), bool) else None


_MATCHES: Final[dict[RowFormat, Callable[[Row], bool]]] = {
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


def rename_fields(row: Row, fields: Mapping[str, str]) -> tuple[Row, Row]:
    """The row with the names of its format, and the fields that these names replace.

    Args:
        row: A row of a source.
        fields: The source's name for each of the format's.

    >>> rename_fields({"q": "Why?", "prompt": 7}, {"prompt": "q"})
    ({'prompt': 'Why?'}, {'prompt': 7})
    """
    names = set(fields.values())
    hidden = {name: row[name] for name in fields if name in row and name not in names}
    kept = {name: v for name, v in row.items() if name not in names and name not in hidden}
    return kept | {field: row[name] for field, name in fields.items() if name in row}, hidden


def conversations(row: Any, format: RowFormat | None, fields: Mapping[str, str]) -> Parsed:
    """The conversations of a row, and why others are unusable: at least one of the two.

    Args:
        row: A row of a source, which is used up.
        format: Its format; None for what its fields match.
        fields: The source's name for each of the format's.

    >>> list(conversations({"prompt": "Why?", "completion": "So."}, None, {}))[0].turns
    [('user', 'Why?'), ('assistant', 'So.')]
    """
    if not isinstance(row, dict):
        yield Unusable(f"a row must be an object, not {_json_type(row)}")
        return
    hidden: Row = {}
    if fields:
        row, hidden = rename_fields(row, fields)
    if field := preference_field(row):
        yield Unusable(f"the row is a preference (it has {field!r}): use load.pairs")
        return
    name = format or recognize(row)
    if name is None:
        keys = ", ".join(sorted(map(str, row))[:8])
        yield Unusable(f"no known format has these fields: {keys or '(none)'}")
        return
    try:
        for conversation in _CONVERT[name](row):
            if hidden and isinstance(conversation, ParsedConversation):
                conversation.extra.update(hidden)
            yield conversation
    except Unusable as reason:
        yield reason


def _json_type(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


def _text(row: Row, name: str, *, optional: bool = False) -> str:
    """The text of a field, removed from the row; an absent optional one is empty."""
    value = row.pop(name, None)
    if isinstance(value, str):
        return value
    if value is None and optional:
        return ""
    if value is None:
        raise Unusable(f"missing field {name!r}")
    raise Unusable(f"{name!r} is {_json_type(value)}, not a text")


def _list(row: Row, name: str, *, optional: bool = False) -> list[Any]:
    """The list of a field, removed from the row; an absent optional one is empty."""
    value = row.pop(name, None)
    if isinstance(value, list):
        return value
    if optional and (value is None or value == ""):
        return []
    if value is None:
        raise Unusable(f"missing field {name!r}")
    raise Unusable(f"{name!r} is {_json_type(value)}, not a list")


def _conversation(turns: list[Turn], input_start: int | None, extra: Row) -> ParsedConversation:
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
    return ParsedConversation(turns, input_start, extra)


def _with_input(instruction: str, separate: str) -> tuple[str, int | None]:
    """Instruction and input as one text, and where the input begins."""
    if not instruction:
        raise Unusable("empty instruction")
    if not separate:
        return instruction, None
    return f"{instruction}\n\n{separate}", len(instruction) + 2


def _alpaca(row: Row) -> Parsed:
    """Alpaca's fields, or GPTeacher's (`response`), or Dolly's (`context` and `response`)."""
    alias = row.get("output") is None and "response" in row
    dolly = alias and "input" not in row and isinstance(row.get("context"), str)
    separate = _text(row, "context" if dolly else "input", optional=True)
    prompt, start = _with_input(_text(row, "instruction"), separate)
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
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)):
        raise Unusable("'history' must be a list of [instruction, answer]")
    return [("user", pair[0]), ("assistant", pair[1])]


def _prompt_completion(row: Row) -> Parsed:
    if isinstance(row.get("prompt"), list):  # TRL's conversational form: messages in both
        yield _conversation(
            [*_messages_of(row, "prompt"), *_messages_of(row, "completion")], None, row
        )
        return
    prompt = _text(row, "prompt")
    if not prompt:
        raise Unusable("empty prompt")
    yield _conversation([("user", prompt), ("assistant", _text(row, "completion"))], None, row)


def _sharegpt(row: Row) -> Parsed:
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


def _messages(row: Row) -> Parsed:
    yield _conversation(_messages_of(row, "messages"), None, row)


def _messages_of(row: Row, field: str) -> list[Turn]:
    return _turns(row, field, "role", "content", _OPENAI)


def _turns(row: Row, field: str, role: str, content: str, roles: Mapping[str, str]) -> list[Turn]:
    """The turns of a list of objects, whose other fields stay in the row, one object a turn."""
    turns: list[Turn] = []
    others: list[Row] = []
    for number, turn in enumerate(_list(row, field), 1):
        if not isinstance(turn, dict):
            raise Unusable(f"turn {number} is {_json_type(turn)}, not an object")
        name, value = turn.get(role), turn.get(content)
        if not isinstance(name, str) or name not in roles:
            raise Unusable(f"turn {number}: unknown role {name!r:.80}")
        text = _joined(value, number) if isinstance(value, list) else value
        if not isinstance(text, str):
            raise Unusable(f"turn {number}: {content!r} is {_json_type(text)}, not a text")
        turns.append((roles[name], text))
        used = {role} if name != "function_call" else set()
        used |= {content} if text is value else set()
        others.append({k: v for k, v in turn.items() if k not in used and v is not None})
    if any(others):
        row[field] = others
    return turns


def _joined(parts: list[Any], number: int) -> str:
    """OpenAI's content parts as one text, a line each (as vLLM renders them), if all are texts."""
    texts = []
    for at, part in enumerate(parts, 1):
        kind = part.get("type") if isinstance(part, dict) else _json_type(part)
        text = part.get("text") if kind == "text" else None
        if not isinstance(text, str):
            raise Unusable(f"turn {number}: part {at} of its content is no text ({kind!s:.80})")
        texts.append(text)
    return "\n".join(texts)


def _lima(row: Row) -> Parsed:
    turns: list[Turn] = []
    for number, text in enumerate(_list(row, "conversations"), 1):
        if not isinstance(text, str):
            raise Unusable(f"turn {number} is {_json_type(text)}, not a text")
        turns.append(("user" if number % 2 else "assistant", text))
    yield _conversation(turns, None, row)


def _seeds(row: Row) -> Parsed:
    instruction = _text(row, "instruction")
    instances = _list(row, "instances")
    if not instances:
        raise Unusable("'instances' is empty")
    for number, instance in enumerate(instances, 1):
        try:
            if not isinstance(instance, dict):
                raise Unusable(f"it is {_json_type(instance)}, not an object")
            prompt, start = _with_input(instruction, _text(instance, "input", optional=True))
            turns = [("user", prompt), ("assistant", _text(instance, "output"))]
            yield _conversation(turns, start, row | instance)
        except Unusable as reason:
            yield Unusable(f"instance {number}: {reason}")


def _oasst(row: Row) -> Parsed:
    """Every path from the root to a leaf, without deleted messages and what follows them."""
    root = row.pop("prompt", None)
    if not isinstance(root, dict):
        raise Unusable(f"'prompt' is {_json_type(root)}, not a message tree")
    if root.get("deleted"):
        raise Unusable("the first message of the tree is deleted")
    for path in _paths(root):
        try:
            turns = [_oasst_turn(node) for node in path]
            facts = [{k: node[k] for k in _PATH_FIELDS if k in node} for node in path]
            yield _conversation(turns, None, row | {"lang": root.get("lang"), "path": facts})
        except Unusable as reason:
            yield reason


_PATH_FIELDS: Final = ("message_id", "lang", "rank", "review_result", "synthetic")


def _paths(root: Row) -> Iterator[list[Any]]:
    waiting: list[tuple[Any, list[Any]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, node]
        replies = node.get("replies") if isinstance(node, dict) else None
        if not isinstance(replies, list):
            replies = []
        present = [r for r in replies if not (isinstance(r, dict) and r.get("deleted"))]
        waiting += [(reply, path) for reply in reversed(present)]
        if not present:
            yield path


def _oasst_turn(node: Any) -> Turn:
    if not isinstance(node, dict):
        raise Unusable(f"a message of the tree is {_json_type(node)}, not an object")
    role, text = node.get("role"), node.get("text")
    if not isinstance(role, str) or role not in _OASST:
        raise Unusable(f"a message of the tree has the unknown role {role!r:.80}")
    if not isinstance(text, str):
        raise Unusable(f"the text of a message of the tree is {_json_type(text)}")
    return _OASST[role], text


_CONVERT: Final[dict[RowFormat, Callable[[Row], Parsed]]] = {
    "messages": _messages,
    "lima": _lima,
    "sharegpt": _sharegpt,
    "self_instruct_seeds": _seeds,
    "alpaca": _alpaca,
    "oasst": _oasst,
    "prompt_completion": _prompt_completion,
}
