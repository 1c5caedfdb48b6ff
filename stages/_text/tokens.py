"""Texts as numbers: normalize -> tokens -> n-gram hashes -> sets, over columns of texts.

In: a column of texts. Out: flat arrays of 64-bit hashes with offsets, one slice per text
(`shingle_sets`), so that all that follows is numpy over millions of n-grams.

Near-duplicates and contamination need the same of a text: the runs of n tokens that it
holds. The sets are those of tuples of tokens (`grams` in tests/support/near_duplicates.py),
faster because each distinct token is hashed once and n-grams by a rolling hash. Hashes
are xxh3, the same on every machine. Two different n-grams share one with a probability
near 2^-64.

Nothing here normalizes a number away: digits, operators and signs stay, because
"3 apples" and "4 apples" are different problems.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from schemas.records import first_user_turn, instruction, response, tools_text
from schemas.turns import View, viewed
from stages._common.splitmix64 import mix64
from stages._text.ragged import Ragged, distinct, offsets_of, ranges
from stages._vectors.arrays import parallel_map

Field = Literal["conversation", "prompt", "instruction", "response", "both"]
Normalization = Literal["case", "space", "line_ends", "punctuation", "unicode", "nfkc"]

MARKS: Final = ".,;:!?'\"`…“”‘’«»。，、；：！？「」『』"
"""Sentence marks and quotes. Brackets and operators are not among them: they carry
meaning in mathematics and code ("C++" is not "C")."""

_UNSPACED: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts written without spaces between words: every character is a token.

Korean is written with spaces, and so are its words counted."""

_UNSPACED_WORD: Final = rf"[[{_UNSPACED}]--\p{{M}}]\p{{M}}*[\p{{P}}\p{{S}}]*"
"""A character of such a script with its marks (vowels, tones), and the punctuation behind it."""

_NUMBER = r"\p{N}+(?:(?:[.,:]\p{N}+)+!?|!)"
"""Marks inside a number and a factorial behind it belong to it: 3.5 is not 3:5, nor 5! a 5."""

_WORD = rf"[{_UNSPACED}]|[\p{{L}}\p{{M}}\p{{N}}_--[{_UNSPACED}]]+"
_SIGNS = rf"[^\p{{L}}\p{{M}}\p{{N}}_\s{re.escape(MARKS)}]+"

INVISIBLE: Final = r"\p{Default_Ignorable_Code_Point}"
"""Zero-width spaces and joiners, soft hyphens, variation selectors and their kind: a text
with them looks like the text without."""

_CHUNK = 4_096
"""Texts tokenized at a time, which bounds the memory for token strings.

Of 50,000 texts, too, there are enough such parts for all threads to end at about the
same time."""

_BASE = np.uint64(0x9E3779B97F4A7C15)
_SHORT = 0x5851F42D4C957F2D


def field_reads(field: Field, view: View = "calls") -> list[str]:
    """The record columns that `field_text` needs."""
    start = ["input_start"] if field == "instruction" else []
    tools = ["tools"] if field == "conversation" and view == "all" else []
    return ["messages", *start, *tools]


def field_text(field: Field, view: View = "calls") -> pl.Expr:
    """The text of a record that a stage compares; an empty text where there is none.

    Args:
        field: conversation: all turns; prompt: the first user turn with its input;
            instruction: the same without it; response: the last assistant turn; both: prompt
            and response.
        view: What of a turn is seen (`schemas.turns`); with `all`, a conversation ends with
            the definitions of its tools.
    """
    answer = response(view)
    match field:
        case "conversation":
            contents = pl.element().struct.field("content").fill_null("")
            expression = viewed(view).list.eval(contents).list.join("\n")
            if view == "all":
                expression = pl.concat_str(
                    expression, tools_text(), separator="\n", ignore_nulls=True
                )
        case "prompt":
            expression = first_user_turn()
        case "instruction":
            expression = instruction()
        case "response":
            expression = answer
        case "both":
            expression = pl.concat_str(first_user_turn(), answer, separator="\n", ignore_nulls=True)
    return expression.fill_null("").alias("text")


