"""Google docstrings in parts: the text, and the documentation of each parameter.

>>> doc = parse('''Keep rows at random.
...
... Args:
...     budget: How much to keep,
...         in rows or tokens.
...     seed: Of the hash.
...
... Adds `random_rank`.
... ''')
>>> doc.arguments
{'budget': 'How much to keep, in rows or tokens.', 'seed': 'Of the hash.'}
>>> print(doc.text)
Keep rows at random.
<BLANKLINE>
Adds `random_rank`.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, Final

HEADERS: Final = frozenset({"Args:", "Arguments:", "Attributes:"})
"""Headers of sections that document names; both may describe a dataclass's fields."""

_ENTRY: Final = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:(?:\s+(.*))?$")


@dataclass(frozen=True)
class Docstring:
    """A docstring in parts.

    Args:
        text: All but the sections that document names.
        arguments: The documentation of each parameter or attribute, in order. Lines are
            joined; a blank line between paragraphs stays.
    """

    text: str
    arguments: dict[str, str]

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.text.split("\n\n", 1)[0].split())


def docstring_of(documented: Any) -> Docstring:
    """The docstring of a function, class or module, in parts; empty where it has none.

    A dataclass without one does not inherit that of its base class, nor has it the signature
    that `dataclass` puts in its place.
    """
    raw = documented.__doc__ or ""
    generated = isinstance(documented, type) and raw.startswith(f"{documented.__name__}(")
    return parse("" if generated else raw)


def class_arguments(documented: type) -> dict[str, str]:
    """The documentation of a class's parameters, where base classes have theirs documented too."""
    classes = reversed(documented.__mro__)
    return {name: text for c in classes for name, text in docstring_of(c).arguments.items()}


def parse(docstring: str) -> Docstring:
    """Split a docstring; see the head of the module."""
    text: list[str] = []
    arguments: dict[str, str] = {}
    lines = inspect.cleandoc(docstring).splitlines()
    i = 0
    while i < len(lines):
        if lines[i] in HEADERS:
            end = _end(lines, i + 1)
            arguments |= _entries(lines[i + 1 : end])
            # The blank line before the section is enough.
            i = end + (end < len(lines) and not lines[end].strip())
        else:
            text.append(lines[i])
            i += 1
    return Docstring("\n".join(text).strip(), arguments)


def _end(lines: list[str], start: int) -> int:
    """The first line after a section: the next one that is not indented."""
    for i in range(start, len(lines)):
        if lines[i].strip() and not lines[i].startswith(" "):
            return i
    return len(lines)


def _entries(lines: list[str]) -> dict[str, str]:
    """The documentation by name; what is indented deeper than the first entry continues one."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    entries: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        entry = _ENTRY.match(line.strip())
        if line.strip() and len(line) - len(line.lstrip()) == indents[0] and entry:
            name = entry[1]
            entries[name] = [entry[2] or ""]
        elif name:
            entries[name].append(line.strip())
    return {name: _joined(parts) for name, parts in entries.items()}


def _joined(lines: list[str]) -> str:
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return "\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip())
