"""The parts of a text that ask something: what is compared, instead of the whole.

A question of one line behind a passage of twenty is lost in the passage's vector, as a
docstring is in its code's. So a question, a passage with its question, a question with its
options, a docstring and the prose around code are compared each by itself.

Code itself is no span: the vectors of two programs are about as close for one task as for
two (a rephrased HumanEval solution is found in 14% where 2% of other programs are convicted).
A program is compared by what its docstring or the turn around it says, and a copied one is
found by n-grams.
"""

from __future__ import annotations

import re
from itertools import compress
from typing import Final, Literal, NamedTuple

SpanName = Literal["text", "question", "options", "docstring"]

LONG: Final = 60
"""Words from which on a text's question is also compared without the rest."""

MAX_SPANS: Final = 12
"""Spans of a turn: the whole, and the first of its questions, paragraphs and docstrings."""

OPTION_FIELDS: Final = re.compile(r"(?:choices|options|endings|candidates)(?:_\d+)?|[A-E]")
"""Names of the texts of an item that are the options of its question."""

_LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_DOCSTRING = re.compile(r'("""|\'\'\')(.*?)(?:\1|\Z)|/\*\*?(.*?)\*/', re.DOTALL)
_EXAMPLES = re.compile(
    r"^\W*(?:>>>|(?:for )?examples?\b\W*(?:\d\W*)?$|for example\b|e\.g\."
    r"|@param|@return|:param|Args:|Returns?:|assert\b|[\w.]+\(.*\)\s*(?:==|=>|->|➞|=|should|returns?))",
    re.IGNORECASE,
)
_CODE_LINE = re.compile(
    r"^\s*(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:{]|return\b"
    r"|(?:from\s+[\w.]+\s+)?import\s+[\w*{]"
    r"|#include|using\s+\w|public\s|private\s|(?:let|const|var)\s+\w+\s*=|function\s+\w*\s*\("
    r"|(?:if|for|while|elif|switch)\b.*[:{]\s*$|else\s*[:{]"
    r"|[\w.\[\], ]+[-+*/]?=[^=].*|[\w.]+\(.*\);?\s*$"
    r"|[{})\];]+\s*$|@\w+|//|#(?!\s*[A-Z])|.*[;{]\s*$)"
)
_OPTION = re.compile(r"(?:^|\n)\s*\(?[A-Da-d1-4][).:]\s+\S")
_LABEL = re.compile(r"^\W*(?:question|problem|instruction|prompt|q)\s*\d*\s*[:.]\s*", re.IGNORECASE)
_ANSWER = re.compile(
    r"\n\W*(?:answer|solution|response|reply|a)\s*:.*\Z", re.IGNORECASE | re.DOTALL
)
_SENTENCE_END = re.compile(r"(?<=[.?!。？！:])[\"”')\]]*\s+|\n+")


class Span(NamedTuple):
    """A part of a text.

    Attributes:
        name: text: the whole, without options, docstrings and code; question: a sentence
            that asks; options: a question with its options; docstring: what a docstring
            says, without its examples.
        text: The part.
    """

    name: SpanName
    text: str


def n_words(text: str) -> int:
    """The words of a text that are written in letters: numbers and signs are none.

    Example:
        >>> n_words("Add 12 to the 3rd row!")
        5
    """
    return len(_LETTERS.findall(text))


def item_spans(text: str, options: str, min_words: int) -> list[Span]:
    """The spans of an item's text.

    Args:
        text: The text.
        options: The options of its question; empty where there are none.
        min_words: Fewest words of a span.

    Example:
        >>> [span.name for span in item_spans("Which is the capital of Peru?", "A\\nB", 3)]
        ['text', 'options']
        >>> code = 'def f(x):\\n    \\"\\"\\"Add two to the number x.\\n    f(1) == 3\\"\\"\\"'
        >>> item_spans(code, "", 3)
        [Span(name='docstring', text='Add two to the number x.')]
    """
    docstrings, prose = _parts(text)
    spans = [Span("docstring", docstring) for docstring in docstrings]
    stem, own_options = _split_options(prose)
    options = options or own_options
    spans.append(Span("text", stem))
    question = stem
    if n_words(stem) >= LONG and (sentences := _sentences(stem)):
        question = sentences[-1]
        spans.append(Span("question", question))
    if options:
        spans.append(Span("options", f"{question}\n{options}"))
    return [span for span in spans if n_words(span.text) >= min_words]


