"""dedup.exact: equality after a chosen normalisation."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from schemas.records import RECORD_COLUMNS
from stages.dedup.exact import exact
from tests.support.rows import conversations, evidence, frame, of, record, sample


def dropped(ctx: Context, rows: pl.DataFrame, **options: object) -> dict[str, dict]:
    verdict = exact(ctx, rows, **options)
    assert set(verdict["drop_reason"].drop_nulls()) <= {"exact_duplicate"}
    return evidence(rows, verdict)


def test_the_first_by_the_order_is_kept(ctx: Context) -> None:
    rows = conversations([("Name a colour. ", "Red"), ("Name a colour.", "Red"), ("Other", "Red")])
    first, second = of(rows, "Name a colour. "), of(rows, "Name a colour.")
    assert dropped(ctx, rows, order_by="origin") == {second: {"duplicate_of": first}}
    assert dropped(ctx, rows, order_by="origin desc") == {first: {"duplicate_of": second}}
    assert dropped(ctx, rows, normalize=()) == {}


def test_one_field_may_decide(ctx: Context) -> None:
    rows = conversations([("a", "Yes."), ("b", "yes"), ("c", "No")])
    steps = ("case", "punctuation")
    duplicates = dropped(ctx, rows, field="response", normalize=steps, order_by="origin")
    assert duplicates == {of(rows, "b"): {"duplicate_of": of(rows, "a")}}
    assert dropped(ctx, rows, field="instruction", normalize=steps) == {}


def test_an_instruction_with_another_input_is_another_prompt(ctx: Context) -> None:
    rows = conversations([("Add up.\n\n1 2", "x"), ("Add up.\n\n3 4", "y")])
    rows = rows.with_columns(pl.lit(9, dtype=pl.Int32).alias("input_start"))
    assert len(dropped(ctx, rows, field="instruction")) == 1
    assert dropped(ctx, rows, field="prompt") == {}


def test_numbers_turns_and_empty_texts_make_rows_different(ctx: Context) -> None:
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
        assert dropped(ctx, rows, field=field, normalize=steps) == {}
    by_response = dropped(ctx, rows, field="response", normalize=steps)
    assert {by_response[key]["duplicate_of"] for key in by_response} <= set(rows["id"])
    assert len(by_response) == 1  # the two answers "3"


def test_every_turn_and_every_role_counts(ctx: Context) -> None:
    three = ("system", "user", "assistant")
    rows = frame(
        [
            record("Be brief.", "Hello", "Hi", roles=three),
            record("Be kind.", "Hello", "Hi", roles=three),
            record("Hello", "Hi"),
            record("Hello", "Hi ", "Hello", "Bye"),
            record("Hello", "Hi", "Hello?", "Hi"),
            record("Hello", "Hi", roles=("assistant", "user")),
            record("", "Hello", "Hi", roles=three),
        ]
    )
    assert dropped(ctx, rows) == {}
    spaced = frame([*rows.to_dicts(), record("Be brief.\n", "Hello ", "Hi", roles=three)])
    (cause,) = dropped(ctx, spaced).values()
    system = pl.col("messages").list.first().struct.field("content").str.starts_with("Be ")
    assert cause["duplicate_of"] in spaced.filter(system)["id"]


def test_both_is_the_prompt_with_its_input_and_the_response(ctx: Context) -> None:
    rows = frame(
        [
            record("Sum up.\n\nA text", "Short", input_start=9),
            record("Sum up.\n\nAnother", "Short", input_start=9),
            record("Sum up.\n\nA  text", "Short", input_start=9),
            record("Sum up.\n\nA text", "Long", input_start=9),
            record("Sum up.\n\nA text", "", input_start=9),
            record("", "Short"),
            record(" ", "Short"),
            record("", " "),
            record("", "\n"),
        ]
    )
    counts = {
        field: len(dropped(ctx, rows, field=field, normalize=("space",)))
        for field in ("both", "prompt", "response", "instruction", "conversation")
    }
    # The second spacing of the first row, and the second empty prompt with the same answer.
    expected = {"both": 2, "prompt": 3, "response": 4, "instruction": 4, "conversation": 2}
    assert counts == expected


PROGRAMS = [
    "for n in range(3):\n    total += n\n    print(total)",
    "for n in range(3):\n    total += n\nprint(total)",
    "if a:\n  if b:\n    x()\n  else:\n    y()",
    "if a:\n  if b:\n    x()\nelse:\n  y()",
    "x = 1\n# y = 2",
    "x = 1 # y = 2",
    'print("a b")',
    'print("a  b")',
    "    return x",
    "return x",
    "def f():\n\treturn 1",
    "def f():\n    return 1",
]


@pytest.mark.parametrize("field", ["conversation", "response", "both"])
def test_different_programs_are_different_rows(ctx: Context, field: str) -> None:
    rows = conversations([("Write it.", program) for program in PROGRAMS])
    assert dropped(ctx, rows, field=field) == {}
    assert dropped(ctx, rows, field=field, normalize=("space",)) != {}


@given(st.sampled_from(PROGRAMS), st.sampled_from(["\n", "\r\n", " \n", "\t \r\n"]), st.booleans())
def test_line_ends_make_no_program_another(program: str, end: str, last: bool) -> None:
    """Nor does it depend on the machine that the text was written on."""
    ctx = Context.scratch(Path(mkdtemp()))
    other = program.replace("\n", end) + end * last
    rows = conversations([("Write it.", program), ("Write it.", other)])
    expected = 0 if rows["id"].n_unique() == 1 else 1
    rows = rows.unique("id", maintain_order=True)
    assert len(dropped(ctx, rows)) == expected


def test_the_unicode_form_is_chosen(ctx: Context) -> None:
    rows = conversations([("2³",), ("23",), ("２３",), ("caf\u00e9",), ("cafe\u0301",)])
    assert dropped(ctx, rows, normalize=()) == {}
    (coffee,) = dropped(ctx, rows)
    assert coffee in {of(rows, "caf\u00e9"), of(rows, "cafe\u0301")}
    folded = dropped(ctx, rows, normalize=("nfkc",), order_by="origin")
    cube = {"duplicate_of": of(rows, "2³")}
    assert folded[of(rows, "23")] == folded[of(rows, "２３")] == cube
    assert len(folded) == 3


@pytest.mark.parametrize("field", ["conversation", "prompt", "instruction", "response", "both"])
def test_pools_of_nothing(ctx: Context, field: str) -> None:
    assert len(exact(ctx, pl.DataFrame(schema=RECORD_COLUMNS), field=field)) == 0
    rows = conversations([("", ""), ("",), (" ", "\n"), ("\t",)])
    assert dropped(ctx, rows, field=field, normalize=("space", "nfkc")) == {}


@pytest.mark.parametrize("field", ["conversation", "prompt", "instruction", "response"])
def test_real_rows_as_plain_python_has_it(ctx: Context, field: str) -> None:
    pool = sample("self_instruct.jsonl.gz").head(3000)
    turns = [[m["content"] for m in messages] for messages in pool["messages"]]
    turns += [[text.upper().replace(" ", "  ") for text in texts] for texts in turns[::7]]
    rows = conversations(turns)
    seen: dict[object, str] = {}
    expected = {}
    for key, messages in rows.select("id", "messages").iter_rows():
        texts = [" ".join(m["content"].lower().split()) for m in messages]
        text = {"conversation": tuple(texts), "response": texts[1]}.get(field, texts[0])
        if any(text):
            expected |= {key: {"duplicate_of": seen[text]}} if text in seen else {}
            seen.setdefault(text, key)
    assert dropped(ctx, rows, field=field, normalize=("case", "space")) == expected
    assert len(expected) > 300
