"""One name for what taggers call by many: InsTag's normalization of open tags in four steps.

#InsTag: Instruction Tagging for Analyzing Supervised Fine-tuning of Large Language Models (Lu et
al. 2023, arXiv:2308.07074, section on tag normalization). The authors published no code.

- As in the paper: rare tags are dropped; tags are lower-cased, special characters become spaces and
  words are stemmed (NLTK's Porter); tags with similar embeddings are clustered; a tag with which
  another one nearly always comes is merged into that one, by rules of FP-Growth, again and again.
- Ours: the rows of a tag are counted over all its wordings, so that a rare spelling of a frequent
  tag is not lost; only English is stemmed, the signs of C++ and C# stay, and a tag is written as it
  is written most often instead of as a stem; what is no tag but prose is dropped; the default
  clustering, because DBSCAN chains: a tag may end in a cluster with one that it is not similar
  to, as long as there are others between them. Under "leader" every tag is similar enough to
  the one that it is merged into. A merged tag always becomes the more frequent one of both.

The result depends on the set of rows, not on their order, and normalizing it again changes nothing:
wordings of the result differ in their stems, tags are as frequent as they were or more so, no two
are similar enough, and rules are applied until there is none.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from stages._vectors.arrays import Matrix
from stages._vectors.greedy_dedup import greedy_dedup
from stages.tag.intent.association import Rule, pair_rules

Step = Literal["form", "wording", "frequency", "embedding", "association"]
Clustering = Literal["leader", "dbscan"]
Encode = Callable[[Sequence[str]], Matrix]

MAX_WORDS: Final = 6
MAX_CHARACTERS: Final = 60
"""Of a tag: what is longer is a sentence. Ours, as is the number of words."""

_LONE_SIGNS: Final = re.compile(r"(?<![\w+#])[+#]+|[+#]+(?=[^\W_])")
"""Signs that do not end a word: "#sea", "a+b", but not "C++"."""


class Merge(NamedTuple):
    """What became of a tag.

    Attributes:
        step: The step that merged or dropped it.
        tag: As it was before that step.
        into: What it was merged into; None where it was dropped.
        rows: How many rows have it, in any of its wordings from the frequency on.
        similarity: With `into`: of the characters (wording; 1 for equal ones) or the cosine.
        support: Rows with both (association).
        confidence: `support` as a part of `rows`.
    """

    step: Step
    tag: str
    into: str | None
    rows: int
    similarity: float | None = None
    support: int | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Thresholds:
    """When tags are dropped and merged; the arguments are those of `Open`.

    Args:
        min_count: Least number of rows.
        clustering: How similar tags are clustered.
        min_similarity: Least cosine.
        min_support: Least number of rows with both tags; None for no rules.
        min_confidence: Least confidence of a rule.
    """

    min_count: int = 1
    clustering: Clustering = "leader"
    min_similarity: float = 0.95
    min_support: int | None = None
    min_confidence: float = 0.99


class Normalized(NamedTuple):
    """Tags and how they came about.

    Attributes:
        tags: Of each row, in the order of its raw tags, each once.
        merges: By step and tag.
    """

    tags: list[list[str]]
    merges: list[Merge]


def is_tag(text: str) -> bool:
    """Whether a text has the form of a tag: a few words.

    Args:
        text: What a tagger calls one.

    Example:
        >>> is_tag("creative writing"), is_tag("The user wants to know how deep the sea is.")
        (True, False)
    """
    plain = plain_wording(text)
    return 0 < len(plain) <= MAX_CHARACTERS and len(plain.split()) <= MAX_WORDS


@cache
def plain_wording(tag: str) -> str:
    """A tag in lower case, with spaces for special characters.

    Args:
        tag: Any text.

    Example:
        >>> [plain_wording(tag) for tag in ("Creative_Writing!", "#C++", "Q&A", "Écriture")]
        ['creative writing', 'c++', 'q a', 'écriture']
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", tag).casefold())
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in "+#" else " " for c in text)
    return " ".join(_LONE_SIGNS.sub(" ", "".join(kept)).split())


def stemmed(wording: str) -> str:
    """A plain wording with its English words stemmed: equal for singular and plural.

    Args:
        wording: What `plain_wording` gives.

    Example:
        >>> stemmed("writing stories") == stemmed("write story")
        True
    """
    stem = _stemmer()
    return " ".join(stem(word) if word.isascii() else word for word in wording.split())


@cache
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    return cache(PorterStemmer().stem)


def normalize(
    raw_tags: Sequence[Sequence[str]], thresholds: Thresholds, encode: Encode | None = None
) -> Normalized:
    """Normalize the tags of rows.

    Args:
        raw_tags: The tags of each row, as a tagger wrote them.
        thresholds: When they are dropped and merged.
        encode: From tags to vectors, shape (tags, dimensions); None for no merging by embedding.

    Example:
        >>> normalize([["Recipes", "sea"], ["recipe"], ["recipe"]], Thresholds(min_count=2)).tags
        [['recipe'], ['recipe'], ['recipe']]
    """
    tags, merges = _wordings(raw_tags)
    tags, dropped = _frequent(tags, thresholds.min_count)
    merges += dropped
    if encode is not None:
        merges += _apply(tags, _similar(_rows_of(tags), thresholds, encode))
    while thresholds.min_support is not None:
        rules = pair_rules(tags, thresholds.min_support, thresholds.min_confidence)
        if not rules:
            break
        merges += _apply(tags, _associated(_rows_of(tags), rules))
    return Normalized(tags, merges)


