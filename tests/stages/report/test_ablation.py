"""The ablation: equal tokens, honest intervals, nothing held out in an arm, kills forgotten."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from schemas.records import RECORD_COLUMNS, record_id
from stages._training.dataset import IGNORED
from stages.report._comparison import (
    compare_all,
    holm,
    over_rows,
    over_trainings,
    spreads,
    verdict,
    visible_spreads,
)
from stages.report._experiment import Experiment, blocks, candidates, common_order
from stages.report._overlaps import refuse_overlaps
from stages.report.ablation import ablation, require_equal
from tests.support.options import problems

Edges = tuple[pl.DataFrame, dict[str, pl.DataFrame], dict[str, pl.DataFrame]]

SMALL: dict[str, Any] = {
    "num_tokens": 256,
    "max_length": 64,
    "gradient_accumulation_steps": 2,
    "num_seeds": 2,
    "learning_rate": 1e-3,
    "warmup_ratio": 0.0,
}


def records(name: str, count: int, answer: str | None = None) -> pl.DataFrame:
    """Short conversations about a name; no run of 13 words is in two of them."""
    rows = []
    for i in range(count):
        counting = " ".join(f"{name}{j}" for j in range(i, i + 9))
        messages = [
            {"role": "user", "content": f"What comes after {name} {i}?"},
            {"role": "assistant", "content": answer or counting},
        ]
        origins = [{"source": f"s{i % 2}", "index": i, "license": "MIT"}]
        rows.append({"id": record_id(messages), "messages": messages, "origins": origins})
    schema = {name: RECORD_COLUMNS[name] for name in ("id", "messages", "tools", "origins")}
    return pl.DataFrame(rows, schema=schema).sort("id")


@pytest.fixture(scope="module")
def edges() -> Edges:
    pool = records("pine", 40)
    return pool, {"selected": pool.sample(8, seed=0).sort("id")}, {"eval_rows": records("oak", 6)}


def result(ctx: Context) -> dict[str, Any]:
    return json.loads((ctx.files / "ablation.json").read_text())


@pytest.mark.proof
def test_arms_get_equal_tokens_and_a_kill_changes_nothing(
    tmp_path: Path,
    edges: Edges,
    tinylm: LanguageModel,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole, killed = Context.scratch(tmp_path / "whole"), Context.scratch(tmp_path / "killed")
    ablation(whole, *edges, model=tinylm, **SMALL)
    assert capfd.readouterr() == ("", "")
    report = result(whole)
    assert {run["tokens"] for run in report["runs"]} == {256}
    assert {run["steps"] for run in report["runs"]} == {2}
    assert [(run["arm"], run["seed"]) for run in report["runs"]] == list(
        itertools.product(("selected", "random"), (0, 1))
    )
    draws = {run["draw"] for run in report["runs"] if run["arm"] == "random"}
    assert len(draws) == 2
    assert whole.counters["tokens"] == 4 * 256
    for run in (report["base"], *report["runs"]):
        assert set(run["by_source"]) == {"s0", "s1"}
        assert min(run["by_source"].values()) <= run["loss"] <= max(run["by_source"].values())
    assert all(run["loss"] != report["base"]["loss"] for run in report["runs"])

    class Killed(Exception):
        """Stands for the end of the process."""

    def report(done: float, total: float | None) -> None:
        if done == 3:
            raise Killed

    killed.report = report
    with pytest.raises(Killed):
        ablation(killed, *edges, model=tinylm, **SMALL)
    done: list[float] = []
    killed.report = lambda step, total: done.append(step)
    ablation(killed, *edges, model=tinylm, **SMALL)
    assert min(done) == 3  # the training before the kill is not run again
    for name in ("ablation.json", "ablation.md", "ablation.svg"):
        assert (killed.files / name).read_bytes() == (whole.files / name).read_bytes()


def test_rows_that_the_template_cannot_show_are_counted_for_each_edge(
    ctx: Context,
    edges: Edges,
    tinylm: LanguageModel,
) -> None:
    pool, selected, eval_rows = edges
    bad = records("elm", 3, "An answer.")
    wanting = [[{**turn, "train": True} for turn in turns] for turns in bad["messages"].to_list()]
    bad = bad.with_columns(messages=pl.Series(wanting, dtype=bad.schema["messages"]))
    chosen = pl.concat([selected["selected"], bad[:2]])
    with_bad = (pl.concat([pool, bad]), {"selected": chosen}, eval_rows)
    ablation(ctx, *with_bad, model=tinylm, **SMALL)
    counts = result(ctx)["counts"]
    assert counts["pool"]["rows_refused"] == 3
    assert counts["selected"]["selected"]["rows_refused"] == 2
    assert counts["eval_rows"]["eval_rows"]["rows_refused"] == 0
    lines = list(map(json.loads, (ctx.files / "refused.jsonl").read_text().splitlines()))
    assert [(line["edge"], line["id"]) for line in lines] == [
        *(("pool", id_) for id_ in bad["id"]),
        *(("selected", id_) for id_ in bad["id"][:2]),
    ]
    page = " ".join((ctx.files / "ablation.md").read_text().split())
    assert "3 of `pool`, 2 of `selected`, 0 of `eval_rows`" in page
    with pytest.raises(UserError, match="no row of `selected`") as raised:
        ablation(ctx, with_bad[0], {"selected": bad}, eval_rows, model=tinylm, **SMALL)
    lines = list(map(json.loads, (ctx.work / "refused.jsonl").read_text().splitlines()))
    assert [line["id"] for line in lines if line["edge"] == "selected"] == bad["id"].to_list()
    assert str(ctx.work / "refused.jsonl") in str(raised.value.hint)


@pytest.mark.proof
def test_training_on_what_is_asked_is_seen_as_better(ctx: Context, tinylm: LanguageModel) -> None:
    """The selected rows are like the evaluation rows, the rest of the pool is not: it must show."""
    like = records("oak", 30, "Zebras quarrel under violet umbrellas.")
    eval_rows, selected = {"eval_rows": like[:6]}, {"selected": like[6:]}
    pool = pl.concat([records("pine", 80), like[6:]]).sort("id")
    ablation(
        ctx, pool, selected, eval_rows, model=tinylm, **SMALL | {"num_tokens": 512, "num_seeds": 3}
    )
    comparison = result(ctx)["comparisons"][0]
    assert comparison["difference"] < 0
    assert comparison["verdict"] == "lower"
    page = (ctx.files / "ablation.md").read_text()
    assert "**Better than `random`.**" in page
    assert max(map(len, page.splitlines())) <= 100
    drawn = ET.fromstring((ctx.files / "ablation.svg").read_text())
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}circle")) == 6


def test_a_held_out_row_in_an_arm_stops_the_stage(
    ctx: Context,
    edges: Edges,
    tinylm: LanguageModel,
) -> None:
    pool, selected, eval_rows = edges
    unseen = eval_rows["eval_rows"]
    with pytest.raises(UserError, match=unseen["id"][0]) as same:
        ablation(ctx, pl.concat([pool, unseen[:1]]), selected, eval_rows, model=tinylm, **SMALL)
    assert "select.except" in str(same.value)
    words = unseen["messages"][0][1]["content"].split()

    def quoting(count: int) -> pl.DataFrame:
        text = " ".join(["See:", *words, "and", "then", "some", "more", "words"][: count + 1])
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}]
        return pl.DataFrame({"id": ["q"], "messages": [messages]})

    long = [*words, "and", "then", "some", "more"]
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": " ".join(long)},
    ]
    held = pl.DataFrame({"id": ["h"], "messages": [messages], "origins": [[]]}).cast(
        {"origins": RECORD_COLUMNS["origins"]}
    )
    with pytest.raises(UserError, match="q shares 13 words with h"):
        refuse_overlaps({"pool": pool, "selected": quoting(13)}, {"eval_rows": held})
    refuse_overlaps({"pool": pool, "selected": quoting(12)}, {"eval_rows": held})
    with pytest.raises(UserError, match="the sets of evaluation rows overlap"):
        refuse_overlaps({"pool": pool}, {"b": held, "c": unseen, "a": quoting(13)})


def test_settings_that_cannot_answer_are_refused(tinylm: LanguageModel) -> None:
    assert problems("report.ablation", model=tinylm) == []
    for option, value, valid in (
        ("num_seeds", 1, "at least 2"),
        ("num_tokens", 100, "at least 8192"),
        ("learning_rate", -1.0, "above 0"),
        ("arms", ["pool", "pool"], None),
    ):
        problem = f"{option} must be {valid}, got {value}"
        if valid is None:
            problem = f"{option} must name each once, got {value}"
        assert problems("report.ablation", model=tinylm, **{option: value}) == [problem]


def encoded(lengths: list[int]) -> pl.DataFrame:
    ids = [[1000 * i + k for k in range(n)] for i, n in enumerate(lengths)]
    labels = [[token if token % 3 else IGNORED for token in row] for row in ids]
    kind = pl.List(pl.Int32)
    names = [f"row{i:03}" for i in range(len(lengths))]
    return pl.DataFrame(
        {"id": names, "input_ids": ids, "labels": labels},
        {"id": pl.String, "input_ids": kind, "labels": kind},
    )


@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=12),
    length=st.integers(2, 30),
    count=st.integers(1, 6),
)
def test_blocks_are_full_and_hold_the_rows_in_order(
    lengths: list[int], length: int, count: int
) -> None:
    rows = encoded(lengths)
    result = blocks(rows, itertools.cycle(range(len(lengths))), length, count)
    assert result.height == count
    assert result["input_ids"].list.len().to_list() == [length] * count
    assert result["seq_lengths"].list.sum().to_list() == [length] * count
    order = itertools.cycle(range(len(lengths)))
    for block in result.iter_rows(named=True):
        start, answers = 0, 0
        for size in block["seq_lengths"]:
            row = rows.row(next(order), named=True)
            end = start + size
            assert block["input_ids"][start:end] == row["input_ids"][:size]
            assert block["labels"][start:end] == row["labels"][:size]
            answers += sum(label != IGNORED for label in row["labels"][1:size])
            # Only the last row of a block is cut.
            assert size == len(row["input_ids"]) or end == length
            start = end
        assert block["answer_tokens"] == answers


@given(
    lengths=st.lists(st.integers(2, 20), min_size=4, max_size=40),
    count=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_a_random_draw_has_as_many_tokens_as_the_choice(
    lengths: list[int], count: int, seed: int
) -> None:
    pool = encoded(lengths)
    model: Any = None
    sets = {"a": pool[:count], "b": pool[: count - 1 or 1]}
    experiment = Experiment(model, None, model, 8, 1, False, Path(), pool, sets, pool)
    drawn = candidates(experiment, "random", np.random.default_rng(seed))
    assert candidates(experiment, "pool", np.random.default_rng(seed)).equals(pool)
    target = sum(lengths[:count])
    total = drawn["input_ids"].list.len().sum()
    assert drawn["id"].is_unique().all()
    assert drawn["id"].is_sorted()
    assert target <= total < target + max(lengths)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**20))
def test_intervals_agree_with_textbook_ones(seed: int) -> None:
    """Welch's interval is scipy's; the bootstrap comes near the normal one for a mean."""
    from scipy import stats

    generator = np.random.default_rng(seed)
    first, second = generator.normal(0, 1, 4), generator.normal(0.5, 2, 4)
    expected = stats.ttest_ind(first, second, equal_var=False)
    bounds = expected.confidence_interval(0.95)
    of_arm = spreads({"chosen": first, "random": second}, ["chosen"], paired=False)
    gap = first.mean() - second.mean()
    interval, p = over_trainings(gap, of_arm["chosen"], of_arm["random"], 4)
    assert (*interval, p) == pytest.approx((bounds.low, bounds.high, expected.pvalue))
    difference, tokens = generator.normal(0.1, 1, 400), np.ones(400, np.int64)
    ((low,), (high,)), (error,) = over_rows(difference[:, None], tokens, seed=0)
    assert error == pytest.approx(difference.std() / 20, rel=0.1)
    half = 1.96 * difference.std() / 20
    assert low == pytest.approx(difference.mean() - half, abs=0.02)
    assert high == pytest.approx(difference.mean() + half, abs=0.02)


def test_a_claim_needs_both_intervals() -> None:
    assert verdict((-2.0, -1.0), (-3.0, -0.1)) == "lower"
    assert verdict((1.0, 2.0), (0.1, 3.0)) == "higher"
    assert verdict((1.0, 2.0), (0.1, 3.0), p=0.06) == "indistinguishable"
    for intervals in (((-2.0, -1.0), (-3.0, 0.1)), ((1.0, 2.0), (-0.1, 3.0))):
        assert verdict(*intervals) == "indistinguishable"
    exact = spreads({"a": [1.0, 1.0], "b": [2.0, 2.0]}, ["a"], paired=False)
    assert over_trainings(-1.0, exact["a"], exact["b"], 2) == ((-1.0, -1.0), 0.0)
