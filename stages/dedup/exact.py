"""Exact duplicates: rows that are equal after a chosen normalization.

Rows of equal messages are one record already at load. This stage finds those that
differ only in line ends and Unicode encoding (by default), in case, spacing or
punctuation, or that share one field. Digits, signs and operators always count, and so do
the roles of the turns. White space inside a text counts unless `space` is named: where a
line breaks and how far it is indented decides what a program does.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from pipeline.context import Context
from pipeline.parts import in_parts, some_columns
from pipeline.stage import PairParts, RecordParts, stage
from schemas.turns import View, beside_content
from stages._common.pairs import PARTS, are_pairs, as_conversations
from stages._common.verdicts import dropped
from stages._text.tokens import Field, Normalization, field_reads, field_text
from stages._text.tokens import normalize as normalize_text
from stages.dedup._order import order_columns, ordering


@stage(
    version=3,
    scope="set",
    reads=lambda options: [
        *field_reads(options.field, options.view),
        *order_columns(options.order_by),
    ],
)
def exact(
    ctx: Context,
    rows: RecordParts | PairParts,
    *,
    field: Field = "conversation",
    view: View = "calls",
    normalize: tuple[Normalization, ...] = ("unicode", "line_ends"),
    order_by: str = "id",
) -> pl.DataFrame:
    """Keep the first row of each set of equals; drop the others as `exact_duplicate`.

    A row whose text is empty, before or after normalization, equals nothing and is kept.

    Args:
        rows: The rows to deduplicate.
        field: What is compared: the whole conversation, every turn with its role, system
            turns too; the prompt (first user turn with its input), the instruction (without
            it), the response (last assistant turn), or both (prompt and response). Of pairs
            the turns of the prompt, as prompt or instruction; both sides, as response; or all.
        view: What of a turn is compared: its content, the tool calls too (their arguments as
            given), or all (its reasoning, and with a conversation the definitions of its tools).
        normalize: The kinds of difference that do not count; () compares the text unchanged.
            case; line_ends (white space at the end of a line or of the text, and empty lines
            before it); space (every run of white space, indentation and line breaks too: for
            prose without code); punctuation (sentence marks and quotes, save within
            numbers); unicode (NFC: one encoding per character);
            nfkc (compatibility forms too, which makes "２" a "2", but also "2³" a "23").
        order_by: Which of the equals is the first: id, origin or a column; ` desc` after it
            reverses the order.

    Returns:
        The verdicts. Evidence: `duplicate_of`, the id of the row kept.

    Example:
        ```yaml
        unique:
          uses: dedup.exact
          needs: pool
          with: {normalize: [unicode, space, case]}  # prose
        ```

        >>> import tempfile
        >>> from pathlib import Path
        >>> messages = [[{"role": "user", "content": text}] for text in ("Sing!", "sing", "Run")]
        >>> rows = pl.DataFrame({"id": ["a", "b", "c"], "messages": messages})
        >>> ctx = Context.scratch(Path(tempfile.mkdtemp()))
        >>> exact(ctx, rows, normalize=("case", "punctuation"))["evidence"].to_list()
        [None, '{"duplicate_of": "a"}', None]
    """
    keys = pl.concat(_keys(part, field, view, normalize) for part in in_parts(rows, _AT_ONCE))
    order = ordering(some_columns(rows, order_columns(order_by)), order_by)
    keyed = keys.with_columns(rows["id"], pl.int_range(pl.len()).alias("position"))[order]
    duplicates = (
        keyed.filter(pl.col("first").is_not_null())
        .with_columns(pl.col("id").first().over("first", "second").alias("duplicate_of"))
        .filter(pl.col("duplicate_of") != pl.col("id"))
    )
    evidence = {
        position: {"duplicate_of": kept}
        for position, kept in duplicates.select("position", "duplicate_of").iter_rows()
    }
    return dropped(len(rows), "exact_duplicate", evidence)


def _keys(
    rows: pl.DataFrame, field: Field, view: View, steps: tuple[Normalization, ...]
) -> pl.DataFrame:
    """Two hashes of what equal rows share, 128 bits in all; null for a row without text."""
    if are_pairs(rows):
        rows, field = as_conversations(rows, _PARTS.get(field, PARTS)), "conversation"
    # Once, since what stands beside the content is read turn by turn.
    keys = rows.with_columns(_beside(field, view)).select(_key(field, view, steps))["key"]
    hashes = pl.DataFrame({"first": keys.hash(0), "second": keys.hash(1)})
    return hashes.select(pl.when(keys.is_not_null()).then(pl.all()))


_AT_ONCE: Final = 16_384
"""Rows whose texts are in memory."""

_BESIDE: Final = "_beside_content"

_PARTS: Final = {"prompt": PARTS[:1], "instruction": PARTS[:1], "response": PARTS[1:]}


def _beside(field: Field, view: View) -> pl.Expr:
    """What the compared turns have beside their content; empty where that is nothing."""
    if field in ("prompt", "instruction"):
        return pl.lit("").alias(_BESIDE)
    role = None if field == "conversation" else "assistant"
    return beside_content(view, role).alias(_BESIDE)


def _key(field: Field, view: View, steps: tuple[Normalization, ...]) -> pl.Expr:
    """What equal rows share; null for a row without text."""
    if field == "conversation":
        role = pl.element().struct.field("role")
        content = normalize_text(pl.element().struct.field("content").fill_null(""), steps)
        turn = pl.concat_str(role, _with_length(content))
        key = pl.concat_str(
            pl.col("messages").list.eval(turn).list.join(""), _with_length(pl.col(_BESIDE))
        )
        if view == "all":
            key = pl.concat_str(key, _with_length(pl.col("tools").fill_null("")))
        nonempty = pl.col("messages").list.eval(_is_nonempty(content)).list.any()
    else:
        fields: tuple[Field, ...] = ("prompt", "response") if field == "both" else (field,)
        texts = [normalize_text(field_text(name, "content"), steps) for name in fields]
        if fields[-1] == "response":
            texts.append(pl.col(_BESIDE))
        key = pl.concat_str(_with_length(text) for text in texts)
        nonempty = pl.any_horizontal(_is_nonempty(text) for text in texts)
    return pl.when(nonempty | (pl.col(_BESIDE) != "")).then(key).alias("key")


def _with_length(text: pl.Expr) -> pl.Expr:
    """The text after its length: joined, such texts are unambiguous, whatever they hold."""
    return pl.concat_str(pl.lit(" "), text.str.len_chars(), pl.lit(":"), text)


def _is_nonempty(text: pl.Expr) -> pl.Expr:
    return text.str.strip_chars() != ""
