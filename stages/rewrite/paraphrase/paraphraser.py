"""What all methods that write variants share: the drafts of a row, and what a method needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages._llm.drafts import Draft, GenerateField
from stages.rewrite.paraphrase.checks import MeaningCheck


@dataclass(frozen=True)
class Paraphraser:
    """What a method needs.

    Attributes:
        write: `generate_field` with engine, decoding and seed filled in.
        check: Whether a text means what the old one did.
        seed: Of what a method draws.
    """

    write: GenerateField
    check: MeaningCheck
    seed: int


def variants_of(
    drafts: Sequence[Draft], kinds: Sequence[str], per_kind: int, **fields: Any
) -> list[Draft]:
    """Drafts for the variants of each row, numbered from 1; a rejected row is there once.

    Args:
        drafts: The rows.
        kinds: What kinds of variants a row gets.
        per_kind: How many of each.
        fields: Further fields of each variant.
    """
    variants = []
    for draft in drafts:
        if not draft.active:
            draft.fields |= {"variant": None, "number": None}
            variants.append(draft)
            continue
        numbered = [kind for kind in kinds for _ in range(per_kind)]
        for number, kind in enumerate(numbered, 1):
            child = draft.child(variant=kind, **fields)
            child.number = child.fields["number"] = number
            variants.append(child)
    return variants
