"""The rules of `decontaminate.ngram` and of the certificate: one group of options for each.

Papers count tokens of their own tokenizers in complete documents. Here the unit is a word
(`stages._text.tokens.words`: lower case, no punctuation, numbers stay, a character of
Chinese is a word; invisible characters are left out) and each turn of a conversation is
compared separately. The groups say what else differs.

Ours in all of them: n-grams of numbers and single letters alone are ignored, and a text that
has no other n-grams, which is mostly numbers, is searched for whole, as one n-gram; texts
of fewer words than an n-gram are so too. The papers count every n-gram, and skip texts that
are shorter.

GPT-4's three random substrings of 50 characters (arXiv:2303.08774) are left out: chance
decides what they find.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields as dataclass_fields
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.types import option_group
from stages._text.ngram_index import (
    Index,
    Measure,
    Overlaps,
    build_index,
    scan_overlaps,
)
from stages._text.ngram_table import MIN_DISTINCT_WORDS
from stages.decontaminate._benchmarks import Benchmarks, Turns, by_benchmark
from stages.decontaminate._substrings import Needles, build_needles, find_contained

Words = Annotated[int, Field(ge=MIN_DISTINCT_WORDS)]
"""A number of words: fewer than three are no evidence."""

Exceeded = Annotated[
    float | dict[str, float], by_benchmark("at least 0 and below 1", lambda f: 0 <= f < 1)
]
"""A fraction that an overlap must exceed, for all benchmarks or by benchmark."""

Reached = Annotated[
    float | dict[str, float], by_benchmark("between 0 and 1", lambda f: 0 <= f <= 1)
]
"""A fraction that an overlap must reach, for all benchmarks or by benchmark."""


@option_group
class _NgramRule:
    """What the rules that share n-grams have in common; a rule's own defaults follow its paper.

    Args:
        ngram_size: Words per n-gram.
        turns: Turns that are compared.
        min_words: Fewest words of a text that is searched for as one n-gram.
    """

    measure: ClassVar[Measure] = "words"
    inclusive: ClassVar[bool] = False
    short_anywhere: ClassVar[bool] = False
    ngram_size: Words
    turns: Turns = "all"
    min_words: Words = 5


@option_group
class GPT3(_NgramRule):
    """Any shared 13-gram: Brown et al. 2020, arXiv:2005.14165, appendix C.

    Also the rule of lm-evaluation-harness. The paper cuts 200 characters around the match
    out of a document and ignores 13-grams found in more than 10 documents; here the row is
    dropped, and no n-gram is ignored for being frequent in the pool, since a row is judged
    alone.

    Args:
        coverage: Fraction of the item's words in shared n-grams that must be exceeded; 0:
            any shared n-gram.
    """

    name: Literal["gpt3-13"] = "gpt3-13"
    ngram_size: Words = 13
    coverage: Exceeded = 0.0


@option_group
class Tulu3(_NgramRule):
    """More than half of the item's words in shared 8-grams: Lambert et al. 2024,
    arXiv:2411.15124, section 3.2.

    The 8-grams must be shared with one user turn. The paper drops a data set when it
    touches over 2% of an evaluation's items: the certificate reports that fraction.

    Args:
        coverage: Fraction of the item's words in shared n-grams that must be exceeded.
    """

    name: Literal["tulu3-8-50"] = "tulu3-8-50"
    ngram_size: Words = 8
    coverage: Exceeded = 0.5
    turns: Turns = "user"


@option_group
class PaLM(_NgramRule):
    """At least 70% of the item's 8-grams: Chowdhery et al. 2022, arXiv:2204.02311, section 8.

    The paper marks items, by 8-grams seen anywhere in the training data; here one turn must
    hold them, for which a row can be dropped.

    Args:
        coverage: Fraction of the item's n-grams that must be reached.
    """

    measure: ClassVar[Measure] = "ngrams"
    inclusive: ClassVar[bool] = True
    name: Literal["palm-8-70"] = "palm-8-70"
    ngram_size: Words = 8
    coverage: Reached = 0.7


@option_group
class Llama3(_NgramRule):
    """A fraction T of the item's words in shared 8-grams: Grattafiori et al. 2024,
    arXiv:2407.21783, section 5.1.4, after Singh et al., arXiv:2411.03923.

    T is chosen per benchmark by its effect on scores and not published: set `coverage`, by
    benchmark if needed; the default is ours. The paper, too, judges items and the complete
    corpus.

    Args:
        coverage: Fraction of the item's words in shared n-grams that must be reached.
    """

    inclusive: ClassVar[bool] = True
    name: Literal["llama3"] = "llama3"
    ngram_size: Words = 8
    coverage: Reached = 0.5


@option_group
class DeepSeek(_NgramRule):
    """Any shared 10-gram, or a complete item of 3 to 9 words: Shao et al. 2024,
    arXiv:2402.03300, section 2.1.

    Short items count wherever they stand. Short answers ("all of the above") then match by
    chance: choose `fields`.

    Args:
        coverage: Fraction of the item's words in shared n-grams that must be exceeded; 0:
            any shared n-gram.
    """

    short_anywhere: ClassVar[bool] = True
    name: Literal["deepseek-10"] = "deepseek-10"
    ngram_size: Words = 10
    coverage: Exceeded = 0.0
    min_words: Words = 3


@option_group
class Qwen2(_NgramRule):
    """A shared 13-gram and a long common subsequence: Yang et al. 2024 (Qwen2),
    arXiv:2407.10671, section 5.2.6.

    The report asks for a subsequence of 13 words where this asks for 13 in a row, as the
    report's strict check does.

    Args:
        coverage: Fraction of the words of the shorter of turn and item in their longest
            common subsequence that must be reached.
    """

    measure: ClassVar[Measure] = "sequence"
    inclusive: ClassVar[bool] = True
    name: Literal["qwen-13-lcs"] = "qwen-13-lcs"
    ngram_size: Words = 13
    coverage: Reached = 0.6


@option_group
class Substring:
    """The item's text is contained in the turn, whatever the case: the filter of BigCode and
    Magicoder (arXiv:2305.06161, arXiv:2312.02120).

    For prompts, docstrings and solutions. Their code exempts four HumanEval solutions by
    name ("return x + y"); here every text of fewer than `min_words` words is exempt.

    Args:
        turns: Turns that are compared.
        min_words: Fewest words of a text that is searched for.
    """

    measure: ClassVar[Literal["text"]] = "text"
    inclusive: ClassVar[bool] = False
    short_anywhere: ClassVar[bool] = False
    ngram_size: ClassVar[int] = 0
    coverage: ClassVar[float] = 0.0
    name: Literal["substring"] = "substring"
    turns: Turns = "all"
    min_words: Words = 5


Rule = GPT3 | Tulu3 | PaLM | Llama3 | DeepSeek | Qwen2 | Substring
Method = Annotated[Rule, Field(discriminator="name")]
Name = Literal[
    "gpt3-13", "tulu3-8-50", "palm-8-70", "llama3", "deepseek-10", "qwen-13-lcs", "substring"
]

METHODS: Final[Mapping[str, type[Rule]]] = {
    "gpt3-13": GPT3,
    "tulu3-8-50": Tulu3,
    "palm-8-70": PaLM,
    "llama3": Llama3,
    "deepseek-10": DeepSeek,
    "qwen-13-lcs": Qwen2,
    "substring": Substring,
}


def label(rule: Rule) -> str:
    """A rule's name, and the options that differ from its defaults.

    Example:
        >>> label(Tulu3(coverage=0.4))
        'tulu3-8-50, coverage=0.4'
    """
    values = {f.name: (getattr(rule, f.name), f.default) for f in dataclass_fields(rule)}
    changes = [f"{n}={value}" for n, (value, default) in sorted(values.items()) if value != default]
    return ", ".join([rule.name, *changes])


def as_json(rule: Rule) -> dict[str, Any]:
    """A rule as `certificate.json` describes it."""
    return {
        "name": label(rule),
        "n": rule.ngram_size,
        "measure": rule.measure,
        "coverage": rule.coverage,
        "reached": rule.inclusive,
        "turns": rule.turns,
        "min_words": rule.min_words,
        "short_anywhere": rule.short_anywhere,
    }


class _IndexOptions(NamedTuple):
    """What an index depends on beside the items."""

    ngram_size: int
    is_substring: bool
    min_words: int
    short_anywhere: bool
    fields: tuple[str, ...] | None


@lru_cache(maxsize=4)
def index_of(benchmarks: Benchmarks, options: _IndexOptions) -> Index | Needles:
    """The index of the items' texts.

    Raises:
        UserError: No text of a benchmark can be compared.
    """
    texts = benchmarks.texts(options.fields)
    index: Index | Needles
    if options.is_substring:
        index, fewest = build_needles(texts, options.min_words), options.min_words
    else:
        index = build_index(
            texts, options.ngram_size, options.min_words, short_anywhere=options.short_anywhere
        )
        fewest = min(options.ngram_size, options.min_words)
    benchmarks.require(
        set(index.texts["benchmark"].gather(index.searchable())),
        f"no text of the chosen fields has {fewest} or more words (without repeated words)",
    )
    return index


def search(
    rule: Rule, benchmarks: Benchmarks, fields: tuple[str, ...] | None, texts: pl.Series
) -> tuple[Index | Needles, Iterator[tuple[Overlaps, NDArray[np.bool_]]]]:
    """Find all overlaps of texts with items by a rule.

    Args:
        rule: The rule.
        benchmarks: The items.
        fields: Names of the items' texts that count; None: all.
        texts: The texts to search.

    Returns:
        The index of the items' texts, and the overlaps in parts; with each part a mask of
        the pairs that overlap enough for the rule.

    Raises:
        UserError: No text of a benchmark can be compared.
    """
    options = _IndexOptions(
        rule.ngram_size, rule.measure == "text", rule.min_words, rule.short_anywhere, fields
    )
    index = index_of(benchmarks, options)
    limits = benchmarks.limits("coverage", rule.coverage, index.texts)
    if isinstance(index, Needles):
        parts = find_contained(index, texts)
    else:
        assert rule.measure != "text"
        parts = scan_overlaps(index, texts, rule.measure)

    def judged() -> Iterator[tuple[Overlaps, NDArray[np.bool_]]]:
        for pairs in parts:
            limit = limits[pairs.text]
            yield pairs, pairs.overlap >= limit if rule.inclusive else pairs.overlap > limit

    return index, judged()
