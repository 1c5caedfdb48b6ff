"""`tag.secrets`: what each row holds, and rows dropped for it, without showing it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from pipeline.context import Context
from schemas.pairs import PAIR_COLUMNS
from schemas.records import RECORD_COLUMNS
from stages.tag.secrets import secrets
from tests.support.options import problems
from tests.support.planted import planted_keys
from tests.support.running import artifact, recipe, run

GITHUB, STRIPE = (planted_keys(1)[name][1] for name in ("github", "stripe"))


def rows(*texts: str) -> pl.DataFrame:
    records = [
        {"id": f"{i:032d}", "messages": [{"role": "user", "content": text}]}
        for i, text in enumerate(texts)
    ]
    return pl.DataFrame(records, schema=RECORD_COLUMNS)


def test_columns_say_what_is_there_and_nothing_of_it(tmp_path: Path) -> None:
    table = rows(f"{GITHUB} {GITHUB} {STRIPE} a@analytical.org", "Sing.")
    tags = secrets(Context.scratch(tmp_path), table)
    assert tags.rows() == [
        (["github-pat", "stripe-access-token"], 2, ["email"], 1),
        ([], 0, [], 0),
    ]


def test_rows_are_dropped_for_the_gravest_thing_they_hold(tmp_path: Path) -> None:
    table = rows(f"ada@analytical.org {STRIPE}", "ada@analytical.org", "Sing.")
    tags = secrets(Context.scratch(tmp_path), table, drop=("key", "email"))
    assert tags["drop_reason"].to_list() == ["secret", "personal_data", None]
    first, second = (json.loads(text) for text in tags["evidence"][:2])
    assert first == {
        "kind": "key",
        "name": "stripe-access-token",
        "place": "messages.content",
        "turn": 0,
        "masked": f"sk_l... ({len(STRIPE)} characters)",
        "more": 1,
    }
    assert second["kind"] == "email"
    assert "analytical" not in tags["evidence"][1]
    kept = secrets(Context.scratch(tmp_path), table, drop=("key",))
    assert kept["drop_reason"].to_list() == ["secret", None, None]


def test_both_sides_of_a_pair_are_searched(tmp_path: Path) -> None:
    def turn(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    sides = ("prompt", "chosen", "rejected")
    pairs = [
        {"id": side, **{s: turn(GITHUB if s == side else "plain") for s in sides}} for side in sides
    ]
    table = pl.DataFrame(pairs, schema=PAIR_COLUMNS)
    tags = secrets(Context.scratch(tmp_path), table, drop=("key",))
    places = [json.loads(text)["place"] for text in tags["evidence"]]
    assert places == [f"{side}.content" for side in sides]


def test_in_a_recipe_every_row_is_accounted_for(tmp_path: Path) -> None:
    lines = [f"question {i}\t{GITHUB if i % 3 == 0 else i}" for i in range(9)]
    (tmp_path / "rows.txt").write_text("\n".join(lines) + "\n")
    wired = recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "rows.txt")}},
            "b": {"uses": "tag.secrets", "needs": "a", "with": {"drop": ["key"]}},
        }
    )
    run(wired, tmp_path / "store")
    stored = artifact(wired, tmp_path / "store", "b")
    assert stored.manifest["counts"]["dropped"] == {"secret": 3}
    assert all(GITHUB.encode() not in p.read_bytes() for p in stored.folder.rglob("*.parquet"))


def test_only_what_is_looked_for_can_be_dropped() -> None:
    (wrong,) = problems("tag.secrets", drop=["password"])
    assert wrong.startswith("drop must be among `kinds`")
    (wrong,) = problems("tag.secrets", phone_regions=["XX"])
    assert "must be countries such as US, GB, DE, got XX" in wrong
