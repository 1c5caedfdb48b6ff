"""The ablation: equal tokens, honest intervals, nothing held out in an arm, kills forgotten."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.group import call_stage
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
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
from tests.support.options import options_of, problems

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


@pytest.mark.proof
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


@settings(max_examples=4)
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


def synthetic(
    generator: np.random.Generator, means: dict[str, float], seeds: int = 4, rows: int = 40
) -> tuple[dict[str, list[dict[str, Any]]], pl.DataFrame]:
    """Trainings of arms whose true losses differ by so much, on two sets of rows."""
    names = ["chats"] * rows + ["sums"] * rows
    tokens = generator.integers(5, 50, 2 * rows)
    hardness = generator.normal(2, 0.5, 2 * rows)
    runs = {}
    for arm, mean in means.items():
        taste = mean + generator.normal(0, 0.05, 2 * rows)  # what the rows make of the arm
        runs[arm] = []
        for _ in range(seeds):
            nats = (hardness + taste + generator.normal(0, 0.01)) * tokens
            by_set = {
                name: float(nats[at].sum() / tokens[at].sum())
                for name, at in (("chats", slice(rows)), ("sums", slice(rows, None)))
            }
            runs[arm].append({"by_set": by_set, "rows_loss": nats})
    return runs, pl.DataFrame({"eval_set": names, "tokens": tokens})


def test_a_planted_difference_is_found_and_where_there_is_none_seldom_any() -> None:
    """15 comparisons a time: without a correction every second experiment would claim one."""
    generator = np.random.default_rng(0)
    arms = ("a", "b", "c", "random")
    false_claims = 0
    for _ in range(60):
        runs, eval_rows = synthetic(generator, dict.fromkeys(arms, 0.0))
        entries = compare_all(runs, ["a", "b", "c"], eval_rows, paired=False)
        false_claims += any(entry["verdict"] != "indistinguishable" for entry in entries)
    assert false_claims <= 7  # 3 are expected; more than 7 have a chance of 1 in 50
    claims = []
    for _ in range(8):
        runs, eval_rows = synthetic(generator, dict.fromkeys(arms, 0.0) | {"a": -0.08})
        entries = compare_all(runs, ["a", "b", "c"], eval_rows, paired=False)
        claims += [
            (e["selected"], e["verdict"]) for e in entries if "a" in (e["selected"], e["arm"])
        ]
    assert claims.count(("a", "lower")) / len(claims) > 0.9
    assert ("a", "higher") not in claims


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_corrected_p_values_reject_what_holm_rejects(p_values: list[float]) -> None:
    """Step by step: the smallest against level / m, the next one against level / (m - 1), ..."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.5):
        rejected = set[int]()
        for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[i] * (len(p_values) - rank) > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(corrected) if p <= level} == rejected


@pytest.mark.parametrize(("num", "comparisons", "sets"), [(3, 1, 1), (5, 20, 6)])
def test_the_difference_that_can_be_seen_is_seen_four_times_in_five(
    num: int, comparisons: int, sets: int
) -> None:
    from scipy.stats import t

    generator = np.random.default_rng(0)
    degrees = sets * (num - 1) if sets > 1 else 2 * (num - 1)
    gap = visible_spreads(num, comparisons, degrees)
    error = np.sqrt(generator.chisquare(degrees, 20_000) / degrees * 2 / num)
    statistic = (gap + generator.normal(0, np.sqrt(2 / num), 20_000)) / error
    seen = (statistic > t.ppf(1 - 0.025 / comparisons, degrees)).mean()
    assert seen == pytest.approx(0.8, abs=0.02)


def test_what_sets_have_in_common_at_a_seed_is_taken_out_of_paired_arms() -> None:
    generator = np.random.default_rng(0)
    common = generator.normal(0, 1, 200)
    losses = {arm: common + generator.normal(0, 0.1, 200) for arm in ("a", "b", "c", "random")}
    alone, paired = (spreads(losses, ["a", "b", "c"], paired) for paired in (False, True))
    for arm in losses:
        assert alone[arm].variance == pytest.approx(1.01, rel=0.3)
        assert paired[arm].variance < 0.02
    assert (alone["a"].degrees, paired["a"].degrees) == (3 * 199, 2 * 199)