def normalize(text: pl.Expr, steps: tuple[Normalization, ...]) -> pl.Expr:
    """Remove differences of the named kinds from a text.

    Args:
        text: The text.
        steps: case: lower-cased. space: runs of white space are one space, none at the ends.
            line_ends: no white space at the end of a line (the \\r of \\r\\n) or of the text, and
            no empty lines before it; indentation stays. punctuation: sentence marks and
            quotes are removed, save those of a number ("3.5", "5!"). unicode: NFC, one
            encoding per character. nfkc: compatibility forms too ("ﬁ" is "fi", "２" is "2");
            it also makes "2³" a "23", so it is never a default.

    Example:
        >>> frame = pl.DataFrame({"text": ["  Hello,   World! 3.5"]})
        >>> frame.select(normalize(pl.col("text"), ("case", "space", "punctuation"))).item()
        'hello world 3.5'
    """
    if "nfkc" in steps:
        text = text.str.normalize("NFKC")
    elif "unicode" in steps:
        text = text.str.normalize("NFC")
    if "case" in steps:
        text = text.str.to_lowercase()
    if "punctuation" in steps:
        marks = re.escape(MARKS)
        text = text.str.replace_all(rf"((?:[.,:]?\p{{N}})+!?)|[{marks}]", "$1")
    if "line_ends" in steps:
        text = text.str.replace_all(r"[^\S\n]+\n", "\n").str.strip_chars_end()
        text = text.str.replace(r"\A\s*\n", "")
    if "space" in steps:
        text = text.str.replace_all(r"\s+", " ").str.strip_chars()
    return text


def tokens(texts: pl.Series) -> pl.Series:
    """Lower-cased words, numbers ("1,000", "3.5") and runs of signs ("+", "++", "=>"),
    without sentence marks.

    Returns list[str] per text. For comparing texts with each other.

    Example:
        >>> tokens(pl.Series(["C++ is 3.5 times faster!"])).to_list()
        [['c', '++', 'is', '3.5', 'times', 'faster']]
    """
    return _nfc(texts).str.to_lowercase().str.extract_all(f"{_NUMBER}|{_WORD}|{_SIGNS}")


def _nfc(texts: pl.Series) -> pl.Series:
    """NFC, computed where it can make a difference: plain ASCII is in that form."""
    positions = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    return texts.scatter(positions, texts.gather(positions).str.normalize("NFC"))


def group_by_numbers(texts: pl.Series) -> list[NDArray[np.int64]]:
    """Group texts that hold the same numbers, each as often.

    Numbers are written in digits, with the marks inside them ("3.5", "1,000").

    Returns:
        Positions of each group's texts, ascending; each text is in one group.

    Example:
        >>> groups = group_by_numbers(pl.Series(["3 of 5", "7", "5 and 3"]))
        >>> [group.tolist() for group in groups]
        [[0, 2], [1]]
    """
    numbers = texts.str.extract_all(r"\p{N}+(?:[.,:/]\p{N}+)*").list.sort().list.join(" ")
    frame = pl.DataFrame({"numbers": numbers.fill_null("")}).with_row_index("position")
    groups = frame.group_by("numbers", maintain_order=True).agg("position")["position"]
    return [np.array(positions, dtype=np.int64) for positions in groups.to_list()]


def words(texts: pl.Series) -> pl.Series:
    """Lower-cased words alone, compatibility forms folded (NFKC), apostrophes and invisible
    characters dropped.

    Returns list[str] per text. For finding a text inside another whatever its layout.

    Example:
        >>> words(pl.Series(["It isn't C++, i\\u200bs it?"])).to_list()
        [['it', 'isnt', 'c', 'is', 'it']]
    """
    plain = texts.str.normalize("NFKC").str.to_lowercase().str.replace_all(rf"['’{INVISIBLE}]", "")
    return plain.str.extract_all(_WORD)


def spaced(text: pl.Expr) -> pl.Expr:
    r"""A text in which the words of scripts without spaces are counted as all others are.

    Every character of Chinese, Japanese, Thai, Lao, Khmer and Burmese has spaces around it;
    other texts stay as they are. What a word is beside that is for the caller to say.

    Example:
        >>> texts = pl.DataFrame({"text": ["Tea 茶です。", "tea, please"]})
        >>> texts.select(spaced(pl.col("text")).str.count_matches(r"\S+"))["text"].to_list()
        [4, 2]
    """
    return text.str.replace_all(f"({_UNSPACED_WORD})", " $1 ")


def factorize(words: pl.Series) -> tuple[pl.Series, NDArray[np.int64]]:
    """The distinct words by their first occurrence, and for each word its index among them.

    Example:
        >>> distinct_words, codes = factorize(pl.Series(["b", "a", "b"]))
        >>> distinct_words.to_list(), codes.tolist()
        (['b', 'a'], [0, 1, 0])
    """
    encoded = words.to_arrow().dictionary_encode()
    # Through polars: numpy's own conversion has pyarrow import pandas, for a quarter second.
    indices = pl.Series(pl.from_arrow(encoded.indices))
    return pl.Series(pl.from_arrow(encoded.dictionary)), indices.to_numpy().astype(np.int64)


