"""Turns of a conversation as (role, content)."""

from __future__ import annotations

from collections.abc import Sequence


def with_system(system: str, turns: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The turns under another system prompt.

    >>> with_system("Be brief.", [("system", "Be kind."), ("user", "Hi.")])
    (('system', 'Be brief.'), ('user', 'Hi.'))
    """
    return (("system", system), *(turn for turn in turns if turn[0] != "system"))
