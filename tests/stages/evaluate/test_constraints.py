"""evaluate.constraints: published scores are reproduced; nothing unknown or empty passes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.context import Context
from schemas.records import RECORD_COLUMNS, record_id
from stages.evaluate.constraints import constraints
from stages.load.records import records
from tests.support.rows import DATA, json_lines

NO_COMMA, QUOTED = "punctuation:no_comma", "startend:quotation"


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path)


def rows(*conversations: tuple[list[str], dict[str, Any]]) -> pl.DataFrame:
    """Records of turns that alternate, with their `extra`."""
    records = []
    for texts, extra in conversations:
        messages = [
            {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
        ]
        records.append(
            {
                "id": record_id(messages),
                "messages": messages,
                "extra": json.dumps(extra),
            }
        )
    return pl.DataFrame(records, schema=RECORD_COLUMNS)


def asked(*kinds: Any, arguments: list[Any] | None = None) -> dict[str, Any]:
    return {"instruction_id_list": [*kinds], "kwargs": arguments or [{} for _ in kinds]}


def report(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "constraints.json").read_text())  # type: ignore[no-any-return]


PUBLISHED = {
    "Qwen": {"strict": (0.2389, 0.3450), "loose": (0.2500, 0.3630)},
    "mistralai": {"strict": (0.4722, 0.5901), "loose": (0.5148, 0.6346)},
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_accuracies_are_reproduced(ctx: Context, shared: Path, model: str) -> None:
    labelled = pl.read_parquet(shared / "references/ifeval_labelled_responses.parquet")
    items = {item["prompt"]: item for item in json_lines(DATA / "benchmarks/ifeval.jsonl.gz")}
    answers = labelled.filter(
        pl.col("model").str.starts_with(model) & (pl.col("prompt").is_in(list(items)))
    )
    answered = rows(
        *(
            ([row["prompt"], row["response"]], items[row["prompt"]])
            for row in answers.iter_rows(named=True)
        )
    )
    result = constraints(ctx, answered)
    assert result["error"].null_count() == len(answered) == 540
    for manner, (prompt, instruction) in PUBLISHED[model].items():
        scores = report(ctx)[manner]
        assert scores["prompt"] == pytest.approx(prompt, abs=0.004)
        assert scores["instruction"] == pytest.approx(instruction, abs=0.004)
        assert len(scores["kind"]) == 25
    assert result["constraints_rate"].mean() == pytest.approx(report(ctx)["pif"])
    assert (result["constraints_followed_loosely"] >= result["constraints_followed"]).all()


def test_strict_and_loose(ctx: Context) -> None:
    extra = asked(NO_COMMA, QUOTED)
    result = constraints(ctx, rows((["Rain?", 'Sure, here:\n"Rain."'], extra)))
    assert result["constraints_strict"].to_list() == [[False, False]]
    assert result["constraints_loose"].to_list() == [[True, True]]
    assert result["constraints_rate"].to_list() == [0.0]
    assert report(ctx)["strict"]["prompt"] == 0
    assert report(ctx)["loose"]["group"] == {"punctuation": 1, "startend": 1}
    assert "| kind startend:quotation | 0.0000 | 1.0000 |" in (
        ctx.files / "constraints.md"
    ).read_text("utf-8")


@pytest.mark.parametrize("answer", [None, "", " \n"])
def test_an_empty_answer_follows_nothing(ctx: Context, answer: str | None) -> None:
    extra = asked(NO_COMMA, "length_constraints:number_words")
    extra["kwargs"][1] = {"relation": "less than", "num_words": 10}
    turns = ["Rain?"] if answer is None else ["Rain?", answer]
    result = constraints(ctx, rows((turns, extra)))
    assert result["constraints_loose"].to_list() == [[False, False]]
    assert result["constraints_rate"].to_list() == [0.0]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (asked("punctuation:no_commas"), "did you mean 'punctuation:no_comma'?"),
        (asked(NO_COMMA, arguments=[{"n": 1}]), "punctuation:no_comma: n"),
        (asked(NO_COMMA, arguments=[{}, {}]), "kwargs must be a list of 1"),
        (asked(3), "must be a kind with its arguments, got 3"),
        ({"instruction_id_list": NO_COMMA}, "must be a list of kinds"),
        (
            asked([NO_COMMA], [NO_COMMA], arguments=[[{}], [{}]]),
            "a list for each user turn, got 2 of 1",
        ),
    ],
)
def test_what_cannot_be_checked_is_failed_and_never_followed(
    ctx: Context, extra: dict[str, Any], says: str
) -> None:
    result = constraints(ctx, rows((["Rain?", "Rain."], extra)))
    assert result["constraints_followed"].to_list() == [None]
    assert says in result["error"][0]
    assert report(ctx)["rows"] == 0


def test_a_row_that_is_asked_for_nothing_has_no_scores(ctx: Context) -> None:
    result = constraints(ctx, rows((["Rain?", "Rain."], {}), (["Snow?", "Snow."], asked())))
    assert result["constraints_followed"].null_count() == 2
    assert result["error"].null_count() == 2
    assert report(ctx)["pif"] is None


def test_each_turn_has_its_own_and_earlier_ones_may_hold_on(ctx: Context) -> None:
    extra = asked([NO_COMMA], [QUOTED], arguments=[[{}], [{}]])
    dialogue = rows((["Rain?", "Rain.", "Snow?", '"Snow, too."'], extra))
    result = constraints(ctx, dialogue)
    assert result["constraints_strict"].to_list() == [[True, True]]
    result = constraints(ctx, dialogue, cumulative=True)
    assert result["constraints_strict"].to_list() == [[True, False, True]]
    assert result["constraints_rate"].to_list() == [pytest.approx(2 / 3)]


def test_k_of_n_answers_of_a_prompt(ctx: Context) -> None:
    prompts = rows((["Rain?"], asked(NO_COMMA)), (["Snow?"], asked(NO_COMMA)))
    texts = {
        "Rain?": ["Rain.", "Rain!", "Rain, yes."],
        "Snow?": ["Well, snow.", "Yes, snow.", "A,"],
    }
    answers = rows(*(([p, text], {}) for p, answered in texts.items() for text in answered))
    result = constraints(ctx, answers, prompts)
    assert result["constraints_followed"].sum() == 2
    repeats = report(ctx)["repeats"]
    assert repeats == {"3": {"prompts": 2, "at_least": {"1": 0.5, "2": 0.5, "3": 0.0}}}
    assert "| 3 | 2 | 0.5000 |" in (ctx.files / "constraints.md").read_text("utf-8")


def test_the_order_of_kinds_leaves_the_scores(ctx: Context, tmp_path: Path) -> None:
    items = json_lines(DATA / "benchmarks/ifeval.jsonl.gz")[:60]
    answer = '"Dear [name]. P.S. It RAINS in my *town* and I am glad."'
    turned = []
    for item in items:
        order = [*range(len(item["instruction_id_list"]))]
        random.Random(item["key"]).shuffle(order)
        turned.append({name: [item[name][n] for n in order] for name in asked()})
    first = constraints(ctx, rows(*(([i["prompt"], answer], i) for i in items)))
    scores = report(ctx)
    again = Context.scratch(tmp_path / "again")
    second = constraints(
        again, rows(*(([i["prompt"], answer], t) for i, t in zip(items, turned, strict=True)))
    )
    assert report(again) == scores
    assert first["constraints_rate"].equals(second["constraints_rate"])


def test_the_benchmark_loads_with_its_constraints(ctx: Context) -> None:
    path = DATA / "benchmarks/ifeval.jsonl.gz"
    loaded = next(records(ctx, path=(str(path),), source="ifeval", license="CC-BY-4.0"))
    result = constraints(ctx, loaded)
    assert result["constraints_strict"].list.len().sum() == 834
    assert report(ctx)["strict"]["instruction"] == 0
