"""mix.online: Skill-it's published weights, learned graphs, and one training over all updates."""

from __future__ import annotations

import gzip
import json
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
from stages._training.hyperparameters import Hyperparameters
from stages.mix._online_training import Draws, Skills
from stages.mix._skill_graph import Halves, learned_graph, skill_weights
from stages.mix.online import KnownGraph, LearnedGraph, _refuse_shared, online
from tests.support.options import problems

CHAIN = np.array([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.5, 1.0]])
STANCE = np.array([[1.3418898268749841, 0.0], [0.7324578629599681, 0.8750073381277343]])
"""Of HazyResearch/skill-it (Apache-2.0): stance detection and text matching."""


def test_weights_are_the_published_ones() -> None:
    def weights(*losses: list[float]) -> list[float]:
        window = [np.array(loss) for loss in losses]
        return list(skill_weights(CHAIN, np.ones(3), 0.5, window))

    first, second = [2.0, 1.0, 0.5], [1.5, 0.9, 0.4]
    assert weights() == pytest.approx([0.28027, 0.35987, 0.35987], abs=5e-6)
    assert weights(first) == pytest.approx([0.38365, 0.38365, 0.23270], abs=5e-6)
    assert weights(first, second) == pytest.approx([0.39744, 0.42839, 0.17417], abs=5e-6)


def test_the_published_graph_of_stance_detection() -> None:
    start = skill_weights(STANCE, np.ones(2), 0.5, [], [0])
    assert start.tolist() == pytest.approx([0.57560, 0.42440], abs=1e-5)
    # Of targets the mean counts: twice the same losses change nothing.
    once, twice = ([np.array([2.0, 9.0])] * n for n in (1, 2))
    assert skill_weights(STANCE, np.ones(2), 0.5, once, [0]).tolist() == (
        skill_weights(STANCE, np.ones(2), 0.5, twice, [0]).tolist()
    )


def test_every_published_graph_gives_weights(shared: Path) -> None:
    graphs = json.loads(
        gzip.decompress((shared / "references/skillit_graphs.json.gz").read_bytes())
    )
    assert np.array(graphs["stance_detection"]["graph"]).tolist() == STANCE.tolist()
    graph = np.array(graphs["top_23"]["graph"])
    assert graph.shape == (23, 23)
    assert (np.diag(graph) == 0).all()
    losses = [np.linspace(1, 3, 23)] * 3
    weights = skill_weights(graph, np.ones(23), graphs["top_23"]["eta"], losses)
    expected = np.exp(0.2 * (graph @ (3 * losses[0])))
    np.testing.assert_allclose(weights, expected / expected.sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.floats(0, 500), st.integers(0, 99))
def test_weights_sum_to_one_and_start_from_the_prior(
    skills: int, evaluated: int, eta: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    graph, prior = rng.normal(size=(skills, evaluated)), rng.random(skills) + 0.1
    losses = [rng.random(evaluated) for _ in range(3)]
    weights = skill_weights(graph, prior, eta, losses)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    neutral = skill_weights(graph, prior, 0.0, losses)
    np.testing.assert_allclose(neutral, prior / prior.sum())


def test_an_edge_is_where_half_of_another_skill_helps() -> None:
    """a helps b, nothing helps a; c is only evaluated, and a alone lowers its loss."""
    asked: list[tuple[Halves, int]] = []

    def probe(halves: Halves, seed: int) -> dict[str, float]:
        asked.append((halves, seed))
        noise = 0.01 * seed
        return {
            "a": 1.0 + ("b" in halves) + noise,
            "b": 2.0 - ("a" in halves) + noise,
            "c": 3.0 - (halves == ("a",)) + noise,
        }

    graph = learned_graph(["a", "b"], ["a", "b", "c"], probe, [0, 1], 0.5)
    assert graph.tolist() == [[1.0, 0.5, 0.5], [0.0, 1.0, 0.0]]
    assert {seed for _, seed in asked} == {0, 1}
    assert ((), 0) in asked


def skills_of(work: Path, sizes: dict[str, int], model: Any = None) -> Skills:
    names = [name for name, size in sizes.items() for _ in range(size)]
    ids = [f"{i:04x}" for i in range(len(names))]
    rows = pl.DataFrame({"id": ids, "skill": names, "input_ids": [[1, 2]] * len(names)})
    return Skills(model, None, Hyperparameters(), 8, rows, rows, work)


def test_draws_count_exactly_and_pass_over_each_skill_in_turn(tmp_path: Path) -> None:
    draws = Draws(skills_of(tmp_path, {"a": 5, "b": 3}), "purpose")
    rows: dict[str, list[int]] = {"a": [], "b": []}
    for weights, count in (([0.5, 0.5], 5), ([0.9, 0.1], 10), ([0.0, 1.0], 4)):
        order, quotas = draws.take(np.array(weights), count)
        assert len(order) == sum(quotas) == count
        assert np.bincount(order >= 5, minlength=2).tolist() == quotas
        rows["a"] += sorted(order[order < 5].tolist())
        rows["b"] += sorted(order[order >= 5].tolist())
    for read, members in ((rows["a"], range(5)), (rows["b"], range(5, 8))):
        counts = [read.count(member) for member in members]
        assert max(counts) - min(counts) <= 1


def rows_of(count: int, offset: int = 0) -> pl.DataFrame:
    texts = {"count": "Count to {}.", "name": "Name the number {}.", "double": "Double {}."}
    rows = []
    for i in range(offset, offset + count):
        for kind, text in texts.items():
            turns = [
                {"role": "user", "content": text.format(i)},
                {"role": "assistant", "content": f"{kind} {i}: {2 * i}"},
            ]
            rows.append({"id": record_id(turns), "messages": turns, "origins": [], "kind": kind})
    return pl.DataFrame(rows, schema={**RECORD_COLUMNS, "kind": pl.String}).sort("id")


OPTIONS: dict[str, Any] = {
    "skill": "kind",
    "num_steps": 6,
    "num_updates": 3,
    "learning_rate": 1e-3,
    "gradient_accumulation_steps": 2,
    "max_length": 48,
    "lr_scheduler_type": "linear",
}
HELP = {"count": {"count": 1.0}, "name": {"name": 1.0, "count": 0.5}, "double": {"double": 1.0}}


def outcome(ctx: Context) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ctx.files / "weights.json").read_text())
    return result


