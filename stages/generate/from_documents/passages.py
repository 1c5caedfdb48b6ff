r"""Documents cut into passages, the pieces of text from which methods make rows.

Example:
    >>> cut("# Whales\n\nThey sing.\n\n# Trees\n\nThey grow.", 40)
    ['# Whales\n\nThey sing.', '# Trees\n\nThey grow.']
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import polars as pl

from schemas.records import digest
from stages._llm.drafts import Draft
from stages._llm.rows import license_of

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
_HEADING = re.compile(r"#{1,6} ")
_FILE = re.compile(r"\S+\.\w{1,5}")


def split_documents(
    documents: pl.DataFrame, characters: tuple[int, int], *, headings: bool, split: bool
) -> list[Draft]:
    """A draft for each passage of each document, in order.

    A document without text gives one empty passage. Passages that are too short or too
    long are dropped, the latter only where documents are split.

    Args:
        documents: Rows with id, text, title and origins.
        characters: The smallest and the largest number of characters of a passage.
        headings: A line that begins with "#" begins a new passage.
        split: Cut documents into passages; otherwise each is one passage.
    """
    min_characters, max_characters = characters
    drafts = []
    for row in documents.select("id", "text", "title", "origins").iter_rows(named=True):
        license = license_of(row["origins"])
        text = row["text"] or ""
        parts = (cut(text, max_characters, headings=headings) or [""]) if split else [text]
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
            if len(part) < min_characters or not part.strip():
                draft.reject("passage_too_short", characters=len(part))
            elif len(part) > max_characters and split:
                draft.reject("passage_too_long", characters=len(part))
            drafts.append(draft)
    return drafts


def title(document_title: str | None, passage: str) -> str | None:
    r"""The title of a passage: its own first heading, else the document's title.

    A file name is not a title.

    Example:
        >>> title("whales.md", "## Whales ##\nThey sing.")
        'Whales'
        >>> title("whales.md", "They sing.") is None
        True
    """
    heading = re.match(r"\s*#{1,6} +(\S.*)", passage)
    if heading:
        return heading[1].strip(" #") or None
    name = (document_title or "").strip()
    return None if not name or _FILE.fullmatch(name) else name


def sample(
    drafts: Sequence[Draft], seed: int, max_passages: int | None, per_document: int | None
) -> list[Draft]:
    """Reject all but a random sample of the active drafts.

    The order is that of a digest of each passage, so that a document more or less changes
    nothing for the others.

    Args:
        drafts: Passages; changed in place.
        seed: Of the random order.
        max_passages: Size of the sample; None for all.
        per_document: Largest number of passages of one document; None for all.

    Returns:
        The drafts that were active in random order, then all others.
    """
    counts: Counter[str] = Counter()
    inactive = [draft for draft in drafts if not draft.active]
    active = ranked([draft for draft in drafts if draft.active], seed)
    for draft in active:
        full = max_passages is not None and counts.total() >= max_passages
        document = draft["document"]
        if full or (per_document is not None and counts[document] >= per_document):
            draft.reject("not_sampled", passages=counts.total())
        else:
            counts[document] += 1
    return active + inactive


def ranked(drafts: Sequence[Draft], seed: int) -> list[Draft]:
    """Drafts of passages in the order of a digest of each."""

    def rank(draft: Draft) -> str:
        return digest([seed, draft["document"], draft["passage_number"], draft["passage"]])

    return sorted(drafts, key=rank)


def cut(text: str, max_characters: int, *, headings: bool = True) -> list[str]:
    """The passages of a text, verbatim: complete paragraphs that fit together.

    Blank lines inside fenced code separate nothing. Only a paragraph that is too long by
    itself makes a passage of more than `max_characters`.

    Args:
        text: Markdown, plain text or code.
        max_characters: Of a passage.
        headings: A line that begins with "#" begins a new passage.
    """
    spans: list[tuple[int, int]] = []
    for start, end in paragraphs(text):
        begins = headings and _HEADING.match(text, start)
        if spans and end - spans[-1][0] <= max_characters and not begins:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
    return [text[start:end] for start, end in spans]


def paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """The paragraphs of a text as (start, end), in characters."""
    start, last = len(text) - len(text.lstrip("\n")), len(text.rstrip())
    gaps = [gap.span() for gap in _BLANK_LINES.finditer(text, start, last)]
    for end, following in [*gaps, (last, last)]:
        fences = sum(1 for _ in _FENCE.finditer(text, start, end))
        if fences % 2 == 0 or end == last:
            if end > start:
                yield start, end
            start = following
