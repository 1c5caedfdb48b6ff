"""The arena: who challenges, who answers, who votes, and what the votes come to."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import LanguageModel
from pipeline.recipe.recipe import Recipe
from stages.generate.arena import OpenedTurn, Requested, arena, elo, expected
from tests.support.options import problems
from tests.support.rows import DATA
from tests.support.scripted import Scripted

MODELS = tuple(LanguageModel(model=name) for name in ("ann", "bob", "cid"))


class Stadium(Context):
    """A context with an engine of its own for every model: ann knows, bob guesses, cid is mute.

    As judges all are honest, save that bob always votes for the first answer.
    """

    def open(self, model: LanguageModel) -> Scripted:  # type: ignore[override]
        self.engines = getattr(self, "engines", {})
        name = model.model
        return self.engines.setdefault(name, Scripted(lambda text: self.say(name, text)))

    def say(self, name: str, text: str) -> tuple[str, str]:
        if "Pose one task" in text:
            return f"Task of {name}", "stop"
        if "Which answer is better?" not in text:
            return {"ann": "right", "bob": "wrong", "cid": ""}[name], "stop"
        if name == "bob":
            return "A", "stop"
        first = text.split("Answer A:")[1].split("Answer B:")[0]
        return ("A" if "right" in first else "B"), "stop"


def stadium(ctx: Context) -> Stadium:
    return Stadium(ctx.files, ctx.work, ctx.store)


def test_the_uninvolved_vote_in_both_orders(ctx: Context) -> None:
    context = stadium(ctx)
    rows = arena(context, models=MODELS, num_challenges=2, challenges=Requested())
    # Every model poses two tasks, one against each of the others; equal ones are one task.
    assert len(rows) == 12
    ballots: defaultdict[str, int] = defaultdict(int)
    for name, engine in context.engines.items():
        ballots[name] = sum("better" in r.prompt[-1][1] for a in engine.calls for r in a)
    assert ballots == {"ann": 0, "bob": 0, "cid": 4}  # ann fights bob twice, others are mute
    won = rows.filter(pl.col("author") == "ann", pl.col("opponent") == "bob")
    assert won["votes"].to_list() == [1.0, 1.0]
    assert won["voters"].to_list() == [2, 2]
    assert (rows["drop_reason"] == "response_unparsed").sum() == 4
    assert (rows["drop_reason"] == "no_votes").sum() == 4
    lost = rows.filter(pl.col("author") == "bob", pl.col("opponent") == "ann")
    assert (lost["arena_score"] < won["arena_score"]).all()


def test_a_judge_of_positions_decides_nothing(ctx: Context) -> None:
    rows = arena(
        stadium(ctx),
        models=MODELS[:2],
        judges=MODELS[1:2],
        num_challenges=1,
        challenges=Requested(),
    )
    assert rows["votes"].to_list() == [0.5] * 4
    assert rows["elo"].to_list() == [1000.0] * 4
    assert rows["arena_score"].to_list() == [0.5] * 4


def test_a_vote_that_fails_leaves_the_battle_open(ctx: Context) -> None:
    class Broken(Stadium):
        def say(self, name: str, text: str) -> tuple[str, str]:
            failing = name == "cid" and "better" in text and "Task of ann" in text
            return ("no server", "error") if failing else super().say(name, text)

    rows = arena(
        Broken(ctx.files, ctx.work, ctx.store),
        models=MODELS,
        num_challenges=1,
        challenges=Requested(),
    )
    duel = rows.filter(pl.col("attacker") == "ann", pl.col("opponent").is_in(["ann", "bob"]))
    assert duel["error"].to_list() == ["no server"] * 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1))))
def test_elo_moves_points_and_creates_none(battles: list[tuple[int, int, float]]) -> None:
    ratings = elo([b for b in battles if b[0] != b[1]], 4)
    assert sum(ratings) == pytest.approx(4000)
    for one, other in product(ratings, ratings):
        assert expected(one, other) + expected(other, one) == pytest.approx(1)


def test_elo_follows_its_definition() -> None:
    assert elo([(0, 1, 1.0)], 2) == [1016, 984]
    assert expected(1400, 1000) == pytest.approx(10 / 11)


def test_an_opened_turn_is_written_as_a_users(ctx: Context) -> None:
    """Whole, whatever it begins with, and ended by all that ends a user's turn."""
    context = stadium(ctx)
    context.say = lambda *_: ("Sure, here is a task: add 1.", "stop")  # type: ignore[method-assign]
    rows = arena(context, models=MODELS, num_challenges=1)
    asked = [engine.calls[0] for engine in context.engines.values()]
    assert [(r.prompt, r.role, r.decoding.stop) for (r,) in asked] == [((), "user", ())] * 3
    assert {row[0]["content"] for row in rows["messages"]} == {"Sure, here is a task: add 1."}


def test_a_model_that_only_its_server_renders_poses_nothing_in_an_open_turn() -> None:
    served = LanguageModel("gpt", engine="openai", base_url="http://localhost:8000/v1")
    here = replace(served, tokenizer=str(DATA / "models/tinylm"))
    options: dict[str, Any] = {"models": ["model"] * 3, "num_challenges": 1}
    (mistake,) = problems("generate.arena", served, **options)
    assert mistake.startswith("models must be one whose chat template is at hand, got gpt")
    assert problems("generate.arena", here, **options) == []
    assert problems("generate.arena", served, challenges="asked", **options) == []


@pytest.mark.proof
def test_a_live_arena_accounts_for_every_answer(ctx: Context, tinylm: LanguageModel) -> None:
    opened = OpenedTurn(max_tokens=24)
    rows = arena(ctx, models=(tinylm,) * 3, num_challenges=2, challenges=opened, max_tokens=16)
    assert len(rows) == 12
    assert set(rows["author"]) == {"tinylm", "tinylm#2", "tinylm#3"}
    reasons = Counter(rows["drop_reason"])
    assert set(reasons) <= {None, "challenge_cut", "response_cut", "no_votes", "duplicate"}, reasons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["model"] * 2}, "models must name at least 3 models, got 2"),
        (
            {"models": ["model"], "judges": ["model"]},
            "models must name at least 2 models, got 1",
        ),
        ({"elo_weight": 1.5}, "elo_weight must be between 0 and 1, got 1.5"),
        (
            {"challenges": {"name": "opened_turn", "domain": "law"}},
            "challenges (opened_turn) has no option 'domain'",
        ),
    ],
)
def test_a_recipe_s_mistakes(options: dict[str, Any], message: str) -> None:
    usual = {"models": ["model"] * 3, "num_challenges": 1}
    assert problems("generate.arena", **usual | options) == [message]
    assert problems("generate.arena", **usual, challenges="asked") == []


def test_a_recipe_names_several_models() -> None:
    models = {name: {"model": "data/models/tinylm", "id": name} for name in ("a", "b", "c")}
    step = {"uses": "generate.arena", "with": {"models": ["a", "b", "c"], "num_challenges": 1}}
    recipe = Recipe.of("duel", {"duel": step}, models)
    assert [m.id for m in recipe.steps["duel"].options.models] == ["a", "b", "c"]
    from pipeline.errors import RecipeErrors

    step["with"]["models"] = ["a", "d"]  # type: ignore[index]
    with pytest.raises(RecipeErrors, match="no model 'd'"):
        Recipe.of("duel", {"duel": step}, models)
