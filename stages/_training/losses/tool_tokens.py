"""TL-Training: harmful calls are left out, and the tokens that choose a tool weigh more.

TL-Training: TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool
Use (Ye et al. 2024, arXiv:2412.15495; Junjie-Ye/TL-Training).

As in the paper: no loss on a turn whose tools answer with an error; the first token of a tool's
name, and those where it parts from another tool's, are key tokens. As in the authors' code: they
weigh min(other tokens / key tokens, 9). Ours: the patterns of errors, and that the number of
tokens is a row's, where theirs is a batch of one row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import polars as pl

from pipeline.types import option_group
from stages._training.dataset import IGNORED
from stages._training.losses.base import Loss

ERRORS: Final = (
    r"\berror\b", r"\bexception\b", r"\btraceback\b", r"\binvalid\b", r"\bnot found\b",
    r"\bunauthori[sz]ed\b", r"\bforbidden\b", r"\btimed? ?out\b", r"\bmissing\b",
    r"\bdoes not exist\b", r"\bfailed\b", r"\bunknown (tool|function|parameter)\b",
)  # fmt: skip
"""What an answer of a tool says where the call was wrong."""


@option_group
class ToolTokens(Loss):
    """Weights of the tokens that choose a tool, and no loss on calls that failed (Ye et al. 2024).

    Args:
        max_weight: What a key token weighs at most; the others weigh 1.
        errors: Patterns, in lower case, of tools' answers to calls without loss.
    """

    name: Literal["tool_tokens"] = "tool_tokens"
    max_weight: float = 9.0
    errors: tuple[str, ...] = ERRORS

    def rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows; turns whose call failed are not trained on.

        Args:
            rows: `id`, `messages` and perhaps `tools`.
        """
        pattern = re.compile("|".join(self.errors)) if self.errors else None
        fields = rows["messages"].dtype.inner.fields  # type: ignore[attr-defined]
        if pattern is None or "tool_calls" not in {field.name for field in fields}:
            return rows
        turns = [without_failed(turns, pattern) for turns in rows["messages"].to_list()]
        return rows.with_columns(pl.Series("messages", turns, dtype=rows["messages"].dtype))

    def weigh(self, rows: pl.DataFrame, encoded: pl.DataFrame, tokenizer: Any) -> pl.DataFrame:
        """The weights of the tokens.

        Args:
            rows: What `rows` gave.
            encoded: The same as tokens.
            tokenizer: What made them.
        """
        tools = rows["tools"].to_list() if "tools" in rows.columns else [None] * len(rows)
        weights = [
            labels and self._weights(tokenizer, labels, messages, tool)
            for labels, messages, tool in zip(
                encoded["labels"].to_list(), rows["messages"].to_list(), tools, strict=True
            )
        ]
        return encoded.with_columns(pl.Series("weights", weights, dtype=pl.List(pl.Float32)))

    def _weights(
        self, tokenizer: Any, labels: Sequence[int], messages: Sequence[Any], tools: str | None
    ) -> list[float]:
        called = [call["name"] for turn in messages for call in turn.get("tool_calls") or ()]
        at = [i for i, label in enumerate(labels) if label != IGNORED]
        names = {*called, *_names(tools)}
        pieces = [tokenizer.decode([labels[i]]) for i in at]
        keys = {at[i] for i in key_tokens(pieces, called, names)}
        weight = min((len(at) - len(keys)) / len(keys), self.max_weight) if keys else 1.0
        return [max(weight, 1.0) if i in keys else 1.0 for i in range(len(labels))]


def without_failed(turns: Sequence[dict[str, Any]], pattern: re.Pattern[str]) -> list[Any]:
    """The turns, with `train: false` at each that called a tool which answered with an error.

    Args:
        turns: A conversation.
        pattern: What says that a call failed.
    """
    result = [dict(turn) for turn in turns]
    caller: dict[str, Any] | None = None
    for turn in result:
        if turn["role"] == "assistant":
            caller = turn if turn.get("tool_calls") else None
        elif turn["role"] == "tool" and caller and pattern.search((turn["content"] or "").lower()):
            caller["train"] = False
    return result


def key_tokens(pieces: Sequence[str], called: Sequence[str], names: set[str]) -> set[int]:
    """The positions of tokens that begin a called tool's name, or part it from another's.

    Args:
        pieces: The texts of an answer's tokens.
        called: The names of the called tools, in their order.
        names: Those of all tools.

    Example:
        >>> sorted(key_tokens(['{"', 'get', '_', 'time', '"}'], ["get_time"], {"get_tide"}))
        [1, 3]
    """
    text, start = "".join(pieces), 0
    ends: list[int] = []
    keys: set[int] = set()
    for piece in pieces:
        ends.append((ends[-1] if ends else 0) + len(piece))
    for name in called:
        found_at = text.find(name, start)
        if found_at < 0:
            continue
        start = found_at + len(name)
        parting = {_shared(name, other) for other in names - {name}}
        for offset in {0} | {min(part, len(name) - 1) for part in parting}:
            keys.add(next(i for i, end in enumerate(ends) if end > found_at + offset))
    return keys


def _shared(name: str, other: str) -> int:
    """How many characters two names begin with alike."""
    pairs = zip(name, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(name), len(other)))


def _names(tools: str | None) -> list[str]:
    defined = json.loads(tools) if tools else []
    functions = [tool.get("function", tool) for tool in defined if isinstance(tool, Mapping)]
    return [f["name"] for f in functions if isinstance(f, Mapping) and "name" in f]
