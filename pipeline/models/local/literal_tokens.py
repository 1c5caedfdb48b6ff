"""Control tokens that a text merely mentions: they are tokens of text, never control tokens.

A tokenizer reads `<|im_end|>` as the end of a turn wherever it stands. So before a chat
template renders a text, each control token in it is covered by private-use characters, as
many as it has, so that every place in the rendered text stays what it was. When the text is
tokenized, what is covered is encoded as ordinary text, and all else as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

Span = tuple[int, int]
"""Start and end in characters."""

FIRST_COVER: Final = 0x100000
"""The first character of Unicode's last private-use plane."""


class ControlTokens(NamedTuple):
    """A tokenizer's control tokens.

    Attributes:
        pattern: Matches each of them in a text.
        covered: Matches each of them where it is covered.
        covers: What covers each.
    """

    pattern: re.Pattern[str]
    covered: re.Pattern[str]
    covers: dict[str, str]


@lru_cache(maxsize=16)
def control_tokens(tokenizer: Any) -> ControlTokens | None:
    """The tokens that the tokenizer marks as special; None without any."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {str(token) for token in added if token.special}
    special.update(map(str, getattr(tokenizer, "all_special_tokens", ())))
    longest_first = sorted(filter(None, special), key=lambda token: (-len(token), token))
    if not longest_first:
        return None
    covers = {token: chr(FIRST_COVER + i) * len(token) for i, token in enumerate(longest_first)}
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    covered = re.compile("|".join(map(re.escape, covers.values())))
    return ControlTokens(pattern, covered, covers)


def stop_tokens(tokenizer: Any, stops: Sequence[str]) -> tuple[int, ...]:
    """The ids of those stop texts that are control tokens, without the one that ends every text.

    Args:
        tokenizer: Whose control tokens; None for that of a server.
        stops: Texts that end an answer.
    """
    tokens = control_tokens(tokenizer) if stops and tokenizer is not None else None
    if tokens is None:
        return ()
    special = [stop for stop in stops if stop in tokens.covers and stop != tokenizer.eos_token]
    return tuple(tokenizer.convert_tokens_to_ids(special))


def cover(tokenizer: Any, value: Any) -> Any:
    """A text with its control tokens covered, or lists and dicts of such texts.

    Args:
        tokenizer: Whose control tokens.
        value: Messages or tools as chat templates take them, or a text.
    """
    tokens = control_tokens(tokenizer)
    return value if tokens is None else _covered(tokens, value)


def _covered(tokens: ControlTokens, value: Any) -> Any:
    if isinstance(value, str):
        return tokens.pattern.sub(lambda match: tokens.covers[match[0]], value)
    if isinstance(value, Mapping):
        return {_covered(tokens, k): _covered(tokens, member) for k, member in value.items()}
    if isinstance(value, Sequence):
        return [_covered(tokens, member) for member in value]
    return value


def uncovered(tokenizer: Any, text: str) -> str:
    """The text as it was before `cover`."""
    tokens = control_tokens(tokenizer)
    if tokens is None:
        return text
    original = {covered: token for token, covered in tokens.covers.items()}
    return tokens.covered.sub(lambda match: original[match[0]], text)


def tokenize(tokenizer: Any, text: str) -> tuple[list[int], list[Span]]:
    """The tokens of a rendered text, what is covered as text; and the characters of each.

    Args:
        tokenizer: The model's tokenizer.
        text: What a chat template rendered of covered messages.
    """
    tokens = control_tokens(tokenizer)
    if tokens is None or not tokens.covered.search(text):
        return _encoded(tokenizer, text)
    ids: list[int] = []
    spans: list[Span] = []
    at = 0
    for match in [*tokens.covered.finditer(text), None]:
        start, end = match.span() if match else (len(text), len(text))
        _append(ids, spans, at, _encoded(tokenizer, text[at:start]))
        literal = uncovered(tokenizer, text[start:end])
        _append(ids, spans, start, _encoded(tokenizer, literal, split_special_tokens=True))
        at = end
    return ids, spans


def _encoded(tokenizer: Any, text: str, **options: bool) -> tuple[list[int], list[Span]]:
    if not text:
        return [], []
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, **options)
    return list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]


def _append(ids: list[int], spans: list[Span], at: int, part: tuple[list[int], list[Span]]) -> None:
    ids += part[0]
    spans += [(start + at, end + at) for start, end in part[1]]
