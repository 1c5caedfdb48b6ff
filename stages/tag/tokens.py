"""The number of tokens of each conversation, by a model's tokenizer alone.

No weights are loaded and nothing is asked of a model: the texts of many rows go through the
tokenizer at once (`tokenizers`, in Rust, on all cores). What is counted:

- with `rendering: chat`, the text that the model reads, with tools, calls and reasoning as the
  chat template shows them. `all` is the conversation, the number that `score.loss` and
  `train.sft` have; `prompt` is all before the last assistant turn with what opens an answer;
  `response` is what then follows until that turn ends, so that both sum to `all` where it is
  the last one;
- with `rendering: plain`, the texts of the turns alone, each by itself, without special
  tokens: their contents, and with the option `view` their calls and reasoning. `prompt` is all
  before the last assistant turn here too, and `response` that turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.models.base import LanguageModel
from pipeline.models.local.chat_template import Unrenderable
from pipeline.stage import Records, stage
from schemas.turns import View, turn_text
from stages._llm.rendered import rendered_text
from stages._llm.token_counts import (
    check_tokenizer,
    rendered_lengths,
    token_lengths,
    tokenizer_of,
)

Part = Literal["all", "prompt", "response"]

_SLICE: Final = 4_096
"""Conversations rendered and tokenized at a time, which bounds the memory for their texts."""

Counted = tuple[Sequence[int | None], Sequence[str | None]]
"""The number of tokens of each row, and why there is none."""


@stage(
    version=1,
    scope="row",
    reads=["messages", "tools"],
    adds={"tokens": pl.Int32},
    check=check_tokenizer,
)
def tokens(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    part: Part = "all",
    rendering: Literal["chat", "plain"] = "chat",
    view: View = "content",
) -> pl.DataFrame:
    """Count the tokens of each conversation.

    Adds `tokens`, for the option `token_column` of selectors, mixtures and exports. It is null
    for the `response` of a row without an assistant turn. A row that the chat template
    refuses, or renders otherwise without its answer (`response`), is a failed row, and so is
    one of which a text holds a control token.

    Args:
        rows: Conversations.
        model: The model whose tokenizer and chat template are used; a folder with these
            files alone will do.
        part: What is counted: all, the prompt (all before the last assistant turn) or the
            response (that turn).
        rendering: `chat`: as the chat template renders it; `plain`: the turns' texts alone.
        view: With `plain`, what of a turn is counted: its content, the calls too, or all: its
            reasoning as well. The chat template decides by itself what it shows.

    Example:
        ```yaml
        counted: {uses: tag.tokens, needs: pool, with: {model: writer}}
        sample:  {uses: select.random, needs: counted, with: {budget: 1000000, unit: tokens}}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> messages = [{"role": "user", "content": "Sing"}, {"role": "assistant", "content": "La"}]
        >>> rows = pl.DataFrame({"messages": [messages], "tools": [None]})
        >>> tinylm = LanguageModel(model="data/models/tinylm")
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> tokens(ctx, rows, model=tinylm, rendering="plain")["tokens"].to_list()
        [4]
    """
    tokenizer = tokenizer_of(model)
    counts: list[int | None] = []
    errors: list[str | None] = []
    for some in rows.iter_slices(_SLICE):
        if rendering == "chat":
            some_counts, some_errors = _count_chat(tokenizer, some, part)
        else:
            some_counts, some_errors = _count_plain(tokenizer, some, part, view)
        counts += some_counts
        errors += some_errors
    return pl.DataFrame(
        {"tokens": counts, "error": errors}, schema={"tokens": pl.Int32, "error": pl.String}
    )


def _answer_position(messages: Sequence[Any]) -> int | None:
    """The position of the last assistant turn; None without one."""
    positions = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return positions[-1] if positions else None


def _count_plain(tokenizer: Any, rows: pl.DataFrame, part: Part, view: View) -> Counted:
    """The tokens of the turns' texts, each by itself."""
    selected: list[list[str] | None] = []
    for messages in rows["messages"].to_list():
        contents = [turn_text(message, view) for message in messages]
        answer = _answer_position(messages)
        if part == "response":
            selected.append(None if answer is None else [contents[answer]])
        else:
            selected.append(contents[:answer] if part == "prompt" else contents)
    owners = np.repeat(np.arange(len(selected)), [len(texts or ()) for texts in selected])
    lengths = token_lengths(tokenizer, [text for texts in selected for text in texts or ()])
    sums = np.bincount(owners, lengths, len(selected)).astype(np.int64).tolist()
    counts = [None if s is None else n for s, n in zip(selected, sums, strict=True)]
    return counts, [None] * len(counts)


def _count_chat(tokenizer: Any, rows: pl.DataFrame, part: Part) -> Counted:
    """The tokens of rendered texts; those of an answer are what the prompt's are less than all."""
    errors: list[str | None] = [None] * len(rows)
    texts: list[tuple[str, ...]] = []
    for row, (messages, tools) in enumerate(rows.select("messages", "tools").iter_rows()):
        try:
            texts.append(_rendered(tokenizer, messages, tools, part))
        except Unrenderable as error:
            errors[row] = str(error)
            texts.append(())
    owners = np.repeat(np.arange(len(texts)), [len(parts) for parts in texts])
    flat = [text for parts in texts for text in parts]
    lengths = rendered_lengths(tokenizer, flat)
    signs = [sign for parts in texts for sign in (1, -1)[: len(parts)]]
    sums = np.bincount(owners, lengths * np.array(signs, np.int64), len(texts))
    counts = [int(n) if parts else None for parts, n in zip(texts, sums, strict=True)]
    return counts, errors


def _rendered(
    tokenizer: Any, messages: Sequence[Any], tools: str | None, part: Part
) -> tuple[str, ...]:
    """The text to count, behind it the text whose tokens are taken off; () for no text.

    Raises:
        Unrenderable: The template refuses the conversation, or changes it without its answer.
    """
    answer = _answer_position(messages)
    if part == "all":
        return (rendered_text(tokenizer, messages, tools),)
    if part == "response" and answer is None:
        return ()
    prompt = rendered_text(tokenizer, messages[:answer], tools, add_generation_prompt=True)
    if part == "prompt":
        return (prompt,)
    whole = rendered_text(tokenizer, messages[: answer + 1 if answer is not None else None], tools)
    if not whole.startswith(prompt):
        raise Unrenderable("the chat template renders the prompt otherwise without its answer")
    return whole, prompt
