"""Tags from the surface of a conversation: its language, length, form and manner.

No model and no judgement: regular expressions over columns, and the language
identifier of py3langid (a naive Bayes model over byte n-grams whose weights are
in its wheel; Lui and Baldwin 2012). The flags are rules of thumb whose precision
on labelled data is in the tests; they are meant for counting and for filtering
(`select.top`), and do not detect every case.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.stage import Records, stage
from pipeline.types import Count, Fraction, Range
from schemas.records import num_tool_calls, reasoning, response, turns
from schemas.refusals import AI_DISCLAIMER, REFUSAL
from schemas.turns import View, viewed
from stages._text.languages import identifier

CODE: Final = r"""(?xm)
    ^[ \t]*```
    | ^\s*(
        def\ \w+\( | class\ \w+[(:{] | import\ [\w.*{},\ ]+;?\s*$ | from\ [\w.]+\ import\b
        | \#include\s*[<"] | (public|private|protected)\ (static\ )?\w+
        | (const|let|var)\ \w+\ ?= | function\ \w*\( | return\ [^.]*;\s*$
        | print(f|ln)?\(.*\) | System\.out\. | console\.log | std::
        | <\?php | <!DOCTYPE | </?(html|head|body|div|script|style|p|h\d|ul|li|a|table|form)\b[^>]*>
        | (if|for|while)\ ?\(.*\)\s*\{ | \w+(\[\w+\])?\ ?=\ ?\w+[(\[].*[)\]];?\s*$
      )
    | \bSELECT\b[^.]{1,200}\bFROM\b | (?i:^\s*(select\ [\w*,.\ ]+\ from|create\ table)\ \w)
    | [;{}]\s*\n\s*[\w})].*[;{}]\s*$
"""
"""A fenced block, a line that opens like a statement or a tag, an SQL query, or two
lines that end in ; { }."""

MATH: Final = r"""(?x)
    \\(frac|sqrt|sum|int|begin\{(equation|align)) | \$[^$\n]*[\\^_=][^$\n]*\$
    | \d\s*[-+*/×÷^]\s*\d[\d.,]*\s*= | =\s*-?\d+[xyz]\b
    | \b\d*[xyz](\^?[2-9²³])?\s*[-+^]\s*\d+\S*\s*= | \b\d*[xyz](\^?[2-9²³])?\s*[-+]\s*\d*[xyz]\b
    | (?i:\b(
        solve\ (for\ \w\b|the\ equation) | (square|cube)\ root | quadratic\ (equation|formula)
        | (derivative|integral)\ of | polynomial | hypotenuse | perimeter | arithmetic\ sequence
        | probability\ (of|that)\b[^.?]*\d | the\ (sum|product|average|mean|median)\ of\b[^.?]*\d
      )\b)
    | (?i:\d[^?]*\bhow\ (many|much|long|far|old)\b[^?]*\?)
"""
"""LaTeX, arithmetic, an equation in x, y or z, or the words of a school problem."""

LIST_LINE: Final = r"(?m)^[ \t]*([-*•‣–]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])[ \t]+\S"
"""A line that begins with a bullet, a number or a letter."""


def _check(options: SimpleNamespace) -> None:
    unknown = set(options.languages) - set(identifier().labels) if options.languages else ()
    if unknown:
        raise OptionError(
            "languages",
            f"must be languages that py3langid identifies, got {', '.join(sorted(unknown))}",
            hint="use ISO 639 codes such as en, de, zh",
        )


@stage(
    version=3,
    scope="row",
    reads=["messages", "tools", "input_start"],
    adds={
        "language": pl.String,
        "language_score": pl.Float32,
        "length_class": pl.String,
        "is_code": pl.Boolean,
        "is_math": pl.Boolean,
        "is_list": pl.Boolean,
        "is_multi_turn": pl.Boolean,
        "has_input": pl.Boolean,
        "is_refusal": pl.Boolean,
        "is_ai_disclaimer": pl.Boolean,
        "has_tools": pl.Boolean,
        "has_reasoning": pl.Boolean,
    },
    check=_check,
)
def surface(
    ctx: Context,
    rows: Records,
    *,
    languages: tuple[str, ...] = (),
    min_confidence: Fraction = 0.5,
    max_characters: Count = 1000,
    lengths: Range = (200, 1000),
    view: View = "content",
) -> pl.DataFrame:
    """Tag the language, length class and form of each conversation.

    Args:
        rows: Conversations.
        languages: The ISO 639 codes to choose from; empty for all that the identifier has.
            Naming those that occur helps to separate related ones (written Chinese is
            sometimes identified as `wuu` or `yue`).
        min_confidence: Below it the language is `und`, undetermined. The identifier's
            confidence falls with the length of the text, so that very short answers
            and numbers are `und` and no wild guess.
        max_characters: How much of the conversation, user and assistant turns in their
            order, the identifier sees.
        lengths: Where `medium` and `long` begin, in characters of the last answer; below
            are `short` and, for a blank or missing answer, `empty`.
        view: What of a turn the other tags look at: its content, the tool calls too, or all.

    Returns:
        `language`, `language_score` (0 to 1), `length_class`, and these flags: `is_code` and
        `is_math` (in any user or assistant turn), `is_list` (an answer with two list
        lines or more), `is_multi_turn` (two user turns or more), `has_input`,
        `is_refusal` (an answer opens with one), `is_ai_disclaimer`, `has_tools` (tools are
        defined or called) and `has_reasoning`.

    Example:
        ```yaml
        tagged:
          uses: tag.surface
          needs: pool
          with: {languages: [en, de, fr]}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> turns = [("user", "How do I sort a list in Python?"), ("assistant", "I cannot help.")]
        >>> messages = [{"role": role, "content": content} for role, content in turns]
        >>> rows = pl.DataFrame({"messages": [messages], "input_start": [None], "tools": [None]})
        >>> tags = surface(Context.scratch(Path(mkdtemp())), rows)
        >>> tags.select("language", "length_class", "is_refusal").row(0)
        ('en', 'short', True)
    """
    texts = _texts(rows, max_characters, view)
    named = _languages(texts["beginning"], languages, min_confidence)
    both = pl.concat_str("prompts", "answers", separator="\n")
    answers = pl.col("assistant_turns").list
    return texts.select(
        *named,
        _length_class(lengths),
        both.str.contains(CODE).alias("is_code"),
        both.str.contains(MATH).alias("is_math"),
        answers.eval(pl.element().str.count_matches(LIST_LINE) >= 2).list.any().alias("is_list"),
        (pl.col("num_user_turns") > 1).alias("is_multi_turn"),
        pl.col("input_start").is_not_null().alias("has_input"),
        answers.eval(pl.element().str.contains(REFUSAL)).list.any().alias("is_refusal"),
        pl.col("answers").str.contains(AI_DISCLAIMER).alias("is_ai_disclaimer"),
        "has_tools",
        "has_reasoning",
    )


def _texts(rows: pl.DataFrame, max_characters: int, view: View) -> pl.DataFrame:
    """The inputs of the tags: the turns by role, their number, the answer's length."""
    return rows.select(
        turns("user", view).list.join("\n").alias("prompts"),
        turns("assistant", view).list.join("\n").alias("answers"),
        turns("assistant", view),
        turns("user").list.len().alias("num_user_turns"),
        response(view).str.strip_chars().str.len_chars().fill_null(0).alias("length"),
        _beginning(max_characters, view),
        (pl.col("tools").is_not_null() | (num_tool_calls() > 0))
        .fill_null(False)
        .alias("has_tools"),
        (reasoning().list.len() > 0).fill_null(False).alias("has_reasoning"),
        "input_start",
    )


