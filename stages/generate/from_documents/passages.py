"""Documents cut into passages: the pieces of text that methods work on."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from numpy.typing import NDArray

from schemas.records import digest
from stages._llm.drafts import Draft, GenerateField

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
_HEADING = re.compile(r"#{1,6} ")
_FILE = re.compile(r"\S+\.\w{1,5}")


@dataclass(frozen=True)
class Means:
    """What a method that makes rows of documents works with.

    ask, judge: `write` with a model's engine, its decoding and the seed.
    encode: from texts to their vectors, where there is an embedder.
    context_tokens: what the model can read, where that is known.
    All other fields are options of `generate.from_documents`.
    """

    ask: GenerateField
    judge: GenerateField
    encode: Callable[[Sequence[str]], NDArray[Any]] | None
    context_tokens: int | None
    progress: Callable[[float, float | None], None]
    seed: int
    task_types: tuple[str, ...]
    per_passage: int
    count: int | None
    seed_passages: int
    window: int
    shots: int
    samples: int
    communities: tuple[float, float]
    refine: bool
    min_quality: float
    ascii_only: bool
    tuned: bool
    form: str
    language: str
    snippet_lines: tuple[int, int]
    max_tokens: int

    def draw(self, name: str, draft: Draft) -> random.Random:
        """Random numbers for one passage, which other passages do not disturb."""
        return random.Random(f"{self.seed} {name} {draft['document']} {draft['passage_number']}")

    def few(self, name: str, draft: Draft, all_of: Sequence[Any]) -> list[Any]:
        """`per_passage` of the given things for a passage, drawn; all where there are no more."""
        return self.draw(name, draft).sample(all_of, min(self.per_passage, len(all_of)))


def passages(
    documents: pl.DataFrame, characters: tuple[int, int], *, code: bool, whole: bool
) -> list[Draft]:
    """A draft for each passage of each document, in order; one without text is empty.

    characters: the fewest and the most of a passage. code: a line that begins with "#"
        is a comment and no heading. whole: documents stay as they are.
    """
    fewest, most = characters
    drafts = []
    for row in documents.select("id", "text", "title", "origins").iter_rows(named=True):
        license = next((origin["license"] for origin in row["origins"] or ()), None)
        text = row["text"] or ""
        parts = [text] if whole else cut(text, most, headings=not code) or [""]
        for number, part in enumerate(parts):
            draft = Draft(
                (row["id"],),
                {
                    **{"document": row["id"], "passage_number": number, "passage": part},
                    "title": title(row["title"], part),
                },
                license,
                notes={"passage": number},
            )
            if len(part) < fewest or not part.strip():
                draft.reject("passage_too_short", characters=len(part))
            elif len(part) > most and not whole:
                draft.reject("passage_too_long", characters=len(part))
            drafts.append(draft)
    return drafts


def title(given: str | None, passage: str) -> str | None:
    """What a passage is called: its own first heading, else the document's title.

    A file's name is no title.
    """
    heading = re.match(r"\s*#{1,6} +(\S.*)", passage)
    if heading:
        return heading[1].strip(" #") or None
    known = (given or "").strip()
    return None if not known or _FILE.fullmatch(known) else known


def sample(
    drafts: Sequence[Draft], seed: int, most: int | None, per_document: int | None
) -> list[Draft]:
    """The drafts with all but a random few rejected, those that are alive in a random order.

    The order is that of a digest of each passage, so other documents do not disturb it.
    """
    taken: Counter[str] = Counter()
    dead = [draft for draft in drafts if not draft.active]
    alive = ranked([draft for draft in drafts if draft.active], seed)
    for draft in alive:
        full = most is not None and taken.total() >= most
        document = draft["document"]
        if full or (per_document is not None and taken[document] >= per_document):
            draft.reject("not_sampled", passages=taken.total())
        else:
            taken[document] += 1
    return alive + dead


def ranked(drafts: Sequence[Draft], seed: int) -> list[Draft]:
    """Drafts of passages in the order of a digest of each."""

    def rank(draft: Draft) -> str:
        return digest([seed, draft["document"], draft["passage_number"], draft["passage"]])

    return sorted(drafts, key=rank)


def cut(text: str, most: int, *, headings: bool = True) -> list[str]:
    """The passages of a text, verbatim: whole paragraphs, up to `most` characters together.

    A heading (#) begins a new passage, unless there are none; blank lines inside fenced
    code separate nothing. Only a paragraph that is longer than `most` by itself exceeds it.
    """
    spans: list[tuple[int, int]] = []
    for start, end in paragraphs(text):
        begins = headings and _HEADING.match(text, start)
        if spans and end - spans[-1][0] <= most and not begins:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
    return [text[start:end] for start, end in spans]


def paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Where the paragraphs begin and end."""
    start, last = len(text) - len(text.lstrip("\n")), len(text.rstrip())
    gaps = [gap.span() for gap in _BLANK_LINES.finditer(text, start, last)]
    for end, following in [*gaps, (last, last)]:
        fences = sum(1 for _ in _FENCE.finditer(text, start, end))
        if fences % 2 == 0 or end == last:
            if end > start:
                yield start, end
            start = following
