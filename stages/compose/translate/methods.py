"""How a row is translated: what it needs alone, or all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pipeline.types import option_group
from stages._llm.prompts import Prompts
from stages.compose.translate.parts import Part

PROMPTS: Final = Prompts(__file__)


@option_group
class Selective:
    """What a task works on stays in its language where that matters (sPhinX).

    A part may come back as it was, as long as another one does not.

    Args:
        name: "selective".
    """

    name: Literal["selective"] = "selective"


@option_group
class Full:
    """Every part is translated, but for what is protected.

    Args:
        name: "full".
    """

    name: Literal["full"] = "full"


def request(
    method: Selective | Full, parts: Sequence[Part], masked: Sequence[str], language: str
) -> str:
    """The prompt for the translation of a row.

    Args:
        method: How it is translated.
        parts: The parts.
        masked: Their texts, with marks.
        language: The English name of the language.
    """
    shown = [{"number": p.number, "text": text} for p, text in zip(parts, masked, strict=True)]
    has_marks = any("⟦" in text for text in masked)
    return PROMPTS.render(method.name, parts=shown, language=language, has_marks=has_marks)
