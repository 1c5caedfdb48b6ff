"""Secrets and personal data of rows, by row and place, and never in clear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, get_args

import polars as pl

from pipeline.types import NonEmpty
from stages._common.option_types import Distinct
from stages._privacy.keys import find_secrets
from stages._privacy.leaves import string_leaves
from stages._privacy.personal import Personal, find_personal

Kind = Literal["key", "password", "email", "phone", "card", "iban", "ip"]
SECRETS: Final[tuple[Kind, ...]] = ("key", "password")
PERSONAL: Final[tuple[Personal, ...]] = get_args(Personal)
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

Kinds = Annotated[tuple[Kind, ...], NonEmpty, Distinct]
DEFAULT_KINDS: Final[tuple[Kind, ...]] = tuple(kind for kind in KINDS if kind != "password")
"""The default of stages: a password is mostly a lesson's."""

FINDINGS: Final = {
    "row": pl.Int64, "turn": pl.Int32, "place": pl.String, "kind": pl.String, "name": pl.String,
    "value": pl.String,
}  # fmt: skip
"""The columns of `scan`: those of `leaves.LEAVES`; `name` says whose key it is, and of other
kinds is the kind; `value` is what must not be shown: `masked`."""


def scan(rows: pl.DataFrame, kinds: Sequence[Kind], regions: Sequence[str] = ()) -> pl.DataFrame:
    """What rows hold of some kinds, in the order of the rows and their places.

    Args:
        rows: Rows of any kind; see `leaves.string_leaves` for which of their texts count.
        kinds: The kinds.
        regions: Countries whose national way to write phone numbers counts.

    Returns:
        A frame with the columns `FINDINGS`, each value once for each place.
    """
    leaves = string_leaves(rows)
    texts = leaves["text"]
    values: list[tuple[int, str, str, str]] = []
    if {*kinds} & {*SECRETS}:
        secrets = find_secrets(texts)
        values += [(s.text, s.kind, s.name, s.value) for s in secrets if s.kind in kinds]
    chosen = [kind for kind in PERSONAL if kind in kinds]
    if chosen:
        data = find_personal(texts, chosen, regions)
        values += [(d.text, d.kind, d.kind, d.value) for d in data]
    schema = {"leaf": pl.Int64, "kind": pl.String, "name": pl.String, "value": pl.String}
    frame = pl.DataFrame(values, schema=schema, orient="row")
    places = leaves.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("leaf"), "row", "turn", "place"
    )
    frame = frame.join(places, on="leaf", how="left").sort("row", "leaf", "value")
    return frame.select(*FINDINGS).unique(maintain_order=True)


def masked(value: str) -> str:
    """A secret as evidence shows it: its beginning, at most a quarter, and its length.

    >>> masked("ghp_" + "a1B2" * 9), masked("hunter2")
    ('ghp_... (40 characters)', '... (7 characters)')
    """
    shown = value[: 4 if len(value) >= 16 else 0].strip()
    return f"{shown}... ({len(value)} characters)"