def test_unequal_tokens_are_no_comparison() -> None:
    equal = [{"tokens": 64, "steps": 2}] * 3
    require_equal(equal, 64)
    for wrong in ({"tokens": 96, "steps": 2}, {"tokens": 64, "steps": 1}):
        with pytest.raises(AssertionError, match="unequal"):
            require_equal([*equal, wrong], 64)
    with pytest.raises(AssertionError, match="not 128"):
        require_equal(equal, 128)


@given(
    picks=st.lists(st.sets(st.integers(0, 11), min_size=1), min_size=2, max_size=3),
    seed=st.integers(0, 9),
)
def test_paired_arms_have_the_rows_that_they_share_in_one_order(
    picks: list[set[int]], seed: int
) -> None:
    pool = encoded([3] * 12)
    sets = {str(i): pool[sorted(pick)] for i, pick in enumerate(picks)}
    model: Any = None
    experiment = Experiment(model, None, model, 8, 1, True, Path(), pool, sets, pool)
    passes = []
    for rows in sets.values():
        order = common_order(experiment, rows, seed)
        ids = [rows["id"][next(order)] for _ in range(2 * rows.height)]
        assert sorted(ids[: rows.height]) == sorted(ids[rows.height :]) == rows["id"].to_list()
        passes.append(ids[: rows.height])
    shared = set.intersection(*map(set, passes))
    assert len({tuple(id_ for id_ in ids if id_ in shared) for ids in passes}) == 1


@pytest.mark.proof
def test_one_more_set_costs_its_own_trainings_alone(
    tmp_path: Path, edges: Edges, tinylm: LanguageModel
) -> None:
    """In whatever order the sets come; the numbers of the others stay as they are."""
    pool, _, eval_rows = edges
    sets = {name: pool.sample(8, seed=i).sort("id") for i, name in enumerate("abc")}
    several = eval_rows | {"sums": records("elm", 4)}
    options = {"model": tinylm, **SMALL, "paired": True}
    store = tmp_path / "store"
    results = []
    for number, names in enumerate(("ba", "cab", "abc")):
        ctx = Context.scratch(tmp_path / str(number))
        ctx.store = store
        ablation(ctx, pool, {name: sets[name] for name in names}, several, **options)
        results.append(
            (result(ctx), ctx.counters["tokens"], (ctx.files / "ablation.json").read_text())
        )
    (two, first, _), (three, more, text), (_, none, again) = results
    assert (first, more, none) == (6 * 256, 2 * 256, 0)
    assert text == again
    assert [arm["arm"] for arm in three["arms"]] == ["a", "b", "c", "random"]
    assert [run for run in three["runs"] if run["arm"] != "c"] == two["runs"]
    assert three["overlap"]["arms"] == ["a", "b", "c"]
    assert len(three["comparisons"]) == 2 * 6
    assert three["design"]["comparisons"] == 12
    page = (tmp_path / "1/files/ablation.md").read_text()
    assert "12 differences are real" in page
    with pytest.raises(UserError, match="has the name of an arm: random"):
        ablation(ctx, pool, {"random": sets["a"]}, several, **options)


@pytest.mark.proof
def test_arms_of_two_processes_are_those_of_one(
    tmp_path: Path, edges: Edges, tinylm: LanguageModel
) -> None:
    pool, selected, eval_rows = edges
    inputs = {"pool": pool, "selected": selected, "eval_rows": eval_rows}
    one, two = Context.scratch(tmp_path / "one"), Context.scratch(tmp_path / "two")
    for ctx, devices in ((one, 1), (two, 2)):
        model = replace(tinylm, devices=devices)
        call_stage(find("report.ablation"), ctx, inputs, options_of(ablation, model=model, **SMALL))
    assert two.counters == one.counters
    for run, again in zip(result(one)["runs"], result(two)["runs"], strict=True):
        assert again.keys() == run.keys()
        assert again["draw"] == run["draw"]
        assert again["loss"] == pytest.approx(run["loss"], abs=1e-4)
        assert again["rows_loss"] == pytest.approx(run["rows_loss"], abs=1e-3)
    stored = [*(two.store / "trainings").glob("*/result.json")]
    assert len(stored) == len({path.parent.name for path in stored}) == 5
    assert not [*(two.store / "trainings").glob("*/checkpoint-*")]
