"""What the gate of a publication finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """Something that a release must not be, or that whoever publishes it should know.

    Attributes:
        level: "refuse": nothing is sent; "warn": it is only said.
        rule: What was checked: licenses, secrets, passwords, personal, certificate, failed,
            held_out, takedown, sources or size.
        message: The fact, in one sentence.
        rows: Ids of rows that it is about, the first ones; of failed rows file and line.
        hint: The next command, or how to fix it.
    """

    level: Literal["refuse", "warn"]
    rule: str
    message: str
    rows: tuple[str, ...] = ()
    hint: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.level}: {self.rule}: {self.message}"]
        if self.rows:
            lines.append(f"  rows: {', '.join(self.rows)}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)
