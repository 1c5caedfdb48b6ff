"""The formats of sources: from a row to conversations.

Each format is recognized by a row's keys and turned into one or several
conversations; what the format does not use stays in `extra`. What cannot be a
conversation is `Unusable`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, Literal

from stages.load._chat.beside import SYSTEMS, THOUGHTS, take_system, with_reasoning, with_system
from stages.load._chat.calls import take_tools, tool_calls
from stages.load._chat.glaive import glaive_turns, is_glaive
from stages.load._chat.messages import turns_have, turns_of
from stages.load._chat.shown_tools import take_shown_tools
from stages.load._chat.source import MEDIA, Source, check_media, rename_fields
from stages.load._chat.turns import (
    Row,
    Turn,
    Unusable,
    is_missing,
    json_type,
    list_of,
    text_of,
    with_input,
)
from stages.load._files.tables import unpacked
from stages.load._formats.conversations import Parsed, ParsedConversation, conversation
from stages.load._formats.trees import nested_tree
from stages.load._rows.output import TOO_DEEP

RowFormat = Literal[
    "alpaca",
    "prompt_completion",
    "completions",
    "prompt",
    "sharegpt",
    "messages",
    "lima",
    "oasst",
    "self_instruct_seeds",
    "apigen",
    "glaive",
]

LISTS: Final = (
    "messages", "conversations", "history", "instances", "completions", "tools", "functions",
    "answers",
)  # fmt: skip
"""Fields that hold lists; in a table their cells may be JSON."""

_ANSWERS: Final = (
    "completion", "completions", "output", "outputs", "response", "responses", "answer", "answers",
    "chosen", "rejected", "messages", "conversations", "instances", "reply", "target", "solution",
)  # fmt: skip
"""Fields that hold answers: beside one of them, or its misspelling, a prompt is not all."""


@lru_cache(10_000)
def _is_answer(field: str) -> bool:
    return bool(get_close_matches(field.lower(), _ANSWERS, 1, 0.8))


def recognize(row: Row, format: RowFormat | None = None) -> RowFormat | None:
    """The first format that a row's fields match: any, or `format` alone.

    >>> recognize({"instruction": "Add.", "output": "3"})
    'alpaca'
    """
    return None if preference_field(row) else _format_of(row, format)


def _format_of(row: Row, format: RowFormat | None) -> RowFormat | None:
    if format == "prompt":  # named, it is one whatever the other fields are
        return format if _has_prompt(row) else None
    if format:
        return format if _MATCHES[format](row) else None
    for name, matches in _MATCHES_OF_TEXTS if _TURNS.isdisjoint(row) else _MATCHES.items():
        if matches(row):
            return name
    return None


def preference_field(row: Row) -> str | None:
    """The field that shows that a row is one of preferences, of which `load.pairs` makes pairs.

    >>> preference_field({"prompt": "Why?", "completion": "So.", "label": False})
    'label'
    """
    if "rejected" in row:
        return "rejected"
    return "label" if "label" in row and isinstance(row["label"], bool) else None


_MATCHES: Final[dict[RowFormat, Callable[[Row], bool]]] = {
    "messages": lambda row: "messages" in row,
    "lima": lambda row: "conversations" in row and _starts_with_text(row["conversations"]),
    "sharegpt": lambda row: "conversations" in row and not isinstance(row["conversations"], str),
    "self_instruct_seeds": lambda row: "instruction" in row and "instances" in row,
    "alpaca": lambda row: "instruction" in row and ("output" in row or "response" in row),
    "completions": lambda row: (
        _has_prompt(row)
        and ("completions" in row or _is_text_and_list(row.get("prompt"), row.get("completion")))
    ),
    "oasst": lambda row: isinstance(row.get("prompt"), dict) and "role" in row["prompt"],
    "apigen": lambda row: row.keys() >= {"query", "answers", "tools"},
    "glaive": is_glaive,
    "prompt_completion": lambda row: "prompt" in row and "completion" in row,
    "prompt": lambda row: _has_prompt(row) and not any(map(_is_answer, map(str, row))),
}


_TURNS: Final = frozenset({"messages", "conversations"})
_MATCHES_OF_TEXTS: Final = tuple(
    item for item in _MATCHES.items() if item[0] not in ("messages", "lima", "sharegpt")
)


def _is_text_and_list(prompt: Any, completion: Any) -> bool:
    return isinstance(prompt, str) and isinstance(completion, list)


def _has_prompt(row: Row) -> bool:
    return "prompt" in row or "instruction" in row


def _starts_with_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def named(row: Row, source: Source) -> tuple[Row, Row]:
    """The row with the names of its format, its turns as a list, and the fields that are hidden.

    Args:
        row: A row of a source, which is used up.
        source: Its names.
    """
    hidden: Row = {}
    if source.names:
        row, hidden = rename_fields(row, source.names)
    return unpacked(row, _TURNS), hidden


_SPECIAL: Final = frozenset(
    {*_TURNS, *MEDIA, *SYSTEMS, *THOUGHTS, "tools", "functions", "rejected", "label"}
)
"""Fields of which rows of texts have none, so that these are read without detours."""


def conversations(row: Any, format: RowFormat | None, source: Source) -> Parsed:
    """The conversations of a row, and why others are unusable: at least one of the two.

    Args:
        row: A row of a source, which is used up.
        format: Its format; None for what its fields match.
        source: How its rows are read.

    >>> from stages.load._chat.source import PLAIN
    >>> list(conversations({"prompt": "Why?", "completion": "So."}, None, PLAIN))[0].turns
    [('user', 'Why?'), ('assistant', 'So.')]
    """
    if not isinstance(row, dict):
        if not (turns_have(row, "role") or turns_have(row, "from")):
            yield Unusable(f"a row must be an object, not {json_type(row)}")
            return
        row = {"messages" if format == "messages" else "conversations": row}
    hidden: Row = {}
    tools, system = None, ""
    is_plain = not source.names and _SPECIAL.isdisjoint(row)
    if not is_plain:
        row, hidden = named(row, source)
        if field := preference_field(row):
            yield Unusable(f"the row is a preference (it has {field!r}): use load.pairs")
            return
    name = format or _format_of(row, None)
    if name is None:
        yield Unusable(_unknown(row))
        return
    try:
        if not is_plain:
            check_media(row, source)
            tools = take_tools(row, source)
            system = "" if name == "glaive" else take_system(row, source)
        for conversation in _CONVERT[name](row, source):
            if isinstance(conversation, ParsedConversation) and (
                not is_plain or conversation.turns[0][0] == "system"
            ):
                conversation = _completed(conversation, system, tools, source)
                conversation.extra.update(hidden)
            yield conversation
    except Unusable as reason:
        yield reason
    except RecursionError:
        yield Unusable(TOO_DEEP)


def _completed(
    conversation: ParsedConversation, system: str, tools: str | None, source: Source
) -> ParsedConversation:
    """The conversation with what stands beside its turns: system prompt, reasoning and tools."""
    turns, start, extra, said = conversation
    turns = with_system(with_reasoning(turns, extra, source), system, extra)
    turns, tools = take_shown_tools(turns, tools or said, extra)
    return ParsedConversation(turns, start, extra, tools)


def _unknown(row: Row) -> str:
    keys = ", ".join(sorted(map(str, row))[:8])
    hint = "; if they are prompts without answers, write format: prompt" if _has_prompt(row) else ""
    return f"no known format has these fields: {keys or '(none)'}{hint}"


def _alpaca(row: Row, source: Source) -> Parsed:
    """Alpaca's fields, or GPTeacher's (`response`), or Dolly's (`context` and `response`)."""
    alias = is_missing(row.get("output")) and "response" in row
    dolly = alias and "input" not in row and isinstance(row.get("context"), str)
    separate = text_of(row, "context" if dolly else "input", optional=True)
    prompt, start = with_input(text_of(row, "instruction"), separate)
    answer = text_of(row, "response" if alias else "output")
    turns: list[Turn] = [("user", prompt), ("assistant", answer)]
    if "history" in row:
        earlier = [t for pair in list_of(row, "history", optional=True) for t in exchange(pair)]
        turns = earlier + turns
        start = None if earlier else start
    yield conversation(turns, start, row, source)


