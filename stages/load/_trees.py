"""Trees of messages: every path from a root to a leaf is a conversation.

They come nested (OpenAssistant's exports: a root with `replies`, one tree a row) or flat (its
data set: one message a row, with the id of its parent).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from stages.load._conversations import Parsed, ParsedConversation, conversation
from stages.load._source import Source
from stages.load._turns import Row, Turn, Unusable, is_missing, json_type

_PATH_FIELDS: Final = ("message_id", "lang", "rank", "review_result", "synthetic")


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
            turns = [_oasst_turn(node, source) for node in path]
            facts = [{k: node[k] for k in _PATH_FIELDS if k in node} for node in path]
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


def _oasst_turn(node: Any, source: Source) -> Turn:
    if not isinstance(node, dict):
        raise Unusable(f"a message of the tree is {json_type(node)}, not an object")
    role, text = node.get("role"), node.get("text")
    name = source.roles.get(role.strip().lower()) if isinstance(role, str) else None
    if name is None:
        raise Unusable(f"a message of the tree has the unknown role {role!r:.80}")
    if not isinstance(text, str):
        raise Unusable(f"the text of a message of the tree is {json_type(text)}")
    return name, text


class FlatMessage(NamedTuple):
    """What became of a message of a flat tree.

    Attributes:
        conversation: From the root to it, if it is a leaf; or why it cannot be used.
        drop_reason: Of any other: `continued`, where others follow it, or `deleted`.
        message_id: Its id.
    """

    conversation: ParsedConversation | Unusable | None
    drop_reason: str | None
    message_id: Any


def is_flat(row: Any) -> bool:
    """Whether a row is a message that names its parent.

    >>> is_flat({"message_id": "b", "parent_id": "a", "role": "assistant", "text": "So."})
    True
    """
    return isinstance(row, dict) and row.keys() >= {"message_id", "parent_id", "role", "text"}


def flat_trees(rows: Iterable[Row], source: Source) -> Iterator[FlatMessage]:
    """What became of each message of flat trees, in the order of the rows.

    Args:
        rows: Messages, which `is_flat`; a parent may stand behind its replies.
        source: How the rows are read.
    """
    rows = list(rows)
    nodes: dict[Any, Row] = {}
    for row in rows:
        nodes.setdefault(_key(row["message_id"]), row)
    continued = {_key(row["parent_id"]) for row in rows if not row.get("deleted")}
    for row in rows:
        key = _key(row["message_id"])
        try:
            if nodes[key] is not row:
                raise Unusable(f"the message id {key!r:.80} occurs twice")
            path = _path_to(row, nodes)
        except Unusable as reason:
            yield FlatMessage(reason, None, key)
            continue
        if any(node.get("deleted") for node in path):
            yield FlatMessage(None, "deleted", key)
        elif key in continued:
            yield FlatMessage(None, "continued", key)
        else:
            yield FlatMessage(_flat_conversation(path, source), None, key)


def _key(value: Any) -> Any:
    """An id, as a key: numbers and texts as they are."""
    if is_missing(value) or value == "":
        return None
    return value if isinstance(value, str | int) else repr(value)


def _path_to(row: Row, nodes: dict[Any, Row]) -> list[Row]:
    """The messages from the root to one, or Unusable."""
    path, seen = [row], {_key(row["message_id"])}
    while (parent := _key(path[-1]["parent_id"])) is not None:
        if parent not in nodes:
            raise Unusable(f"the parent {parent!r:.80} is not in the source")
        if parent in seen:
            raise Unusable("its parents form a circle")
        seen.add(parent)
        path.append(nodes[parent])
    return path[::-1]


def _flat_conversation(path: list[Row], source: Source) -> ParsedConversation | Unusable:
    used = ("parent_id", "role", "text")
    facts = [{k: v for k, v in node.items() if k not in used} for node in path]
    try:
        turns = [_oasst_turn(node, source) for node in path]
        return conversation(turns, None, {"path": facts}, source)
    except Unusable as reason:
        return reason
