r"""The reasoning of a conversation: how long it is, and signs that something is wrong with it.

No model and no judgement. The reasoning is that of all assistant turns, or of the last one
(`part`).

- `reasoning_words`: its words; of scripts without spaces, its characters
  (`reasoning_tokens` by a model's tokenizer, with `model`);
- `reasoning_repetition`: the fraction of its n-grams that occurred in it before (the measure of
  `score.heuristics`); a loop is near 1;
- `reasoning_other_script`: the fraction of its letters that are of another script than most of
  the answer: Chinese in reasoning whose answer is English. Code, LaTeX's commands and single
  letters (x, π) do not count; Chinese and Japanese are one script, and a change between two
  languages of one script is not seen;
- `reasoning_unclosed`: a mark of reasoning is left in a content or a reasoning, and is not closed
  or not opened: `<think>`, `</think>`, `[THINK]` and their kind; or any of gpt-oss's channels.
  Marks in code (\`<think>\`) do not count;
- `reasoning_has_answer`: whether the final answer occurs in it, where that is a short one (a
  `\boxed{...}`, what follows `####` or "the answer is", or an answer of few words). False is what
  an answer that does not follow from its reasoning has.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from pipeline.context import Context
from pipeline.models.base import LanguageModel
from pipeline.stage import Columns, Edges, Records, stage
from pipeline.types import Count
from schemas.records import RECORD_COLUMNS
from stages._llm.token_counts import check_tokenizer, token_lengths, tokenizer_of
from stages._text.final_answer import final_answer, holds_answer
from stages._text.ragged import offsets_of
from stages._text.words import count_words, repetition, word_lists

_ADDS: Final = {
    "reasoning_words": pl.Int32(),
    "reasoning_repetition": pl.Float32(),
    "reasoning_other_script": pl.Float32(),
    "reasoning_unclosed": pl.Boolean(),
    "reasoning_has_answer": pl.Boolean(),
}

_MARK: Final = re.compile(
    r"<(/?)(think|thinking|thought|reasoning|seed:think)>|\[(/?)(THINK)\]"
    r"|<\|(begin|end)_of_(thought)\|>"
)
"""Marks that open and close reasoning: of DeepSeek, Qwen and most others, of Seed, of Magistral
and of Sky-T1."""

_CHANNEL: Final = r"<\|(?:channel|start|message)\|>"
"""A mark of gpt-oss's format, which has no place in a text."""

_CODE: Final = r"(?s)```.*?(?:```|\z)|`[^`\n]+`"
_COMMAND: Final = r"\\[A-Za-z]+"

_SCRIPTS: Final = (
    "Latin", "Cyrillic", "Greek", "Armenian", "Georgian", "Hebrew", "Arabic", "Ethiopic",
    "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada",
    "Malayalam", "Sinhala", "Tibetan", "Hangul",
)  # fmt: skip
_LETTERS: Final = {
    **{script: rf"\p{{{script}}}{{2,}}" for script in _SCRIPTS},
    "Han": r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}]+",
    **{script: rf"\p{{{script}}}+" for script in ("Thai", "Lao", "Khmer", "Myanmar")},
}
"""The letters of each script; of those that are written with spaces a single one is a symbol."""


def _adds(options: SimpleNamespace, edges: Edges) -> Columns:
    return _ADDS | ({"reasoning_tokens": pl.Int32()} if options.model else {})


@stage(version=2, scope="row", reads=["messages"], adds=_adds, check=check_tokenizer)
def reasoning(
    ctx: Context,
    rows: Records,
    *,
    part: Literal["all", "last"] = "all",
    ngram_size: Count = 3,
    max_answer_words: Count = 6,
    model: LanguageModel | None = None,
) -> pl.DataFrame:
    """Measure the reasoning of each conversation without a model.

    Args:
        rows: Conversations.
        part: Whose reasoning: that of all assistant turns, or of the last one alone.
        ngram_size: Words in the n-grams of `reasoning_repetition`.
        max_answer_words: Up to how many words an answer is a short one.
        model: Adds `reasoning_tokens`, by this model's tokenizer; a folder with its files alone
            will do.

    Returns:
        The columns that are listed at the head of the module. Without reasoning
        `reasoning_words` is 0 and `reasoning_repetition`, `reasoning_other_script` and
        `reasoning_has_answer` are null; the last is null, too, where no final answer is short.

    Example:
        ```yaml
        measured: {uses: tag.reasoning, needs: pool}
        varied:
          uses: select.top
          needs: measured
          with: {score: reasoning_repetition, max_score: 0.5}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> answer = {"content": "The answer is 6.", "reasoning": "Twice 3 is 6, and 6 is even."}
        >>> messages = [{"role": "user", "content": "2 * 3?"}, {"role": "assistant"} | answer]
        >>> rows = pl.DataFrame({"messages": [messages]})
        >>> tags = reasoning(Context.scratch(Path(mkdtemp())), rows)
        >>> tags.select("reasoning_words", "reasoning_unclosed", "reasoning_has_answer").row(0)
        (8, False, True)
    """
    texts = _texts(rows, part)
    words = texts.select(word_lists(pl.col("reasoning"))).to_series()
    offsets = offsets_of(words.list.len().to_numpy())
    flat = words.explode(empty_as_null=False, keep_nulls=False)
    repeated = pl.Series(repetition(flat, offsets, ngram_size), nan_to_null=True)
    tags = texts.select(
        count_words(pl.col("reasoning")).cast(pl.Int32).alias("reasoning_words"),
        repeated.cast(pl.Float32).alias("reasoning_repetition"),
        _other_script(texts),
        _unclosed(texts["marked"]),
        _has_answer(texts, max_answer_words),
    )
    if model is None:
        return tags
    counts = token_lengths(tokenizer_of(model), texts["reasoning"].to_list())
    return tags.with_columns(pl.Series("reasoning_tokens", counts, pl.Int32))


