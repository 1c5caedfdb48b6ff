"""dedup.exact: equality after a chosen normalisation."""

from __future__ import annotations

import polars as pl
import pytest

from pipeline.context import Context
from stages.dedup.exact import exact
from tests.stages._rows import conversations, evidence, of, sample


def dropped(ctx: Context, rows: pl.DataFrame, **options: object) -> dict[str, dict]:
    verdict = exact(ctx, rows, **options)
    assert set(verdict["drop_reason"].drop_nulls()) <= {"exact_duplicate"}
    return evidence(rows, verdict)


def test_the_first_by_the_order_is_kept(ctx: Context) -> None:
    rows = conversations([("Name a  colour.", "Red"), ("Name a colour.", "Red"), ("Other", "Red")])
    first, second = of(rows, "Name a  colour."), of(rows, "Name a colour.")
    assert dropped(ctx, rows, order_by="origin") == {second: {"twin": first}}
    assert dropped(ctx, rows, order_by="origin desc") == {first: {"twin": second}}
    assert dropped(ctx, rows, normalise=()) == {}


def test_one_field_may_decide(ctx: Context) -> None:
    rows = conversations([("a", "Yes."), ("b", "yes"), ("c", "No")])
    steps = ("case", "punctuation")
    found = dropped(ctx, rows, field="response", normalise=steps, order_by="origin")
    assert found == {of(rows, "b"): {"twin": of(rows, "a")}}
    assert dropped(ctx, rows, field="instruction", normalise=steps) == {}


def test_an_instruction_with_another_input_is_another_prompt(ctx: Context) -> None:
    rows = conversations([("Add up.\n\n1 2", "x"), ("Add up.\n\n3 4", "y")])
    rows = rows.with_columns(pl.lit(9, dtype=pl.Int32).alias("input_start"))
    assert len(dropped(ctx, rows, field="instruction")) == 1
    assert dropped(ctx, rows, field="prompt") == {}


def test_numbers_turns_and_empty_texts_keep_rows_apart(ctx: Context) -> None:
    rows = conversations(
        [
            ("Tom has 3 apples. How many?", "3"),
            ("Tom has 4 apples. How many?", "3"),
            ("What is 1.5?", "1.5"),
            ("What is 15?", "15"),
            ("ab", "c"),
            ("a", "bc"),
            ("one", ""),
            ("two", ""),
            ("three", "?"),
            ("", ""),
            ("!", ""),
        ]
    )
    steps = ("unicode", "case", "space", "punctuation")
    for field in ("conversation", "prompt"):
        assert dropped(ctx, rows, field=field, normalise=steps) == {}
    by_response = dropped(ctx, rows, field="response", normalise=steps)
    assert {by_response[key]["twin"] for key in by_response} <= set(rows["id"])
    assert len(by_response) == 1  # the two answers "3"


@pytest.mark.parametrize("field", ["conversation", "prompt", "instruction", "response"])
def test_real_rows_as_plain_python_has_it(ctx: Context, field: str) -> None:
    pool = sample("self_instruct.jsonl.gz").head(3000)
    talks = [[m["content"] for m in messages] for messages in pool["messages"]]
    talks += [[text.upper().replace(" ", "  ") for text in talk] for talk in talks[::7]]
    rows = conversations(talks)
    seen: dict[object, str] = {}
    expected = {}
    for key, messages in rows.select("id", "messages").iter_rows():
        texts = [" ".join(m["content"].lower().split()) for m in messages]
        text = {"conversation": tuple(texts), "response": texts[1]}.get(field, texts[0])
        if any(text):
            expected |= {key: {"twin": seen[text]}} if text in seen else {}
            seen.setdefault(text, key)
    assert dropped(ctx, rows, field=field, normalise=("case", "space")) == expected
    assert len(expected) > 300
