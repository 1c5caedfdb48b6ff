"""mix.curriculum: orders by each method, and that a training reads rows as they say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from schemas.records import RECORD_COLUMNS, record_id
from stages._training.dataset import read_in_order, read_shards
from stages.export.parquet import parquet
from stages.mix._phases import (
    Dependency,
    Difficulty,
    Levels,
    Phase,
    Phases,
    ThreePasses,
    pace,
)
from stages.mix.curriculum import Method, curriculum
from tests.stages._selection.binding import bound, problems_of
from tests.support.options import problems

QUIET = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None
)
METHODS: list[Method] = [
    Levels(),
    Levels(order=("b", "a"), interleave="subject"),
    Phases(phases=(Phase(groups={"a": 1, "b": 0.5}), Phase(groups={"c": 1, "a": 0.1}, passes=2))),
    Phases(phases=(Phase(groups={"a": 1}), Phase(groups={"b": 1})), cycles=3),
    Dependency(requires={"c": ("a", "b"), "b": ("a",)}),
    ThreePasses(base=("a",), dependent=("c",)),
    Difficulty(num_phases=4),
]


def pool(a: int = 20, b: int = 11, c: int = 7, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    kinds = [*"a" * a, *"b" * b, *"c" * c]
    ids = [f"{x:08x}" for x in rng.choice(2**32, len(kinds), replace=False)]
    return pl.DataFrame(
        {
            "id": pl.Series(ids, dtype=pl.String),
            "kind": pl.Series(kinds, dtype=pl.String),
            "subject": pl.Series([f"s{i % 3}" for i in range(len(kinds))], dtype=pl.String),
            "loss": pl.Series(rng.normal(size=len(kinds)), dtype=pl.Float64),
        }
    ).sort("id")


def call(ctx: Context, rows: pl.DataFrame, method: Method, **options: Any) -> pl.DataFrame:
    by = "loss" if isinstance(method, Difficulty) else "kind"
    return rows.with_columns(curriculum(ctx, rows, method=method, **{"by": by} | options))


def read(result: pl.DataFrame) -> pl.DataFrame:
    """All readings in order."""
    listed = result.filter(pl.col("drop_reason").is_null()).explode("phases", "positions")
    return listed.sort("positions")


@QUIET
@given(st.sampled_from(METHODS), st.integers(0, 99), st.integers(0, 3))
def test_positions_are_complete_and_follow_from_ids_and_seed_alone(
    ctx: Context, method: Method, shuffled: int, seed: int
) -> None:
    rows = pool(seed=1)
    result = call(ctx, rows, method, seed=seed)
    readings = read(result)
    assert readings["positions"].to_list() == list(range(len(readings)))
    assert readings["phases"].is_sorted()
    entries = json.loads((ctx.files / "curriculum.json").read_text())
    assert [e["reads"] for e in entries] == list(Counter(readings["phases"]).values())
    dropped = result.filter(pl.col("drop_reason") == "not_read")
    assert len(dropped) + readings["id"].n_unique() == len(rows)
    assert dropped["positions"].null_count() == len(dropped)
    other = call(ctx, rows.sample(fraction=1, shuffle=True, seed=shuffled), method, seed=seed)
    assert other.sort("id").equals(result)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows_and_types(ctx: Context, method: Method) -> None:
    added = curriculum.__stage__.adds  # type: ignore[attr-defined]
    for rows in (pool(0, 0, 0), pool()):
        result = curriculum(
            ctx, rows, method=method, by="loss" if isinstance(method, Difficulty) else "kind"
        )
        assert {name: result.schema[name] for name in added} == added
        assert len(result) == len(rows)


def test_levels_are_read_one_after_another_and_their_subjects_by_turns(ctx: Context) -> None:
    rows = pool().with_columns(level=pl.col("loss").rank("ordinal") % 3 + 8)
    readings = read(call(ctx, rows, Levels(interleave="subject"), by="level"))
    assert readings["level"].is_sorted()  # 8, 9, 10: numbers, not texts
    for _, level in readings.group_by("level"):
        subjects = level.sort("positions")["subject"].to_list()
        seen: Counter[str] = Counter()
        turns = []  # nobody has a second turn before all others that are left had one
        for subject in subjects:
            turns.append((seen[subject], subject))
            seen[subject] += 1
        assert turns == sorted(turns)
    blocked = read(call(ctx, rows, Levels(), by="level"))
    assert blocked["level"].is_sorted()
    assert blocked["subject"].to_list() != readings["subject"].to_list()


def test_levels_by_name_and_missing_ones(ctx: Context) -> None:
    rows = pool().with_columns(kind=pl.when(pl.col("kind") != "c").then("kind"))
    assert read(call(ctx, rows, Levels()))["kind"].unique(maintain_order=True).to_list() == [
        "a", "b", None,
    ]  # fmt: skip
    result = call(ctx, rows, Levels(order=("b", "a")))
    assert read(result)["kind"].unique(maintain_order=True).to_list() == ["b", "a"]
    evidence = result.filter(pl.col("drop_reason").is_not_null())["evidence"].unique().to_list()
    assert [json.loads(text) for text in evidence] == [{"group": "null"}]


def test_two_stages_with_a_little_of_the_first(ctx: Context) -> None:
    """DMT: all special rows, then all general ones with a part k of the special ones."""
    rows = pool(a=512, b=256, c=40)
    k = 1 / 256
    method = Phases(phases=(Phase(groups={"a": 1, "b": 1}), Phase(groups={"c": 1, "a": k, "b": k})))
    readings = read(call(ctx, rows, method))
    counts = [Counter(part["kind"]) for _, part in readings.group_by("phases", maintain_order=True)]
    assert counts == [{"a": 512, "b": 256}, {"c": 40, "a": 2, "b": 1}]


def test_two_teachers_with_passes_of_their_own(ctx: Context) -> None:
    """Orca: four passes over each, and every pass in an order of its own."""
    rows = pool(a=10, b=5, c=0)
    method = Phases(phases=(Phase(groups={"a": 1}, passes=4), Phase(groups={"b": 1}, passes=4)))
    readings = read(call(ctx, rows, method))
    assert readings["kind"].to_list() == [*"a" * 40, *"b" * 20]
    passes = [readings["id"][i : i + 10].to_list() for i in range(0, 40, 10)]
    assert all(sorted(one) == sorted(passes[0]) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_cycles_take_turns_and_read_every_row_once(ctx: Context) -> None:
    method = Phases(phases=(Phase(groups={"a": 1}), Phase(groups={"b": 1, "c": 1})), cycles=4)
    readings = read(call(ctx, pool(), method))
    assert readings["id"].n_unique() == len(readings) == 38
    parts = [part for _, part in readings.group_by("phases", maintain_order=True)]
    assert [Counter(part["kind"])["a"] for part in parts] == [5, 0] * 4


def test_what_is_required_comes_first(ctx: Context) -> None:
    method = Dependency(requires={"a": ("c",), "b": ("a", "c")})
    assert read(call(ctx, pool(), method))["kind"].unique(maintain_order=True).to_list() == [
        "c", "a", "b",
    ]  # fmt: skip


def test_three_passes_are_those_of_dt_csft(ctx: Context) -> None:
    rows = pool(a=30, b=15, c=20)
    method = ThreePasses(base=("a",), dependent=("c",))
    passes = [p for _, p in read(call(ctx, rows, method)).group_by("phases", maintain_order=True)]
    assert "".join(passes[0]["kind"]) == "a" * 33 + "b" * 15 + "c" * 18
    assert passes[0]["id"][:3].to_list() == passes[0]["id"][30:33].to_list()
    assert sorted(passes[1]["id"]) == rows["id"].to_list()
    assert "".join(passes[2]["kind"]) == "c" * 22 + "b" * 15 + "a" * 27
    assert not {*passes[2]["id"][49:]} & ({*rows["id"]} - {*passes[2]["id"]})
    none = read(call(ctx, rows, ThreePasses(base=("a",), dependent=("c",), overlap=0.0)))
    assert len(none) == 3 * len(rows)


@QUIET
@given(
    st.sampled_from(["linear", "root", "log"]), st.integers(1, 12), st.sampled_from([0.05, 0.3, 1])
)
def test_pacing_grows_to_all_rows_and_easy_ones_come_first(
    ctx: Context, pacing: Any, num_phases: int, start: float
) -> None:
    method = Difficulty(pacing=pacing, num_phases=num_phases, start=start)
    rows = pool()
    parts = [p for _, p in read(call(ctx, rows, method)).group_by("phases", maintain_order=True)]
    sizes = [len(part) for part in parts]
    assert len(sizes) == num_phases
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(rows)
    ranked = rows.sort("loss")["id"].to_list()
    for part in parts:
        assert {*part["id"]} == {*ranked[: len(part)]}
    paces = [pace(method, n) for n in range(num_phases + 1)]
    assert paces[0] == pytest.approx(0, abs=1e-9)
    assert paces[-1] == pytest.approx(1)


def test_a_cycle_goes_up_and_down_and_missing_scores_are_hardest(ctx: Context) -> None:
    rows = pool().with_columns(loss=pl.when(pl.col("kind") != "c").then("loss"))
    method = Difficulty(pacing="cyclic", num_phases=8, cycles=2, start=0.5)
    readings = read(call(ctx, rows, method))
    sizes = [len(part) for _, part in readings.group_by("phases", maintain_order=True)]
    assert sizes == [29, 38, 29, 19, 29, 38, 29, 19]
    assert readings.filter(pl.col("phases") == 4)["loss"].null_count() == 0


@pytest.mark.parametrize(
    "method",
    [
        Levels(order=("a", "d")),
        Phases(phases=(Phase(groups={"d": 1}),)),
        Dependency(requires={"a": ("d",)}),
        ThreePasses(base=("d",), dependent=("a",)),
    ],
)
def test_a_group_without_rows_is_an_error(ctx: Context, method: Method) -> None:
    with pytest.raises(UserError, match="'d'"):
        call(ctx, pool(), method)


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ({"name": "phases", "phases": []}, "method.phases"),
        ({"name": "phases", "phases": [{"groups": {"a": 0}}]}, "at least one group above 0"),
        ({"name": "phases", "phases": [{"groups": {"a": 2}}]}, "at most 1"),
        ({"name": "dependency", "requires": {"a": ["b"], "b": ["a"]}}, "must have no cycle"),
        ({"name": "dependency", "requires": {"a": ["a"]}}, "must have no cycle"),
        ({"name": "three_passes", "base": ["a"], "dependent": ["a"]}, "other groups than base"),
        ({"name": "levels", "order": ["a", "a"]}, "must name each once"),
        ({"name": "levels", "interleave": "kind +"}, "SQL expression"),
        ({"name": "difficulty", "start": 0}, "above 0"),
        ({"name": "difficulty", "cycles": 2}, "must be left out with pacing: linear"),
        ({"name": "difficulty", "pacing": "cyclic", "num_phases": 3}, "multiple of 2 x cycles"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(method: Any, problem: str) -> None:
    (message,) = problems_of("mix.curriculum", method=method)
    assert problem in message


def test_what_it_reads() -> None:
    from pipeline.recipe.discovery import find

    options = bound("mix.curriculum", by="level", method={"name": "levels", "interleave": "topic"})
    assert find("mix.curriculum").reads("rows", options) == ["level", "topic"]


def conversations() -> pl.DataFrame:
    turns = [
        [
            {"role": "user", "content": f"Name the number {i}."},
            {"role": "assistant", "content": f"It is {i}."},
        ]
        for i in range(9)
    ]
    rows = [{"id": record_id(turn), "messages": turn, "origins": []} for turn in turns]
    kinds = pl.Series("kind", [*"aaabbbccc"])
    return pl.DataFrame(rows, schema=RECORD_COLUMNS).with_columns(kinds).sort("id")


def exported(folder: Path, **options: Any) -> tuple[pl.DataFrame, Path]:
    """Rows with their positions, and shards of them: three of a kind, c first, b twice."""
    rows = conversations()
    method = Phases(phases=(Phase(groups={"c": 1}), Phase(groups={"b": 1, "a": 0.5}, passes=2)))
    rows = call(Context.scratch(folder / "order"), rows, method)
    kept = rows.filter(pl.col("drop_reason").is_null()).drop("drop_reason", "evidence")
    ctx = Context.scratch(folder / "shards")
    parquet(ctx, kept, columns=("positions",), rows_per_shard=3, **options)
    return kept, ctx.files


def test_shards_are_written_in_the_order_of_a_column(tmp_path: Path) -> None:
    rows, files = exported(tmp_path, order_by="positions")
    written = pl.concat([pl.read_parquet(f) for f in sorted(files.glob("data/*.parquet"))])
    assert written["id"].to_list() == rows.sort(pl.col("positions").list.min())["id"].to_list()
    assert (written["positions"].list.len() == rows.sort(pl.col("positions").list.min())[
        "positions"
    ].list.len()).all()  # fmt: skip


@pytest.mark.proof
def test_a_training_reads_the_rows_in_their_order(
    tmp_path: Path, tinylm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model was shown, batch by batch, is the curriculum, pass after pass."""
    from stages._training.dataset import tokenizer_for
    from stages._training.trainer import load_model
    from stages.train import sft as module

    rows, files = exported(tmp_path)
    seen: list[str] = []
    tokenizer, _ = tokenizer_for(tinylm)

    def watched(*arguments: Any) -> Any:
        model = load_model(*arguments)
        watch = lambda _, args, kwargs: seen.extend(  # noqa: E731
            tokenizer.decode(ids, skip_special_tokens=True) for ids in kwargs["input_ids"]
        )
        model.register_forward_pre_hook(watch, with_kwargs=True)
        return model

    monkeypatch.setattr(module, "load_model", watched)
    ctx = Context.scratch(tmp_path / "sft")
    module.sft(
        ctx,
        files,
        model=tinylm,
        num_train_epochs=2,
        max_length=64,
        packing=False,
        order="positions",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    readings = rows.explode("positions").sort("positions")
    answers = [turns[-1]["content"] for turns in readings["messages"].to_list()] * 2
    assert len(seen) == len(answers) == 2 * (3 + 2 * 5)
    assert all(answer in text for answer, text in zip(answers, seen, strict=True))
    losses = json.loads((ctx.files / "metrics.json").read_text())
    assert losses["epochs"] == 2


def test_an_order_is_a_column_of_numbers_and_excludes_packing(tmp_path: Path) -> None:
    rows, folder = exported(tmp_path)
    files = sorted(folder.glob("data/*.parquet"))
    for column, why in (("place", "no such column"), ("sources", "the type is")):
        with pytest.raises(UserError, match=why):
            read_shards(files, column)
    assert read_shards(files, "positions")["positions"].equals(rows["positions"])
    assert read_in_order(pl.Series([2, 0, None, 1])).tolist() == [1, 3, 0]
    assert problems("train.sft", max_steps=1, order="positions") == [
        "packing must be false with an order, got true"
    ]
