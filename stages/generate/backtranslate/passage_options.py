"""Options of the methods that read documents: which passages get an instruction."""

from __future__ import annotations

from typing import ClassVar

from pipeline.models.base import Decoding
from pipeline.types import Count, Range, option_group


@option_group
class PassageOptions:
    """Which passages of the documents are sent.

    A sample is random by the stage's `seed` and does not depend on the other documents;
    passages outside it are dropped as `not_sampled`.

    Args:
        passage_characters: Fewest and most characters of a passage. It runs from heading to
            heading, or as many complete paragraphs as the maximum allows.
        max_passages: Passages to send at most.
        max_passages_per_document: Passages of one document to send at most.
    """

    passage_characters: Range = (200, 3000)
    max_passages: Count | None = None
    max_passages_per_document: Count | None = None

    decoding: ClassVar[Decoding] = Decoding(256, 0.7, 0.9)
    instruction_characters: ClassVar[tuple[int, int] | None] = (10, 800)