def exchange(pair: Any) -> list[Turn]:
    """The turns of an earlier exchange: instruction and answer.

    Args:
        pair: One of the list `history`.

    Raises:
        Unusable: It is none.
    """
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)):
        raise Unusable("'history' must be a list of [instruction, answer]")
    return [("user", pair[0]), ("assistant", pair[1])]


def _prompt_completion(row: Row, source: Source) -> Parsed:
    if isinstance(row.get("prompt"), list):  # TRL's conversational form: messages in both
        prompt_turns = turns_of(row, "prompt", source)
        yield conversation([*prompt_turns, *_answer_turns(row, source)], None, row, source)
        return
    prompt, start = _prompt_turns(row, source)
    answer = ("assistant", text_of(row, "completion"))
    yield conversation([*prompt, answer], start, row, source)


def _answer_turns(row: Row, source: Source) -> list[Turn]:
    """The turns of `completion`, behind a prompt of turns: turns too, or a text."""
    if isinstance(row["completion"], str) and not row["completion"].lstrip().startswith("["):
        return [("assistant", text_of(row, "completion"))]
    return turns_of(row, "completion", source)


def _prompt_turns(row: Row, source: Source) -> tuple[list[Turn], int | None]:
    """The turns of a prompt alone, and where its input begins."""
    if isinstance(row.get("prompt"), list):
        return turns_of(row, "prompt", source), None
    if "prompt" in row:
        if not (prompt := text_of(row, "prompt")):
            raise Unusable("empty prompt")
        return [("user", prompt)], None
    prompt, start = with_input(text_of(row, "instruction"), text_of(row, "input", optional=True))
    return [("user", prompt)], start