def turn_spans(text: str, is_prompt: bool, min_words: int) -> list[str]:
    """The spans of a turn, each once.

    Args:
        text: The turn.
        is_prompt: Whether it is no answer: its paragraphs and last sentence are spans, whatever
            they end in. In an answer single sentences are only if they are questions: most
            state what an item may ask about.
        min_words: Fewest words of a span.

    Example:
        >>> text = "Rome grew fast. It fell too. Which city is the capital of Peru?"
        >>> turn_spans(text, True, 4) == [text, "Which city is the capital of Peru?"]
        True
    """
    docstrings, prose = _parts(text)
    stem, options = _split_options(prose)
    stem = _LABEL.sub("", _ANSWER.sub("", f"\n{stem}").strip())
    paragraphs = [part for part in re.split(r"\n\s*\n", stem) if part.strip()]
    sentences = _sentences(stem)
    questions = [s for s in sentences if s.rstrip("\"”')] ").endswith(("?", "？"))]
    spans = [stem, *docstrings[:4], *questions[:4], *questions[4:][-2:]]
    if is_prompt:
        spans += [*sentences[-1:], *paragraphs[:3]]
    if options:
        spans.append(f"{(questions or sentences[-1:] or [''])[-1]}\n{options}")
    kept = (span.strip() for span in spans)
    return list(dict.fromkeys(s for s in kept if n_words(s) >= min_words))[:MAX_SPANS]


def has_code(text: str) -> bool:
    """Whether a text is a program or holds one.

    Example:
        >>> has_code("def f(x):\\n    return x + 1"), has_code("Define a function of x.")
        (True, False)
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return "```" in text or sum(bool(_CODE_LINE.match(line)) for line in lines) * 2 > len(lines)


def _parts(text: str) -> tuple[list[str], str]:
    """What the docstrings of a text say, and its prose without them and without code."""
    docstrings = []
    if '"""' in text or "'''" in text or "/*" in text:
        for match in _DOCSTRING.finditer(text):
            docstrings.append(_without_examples(match.group(2) or match.group(3) or ""))
        text = _DOCSTRING.sub("\n", text)
    if "```" in text:
        text = _FENCE.sub("\n", text)
    lines = [line for line in text.split("\n") if line.strip()]
    is_prose = [not _CODE_LINE.match(line) for line in lines]
    if not all(is_prose):
        # What a program's lines leave over is no prose, unless it is most of the text.
        enough = sum(is_prose) * 2 > len(lines)
        text = "\n".join(compress(lines, is_prose)) if enough else ""
    return [d for d in docstrings if d], text.strip()


def _without_examples(docstring: str) -> str:
    """The description at the head of a docstring, in one line."""
    kept: list[str] = []
    for line in docstring.split("\n"):
        plain = line.strip(" \t*")
        if _EXAMPLES.match(plain):
            if n_words(" ".join(kept)) >= 3:
                break
            continue
        kept.append(plain)
    return " ".join(" ".join(kept).split())


def _split_options(text: str) -> tuple[str, str]:
    """A question without its options, and the options; at least two make a list."""
    if len(marks := list(_OPTION.finditer(text))) < 2:
        return text, ""
    start = marks[0].start()
    return (text[:start], text[start:].strip()) if start > 0 else (text, "")


def _sentences(text: str) -> list[str]:
    """The sentences of a text, and its lines."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
