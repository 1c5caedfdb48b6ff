"""`rewrite.redact`: nothing is left, nothing else changes, and no row is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.context import Context
from schemas.records import RECORD_COLUMNS, instruction, record_id
from stages._privacy.scan import DEFAULT_KINDS, scan
from stages.rewrite.redact import redact
from tests.support.planted import planted_keys
from tests.support.rows import sample
from tests.support.running import artifact, recipe, run

KEYS = {name: key for name, (text, key) in planted_keys(2).items() if text == key}
CONTEXT = Context(Path(), Path(), Path())
# A key that is glued to a word is not known for one.
PARTS = st.sampled_from(["Use ", "\n", '"', "\\", "é键", ", and ", *KEYS.values()])
TEXTS = st.lists(PARTS, min_size=1, max_size=6).map(" ".join)


def record(content: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}, *more.pop("turns", ())]
    row = {"messages": messages, **more}
    return {"id": record_id(messages, row.get("tools")), "parents": [], **row}


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=RECORD_COLUMNS)


@given(TEXTS, TEXTS, TEXTS)
def test_nothing_is_left_in_any_field(content: str, argument: str, note: str) -> None:
    call = {"id": "1", "name": "f", "arguments": json.dumps({"a": [argument]})}
    turn = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": note}
    before = frame(record(content, turns=[turn], extra=json.dumps({note: argument})))
    after = redact(CONTEXT, [before])
    assert after["drop_reason"].to_list() == [None]
    assert scan(after.select("messages", "tools", "extra"), DEFAULT_KINDS, ("US",)).is_empty()
    whole = json.dumps(after.row(0, named=True), ensure_ascii=False, default=list)
    assert not any(key.split("\n")[0] in whole for key in KEYS.values() if "PRIVATE" not in key)
    row = after.row(0, named=True)
    assert isinstance(json.loads(row["extra"]), dict)
    assert json.loads(row["messages"][1]["tool_calls"][0]["arguments"]).keys() == {"a"}
    assert row["id"] == record_id(row["messages"], row["tools"])
    assert redact(CONTEXT, [after.drop("drop_reason", "evidence", "redacted")])[
        "redacted"
    ].to_list() == [[]]


def test_clean_rows_pass_as_they_are() -> None:
    rows = sample("self_instruct.jsonl.gz")
    held = {*scan(rows, DEFAULT_KINDS, ("US",))["row"]}
    clean = rows.filter(~pl.int_range(pl.len()).is_in([*held]))
    assert_frame_equal(redact(CONTEXT, [clean]).select(clean.columns), clean)
    some = redact(CONTEXT, [rows])
    assert some.filter(pl.col("redacted").list.len() > 0)["parents"].to_list() == [
        [id_] for id_ in rows["id"].gather(sorted(held))
    ]


def test_a_key_goes_from_every_turn_where_it_stands() -> None:
    text, key = planted_keys(0)["api_key"]
    turns = [{"role": "assistant", "content": f"You wrote {key}, did you not?"}]
    (row,) = redact(CONTEXT, [frame(record(text, turns=turns))]).to_dicts()
    assert row["messages"][1]["content"] == "You wrote [generic-api-key], did you not?"


def test_the_input_still_begins_where_it_did() -> None:
    key = KEYS["github"]
    for content, start in ((f"Explain {key}.\n\nThe input.", len(key) + 11), ("A.\n\n" + key, 4)):
        after = redact(CONTEXT, [frame(record(content, input_start=start))])
        before = frame(record(content, input_start=start))
        old, new = (f.select(instruction()).item() for f in (before, after))
        assert new == old.replace(key, "[github-pat]")


def test_rows_that_become_equal_are_one_row_with_all_origins(tmp_path: Path) -> None:
    rows = [
        record(f"My key is {planted_keys(seed)['github'][1]}")
        | {"origins": [{"source": "s", "index": seed, "license": "MIT"}]}
        for seed in (0, 1)
    ]
    kept, dropped = redact(CONTEXT, [frame(*rows)]).to_dicts()
    assert [o["index"] for o in kept["origins"]] == [0, 1]
    assert kept["parents"] == sorted(row["id"] for row in rows)
    assert dropped["drop_reason"] == "duplicate"
    assert json.loads(dropped["evidence"]) == {"kept": kept["id"], "id": rows[1]["id"]}


def test_columns_of_other_stages_stay_where_they_are_still_true(tmp_path: Path) -> None:
    lines = [f"question {i}\t{KEYS['stripe'] if i == 2 else i}" for i in range(5)]
    (tmp_path / "rows.txt").write_text("\n".join(lines) + "\n")
    wired = recipe(
        {
            "a": {"uses": "toy.load", "with": {"path": str(tmp_path / "rows.txt")}},
            "b": {"uses": "toy.length", "needs": "a", "with": {"plus": 1}},
            "c": {"uses": "rewrite.redact", "needs": "b"},
        }
    )
    run(wired, tmp_path / "store")
    stored = artifact(wired, tmp_path / "store", "c")
    assert stored.manifest["counts"] == {
        "in": 5, "created": 0, "kept": 5, "dropped": {}, "failed": 0
    }  # fmt: skip
    kept = stored.read("kept")
    assert kept.filter(pl.col("length").is_null())["redacted"].to_list() == [
        ["stripe-access-token"]
    ]