def _texts(rows: pl.DataFrame, part: str) -> pl.DataFrame:
    """The inputs of the measures.

    `reasoning` and `contents` of the assistant turns, joined; `answer`, the last content;
    `marked`, all contents and reasonings without code: list[str].
    """
    turn = pl.element().struct
    answers = pl.element().filter(turn.field("role") == "assistant")
    # Frames that were made by hand may lack the fields.
    messages = rows.select(pl.col("messages").cast(RECORD_COLUMNS["messages"]))
    turns = messages.select(pl.col("messages").list.eval(answers).alias("turns"))
    if part == "last":
        turns = turns.select(pl.col("turns").list.tail(1))

    def texts(field: str) -> pl.Expr:
        return pl.col("turns").list.eval(turn.field(field).fill_null("")).fill_null([])

    return turns.select(
        texts("reasoning").list.eval(pl.element().filter(pl.element() != "")).list.join("\n")
        .alias("reasoning"),
        texts("content").list.join("\n").alias("contents"),
        texts("content").list.last().fill_null("").alias("answer"),
        pl.concat_list(texts("reasoning"), texts("content"))
        .list.eval(pl.element().str.replace_all(_CODE, ""))
        .alias("marked"),
    )  # fmt: skip


def _other_script(texts: pl.DataFrame) -> pl.Series:
    """The fraction of the letters of the reasoning that are not of the answer's script."""
    reasoned = _letter_counts(texts["reasoning"])
    answered = _letter_counts(texts["contents"])
    # An answer without letters, such as a number, has the script of its reasoning.
    decisive = np.where(answered.sum(axis=1, keepdims=True) > 0, answered, reasoned)
    main = reasoned[np.arange(len(reasoned)), decisive.argmax(axis=1)]
    total = reasoned.sum(axis=1)
    fraction = np.where(total > 0, 1 - main / np.maximum(total, 1), np.nan)
    named = pl.Series("reasoning_other_script", fraction, nan_to_null=True)
    return named.cast(pl.Float32)


def _letter_counts(texts: pl.Series) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The letters of each script in each text, shape (texts, scripts)."""
    prose = texts.str.replace_all(_CODE, " ").str.replace_all(_COMMAND, " ")
    frame = prose.to_frame("text")
    # Most texts are of Latin letters alone, and need no search for others.
    plain = pl.col("text").str.len_bytes() == pl.col("text").str.len_chars()
    counts = [
        pl.when((script != "Latin") & plain)
        .then(0)
        .otherwise(pl.col("text").str.extract_all(letters).list.join("").str.len_chars())
        .cast(pl.Int64)
        .alias(script)
        for script, letters in _LETTERS.items()
    ]
    return frame.select(counts).to_numpy()


def _unclosed(marked: pl.Series) -> pl.Series:
    """Whether a text of the row holds a mark without its partner."""
    contains = pl.element().str.contains(f"{_MARK.pattern}|{_CHANNEL}")
    suspicious = marked.list.eval(contains).list.any().fill_null(False)
    values = [False] * len(marked)
    for row in suspicious.arg_true():
        values[row] = any(_is_unbalanced(text) for text in marked[row])
    return pl.Series("reasoning_unclosed", values, pl.Boolean)


def _is_unbalanced(text: str) -> bool:
    if re.search(_CHANNEL, text):
        return True
    is_open: dict[str, bool] = {}
    for match in _MARK.finditer(text):
        closes, kind = (group for group in match.groups() if group is not None)
        if (closes in ("/", "end")) != is_open.get(kind, False):
            return True
        is_open[kind] = not is_open.get(kind, False)
    return any(is_open.values())


def _has_answer(texts: pl.DataFrame, max_words: int) -> pl.Series:
    """Whether the reasoning holds the final answer. A loop, over the rows that reason alone."""
    values: list[bool | None] = [None] * len(texts)
    for row in (texts["reasoning"] != "").arg_true():
        answer = final_answer(texts["answer"][row], max_words)
        if answer is not None:
            values[row] = holds_answer(texts["reasoning"][row], answer)
    return pl.Series("reasoning_has_answer", values, pl.Boolean)
