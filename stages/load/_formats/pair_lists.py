"""Pairs out of several answers to one prompt: lists with scores or in order, and message trees.

Which of the answers make pairs is an option. Answers of equal scores make none, and where
two are compared for nothing, the position says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from math import isfinite
from typing import Any, Final, Literal, NamedTuple

from schemas.records import Message
from stages.load._chat.marks import unmarked
from stages.load._chat.source import Source
from stages.load._chat.turns import Row, Unusable, json_type
from stages.load._formats.pair_turns import is_blank, messages_of, read_turns
from stages.load._formats.trees import FlatTrees, beside_text, message_turn

Ranked = Literal["best_worst", "adjacent", "all"]

TEXTS: Final = ("completion", "response", "answer", "output", "content", "text")
SCORES: Final = ("overall_score", "score", "rating", "reward", "fine-grained_score")
LISTS: Final = ("completions", "responses", "answers", "outputs")


class Answer(NamedTuple):
    """One of several answers to a prompt.

    Attributes:
        turns: Its turns.
        score: How good it is; None where the source does not say.
        extra: What else the source says of it.
    """

    turns: list[Message]
    score: float | None
    extra: Row


class ParsedPair(NamedTuple):
    """A pair of a row.

    Attributes:
        prompt: The turns that both sides follow.
        chosen: The turns of the better side, with their score; None without.
        rejected: Those of the worse side.
        tools: The definitions of the tools, as JSON text.
        extra: The row's other fields.
    """

    prompt: list[Message]
    chosen: Answer | None
    rejected: Answer | None
    tools: str | None
    extra: Row


class NoPair(NamedTuple):
    """Why a position holds no pair although it can be read.

    Attributes:
        reason: The drop reason.
        evidence: What shows it.
    """

    reason: str
    evidence: dict[str, Any]


ParsedPairs = Iterator[ParsedPair | NoPair | Unusable]


def number(value: Any) -> float | None:
    """A finite number, or the number that a text is; None for anything else.

    >>> number("7.5"), number("N/A"), number(True)
    (7.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if isfinite(result) else None


def listed_answers(row: Row, field: str, source: Source) -> list[Answer]:
    """The answers of a list, whose scores are in them or in a list beside it; both are used up.

    Args:
        row: The row.
        field: Its list.
        source: How the row is read.

    Raises:
        Unusable: An answer cannot be read.
    """
    values = row.pop(field)
    if not isinstance(values, list):
        raise Unusable(f"{field!r} is {json_type(values)}, not a list")
    beside = next((name for name in ("scores", "ratings", "ranks") if name in row), None)
    scores = row.pop(beside) if beside else [None] * len(values)
    if not isinstance(scores, list) or len(scores) != len(values):
        raise Unusable(f"{beside!r} must be a list of as many scores as there are {field}")
    sign = -1 if beside == "ranks" else 1
    answers = []
    for at, (value, score) in enumerate(zip(values, scores, strict=True), 1):
        try:
            answer = _answer(value, source)
        except Unusable as reason:
            raise Unusable(f"answer {at}: {reason}") from None
        beside_it = number(score)
        answers.append(answer if beside_it is None else answer._replace(score=sign * beside_it))
    return answers


def ordered_answers(row: Row, field: str, source: Source) -> list[Answer]:
    """The answers of a list whose first is the best; their scores are their negated places.

    Args:
        row: The row.
        field: Its list.
        source: How the row is read.

    Raises:
        Unusable: An answer cannot be read.
    """
    answers = [_answer(value, source) for value in row.pop(field)]
    return [answer._replace(score=-float(at)) for at, answer in enumerate(answers)]


def _answer(value: Any, source: Source) -> Answer:
    """An answer: a text, turns, or an object with a text or turns and perhaps a score."""
    others: Row = dict(value) if isinstance(value, dict) else {"answer": value}
    score = _score(others) if isinstance(value, dict) else None
    if others.keys() & {"role", "from"}:
        others = {"answer": others}
    name = next((name for name in TEXTS if name in others), None)
    if name is None:
        raise Unusable(f"it has none of {', '.join(TEXTS)}")
    return Answer(messages_of(read_turns(others, name, "assistant", source)), score, others)


def _score(answer: Row) -> float | None:
    """The score of an answer, which is then no longer among its fields; ranks are negated."""
    for name in SCORES:
        if (score := number(answer.get(name))) is not None:
            del answer[name]
            return score
    if (rank := number(answer.get("rank"))) is not None:
        del answer["rank"]
        return -rank if rank else 0.0
    return None


def ranked_pairs(
    prompt: list[Message], answers: list[Answer], tools: str | None, extra: Row, ranked: Ranked
) -> ParsedPairs:
    """The pairs of several answers to one prompt: at least one position.

    Args:
        prompt: The prompt.
        answers: The answers; those without a score are in no pair.
        tools: The definitions of the tools.
        extra: The row's other fields.
        ranked: Which answers make pairs.
    """
    scored = [answer for answer in answers if answer.score is not None]
    if len(scored) < 2:
        yield NoPair("no_pair", {"answers": len(answers), "scored": len(scored)})
        return
    best_first = sorted(scored, key=lambda answer: -(answer.score or 0.0))
    choices = {
        "best_worst": [(best_first[0], best_first[-1])],
        "adjacent": list(pairwise(best_first)),
        "all": list(combinations(best_first, 2)),
    }
    for chosen, rejected in choices[ranked]:
        if chosen.score == rejected.score:
            yield NoPair("tie", {"score": chosen.score})
            continue
        of_sides = {"chosen": chosen.extra, "rejected": rejected.extra}
        more = extra | {name: value for name, value in of_sides.items() if value}
        yield ParsedPair(prompt, chosen, rejected, tools, more)


def tree_pairs(row: Row, source: Source, ranked: Ranked) -> ParsedPairs:
    """The pairs of an OpenAssistant tree: answers to one message, by their ranks.

    Deleted messages, and what follows them, make none.

    Args:
        row: A tree, which is used up.
        source: How the row is read.
        ranked: Which of several answers make pairs.
    """
    root = row.pop("prompt")
    if root.get("deleted"):
        yield Unusable("the first message of the tree is deleted")
        return
    waiting: list[tuple[Any, list[Message], list[Row]]] = [(root, [], [])]
    is_empty = True
    while waiting:
        node, before, facts = waiting.pop()
        try:
            path = [*before, *_said(node, source)]
            facts = [*facts, beside_text(node)]
            replies = [r for r in node.get("replies") or () if not r.get("deleted")]
            answers = _answers(replies, source)
        except (Unusable, AttributeError) as reason:
            yield Unusable(f"a message of the tree: {reason}")
            is_empty = False
            continue
        waiting += [(reply, path, facts) for reply in reversed(replies)]
        if len(answers) > 1:
            is_empty = False
            extra = row | _facts(facts)
            yield from ranked_pairs(path, answers, None, extra, ranked)
    if is_empty:
        yield NoPair("no_pair", {"answers": 1, "scored": 0})


def flat_pairs(row: Row, trees: FlatTrees, source: Source, ranked: Ranked) -> ParsedPairs:
    """The pairs of the answers to a message of a flat tree; of most messages none.

    Args:
        row: The message.
        trees: All messages of the source.
        source: How the rows are read.
        ranked: Which of several answers make pairs.
    """
    id_ = row["message_id"]
    try:
        path = trees.path(row)
        if any(node.get("deleted") for node in path):
            yield NoPair("deleted", {"message_id": id_})
            return
        answers = _answers(trees.replies(row), source)
        if len(answers) < 2:
            yield NoPair("no_pair", {"message_id": id_, "answers": len(answers), "scored": 0})
            return
        prompt = [message for node in path for message in _said(node, source)]
    except Unusable as reason:
        yield reason
        return
    extra = _facts([beside_text(node) for node in path])
    yield from ranked_pairs(prompt, answers, None, extra, ranked)


def _facts(path: Sequence[Row]) -> Row:
    """What is known of the messages of a prompt: of the last one, and of all."""
    return {"lang": path[0].get("lang"), "message_id": path[-1].get("message_id"), "path": [*path]}


def _answers(replies: Iterable[Any], source: Source) -> list[Answer]:
    """The replies of the assistant, with their ranks, of which the lowest is the best."""
    answers = []
    for node in replies:
        said = _said(node, source)
        if said[-1]["role"] == "assistant":
            rank = number(node.get("rank"))
            score = None if rank is None else -rank if rank else 0.0
            answers.append(Answer(said, score, beside_text(node)))
    return answers


def _said(node: Any, source: Source) -> list[Message]:
    """The messages of a node: one, unless its text holds several results of tools."""
    messages = messages_of(unmarked(message_turn(node, source), source))
    if any(map(is_blank, messages)):
        raise Unusable("it is empty")
    return messages