def hash_tokens(tokenized: pl.Series) -> Ragged:
    """The 64-bit hash of each token; each distinct token is hashed once."""
    flat = tokenized.explode(empty_as_null=False, keep_nulls=False)
    distinct_tokens, codes = factorize(flat)
    hashes = np.fromiter(
        (xxh3_64_intdigest(token.encode()) for token in distinct_tokens), np.uint64
    )
    return Ragged(offsets_of(tokenized.list.len().to_numpy()), hashes[codes])


def rolling_hashes(
    values: NDArray[np.uint64], longest: int
) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """For n = 1 ... longest the hashes of all runs of n values, across text borders too.

    A run of n differs from a run of another length, because the hashes of tokens are as
    good as random.

    Args:
        values: Hashes of tokens.
        longest: The longest run.

    Yields:
        n, and the hashes: element i belongs to values[i:i + n].
    """
    rolled = np.zeros(len(values) + 1, dtype=np.uint64)
    for k in range(longest):
        rolled = rolled[:-1] * _BASE + values[k:]
        yield k + 1, rolled
        if not len(rolled):
            return


def extend_hashes(
    values: NDArray[np.uint64],
    starts: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    lengths: range,
) -> NDArray[np.uint64]:
    """The rolling hashes of longer runs, at some starts only.

    Args:
        values: Hashes of tokens.
        starts: Where the runs begin.
        hashes: The hash of each run of `lengths.start` values.
        lengths: From the length of the runs to the length wanted.
    """
    for k in lengths:
        hashes = hashes * _BASE + values[starts + k]
    return hashes


def ngram_hashes(hashed: Ragged, n: int) -> Ragged:
    """One hash for every run of n tokens, in the order of the text."""
    rolled = np.zeros(0, dtype=np.uint64)
    for length, hashes in rolling_hashes(hashed.values, n):
        rolled = hashes if length == n else rolled
    counts = np.maximum(hashed.lengths - (n - 1), 0)
    return Ragged(offsets_of(counts), mix64(rolled[ranges(hashed.offsets[:-1], counts)]))


def shingles(texts: pl.Series, n: int) -> Ragged:
    """The hashes of each text's n-grams of `tokens`, repeats included.

    A text of fewer than n tokens has one: the hash of all its tokens. A text
    without any token has none, and so is similar to nothing.
    """
    parts = []
    for start in range(0, len(texts), _CHUNK):
        hashed = hash_tokens(tokens(texts.slice(start, _CHUNK)))
        parts.append(_with_short_texts(ngram_hashes(hashed, n), hashed, n))
    counts = [part.lengths for part in parts] or [np.zeros(0, dtype=np.int64)]
    values = [part.values for part in parts] or [np.zeros(0, dtype=np.uint64)]
    return Ragged(offsets_of(np.concatenate(counts)), np.concatenate(values))


def _with_short_texts(grams: Ragged, hashed: Ragged, n: int) -> Ragged:
    counts = grams.lengths.copy()
    values = [grams.values]
    owners = [grams.owners()]
    for length in range(1, n):
        short = np.flatnonzero(hashed.lengths == length)
        first = hashed.offsets[short]
        # The length goes in first, so that no short text equals an n-gram of a longer one.
        rolled = np.full(len(short), (_SHORT * length) & (2**64 - 1), dtype=np.uint64)
        for k in range(length):
            rolled = rolled * _BASE + hashed.values[first + k]
        counts[short] = 1
        values.append(mix64(rolled))
        owners.append(short)
    order = np.argsort(np.concatenate(owners), kind="stable")
    return Ragged(offsets_of(counts), np.concatenate(values)[order])


def shingle_sets(texts: pl.Series, n: int) -> Ragged:
    """The `shingles` of each text, each once and in order of their hashes.

    Example:
        >>> shingle_sets(pl.Series(["a b a b", "a", ""]), 2).lengths.tolist()
        [2, 1, 0]
    """
    with parallel_map() as map_blocks:
        parts = map_blocks(
            lambda rows: distinct(shingles(texts[rows], n)), max(len(texts), 1), _CHUNK
        )
    counts = np.concatenate([part.lengths for part in parts])
    return Ragged(offsets_of(counts), np.concatenate([part.values for part in parts]))