@pytest.mark.proof
def test_a_killed_training_goes_on_and_weights_follow_from_the_losses(
    tmp_path: Path, tinylm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages._training import trainer

    train, heldout = rows_of(4), rows_of(2, 50)
    undisturbed = Context.scratch(tmp_path / "a")
    options = OPTIONS | {"model": tinylm, "graph": KnownGraph(edges=HELP)}
    online(undisturbed, train, heldout, **options)
    result = outcome(undisturbed)
    assert [part["steps"] for part in result["parts"]] == [[1, 2], [3, 4], [5, 6]]
    graph = np.array(result["graph"])
    for number, part in enumerate(result["parts"]):
        before = [list(p["losses"].values()) for p in result["parts"][:number]]
        expected = skill_weights(graph, np.ones(3), 0.5, [np.array(b) for b in before])
        assert list(part["weights"].values()) == pytest.approx(expected.tolist())
        assert sum(part["rows"].values()) == 4
    assert "polyline" in (undisturbed.files / "weights.svg").read_text()
    rates = [
        entry["lr"]
        for entry in json.loads((undisturbed.files / "metrics.json").read_text())["losses"]
    ]
    assert len(rates) == 6
    assert rates == sorted(rates, reverse=True)  # one schedule over all parts

    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    killed = Context.scratch(tmp_path / "killed")
    for stop in (3, 4):  # in the middle of a part, and as its last step ends

        def interrupt(done: float, total: float | None, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        killed.report = interrupt
        with pytest.raises(KeyboardInterrupt):
            online(killed, train, heldout, **options)
    killed.report = lambda done, total: None
    online(killed, train, heldout, **options)
    assert outcome(killed) == result
    weights = [c.files / "model/model.safetensors" for c in (undisturbed, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.proof
def test_a_graph_is_learned_of_small_trainings(tmp_path: Path, tinylm: LanguageModel) -> None:
    ctx = Context.scratch(tmp_path)
    rows = rows_of(3).filter(pl.col("kind") != "double")
    options = OPTIONS | {"num_steps": 2, "num_updates": 2, "model": tinylm}
    graph = LearnedGraph(num_steps=1, num_seeds=1)
    online(ctx, rows, rows_of(1, 50), graph=graph, **options)
    result = outcome(ctx)
    assert (result["skills"], result["evaluated"]) == (
        ["count", "name"],
        ["count", "double", "name"],
    )
    matrix = np.array(result["graph"])
    assert (matrix[0, 0], matrix[1, 2]) == (1.0, 1.0)
    assert {*matrix.ravel()} <= {0.0, 0.5, 1.0}
    probes = {file.stem for file in (ctx.work / "probes").glob("*.json")}
    assert probes == {"0-0", "1-0", "0-1-0", "none-0"}


def test_rows_on_both_edges_are_an_error() -> None:
    rows = rows_of(2)
    with pytest.raises(UserError, match="eval_rows must hold no row that is trained on, got 6"):
        _refuse_shared(rows, rows)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_updates": 9}, "num_updates must be at most num_steps = 6, got 9"),
        ({"eta": -1}, "eta must be at least 0, got -1"),
        ({"targets": ["a", "a"]}, "targets must name each once, got ['a', 'a']"),
        ({"graph": {"name": "known", "edges": {}}}, "graph.edges must be of at least 1 element"),
        ({"graph": {"name": "learned", "num_seeds": 0}}, "graph.num_seeds must be at least 1"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(
    change: dict[str, Any], problem: str, tinylm: LanguageModel
) -> None:
    options = {"num_steps": 6, "num_updates": 3, "graph": {"name": "learned"}} | change
    (message,) = problems("mix.online", model=tinylm, **options)
    assert message.startswith(problem)