def _rows_of(tags: Iterable[Iterable[str]]) -> Counter[str]:
    """The number of rows with each tag."""
    return Counter(tag for row in tags for tag in {*row})


def _rank(rows: Mapping[str, int], tag: str) -> tuple[int, str]:
    """The place of a tag among all: frequent ones first, equally frequent ones by name."""
    return -rows[tag], tag


def _mapped(tags: Iterable[Iterable[str]], into: Mapping[str, str | None]) -> list[list[str]]:
    """The rows' tags with others in their places, each once, without those that are dropped."""
    named = ((into[tag] for tag in row) for row in tags)
    return [list(dict.fromkeys(tag for tag in row if tag is not None)) for row in named]


def _apply(tags: list[list[str]], merges: list[Merge]) -> list[Merge]:
    """Merge tags in place, as far as it goes: what a tag is merged into may itself be merged."""
    into = {merge.tag: merge.into for merge in merges}

    def final(tag: str) -> str:
        while (following := into.get(tag)) is not None:
            tag = following
        return tag

    tags[:] = _mapped(tags, {tag: final(tag) for row in tags for tag in row})
    return merges


def _wordings(raw_tags: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[Merge]]:
    """Tags of one stem get the wording that most rows have; what is no tag is dropped."""
    from rapidfuzz.fuzz import ratio

    raw_rows = _rows_of(raw_tags)
    plain = {raw: plain_wording(raw) if is_tag(raw) else "" for raw in raw_rows}
    rows = _rows_of([plain[raw] for raw in row] for row in raw_tags)
    groups = defaultdict[str, list[str]](list)
    for wording in rows:
        groups[stemmed(wording)].append(wording)
    names = {
        wording: min(group, key=lambda wording: _rank(rows, wording))
        for group in groups.values()
        for wording in group
    }
    into = {raw: names[plain[raw]] or None for raw in raw_rows}
    merges = [
        Merge("wording", raw, name, raw_rows[raw], round(ratio(raw, name) / 100, 4))
        if name
        else Merge("form", raw, None, raw_rows[raw])
        for raw, name in sorted(into.items())
        if raw != name
    ]
    return _mapped(raw_tags, into), sorted(merges, key=lambda merge: merge[:2])


def _frequent(tags: Sequence[Sequence[str]], min_count: int) -> tuple[list[list[str]], list[Merge]]:
    rows = _rows_of(tags)
    into = {tag: tag if count >= min_count else None for tag, count in rows.items()}
    dropped = sorted(tag for tag, name in into.items() if name is None)
    return _mapped(tags, into), [Merge("frequency", tag, None, rows[tag]) for tag in dropped]


def _similar(rows: Mapping[str, int], thresholds: Thresholds, encode: Encode) -> list[Merge]:
    """The tags that are merged into more frequent ones with similar vectors."""
    tags = sorted(rows, key=lambda tag: _rank(rows, tag))
    if len(tags) < 2:
        return []
    vectors = np.asarray(encode(tags), np.float32)
    # A vector that is none is similar to nothing, as one of zeros is.
    vectors = np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, np.float32(0))
    cluster = _leaders if thresholds.clustering == "leader" else _chains
    merges = [
        Merge("embedding", tags[i], tags[leader], rows[tags[i]], round(similarity, 6))
        for i, leader, similarity in cluster(vectors, thresholds.min_similarity)
    ]
    return sorted(merges, key=lambda merge: merge.tag)


def _leaders(vectors: Matrix, min_similarity: float) -> list[tuple[int, int, float]]:
    """Each row that is similar to one before it that is no such row itself: the most similar."""
    result = greedy_dedup(
        vectors, threshold=min_similarity, inclusive=True, min_similarity=min_similarity
    )
    merged = np.flatnonzero(~result.kept).tolist()
    return [(i, int(result.nearest[i]), float(result.similarity[i])) for i in merged]


def _chains(vectors: Matrix, min_similarity: float) -> list[tuple[int, int, float]]:
    """Each row but the first of its cluster under DBSCAN, and its cosine with that."""
    from sklearn.cluster import DBSCAN

    # Two tags are a cluster: with that, clusters do not depend on the order of the tags.
    labels = DBSCAN(eps=1 - min_similarity, min_samples=2, metric="cosine").fit(vectors).labels_
    first: dict[int, int] = {}
    wide: Any = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    merges = []
    for i, label in enumerate(labels.tolist()):
        if label < 0 or first.setdefault(label, i) == i:
            continue
        leader = first[label]
        merges.append((i, leader, float(wide[i] @ wide[leader] / (norms[i] * norms[leader]))))
    return merges


def _associated(rows: Mapping[str, int], rules: Iterable[Rule]) -> list[Merge]:
    """The tags that are merged into those that nearly always come with them.

    Of two tags the less frequent one is merged: were the rule from the more frequent one to it,
    there would be one in the other direction, whose confidence is at least as large.
    """
    best: dict[str, Rule] = {}
    for rule in rules:
        if _rank(rows, rule.implied) > _rank(rows, rule.item):
            continue
        other = best.setdefault(rule.item, rule)
        best[rule.item] = min(
            (rule, other), key=lambda r: (-r.confidence, -r.support, _rank(rows, r.implied))
        )
    return [
        Merge(
            "association", tag, rule.implied, rows[tag],
            support=rule.support, confidence=round(rule.confidence, 6),
        )
        for tag, rule in sorted(best.items())
    ]  # fmt: skip
