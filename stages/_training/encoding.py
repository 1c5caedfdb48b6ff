"""Conversations as tokens and labels: on what of an answer loss is.

Loss is on every assistant turn with its end token, and on nothing else: the
`{% generation %}` marks of the chat template say where the turns are, and
`stages._llm.rendered` which of a turn's tokens are reasoning, content and calls. The end
token belongs to what it ends: the calls of a turn that has some, else its content.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from pipeline.errors import UserError
from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.local.literal_tokens import cover, tokenize, uncovered
from schemas.turns import template_messages, template_tools
from stages._llm.answer_places import RenderedAnswer, Span
from stages._llm.rendered import prompt_spans, render
from stages._training.dataset import HIDDEN, IGNORED

AnswerPart = Literal["content", "calls", "reasoning"]
LossPart = Literal["content", "calls", "reasoning", "instruction", "template"]

ANSWER_PARTS: Final[tuple[AnswerPart, ...]] = ("content", "calls", "reasoning")
"""What an answer may consist of."""

ENCODED_AT_ONCE: Final = 10_000
"""Rows that are held as Python lists at one time."""

_ENCODED: Final = pl.Schema(
    {
        "input_ids": pl.List(pl.Int32()),
        "labels": pl.List(pl.Int32()),
        HIDDEN: pl.Int64(),
        "error": pl.String(),
    }
)

_log = logging.getLogger(__name__)

Encoded = tuple[list[int] | None, list[int] | None, int, str | None]
"""The tokens and labels of a conversation and its hidden reasoning, or why it has none."""


def encode(
    tokenizer: Any, template: str, rows: pl.DataFrame, loss_on: Sequence[LossPart] = ANSWER_PARTS
) -> pl.DataFrame:
    """Conversations as tokens.

    Args:
        tokenizer: The model's tokenizer.
        template: A chat template that marks what the assistant says.
        rows: `messages`, and `tools` where rows have them.
        loss_on: The parts of an answer that loss is on, with its end token; `instruction` is what
            others than the assistant say, `template` all that no turn says.

    Returns:
        `input_ids` and `labels`, list[i32] each, `hidden_reasoning` (characters of reasoning
        that the template leaves out) and `error`, one row per conversation. `labels` repeats
        the assistant's tokens and is IGNORED elsewhere. A conversation that the template
        cannot show has an error, and no tokens.
    """
    columns = [name for name in ("messages", "tools") if name in rows.columns]
    parts = [
        pl.DataFrame(
            [_encoded(tokenizer, template, loss_on, *row) for row in part.iter_rows()],
            _ENCODED,
            orient="row",
        )
        for part in rows.select(columns).iter_slices(ENCODED_AT_ONCE)
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema=_ENCODED)


def refused_rows(ids: pl.Series, encoded: pl.DataFrame) -> list[dict[str, Any]]:
    """The `id` and `error` of the conversations that the template cannot show.

    Args:
        ids: The ids of the rows.
        encoded: What `encode` gives for them.
    """
    errors = pl.DataFrame({"id": ids, "error": encoded["error"]})
    return errors.filter(pl.col("error").is_not_null()).to_dicts()


def nothing_left(
    what: str, counts: Mapping[str, int], refused: Sequence[Mapping[str, Any]], folder: Path
) -> UserError:
    """The error of a training that no row is left for; the refused rows are kept in a file.

    Args:
        what: The fact, in one sentence.
        counts: What became of the rows.
        refused: The rows that are left out: `id`, `error` and what else is known of them.
        folder: Where `refused.jsonl` is written: one that survives the error (`ctx.work`).
    """
    if not refused:
        return UserError(what, why=str(counts))
    first = f"; the first refused row is {refused[0]['id']}: {refused[0]['error']}"
    return UserError(
        what,
        why=f"{counts}{first}",
        hint=f"all refused rows, each with its reason: {_write_refused(refused, folder)}",
    )


def name_refused_rows(refused: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `refused.jsonl` and say so; nothing where there are none.

    Args:
        refused: The rows that are left out: `id`, `error` and what else is known of them.
        folder: Where the file is written.
    """
    if not refused:
        return
    _write_refused(refused, folder)
    _log.warning(
        "%d rows are left out, since the chat template cannot show them (refused.jsonl); "
        "the first is %s: %s", len(refused), refused[0]["id"], refused[0]["error"],
    )  # fmt: skip


