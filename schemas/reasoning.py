"""Where reasoning stands in a text that a model wrote, and where its answer.

Models that reason before they answer mark the reasoning in one of these forms:

- `<think>…</think>` (Qwen, DeepSeek-R1, arXiv:2501.12948), `[THINK]…[/THINK]` (Magistral), or
  marks of one's own; the opening one may stand in the prompt, where the template writes it;
- the channels of gpt-oss (Harmony): `<|channel|>analysis<|message|>…`, also as what is left of
  them where the control tokens are not shown: `analysis…assistantfinal…`.

`parted` reads the answer of a model, in which an opened mark that never closes leaves no
answer. Loaders read texts of which nothing is known with `leading` and `channels`, and leave
a text whose marks are not complete as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

Mark = tuple[str, str]
"""The texts that open and that close reasoning."""

THINK: Final[Mark] = ("<think>", "</think>")
MARKS: Final[tuple[Mark, ...]] = (
    THINK,
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
)
"""The marks of known models."""

CONTROL_TOKENS: Final = frozenset(
    {
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|constrain|>",
        *(m for pair in MARKS for m in pair),
    }
)
"""Control tokens of vocabularies that an engine must not leave out of an answer's text."""

_QUOTES: Final = r"(?<![`'\"])"
_CHANNEL: Final = re.compile(
    r"(?:<\|start\|>assistant)?(?:\s*to=(?P<early>[\w.\-]+))?<\|channel\|>(?P<channel>\w+)"
    r"(?:\s+to=(?P<to>[\w.\-]+))?(?:\s*(?:<\|constrain\|>)?\s*\w+)?<\|message\|>"
    r"(?P<text>(?:(?!<\|(?:start|channel|end|return|call|message)\|>).)*)"
    r"(?:<\|(?P<end>end|return|call)\|>|\Z)\s*",
    re.DOTALL,
)
_BARE_CHANNEL: Final = re.compile(
    r"\s*analysis(?=[A-Z\"'(\[*#\d])(?P<reasoning>.*?)(?:assistantfinal(?P<content>.*)|\Z)",
    re.DOTALL,
)
_BEGUN_CHANNEL: Final = re.compile(r"\s*(?:<\|start\|>assistant)?\s*<\|channel\|>")
_FENCE: Final = re.compile(
    r"^ {0,3}(```+|~~~+)[^\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.M
)


@dataclass(frozen=True)
class Parted:
    """A model's answer, parted from its reasoning.

    Args:
        answer: The text without reasoning; empty where `unclosed`.
        reasoning: What was reasoned; empty where nothing was.
        unclosed: Whether the text ends within reasoning: then there is no answer.
        start: Where in the text the answer begins.
    """

    answer: str
    reasoning: str = ""
    unclosed: bool = False
    start: int = 0


@dataclass(frozen=True)
class Channel:
    """One message of gpt-oss.

    Args:
        name: Its channel: "analysis", "commentary" or "final".
        text: What it says.
        to: The tool that it is for; None where it is for the user.
        start: Where in the whole text its own begins.
        closed: Whether it ends with a control token, and not with the text.
    """

    name: str
    text: str
    to: str | None
    start: int
    closed: bool


def parted(text: str, marks: Sequence[Mark] = (), opened: Mark | None = None) -> Parted:
    r"""A model's answer without its reasoning.

    Marks count at the beginning of a line outside of code blocks. A closing mark alone ends
    reasoning that began in the prompt, wherever it stands, unless it is quoted.

    Args:
        text: What the model wrote.
        marks: Further marks, beside those of known models.
        opened: The mark that the prompt has opened already, so that the text begins within
            reasoning; None where that is not known.

    Example:
        >>> parted("<think>\n2 and 2.\n</think>\n\n4")
        Parted(answer='4', reasoning='2 and 2.', unclosed=False, start=27)
        >>> parted("2 and 2.</think>4").answer, parted("Use `<think>` so.").answer
        ('4', 'Use `<think>` so.')
        >>> parted("<think>2 and").unclosed, parted("2 and", opened=THINK).unclosed
        (True, True)
    """
    whole = _parted_channels(text)
    if whole is not None:
        return whole
    every = (*marks, *(mark for mark in MARKS if mark not in marks))
    thoughts: list[str] = []
    start = 0
    if (end := _end_of_opened(text, every, opened)) is not None:
        if end.start < 0:
            return Parted("", text.strip(), unclosed=True, start=len(text))
        thoughts.append(text[: end.start].strip())
        start = end.stop
    kept: list[str] = []
    while (block := _next_block(text, start, every)) is not None:
        kept.append(text[start : block.start])
        thoughts.append(text[block.inside : block.close].strip())
        start = block.stop
        if block.close == block.stop:
            return Parted("", _joined(thoughts), unclosed=True, start=len(text))
    if not thoughts:
        return Parted(text)
    kept.append(text[start:].lstrip())
    answer = "".join(kept)
    return Parted(answer.lstrip(), _joined(thoughts), start=len(text) - len(kept[-1]))


