"""The rules behind `decontaminate.ngram` and the certificate; `ngram` tells their sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import UserError
from schemas.records import digest
from stages._text.ngram_index import DISTINCT, Index, Measure, Overlaps, build_index, scan
from stages.decontaminate._substrings import Needles, build_needles, contained

Name = Literal[
    "gpt3-13", "tulu3-8-50", "palm-8-70", "llama3", "deepseek-10", "qwen-13-lcs", "substring"
]
Turns = Literal["all", "user", "assistant"]
Coverage = float | dict[str, float]


class Rule(NamedTuple):
    """When a turn overlaps with an item's text.

    name: the preset's, and what was changed. n: words per n-gram. measure: what is
    counted; "text" for the whole text. coverage: the share that must be exceeded
    (`reached`: or met), for all or by benchmark. turns: which are looked at.
    min_words: the fewest words of a text that is looked for as a whole.
    short_anywhere: such a text convicts a turn of any length.
    """

    name: str
    n: int
    measure: Measure | Literal["text"] = "words"
    coverage: float | Mapping[str, float] = 0.0
    reached: bool = False
    turns: Turns = "all"
    min_words: int = 5
    short_anywhere: bool = False


RULES: Final[Mapping[str, Rule]] = {
    rule.name: rule
    for rule in (
        Rule("gpt3-13", 13),
        Rule("tulu3-8-50", 8, coverage=0.5, turns="user"),
        Rule("palm-8-70", 8, "ngrams", coverage=0.7, reached=True),
        Rule("llama3", 8, coverage=0.5, reached=True),
        Rule("deepseek-10", 10, min_words=3, short_anywhere=True),
        Rule("qwen-13-lcs", 13, "sequence", coverage=0.6, reached=True),
        Rule("substring", 0, "text"),
    )
}


def rules_named(name: Name, **given: object) -> Rule:
    """The preset with the options that are given (not None) in place of its own.

    Raises UserError for options that say nothing.
    """
    changes = {option: value for option, value in sorted(given.items()) if value is not None}
    rule = RULES[name]._replace(**changes)  # type: ignore[arg-type]
    if rule.measure == "text" and changes.keys() & {"n", "coverage"}:
        raise UserError("substring looks for whole texts: it has no n and no coverage")
    if rule.min_words < DISTINCT or (rule.measure != "text" and rule.n < DISTINCT):
        raise UserError(f"n and min_words must be at least {DISTINCT}: fewer words say nothing")
    shares = rule.coverage.values() if isinstance(rule.coverage, Mapping) else [rule.coverage]
    if not all(0 <= share <= 1 if rule.reached else 0 <= share < 1 for share in shares):
        raise UserError(
            f"coverage is a share: at least 0, and {'at most' if rule.reached else 'below'} 1"
        )
    told = ", ".join(f"{option}={value}" for option, value in changes.items())
    return rule._replace(name=f"{name}, {told}") if told else rule


@dataclass(frozen=True)
class Exams:
    """Evaluation items that hash by their content, so that what is made of them once stays.

    Raises UserError where there are none: an empty benchmark finds nothing, which is
    not the same as clean.
    """

    items: pl.DataFrame = field(compare=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        if not len(self.items):
            raise UserError("there is no evaluation item to compare with")
        content = self.items.select("benchmark", "item", "id", "texts").hash_rows().to_list()
        object.__setattr__(self, "key", digest(content))

    def texts(self, fields: tuple[str, ...] | None) -> pl.DataFrame:
        """One line per text of an item: benchmark, item, id, field and text."""
        name = pl.col("texts").struct.field("name").alias("field")
        text = pl.col("texts").struct.field("text").fill_null("")
        texts = (
            self.items.sort("benchmark", "item", "id")
            .select("benchmark", "item", "id", "texts")
            .explode("texts")
            .select("benchmark", "item", "id", name, text.alias("text"))
        )
        return texts if fields is None else texts.filter(pl.col("field").is_in(fields))

    def require(self, benchmarks: set[str], why: str) -> None:
        """Raises UserError for a benchmark of the items that is not among these."""
        unusable = sorted(set(self.items["benchmark"]) - benchmarks)
        if unusable:
            names = self.texts(None)["field"].drop_nulls().unique().sort().to_list()
            raise UserError(
                f"nothing of {', '.join(unusable)} can be compared",
                why=why,
                hint=f"the fields are {', '.join(names)}; or lower min_words",
            )

    def limits(
        self, option: str, value: float | Mapping[str, float], texts: pl.DataFrame
    ) -> NDArray[np.float64]:
        """The number that an option sets for each text, itself or by the text's benchmark.

        Raises UserError where it names other benchmarks than these.
        """
        if not isinstance(value, Mapping):
            return np.full(len(texts), float(value))
        known = set(self.items["benchmark"])
        if wrong := sorted(value.keys() ^ known):
            raise UserError(
                f"{option} and the exams differ in {', '.join(wrong)}",
                hint=f"give one number, or one for each of {', '.join(sorted(known))}",
            )
        numbers = texts["benchmark"].replace_strict(value, return_dtype=pl.Float64)
        return np.asarray(numbers.to_numpy(), dtype=np.float64)


def turns_of(rows: pl.DataFrame, which: Turns) -> pl.DataFrame:
    """One line per turn: row and turn (positions) and text."""
    role, content = (pl.col("messages").struct.field(name) for name in ("role", "content"))
    lines = rows.select(
        pl.int_range(pl.len()).alias("row"),
        pl.int_ranges(pl.col("messages").list.len()).alias("turn"),
        "messages",
    ).explode("turn", "messages")
    spoken = lines.select("row", "turn", role, content.fill_null("").alias("text"))
    return spoken if which == "all" else spoken.filter(pl.col("role") == which)


@lru_cache(maxsize=4)
def index_of(
    exams: Exams,
    n: int,
    measure: Measure | Literal["text"],
    min_words: int,
    short_anywhere: bool,
    fields: tuple[str, ...] | None,
) -> Index | Needles:
    """What of the items is looked for. Raises UserError for a benchmark without any of it."""
    texts = exams.texts(fields)
    index: Index | Needles
    if measure == "text":
        index, fewest = build_needles(texts, min_words), min_words
    else:
        index = build_index(texts, n, min_words, short_anywhere=short_anywhere)
        fewest = min(n, min_words)
    exams.require(
        set(index.texts["benchmark"].gather(index.usable())),
        f"no text of the chosen fields has {fewest} or more telling words",
    )
    return index


def found(
    rule: Rule, exams: Exams, fields: tuple[str, ...] | None, texts: pl.Series
) -> tuple[Index | Needles, Iterator[tuple[Overlaps, NDArray[np.bool_]]]]:
    """The index of a rule, and all overlaps of texts with items, in parts.

    With each part comes which of its pairs overlap as much as the rule asks for.
    """
    measures = rule.n, rule.measure, rule.min_words, rule.short_anywhere
    index = index_of(exams, *measures, fields)
    limits = exams.limits("coverage", rule.coverage, index.texts)
    if isinstance(index, Needles):
        parts = contained(index, texts)
    else:
        assert rule.measure != "text"
        parts = scan(index, texts, rule.measure)

    def judged() -> Iterator[tuple[Overlaps, NDArray[np.bool_]]]:
        for pairs in parts:
            limit = limits[pairs.text]
            yield pairs, pairs.overlap >= limit if rule.reached else pairs.overlap > limit

    return index, judged()