def _beginning(max_characters: int, view: View) -> pl.Expr:
    """The beginning of the conversation without its system and tool turns."""
    relevant = pl.element().struct.field("role").is_in(["user", "assistant"])
    content = pl.element().filter(relevant).struct.field("content")
    joined = viewed(view).list.eval(content).list.join("\n")
    return joined.str.head(max_characters).alias("beginning")


def _length_class(lengths: tuple[int, int]) -> pl.Expr:
    return (
        pl.when(pl.col("length") == 0)
        .then(pl.lit("empty"))
        .when(pl.col("length") < lengths[0])
        .then(pl.lit("short"))
        .when(pl.col("length") < lengths[1])
        .then(pl.lit("medium"))
        .otherwise(pl.lit("long"))
        .alias("length_class")
    )


def _languages(
    texts: Iterable[str], candidates: tuple[str, ...], min_confidence: float
) -> tuple[pl.Series, pl.Series]:
    """The language of each text and the confidence in it.

    A loop, because the identifier walks an automaton over the bytes of one text
    at a time: about 10,000 rows a second.
    """
    classify = identifier(candidates).classify
    results = [classify(text) for text in texts]
    scores = pl.Series("language_score", [score for _, score in results], dtype=pl.Float32)
    names = [name if score >= min_confidence else "und" for name, score in results]
    return pl.Series("language", names, dtype=pl.String), scores