@dataclass(frozen=True)
class _Block:
    """Reasoning within a text: its marks begin and stop, what is `inside` ends at `close`."""

    start: int
    inside: int
    close: int
    stop: int


def _next_block(text: str, start: int, marks: Sequence[Mark]) -> _Block | None:
    """The next reasoning from `start` on, up to the end of the text where it does not close."""
    if not any(opening in text for opening, _ in marks):
        return None
    fences = [
        (start + match.start(), start + match.end()) for match in _FENCE.finditer(text[start:])
    ]
    for match in _opening(tuple(marks)).finditer(text, start):
        if any(begin <= match.start() < end for begin, end in fences):
            continue
        closing = next(close for opening, close in marks if opening == match["mark"])
        close = text.find(closing, match.end())
        if close < 0:
            return _Block(match.start(), match.end(), len(text), len(text))
        return _Block(match.start(), match.end(), close, close + len(closing))
    return None


@cache
def _opening(marks: tuple[Mark, ...]) -> re.Pattern[str]:
    """An opening mark at the beginning of a line, or right behind reasoning that has ended."""
    openings = "|".join(re.escape(opening) for opening, _ in marks)
    closings = "".join(f"|(?<={re.escape(close)})" for _, close in marks)
    return re.compile(rf"(?:^{closings})[ \t]*(?P<mark>{openings})", re.M)


def _end_of_opened(text: str, marks: Sequence[Mark], opened: Mark | None) -> slice | None:
    """Where reasoning that began in the prompt ends: from -1 where it does not, None for none."""
    for opening, closing in marks if opened is None else (opened,):
        quotes = _QUOTES if opened is None else ""
        match = re.search(quotes + re.escape(closing), text)
        if match is None:
            continue
        before = text[: match.start()]
        if opening in before and opened is None:
            continue  # a pair of its own
        if opened is not None or before.strip() or text[match.end() :].strip():
            return slice(match.start(), match.end())
    if opened is None:
        return None
    return None if text.lstrip().startswith(opened[0]) else slice(-1, -1)


def _parted_channels(text: str) -> Parted | None:
    """An answer in channels; None for another one."""
    bare = _BARE_CHANNEL.fullmatch(text) if "analysis" in text[:40] else None
    if bare is not None:
        if bare["content"] is None:
            return Parted("", bare["reasoning"].strip(), unclosed=True, start=len(text))
        return Parted(
            bare["content"].strip(), bare["reasoning"].strip(), start=bare.start("content")
        )
    if _BEGUN_CHANNEL.match(text) is None:
        return None
    said = channels(text)
    thoughts = _joined([c.text.strip() for c in said or () if c.name == "analysis"])
    answers = [c for c in said or () if c.name != "analysis" and c.to is None]
    if not answers:
        return Parted("", thoughts or text.strip(), unclosed=True, start=len(text))
    final = [c for c in answers if c.name == "final"] or answers
    return Parted(_joined([c.text.strip() for c in final]), thoughts, start=final[-1].start)


def channels(text: str) -> list[Channel] | None:
    """The messages in a text of gpt-oss; None where it is not all of them.

    Example:
        >>> text = "<|channel|>analysis<|message|>Hm.<|end|><|channel|>final<|message|>4"
        >>> [(c.name, c.text, c.closed) for c in channels(text)]
        [('analysis', 'Hm.', True), ('final', '4', False)]
    """
    at, messages = 0, []
    while at < len(text) and (match := _CHANNEL.match(text, at)):
        to = match["to"] or match["early"]
        closed = match["end"] is not None
        messages.append(Channel(match["channel"], match["text"], to, match.start("text"), closed))
        at = match.end()
    return messages if messages and at == len(text) else None


_LEADING: Final = tuple(
    (
        opening,
        closing,
        re.compile(
            rf"\s*{re.escape(opening)}(?P<reasoning>.*?){re.escape(closing)}(?P<content>.*)",
            re.DOTALL,
        ),
        re.compile(
            rf"(?P<reasoning>(?:(?!{re.escape(opening)}).)*?){_QUOTES}{re.escape(closing)}"
            r"(?P<content>.*)",
            re.DOTALL,
        ),
    )
    for opening, closing in MARKS
)
"""The marks of known models, and the texts that they part with and without the opening one."""


def leading(text: str) -> tuple[str, str] | None:
    """Reasoning and content of a text of a data set; None without one complete pair of marks.

    Example:
        >>> leading("<think>2 and 2.</think>4"), leading("<think>2 and")
        (('2 and 2.', '4'), None)
        >>> leading("[THINK]2 and 2.[/THINK]4")
        ('2 and 2.', '4')
    """
    for opening, closing, opened, unopened in _LEADING:
        match = opened.fullmatch(text) or unopened.fullmatch(text) if closing in text else None
        if match is None or opening in match["reasoning"]:
            continue
        reasoning, content = match["reasoning"].strip(), match["content"].lstrip()
        # A mark alone parts nothing from nothing: the text is about it.
        return (reasoning, content) if reasoning or content else None
    return None


def _joined(texts: Sequence[str]) -> str:
    return "\n\n".join(text for text in texts if text)
