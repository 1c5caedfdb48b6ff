"""Lists that a recipe gives as files: topics, system prompts, skills with their descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import UserError


def lines_of(files: Sequence[str]) -> tuple[str, ...]:
    """What the lines of text files say, one after the other; blank ones say nothing.

    Args:
        files: Paths of text files in UTF-8.

    Raises:
        UserError: A file cannot be read as text, or no line of them says anything.
    """
    lines = tuple(text for _, text in _lines(files))
    if files and not lines:
        raise UserError(f"{', '.join(files)} must have at least one line, got none")
    return lines


def descriptions_of(files: Sequence[str]) -> dict[str, str]:
    """Names with what they mean, from lines such as "irony: the words say the opposite".

    Args:
        files: Paths of text files in UTF-8.

    Raises:
        UserError: A line has no name or no description, or a name stands twice.
    """
    descriptions: dict[str, str] = {}
    for place, text in _lines(files):
        name, _, description = (part.strip() for part in text.partition(":"))
        if not name or not description:
            raise UserError(f"a line must be NAME: DESCRIPTION, got {text!r}", where=place)
        if name in descriptions:
            raise UserError(f"names must differ, got {name!r} twice", where=place)
        descriptions[name] = description
    return descriptions


def _lines(files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each line that says something, with its place."""
    for file in files:
        try:
            text = Path(file).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise UserError(f"{file} cannot be read as text", why=why) from None
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{file}:{number}", line.strip()
