"""The formats of preference data: from a row to pairs.

Each is recognized by a row's keys:

- `preference`: `chosen` and `rejected`, with the prompt as `prompt`, `question`, `messages`,
  `conversations` (LLaMA-Factory) or `instruction` with `input`, as texts or turns; without
  any of these both sides are whole conversations, whose common beginning is the prompt (TRL's
  implicit prompt; Anthropic's dialogues, Bai et al. 2022, arXiv:2204.05862);
- `label`: one answer with a verdict, `label` or `kto_tag` (KTO: Ethayarajh et al. 2024,
  arXiv:2402.01306), in `prompt` and `completion`, `messages` or `instruction` and `output`;
- `ranked_outputs`: `instruction` and a list `output`, the best first (LLaMA-Factory);
- `ratings`: a prompt and a list of answers with scores or ranks (UltraFeedback: Cui et al.
  2023, arXiv:2310.01377);
- `oasst`: a tree of messages with ranks, nested or flat (Köpf et al. 2023, arXiv:2304.07327).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from schemas.pairs import shared_prompt
from schemas.records import Message, canonical_turns
from stages.load._chat.beside import THOUGHTS, take_system, with_reasoning, with_system
from stages.load._chat.calls import take_tools
from stages.load._chat.shown_tools import take_shown_tools
from stages.load._chat.source import Source, check_known, check_media
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
from stages.load._formats.pair_lists import (
    LISTS,
    Answer,
    NoPair,
    ParsedPair,
    ParsedPairs,
    Ranked,
    listed_answers,
    number,
    ordered_answers,
    ranked_pairs,
    tree_pairs,
)
from stages.load._formats.pair_turns import is_blank, messages_of, read_turns
from stages.load._formats.row_formats import exchange, named
from stages.load._rows.output import TOO_DEEP

PairFormat = Literal["preference", "label", "ranked_outputs", "ratings", "oasst"]

NESTED: Final = ("conversations", "messages", "history", "tools", "functions", *LISTS)
"""Fields that hold lists; in a table their cells may be JSON."""

_PROMPTS: Final = ("prompt", "messages", "conversations", "question", "instruction", "input")
_LABELS: Final = ("label", "kto_tag")
_SCORES: Final = {
    side: (f"{side}_score", f"score_{side}", f"{side}_rating", f"{side}-rating")
    for side in ("chosen", "rejected")
}


def recognize(row: Row, format: PairFormat | None = None) -> PairFormat | None:
    """The first format that a row's fields match: any, or `format` alone.

    >>> recognize({"prompt": "Why?", "chosen": "So.", "rejected": "No."})
    'preference'
    """
    names = [format] if format else _MATCHES
    return next((name for name in names if _MATCHES[name](row)), None)


_MATCHES: Final[dict[PairFormat, Callable[[Row], bool]]] = {
    "preference": lambda row: "chosen" in row and "rejected" in row,
    "oasst": lambda row: isinstance(row.get("prompt"), dict) and "role" in row["prompt"],
    "label": lambda row: any(name in row for name in _LABELS) and _has_prompt(row),
    "ranked_outputs": lambda row: _has_prompt(row) and isinstance(row.get("output"), list),
    "ratings": lambda row: _has_prompt(row) and any(name in row for name in LISTS),
}


def _has_prompt(row: Row) -> bool:
    return any(name in row for name in _PROMPTS)


def pairs_of(row: Any, format: PairFormat | None, source: Source, ranked: Ranked) -> ParsedPairs:
    """The pairs of a row, and why others are none: at least one position.

    Args:
        row: A row of a source, which is used up.
        format: Its format; None for what its fields match.
        source: How its rows are read.
        ranked: Which of several answers make pairs.

    >>> from stages.load._chat.source import PLAIN
    >>> row = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    >>> next(pairs_of(row, None, PLAIN, "best_worst")).chosen.turns
    [{'role': 'assistant', 'content': 'So.'}]
    """
    if not isinstance(row, dict):
        yield Unusable(f"a row must be an object, not {json_type(row)}")
        return
    row, hidden = named(dict(row), source)
    name = format or recognize(row)
    if name is None:
        keys = ", ".join(sorted(map(str, row))[:8])
        yield Unusable(f"no known format of pairs has these fields: {keys or '(none)'}")
        return
    try:
        check_media(row, source)
        if name != "label":  # beside two answers it says of neither
            check_known({k: row[k] for k in THOUGHTS if k in row}, source, frozenset())
        for pair in _CONVERT[name](row, source, ranked):
            yield checked(pair, hidden)
    except Unusable as reason:
        yield reason
    except RecursionError:
        yield Unusable(TOO_DEEP)


def checked(
    pair: ParsedPair | NoPair | Unusable, hidden: Row | None = None
) -> ParsedPair | NoPair | Unusable:
    """The pair, unless a turn of it is empty, a side is no answer, or the sides are level.

    Args:
        pair: A pair, or why there is none.
        hidden: Further fields of the row that are kept.
    """
    if not isinstance(pair, ParsedPair):
        return pair
    prompt = pair.prompt
    if prompt and prompt[0]["role"] == "system" and is_blank(prompt[0]):
        prompt = prompt[1:]
    if blank := next((at for at, turn in enumerate(prompt, 1) if is_blank(turn)), None):
        return Unusable(f"turn {blank} of the prompt is empty")
    if not any(turn["role"] == "user" for turn in prompt):
        return Unusable("there is no user turn in the prompt")
    for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if side is None:
            continue
        if not side.turns or any(map(is_blank, side.turns)):
            return Unusable(f"the {name} answer is empty")
        if side.turns[-1]["role"] != "assistant":
            return Unusable(f"the {name} side does not end with the assistant's turn")
    if pair.chosen and pair.rejected:
        if canonical_turns(pair.chosen.turns) == canonical_turns(pair.rejected.turns):
            return NoPair("identical", {})
        if pair.chosen.score is not None and pair.chosen.score == pair.rejected.score:
            return NoPair("tie", {"score": pair.chosen.score})
    pair.extra.update(hidden or {})
    return pair._replace(prompt=prompt)


def _turns(row: Row, field: str, role: str, source: Source) -> list[Turn]:
    """The turns of a field, removed from the row; what else they hold stays in it."""
    if is_missing(row.get(field)):
        raise Unusable(f"missing field {field!r}")
    try:
        return read_turns(row, field, role, source)
    except Unusable as reason:
        raise Unusable(f"{field!r}: {reason}") from None


def _prompt(row: Row, source: Source) -> tuple[list[Message], str | None]:
    """The prompt of a row, [] where it has none, and its tools; their fields are used up."""
    tools = take_tools(row, source)
    field = next((name for name in _PROMPTS if not is_missing(row.get(name))), None)
    if field is None:
        return [], tools
    turns: list[Turn]
    if field == "instruction" and isinstance(row[field], str):
        separate = text_of(row, "input", optional=True)
        turns = [("user", with_input(text_of(row, field), separate)[0])]
    else:
        turns = _turns(row, field, "user", source)
    if turns and turns[-1][0] == "assistant" and is_blank(messages_of(turns[-1:])[0]):
        turns = turns[:-1]  # "\n\nAssistant:" stands at the end of Anthropic's prompts
    if field == "instruction":
        earlier = list_of(row, "history", optional=True)
        turns = [*(turn for pair in earlier for turn in exchange(pair)), *turns]
    turns = with_system(turns, take_system(row, source), row) if turns else turns
    turns, tools = take_shown_tools(turns, tools, row)
    return messages_of(turns), tools


def _behind_system(
    prompt: list[Message], tools: str | None, row: Row, source: Source
) -> tuple[list[Message], str | None]:
    """The prompt of whole conversations behind the system prompt of their row, and the tools."""
    text = take_system(row, source)
    if text and prompt[0]["role"] == "system":
        row["system"] = text  # a second one
        return prompt, tools
    turns, tools = take_shown_tools([("system", text)] if text else [], tools, row)
    return [*messages_of(turns), *prompt], tools


def _preference(row: Row, source: Source, ranked: Ranked) -> ParsedPairs:
    scores = {side: _side_score(row, names) for side, names in _SCORES.items()}
    prompt, tools = _prompt(row, source)
    chosen, rejected = (
        None if _is_absent(row, side) else messages_of(_turns(row, side, "assistant", source))
        for side in _SCORES
    )
    if not chosen and not rejected:
        raise Unusable("both sides are missing")
    if any(side and side[0]["role"] != "assistant" for side in (chosen, rejected)):
        prompt, chosen, rejected = _split(prompt, chosen, rejected)
        prompt, tools = _behind_system(prompt, tools, row, source)
    if not prompt:
        raise Unusable("there is no prompt: the sides are answers alone")
    better, worse = (
        None if turns is None else Answer(turns, scores[side], {})
        for side, turns in (("chosen", chosen), ("rejected", rejected))
    )
    yield ParsedPair(prompt, better, worse, tools, row)


def _is_absent(row: Row, side: str) -> bool:
    """Whether the side is null where the other is not, which is then removed."""
    return is_missing(row.get(side)) and is_missing(row.pop(side, None))


def _side_score(row: Row, names: tuple[str, ...]) -> float | None:
    name = next((name for name in names if number(row.get(name)) is not None), None)
    return None if name is None else number(row.pop(name))


def _split(
    prompt: list[Message], chosen: list[Message] | None, rejected: list[Message] | None
) -> tuple[list[Message], list[Message] | None, list[Message] | None]:
    """Prompt and sides of conversations that begin alike."""
    shared = shared_prompt(*(side for side in (chosen, rejected) if side is not None))
    turns = (chosen or rejected or [])[:shared]
    if not shared:
        raise Unusable("the two conversations do not begin with the same prompt")
    # A system prompt of the row may stand before conversations that have none.
    has_own = prompt and prompt[0]["role"] == "system" != turns[0]["role"]
    asked = canonical_turns(prompt[1:] if has_own else prompt)
    if any(turn not in canonical_turns(turns) for turn in asked):
        raise Unusable("the sides are conversations that do not begin with the prompt")
    turns = [*prompt[:1], *turns] if has_own else [*turns]
    return turns, chosen and chosen[shared:], rejected and rejected[shared:]


def _label(row: Row, source: Source, ranked: Ranked) -> ParsedPairs:
    name = next(name for name in _LABELS if name in row)
    label = _verdict(row.pop(name), name)
    prompt, tools = _prompt(row, source)
    field = next((name for name in ("completion", "output", "response") if name in row), None)
    turns = _turns(row, field, "assistant", source) if field else []
    answer = messages_of(with_reasoning(turns, row, source)) if turns else []
    if not answer:
        end = len(prompt)
        while end and prompt[end - 1]["role"] in ("assistant", "tool"):
            end -= 1
        prompt, answer = prompt[:end], prompt[end:]
    side = Answer(answer, None, {})
    yield ParsedPair(prompt, side if label else None, None if label else side, tools, row)


def _verdict(value: Any, name: str) -> bool:
    """Whether the label says yes: a boolean, 1 or 0, or their texts, as tables have them."""
    verdicts = {"true": True, "1": True, "false": False, "0": False}
    verdict = verdicts.get(str(value).lower())
    if verdict is None:
        raise Unusable(f"{name!r} must be true or false, got {value!r:.80}")
    return verdict


def _ranked_outputs(row: Row, source: Source, ranked: Ranked) -> ParsedPairs:
    prompt, tools = _prompt(row, source)
    yield from ranked_pairs(prompt, ordered_answers(row, "output", source), tools, row, ranked)


def _ratings(row: Row, source: Source, ranked: Ranked) -> ParsedPairs:
    prompt, tools = _prompt(row, source)
    field = next((name for name in LISTS if name in row), None)
    if field is None:
        raise Unusable(f"none of the fields {', '.join(LISTS)}")
    yield from ranked_pairs(prompt, listed_answers(row, field, source), tools, row, ranked)


_CONVERT: Final[dict[PairFormat, Callable[[Row, Source, Ranked], ParsedPairs]]] = {
    "preference": _preference,
    "label": _label,
    "ranked_outputs": _ranked_outputs,
    "ratings": _ratings,
    "oasst": tree_pairs,
}