def _prompt(row: Row, source: Source) -> Parsed:
    """A prompt without an answer."""
    turns, start = _prompt_turns(row, source)
    yield conversation(turns, start, row, source)


def _completions(row: Row, source: Source) -> Parsed:
    """One prompt with several completions, each of which is a conversation.

    A completion is a text, a list of messages (TRL's conversational form), or an object
    (UltraFeedback's), whose other fields stay in `extra`.
    """
    prompt, start = _prompt_turns(row, source)
    field = "completions" if "completions" in row else "completion"
    completions = list_of(row, field)
    if not completions:
        raise Unusable(f"{field!r} is empty")
    for number, completion in enumerate(completions, 1):
        try:
            answer, extra = _completion(completion, source)
            yield conversation([*prompt, *answer], start, row | extra, source)
        except Unusable as reason:
            yield Unusable(f"completion {number}: {reason}")


def _completion(value: Any, source: Source) -> tuple[list[Turn], Row]:
    """The turns of one completion, and what belongs into `extra`."""
    if isinstance(value, str):
        return [("assistant", value)], {}
    if turns_have(value, "role"):
        extra: Row = {"completion": value}
        turns = turns_of(extra, "completion", source)
        return turns, extra
    if not isinstance(value, dict):
        raise Unusable(f"it is {json_type(value)}, not a text")
    name = next((name for name in _COMPLETION_TEXTS if name in value), "completion")
    others = dict(value)
    answer: list[Turn] = [("assistant", text_of(others, name))]
    return answer, {"completion": others} if others else {}


def _sharegpt(row: Row, source: Source) -> Parsed:
    """Turns as {from, value}.

    Many data sets call the field `conversations` and write OpenAI's turns into it.
    """
    yield conversation(turns_of(row, "conversations", source), None, row, source)


def _messages(row: Row, source: Source) -> Parsed:
    yield conversation(turns_of(row, "messages", source), None, row, source)


def _lima(row: Row, source: Source) -> Parsed:
    turns: list[Turn] = []
    for number, text in enumerate(list_of(row, "conversations"), 1):
        if not isinstance(text, str):
            raise Unusable(f"turn {number} is {json_type(text)}, not a text")
        turns.append(("user" if number % 2 else "assistant", text))
    yield conversation(turns, None, row, source)


def _seeds(row: Row, source: Source) -> Parsed:
    instruction = text_of(row, "instruction")
    instances = list_of(row, "instances")
    if not instances:
        raise Unusable("'instances' is empty")
    for number, instance in enumerate(instances, 1):
        try:
            if not isinstance(instance, dict):
                raise Unusable(f"it is {json_type(instance)}, not an object")
            prompt, start = with_input(instruction, text_of(instance, "input", optional=True))
            turns: list[Turn] = [("user", prompt), ("assistant", text_of(instance, "output"))]
            yield conversation(turns, start, row | instance, source)
        except Unusable as reason:
            yield Unusable(f"instance {number}: {reason}")


def _apigen(row: Row, source: Source) -> Parsed:
    """APIGen's rows (Liu et al. 2024, arXiv:2406.18518): a query, and the calls that answer it."""
    turns: list[Turn] = [("user", text_of(row, "query"))]
    if calls := tool_calls(row.pop("answers") or [], source):
        turns.append(("assistant", None, {"tool_calls": calls}))
    yield conversation(turns, None, row, source)


def _glaive(row: Row, source: Source) -> Parsed:
    turns, tools = glaive_turns(row, source)
    yield conversation(turns, None, row, source, tools)


_COMPLETION_TEXTS: Final = ("completion", "response", "output", "content", "text")
_CONVERT: Final[dict[RowFormat, Callable[[Row, Source], Parsed]]] = {
    "messages": _messages,
    "lima": _lima,
    "sharegpt": _sharegpt,
    "self_instruct_seeds": _seeds,
    "alpaca": _alpaca,
    "oasst": nested_tree,
    "prompt_completion": _prompt_completion,
    "completions": _completions,
    "prompt": _prompt,
    "apigen": _apigen,
    "glaive": _glaive,
}
