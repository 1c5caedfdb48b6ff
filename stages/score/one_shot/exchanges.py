"""A conversation's last exchange as plain text, alone and behind another one, and as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl

from pipeline.models import Scored
from pipeline.models.local.literal_tokens import cover, tokenize
from schemas.turns import View, json_words, turn_text

Form = Literal["separated", "authors"]
"""How a demonstration stands before a query, see `score.one_shot`."""

_VIEW: Final[View] = "all"

SEPARATOR: Final = "\n\n"


@dataclass(frozen=True)
class Exchange:
    """The last answer of a conversation with what stands before it.

    Attributes:
        id: The row's id.
        text: All of it.
        demonstration: Its tokens where it stands before a query.
        query: Its tokens where it is asked.
        start: The first token of the answer among these.
        first: What stands before a query that has no demonstration.
    """

    id: str
    text: str
    demonstration: tuple[int, ...]
    query: tuple[int, ...]
    start: int
    first: tuple[int, ...]

    def alone(self) -> Scored:
        """The request for the answer's likelihood without a demonstration."""
        start = len(self.first) + self.start
        return Scored(self.first + self.query, max(1, start))

    def behind(self, shown: Exchange) -> Scored:
        """The request for the answer's likelihood behind a demonstration.

        Args:
            shown: The demonstration.
        """
        return Scored(self.query, max(1, self.start), shown.demonstration)


def exchanges(rows: pl.DataFrame, tokenizer: Any, form: Form) -> list[Exchange | None]:
    """The last exchange of each row; None for a row without an answer.

    Args:
        rows: Rows with `id`, `messages`, `input_start` and `tools`.
        tokenizer: The model's tokenizer.
        form: How a demonstration stands before a query.
    """
    bos = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
    first = bos if form == "separated" else ()
    separator = SEPARATOR if form == "separated" else ""
    columns = rows.select("id", "messages", "input_start", "tools")
    result: list[Exchange | None] = []
    for id_, messages, input_start, tools in columns.iter_rows():
        texts = plain_texts(messages or [], input_start, tools)
        if texts is None:
            result.append(None)
            continue
        prompt, answer = (cover(tokenizer, text) for text in texts)
        query, places = tokenize(tokenizer, prompt + answer)
        start = next((i for i, (_, end) in enumerate(places) if end > len(prompt)), len(query))
        if start == len(query):  # the tokenizer has no token for what the answer says
            result.append(None)
            continue
        shown, _ = tokenize(tokenizer, prompt + answer + separator)
        text = "".join(texts)
        result.append(Exchange(id_, text, bos + tuple(shown), tuple(query), start, first))
    return result


def plain_texts(
    messages: Sequence[Mapping[str, Any]], input_start: int | None, tools: str | None = None
) -> tuple[str, str] | None:
    r"""The prompt in Nuggets' words, and the last answer; None without an answer.

    Args:
        messages: The turns; those before the last answer stand in the instruction, one a line.
        input_start: Where a separate input begins in the first user turn, in characters.
        tools: The definitions of the tools, as JSON text; they open the instruction.

    >>> turns = [{"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]
    >>> plain_texts(turns, 6)
    ('Instruction:\nAdd.\nInput:\n1 2\nResponse:\n', '3')
    """
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
    answer = turn_text(messages[last], _VIEW) if last else ""
    if not answer.strip():
        return None
    turns = [turn_text(m, _VIEW) for m in messages[:last]]
    if input_start is not None:
        first = next(i for i, m in enumerate(messages) if m["role"] == "user")
        instruction = turns[first][:input_start].removesuffix("\n\n")
        turns[first] = f"{instruction}\nInput:\n{turns[first][input_start:]}"
    lines = [text for text in (json_words(tools), *turns) if text]
    return "Instruction:\n{}\nResponse:\n".format("\n".join(lines)), answer
