"""Trees of messages: every path from a root to a leaf is a conversation.

They come nested (OpenAssistant's exports: a root with `replies`, one tree a row) or flat (its
data set: one message a row, with the id of its parent).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from stages.load._chat.source import Source, rename_fields
from stages.load._chat.turns import Row, Turn, Unusable, is_missing, json_type
from stages.load._files.json_lines import Position
from stages.load._formats.conversations import Parsed, ParsedConversation, conversation

_MESSAGE: Final = ("message_id", "parent_id", "role", "text")
"""What a message of a flat tree has."""

_NO_MESSAGE: Final = "no message of a tree, as the rows before it are"


def nested_tree(row: Row, source: Source) -> Parsed:
    """Every path from the root to a leaf, without deleted messages and what follows them.

    Args:
        row: A tree, which is used up.
        source: How its rows are read.
    """
    root = row.pop("prompt", None)
    if not isinstance(root, dict):
        raise Unusable(f"'prompt' is {json_type(root)}, not a message tree")
    if root.get("deleted"):
        raise Unusable("the first message of the tree is deleted")
    for path in _paths(root):
        try:
            turns = [message_turn(node, source) for node in path]
            facts = [beside_text(node) for node in path]
            extra = row | {"lang": root.get("lang"), "path": facts}
            yield conversation(turns, None, extra, source)
        except Unusable as reason:
            yield reason


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


def beside_text(node: Row) -> Row:
    """What a message of a tree has beside its role and text; it stays in `extra`.

    Args:
        node: The message.

    >>> beside_text({"message_id": "a", "role": "assistant", "text": "So.", "replies": []})
    {'message_id': 'a'}
    """
    return {k: v for k, v in node.items() if k not in ("parent_id", "role", "text", "replies")}


def message_turn(node: Any, source: Source) -> Turn:
    """Role and text of a message of a tree.

    Args:
        node: The message.
        source: The names of roles.

    Raises:
        Unusable: It has no known role, or no text.
    """
    if not isinstance(node, dict):
        raise Unusable(f"a message of the tree is {json_type(node)}, not an object")
    role, text = node.get("role"), node.get("text")
    name = source.roles.get(role.strip().lower()) if isinstance(role, str) else None
    if name is None:
        raise Unusable(f"a message of the tree has the unknown role {role!r:.80}")
    if not isinstance(text, str):
        raise Unusable(f"the text of a message of the tree is {json_type(text)}")
    return name, text


def is_flat(row: Any, source: Source) -> bool:
    """Whether a row is a message that names its parent.

    Args:
        row: A row of a source.
        source: Its names.

    >>> from stages.load._chat.source import PLAIN
    >>> is_flat({"message_id": "b", "parent_id": "a", "role": "assistant", "text": "So."}, PLAIN)
    True
    """
    return isinstance(row, dict) and all(source.names.get(name, name) in row for name in _MESSAGE)


class FlatTrees:
    """The messages of flat trees. A parent may stand behind its replies.

    Args:
        rows: The messages.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._nodes: dict[Any, Row] = {}
        self._replies: dict[Any, list[Row]] = {}
        for row in rows:
            self._nodes.setdefault(_key(row["message_id"]), row)
            if not row.get("deleted"):
                self._replies.setdefault(_key(row["parent_id"]), []).append(row)

    def path(self, row: Row) -> list[Row]:
        """The messages from the root to one.

        Args:
            row: One of the messages.

        Raises:
            Unusable: Its id is that of another one, or a parent is missing.
        """
        key = _key(row["message_id"])
        if self._nodes[key] is not row:
            raise Unusable(f"the message id {key!r:.80} occurs twice")
        path, seen = [row], {key}
        while (parent := _key(path[-1]["parent_id"])) is not None:
            if parent not in self._nodes:
                raise Unusable(f"the parent {parent!r:.80} is not in the source")
            if parent in seen:
                raise Unusable("its parents form a circle")
            seen.add(parent)
            path.append(self._nodes[parent])
        return path[::-1]

    def replies(self, row: Row) -> list[Row]:
        """The messages that answer one, without deleted ones.

        Args:
            row: One of the messages.
        """
        return self._replies.get(_key(row["message_id"]), [])


def _key(value: Any) -> Any:
    """An id, as a key: numbers and texts as they are."""
    if is_missing(value) or value == "":
        return None
    return value if isinstance(value, str | int) else repr(value)


class FlatPosition(NamedTuple):
    """A position of a source of flat trees.

    Attributes:
        file: Its file.
        line: Where it begins there.
        row: The message; None where there is none.
        error: Why there is none.
    """

    file: str
    line: int
    row: Row | None
    error: str | None


def read_flat(
    positions: Iterable[tuple[str, Position]], source: Source
) -> tuple[list[FlatPosition], FlatTrees]:
    """All messages of a source, since a parent may come late.

    Args:
        positions: The positions of the source.
        source: How the rows are read.
    """
    read = [
        FlatPosition(file, line, rename_fields(row, source.names)[0], None)
        if is_flat(row, source)
        else FlatPosition(file, line, None, error or _NO_MESSAGE)
        for file, (line, row, error) in positions
    ]
    return read, FlatTrees([position.row for position in read if position.row is not None])


def flat_conversation(
    row: Row, trees: FlatTrees, source: Source
) -> ParsedConversation | Unusable | str:
    """The conversation from the root to a message, if it is a leaf.

    Args:
        row: The message.
        trees: All messages of the source.
        source: How the rows are read.

    Returns:
        Of any other why it is dropped: `continued`, where others follow it, or `deleted`.
    """
    try:
        path = trees.path(row)
        if any(node.get("deleted") for node in path):
            return "deleted"
        if trees.replies(row):
            return "continued"
        facts = [beside_text(node) for node in path]
        turns = [message_turn(node, source) for node in path]
        return conversation(turns, None, {"path": facts}, source)
    except Unusable as reason:
        return reason