def _write_refused(refused: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    path = folder / "refused.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in refused]
    path.write_text("".join(lines), "utf-8")
    return path


def _encoded(
    tokenizer: Any,
    template: str,
    loss_on: Sequence[LossPart],
    messages: Sequence[Mapping[str, Any]],
    tools: str | None = None,
) -> Encoded:
    try:
        _refuse_loss_elsewhere(messages)
        rendered = render(tokenizer, messages, tools, template)
        is_literal = uncovered(tokenizer, rendered.text) != rendered.text
        encoding = _tokens_with_literals if is_literal else _tokens
        ids, offsets, mask = encoding(tokenizer, template, messages, tools)
        some_turns = any(message.get("train") is False for message in messages)
        marked = list(mask)
        if some_turns or set(loss_on) & set(ANSWER_PARTS) != set(ANSWER_PARTS):
            _unmask(mask, offsets, rendered.answers, messages, loss_on)
        if not {"instruction", "template"}.isdisjoint(loss_on):
            spans = prompt_spans(tokenizer, rendered.text, messages, tools, template)
            _mark_prompts(mask, marked, offsets, spans, loss_on)
    except Unrenderable as error:
        return None, None, 0, str(error)
    labels = [token if mark else IGNORED for token, mark in zip(ids, mask, strict=True)]
    return ids, labels, rendered.hidden_reasoning(messages), None


def _refuse_loss_elsewhere(messages: Sequence[Mapping[str, Any]]) -> None:
    for number, message in enumerate(messages, 1):
        if message.get("train") and message["role"] != "assistant":
            raise Unrenderable(
                f"turn {number} ({message['role']}) wants loss, which is on the assistant's alone"
            )


def _tokens(
    tokenizer: Any, template: str, messages: Sequence[Mapping[str, Any]], tools: str | None
) -> tuple[list[int], list[Span], list[int]]:
    """The tokens of a conversation, their characters, and 1 for those of the assistant.

    The template has rendered this conversation before.
    """
    encoded = tokenizer.apply_chat_template(
        template_messages(messages, template),
        tools=template_tools(tools),
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    return encoded["input_ids"], encoded["offset_mapping"], list(encoded["assistant_masks"])


def _tokens_with_literals(
    tokenizer: Any, template: str, messages: Sequence[Mapping[str, Any]], tools: str | None
) -> tuple[list[int], list[Span], list[int]]:
    """The same for a conversation that mentions control tokens, which are encoded as text."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        [cover(tokenizer, template_messages(messages, template))],
        tools=cover(tokenizer, template_tools(tools)),
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    (text,), (marked,) = rendered
    ids, offsets = tokenize(tokenizer, text)
    mask = [int(any(a < end and start < b for a, b in marked)) for start, end in offsets]
    return ids, offsets, mask


def _unmask(
    mask: list[int],
    offsets: Sequence[Span],
    answers: Sequence[RenderedAnswer],
    messages: Sequence[Mapping[str, Any]],
    loss_on: Sequence[LossPart],
) -> None:
    """Take the loss off the turns and the parts of turns that it is not to be on."""
    marked = np.flatnonzero(mask)
    # Each run of marked tokens is one answer, or a part of one, its end token included.
    for run in np.split(marked, np.flatnonzero(np.diff(marked) > 1) + 1) if len(marked) else ():
        first, last = offsets[run[0]][0], offsets[run[-1]][1]
        within = [each for each in answers if each.start <= last and first <= each.end]
        if not within:
            raise Unrenderable("the chat template marks as the assistant's what no turn says")
        for token in run:
            begun = [each for each in within if each.start < offsets[token][1]]
            answer = begun[-1] if begun else within[0]
            trained = messages[answer.turn].get("train") is not False
            parts = _parts(offsets[token], answer) if trained else ()
            mask[token] = int(any(part in loss_on for part in parts))


def _mark_prompts(
    mask: list[int],
    marked: Sequence[int],
    offsets: Sequence[Span],
    prompts: Sequence[Span],
    loss_on: Sequence[LossPart],
) -> None:
    """Put loss on the tokens of what others say, and on those that no turn says."""
    for token, (start, end) in enumerate(offsets):
        if not marked[token]:
            is_said = any(start < last and first < end for first, last in prompts)
            mask[token] = int(("instruction" if is_said else "template") in loss_on)


def _parts(token: Span, answer: RenderedAnswer) -> list[AnswerPart]:
    """The parts of an answer that a token covers a character of."""
    start, end = token
    parts: list[AnswerPart] = []
    if start < answer.content[0]:
        parts.append("reasoning")
    if start < answer.content[1] and end > answer.content[0]:
        parts.append("content")
    if answer.calls and start < answer.calls[1] and end > answer.calls[0]:
        parts.append("calls")
    if end > answer.end:
        parts.append("calls" if answer.calls else "content")
    return parts
