"""`export.pairs`: TRL reads the shards as they are, and `load.pairs` reads the same pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from schemas.pairs import PAIR_COLUMNS, pair_id
from stages.export.pairs import pairs
from tests.support.options import problems
from tests.support.pairing import load_pairs, pair, pair_frame, ranked_sample, turn
from tests.support.rows import evidence

FORMS = ("dpo", "kto", "reward")


def export(folder: Path, rows: pl.DataFrame, **options: Any) -> tuple[list[Path], pl.DataFrame]:
    ctx = Context.scratch(folder)
    result = pairs(ctx, rows, **options)
    return sorted((ctx.files / "data").glob("*.parquet")), result


def again(files: list[Path]) -> pl.DataFrame:
    """The pairs that `load.pairs` reads from the shards."""
    rows = load_pairs(*files)
    assert rows["error"].drop_nulls().to_list() == []
    return rows.filter(pl.col("drop_reason").is_null())


def one_sided(rows: pl.DataFrame) -> set[str]:
    """The ids of the halves of pairs."""
    return {
        pair_id(row["prompt"], *sides, row["tools"])
        for row in rows.to_dicts()
        for sides in ((row["chosen"], None), (None, row["rejected"]))
        if any(sides)
    }


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(
    lambda text: text.strip() and not text.lstrip().startswith(("[", "{", "\n\nHuman:"))
)
CALL = st.fixed_dictionaries(
    {
        "id": st.none() | st.sampled_from(["c1", "c2"]),
        "name": st.just("add"),
        "arguments": st.sampled_from(['{"a":  1}', "{}", '{"b": {"é": [null]}}', "a = 1"]),
    }
)
PLAIN = st.builds(turn, st.just("assistant"), TEXT, reasoning=st.none() | TEXT)
CALLING = st.tuples(
    st.builds(turn, st.just("assistant"), st.none() | TEXT, tool_calls=st.lists(CALL, min_size=1)),
    st.builds(turn, st.just("tool"), TEXT, tool_call_id=st.none() | st.just("c1"), name=TEXT),
    PLAIN,
).map(list)
SIDE = PLAIN.map(lambda answer: [answer]) | CALLING
SYSTEM = st.lists(st.builds(turn, st.just("system"), TEXT), max_size=1)
PROMPT = st.tuples(SYSTEM, st.builds(turn, st.just("user"), TEXT)).map(lambda t: [*t[0], t[1]])
PAIR = st.fixed_dictionaries(
    {
        "prompt": PROMPT,
        "chosen": st.none() | SIDE,
        "rejected": st.none() | SIDE,
        "tools": st.none() | st.just('[{"name": "add"}]'),
        "chosen_score": st.none() | st.just(2.0),
    }
)


@pytest.mark.parametrize("form", FORMS)
@given(rows=st.lists(PAIR, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_what_a_form_holds_comes_back_and_the_rest_says_why(
    form: str, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for row in rows:
        sides = row["chosen"], row["rejected"]
        row |= {"id": pair_id(row["prompt"], *sides, row["tools"]), "origins": []}
    distinct = [row for row in rows if row["chosen"] != row["rejected"] or not row["chosen"]]
    frame = pl.DataFrame(distinct, schema=PAIR_COLUMNS).unique("id").sort("id")
    files, result = export(tmp_path_factory.mktemp("x"), frame, form=form)
    written = frame.filter(result["drop_reason"].is_null())
    assert set(result["drop_reason"].drop_nulls()) <= {"one_sided", "form_lacks"}
    read = again(files) if files else frame.clear()
    if form == "kto":
        assert {*read["id"]} == one_sided(written)
    else:
        assert {*read["id"]} == {*written["id"]}
    both = frame["chosen"].is_not_null() & frame["rejected"].is_not_null()
    held = {"kto": frame["chosen"].is_not_null() | frame["rejected"].is_not_null()}.get(form, both)
    lacking = result["drop_reason"].eq_missing("form_lacks")
    assert result["drop_reason"].is_null().to_list() == (held & ~lacking).to_list()
    assert form == "reward" or not lacking.any()


@pytest.mark.parametrize("form", FORMS)
def test_real_pairs_come_back(form: str, tmp_path: Path) -> None:
    rows = ranked_sample(ranked="all")
    files, result = export(tmp_path, rows, form=form, rows_per_shard=100)
    assert result["drop_reason"].null_count() == len(rows)
    assert len(files) == -(-len(rows) * (2 if form == "kto" else 1) // 100)
    read = again(files)
    assert {*read["id"]} == (one_sided(rows) if form == "kto" else {*rows["id"]})
    if form == "dpo":
        joined = read.select("id", "chosen_score").join(rows, on="id", suffix="_written")
        assert (joined["chosen_score"] == joined["chosen_score_written"]).all()


@pytest.mark.parametrize(
    ("file", "count"),
    [("dpo_en_demo.json.gz", 295), ("hh_rlhf_harmless_base_test.jsonl.gz", 2308)],
)
def test_shared_files_come_back(shared: Path, file: str, count: int, tmp_path: Path) -> None:
    rows = load_pairs(shared / "chat" / file).filter(
        pl.col("drop_reason").is_null() & pl.col("error").is_null()
    )
    files, result = export(tmp_path, rows.select(list(PAIR_COLUMNS)).sort("id"))
    assert result["drop_reason"].null_count() == count
    assert {*again(files)["id"]} == {*rows["id"]}


CALLS = [{"id": "c1", "name": "add", "arguments": '{"a": 1}'}]


def calling(arguments: str = '{"a": 1}', **more: Any) -> dict[str, Any]:
    calls = [CALLS[0] | {"arguments": arguments}]
    side = [
        turn("assistant", None, tool_calls=calls),
        turn("tool", "2", tool_call_id="c1"),
        turn("assistant", "2", reasoning="Added."),
    ]
    return pair("1 + 1?", None, "3", **more) | {"chosen": side, "id": f"{arguments}{more}"}


def test_datasets_reads_objects_and_trl_renders_them(tmp_path: Path, tinylm: Any) -> None:
    import datasets
    from transformers import AutoTokenizer
    from trl import is_conversational

    files, _ = export(tmp_path / "a", pair_frame([calling(tools='[{"name": "add"}]')]))
    (row,) = datasets.load_dataset(
        "parquet", data_files=[str(f) for f in files], cache_dir=str(tmp_path / "c"), split="train"
    )
    assert is_conversational(row)
    (call,) = row["chosen"][0]["tool_calls"]
    function = {"name": "add", "arguments": {"a": 1}}
    assert call == {"id": "c1", "type": "function", "function": function}
    assert row["tools"] == [{"name": "add"}]
    assert row["chosen"][2]["reasoning_content"] == "Added."
    template = "{% for m in messages %}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
    tokenizer = AutoTokenizer.from_pretrained(tinylm.model)
    text = tokenizer.apply_chat_template(row["chosen"], chat_template=template, tokenize=False)
    assert '"arguments": {"a": 1}' in text
    assert '\\"' not in text


def test_reasons(tmp_path: Path) -> None:
    same = [turn("assistant", "Hm."), turn("user", "Go on."), turn("assistant", "So.")]
    other = [*same[:2], turn("assistant", "No.")]
    rows = {
        "one": pair("q", "a", None),
        "none": pair("q", None, None),
        "blank": pair("q", "a", " "),
        "user": pair("q", "a", "b") | {"chosen": [turn("user", "q")]},
        "tools": pair("q", "a", "b", tools="add, sub"),
        "alike": pair("q", "a", "b") | {"chosen": same, "rejected": other},
    }
    frame = pair_frame(row | {"id": name} for name, row in rows.items())
    expected = {
        "one": ("one_sided", {"sides": ["chosen"]}),
        "none": ("one_sided", {"sides": []}),
        "blank": ("no_answer", {"side": "rejected"}),
        "user": ("no_answer", {"side": "chosen", "ends_with": "user"}),
        "tools": ("form_lacks", {"field": "tools", "value": "add, sub"}),
        "alike": ("form_lacks", {"field": "prompt"}),
    }
    for form in FORMS:
        _, result = export(tmp_path / form, frame, form=form)
        reasons = dict(zip(frame["id"], result["drop_reason"], strict=True))
        causes = evidence(frame, result)
        held = {"dpo": {"alike"}, "kto": {"alike", "one"}, "reward": set()}[form]
        for name, (reason, cause) in expected.items():
            assert reasons[name] == (None if name in held else reason), (form, name)
            assert name in held or cause.items() <= causes[name].items()


def test_no_prompt_is_in_both_splits(tmp_path: Path) -> None:
    rows = ranked_sample(ranked="all")
    _, result = export(tmp_path, rows, validation_fraction=0.3)
    splits = rows.with_columns(result["split"], prompt=pl.col("prompt").hash())
    assert splits.group_by("prompt").agg(pl.col("split").n_unique())["split"].max() == 1
    assert 0.1 < (result["split"] == "validation").mean() < 0.5


def test_bytes_and_checksums(tmp_path: Path) -> None:
    rows = ranked_sample()
    one, _ = export(tmp_path / "a", rows, columns=("parents",))
    other, _ = export(tmp_path / "b", rows.rechunk(), columns=("parents",))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    described = json.loads((one[0].parent.parent / "shards.json").read_text())
    assert described["splits"]["train"]["rows"] == len(rows)
    assert pq.read_schema(one[0]).names == [
        *("prompt", "chosen", "rejected", "chosen_score", "rejected_score"),
        *("id", "sources", "licenses", "parents"),
    ]


def test_columns_that_shards_have_anyway_are_refused() -> None:
    (problem,) = problems("export.pairs", columns=["label", "x"])
    assert "got label" in problem
