"""The section `publish` of a recipe: where a release goes, and what it must be before it does.

    publish:
      to: hf://org/name
      card: card.md.jinja
      takedown: takedown.txt
      gate:
        licenses: [Apache-2.0, MIT]
        held_out: [exams_like]
        personal: refuse

It says nothing about rows: no stage's fingerprint holds it, and changing it makes no release.
It is read from the text of a release too (`pipeline/releases/options.py`), so that a release
is published by the rules that it was made with.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from pipeline import ROOT
from pipeline.hints import suggest
from pipeline.recipe.options import checked_dataclass
from pipeline.recipe.problems import Problem
from pipeline.types import Count, NonEmpty, NonNegativeInt, PhoneRegions, option_group

Level = Literal["refuse", "warn", "ignore"]
"""What a finding does: nothing is published; it is only said; or it is not looked for."""


def _destination(to: str) -> str:
    if not re.match(
        r"(hf://(?:datasets/)?[^/\s]+/[^/\s]+$|s3://[^/\s]+|file:///\S|git\+\w+://\S)", to
    ):
        what = "hf://ORG/NAME, s3://BUCKET/PREFIX, file:///FOLDER or git+file:///REPOSITORY"
        raise ValueError(f"must be {what}, got {to!r}")
    return to


Destination = Annotated[str, AfterValidator(_destination)]


@option_group
class Gate:
    """What a release must be to be published; where it is not, nothing is sent (exit code 7).

    Args:
        licenses: The licenses that rows may have (SPDX ids, or texts as the sources state them),
            of which `A OR B` needs one and `A AND B` all; empty: any that is known.
        unknown_license: Rows whose license is not stated, or is neither an SPDX id nor a known
            name.
        incompatible_licenses: Licenses whose terms no whole can meet, such as CC-BY-SA-4.0
            with CC-BY-NC-4.0, and texts that may not be changed (ND).
        secrets: Keys and tokens in any text of a row.
        passwords: What stands behind a word such as `password`; in lessons about code that is
            mostly none.
        personal: E-mail addresses, phone and card numbers, IBANs and public IP addresses.
        phone_regions: Countries whose national way to write phone numbers counts; those with a
            + always do.
        certificate: Whether there must be a decontamination certificate that all published
            rows are under.
        precision_sample: Pairs of a convicted row and its item that the certificate shows.
        failed_rows: Rows that failed on the way to the published ones.
        held_out: Steps of the recipe whose rows must not be published, or be near a published
            one; empty: those on edges named `except`, `eval_rows` or `evaluation`, and other
            parts of a `select.split`.
        min_rows: Fewer published rows are refused; 1 refuses an empty release.
        max_rows: More are refused; null: any number.
        max_bytes: More bytes of files are refused; null: any number.
        max_file_bytes: A larger file is refused; the default is the hub's limit.
        examples: Rows that a finding names.
    """

    licenses: tuple[str, ...] = ()
    unknown_license: Level = "refuse"
    incompatible_licenses: Level = "refuse"
    secrets: Level = "refuse"
    passwords: Level = "warn"
    personal: Level = "warn"
    phone_regions: PhoneRegions = ("US",)
    certificate: bool = True
    precision_sample: NonNegativeInt = 5
    failed_rows: Level = "refuse"
    held_out: tuple[str, ...] = ()
    min_rows: NonNegativeInt = 1
    max_rows: Count | None = None
    max_bytes: Count | None = None
    max_file_bytes: Count | None = 200_000_000_000
    examples: Count = 5


@option_group
class Publish:
    """The section `publish`.

    Args:
        to: Where a release is published; null: as `publish --to` says.
        gate: What it must be.
        card: A template in the place of the card's own.
        takedown: A file of rows that must not be published: ids, or origins as `source#index`.
    """

    to: Destination | None = None
    gate: Gate = Gate()
    card: Annotated[str, NonEmpty] | None = None
    takedown: Annotated[str, NonEmpty] | None = None

    def file(self, name: Literal["card", "takedown"]) -> Path | None:
        """The path of one of its files; None where it names none."""
        value: str | None = getattr(self, name)
        return None if value is None else Path(value)


def read_publish(raw: Any, folder: Path, stages: Any) -> tuple[Publish, list[Problem]]:
    """The section from a recipe's mapping, and all that is wrong with it.

    Args:
        raw: The mapping; null where there is none.
        folder: Where relative paths are looked for first; then in the repository.
        stages: The names of the recipe's steps.
    """
    raw = {key: value for key, value in (raw or {}).items() if value is not None}
    section, problems = checked_dataclass(raw, Publish)
    gate = raw.get("gate")
    held_out = gate.get("held_out") if isinstance(gate, dict) else None
    for name in held_out if isinstance(held_out, list) else ():
        if isinstance(name, str) and name not in stages:
            what = f"gate.held_out: the recipe has no stage {name!r}"
            problems.append(Problem(("gate", "held_out"), what, suggest(name, stages)))
    files: dict[str, Any] = {}
    for name in ("card", "takedown"):
        value = raw.get(name)
        if isinstance(value, str) and value:
            path = _existing(value, folder)
            files[name] = str(path)
            if path is None:
                problems.append(Problem((name,), f"{name}: there is no file {value}"))
    return (Publish() if section is None else replace(section, **files)), problems


def _existing(name: str, folder: Path) -> Path | None:
    paths = (base / name for base in (folder, ROOT) if os.path.isfile(base / name))
    return next(paths, None)
