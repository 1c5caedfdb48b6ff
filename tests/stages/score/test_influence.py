"""score.influence: worked examples, oracles, and truths that are known by training again."""

from __future__ import annotations

from typing import Any

import numpy as np
import ot
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel
from stages.score.influence import influence
from stages.score.influence.data_inf import DataInf, data_inf, inverse_hessian_product
from stages.score.influence.dsdm import DsDm, datamodel, subsets
from stages.score.influence.got_d import (
    GotD,
    calibrated,
    got_d,
    potentials,
    squared_distances,
)
from stages.score.influence.less import Less, less, task_numbers
from stages.score.influence.tagcos import Tagcos, pursuit, tagcos
from tests.support.rows import self_instruct

SEEDS = st.integers(0, 2**32 - 1)


def frame(prefix: str, **columns: Any) -> pl.DataFrame:
    """Rows with columns of vectors."""
    count = len(next(iter(columns.values())))
    vectors = {
        name: pl.Series(np.asarray(values).tolist(), dtype=pl.List(pl.Float32))
        for name, values in columns.items()
    }
    return pl.DataFrame({"id": [f"{prefix}{i:04}" for i in range(count)], **vectors})


def gradients(seed: int, rows: int, values: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, values)).astype(np.float32)


# LESS


@given(SEEDS)
def test_less_is_the_sum_over_checkpoints_of_mean_cosines_and_the_largest_task(seed: int) -> None:
    rows = [gradients(seed + k, 5) for k in range(2)]
    target = [gradients(seed + 7 + k, 4) for k in range(2)]
    tasks = np.array([0, 1, 1, 0])

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    expected = [
        max(
            np.mean(
                [
                    sum(w * cosine(rows[k][i], target[k][j]) for k, w in enumerate((0.75, 0.25)))
                    for j in range(4)
                    if tasks[j] == task
                ]
            )
            for task in (0, 1)
        )
        for i in range(5)
    ]
    np.testing.assert_allclose(less(rows, target, (3e-5, 1e-5), tasks), expected, atol=1e-6)


@given(SEEDS)
def test_less_does_not_look_at_lengths_and_equal_rows_have_equal_scores(seed: int) -> None:
    rows, target = gradients(seed, 6), gradients(seed + 1, 3)
    rows[4] = rows[1]
    one = np.zeros(3, np.int64)
    scores = less([rows], [target], (), one)
    assert scores[4] == scores[1]
    scaled = less([8 * rows], [0.25 * target], (), one)
    np.testing.assert_array_equal(np.argsort(scaled), np.argsort(scores))
    # A target row put among the rows is the nearest to itself.
    assert less([np.vstack([rows, target[:1]])], [target[:1]], (), one[:1]).argmax() == 6


def test_the_authors_checkpoint_weights_are_means_of_a_schedule() -> None:
    """Linear decay from 2e-5 with 13 warm-up steps of 416: the published means within 0.3%."""
    steps = np.arange(1, 417)
    rates = 2e-5 * np.where(steps <= 13, steps / 13, (416 - steps) / (416 - 13))
    means = rates.reshape(4, 104).mean(axis=1)
    published = [1.6877e-05, 1.2859e-05, 7.7030e-06, 2.5616e-06]
    np.testing.assert_allclose(means, published, rtol=3e-3)


def test_less_as_a_stage(ctx: Context) -> None:
    rows = frame("r", first=[[1, 0], [0, 1], [0, 0]], second=[[1, 0], [1, 0], [0, 0]])
    target = frame("t", first=[[1, 0]], second=[[0, 1]]).with_columns(task=pl.lit("a"))
    method = Less(vectors=("first", "second"), weights=(3.0, 1.0), task="task")
    result = influence(ctx, rows, target, method=method)
    assert result["influence"].to_list() == [0.75, 0.0, None]
    assert task_numbers(pl.Series(["b", "a", "b"]), 3).tolist() == [1, 0, 1]
    with pytest.raises(ValidationError, match="weights must be as many as vectors, 1, got 2"):
        TypeAdapter(Less).validate_python({"weights": [1.0, 2.0]})


def test_a_target_row_without_a_gradient_enters_no_mean(ctx: Context) -> None:
    rows = frame("r", vector=[[1, 0], [3, 4]])
    target = frame("t", vector=[[2, 0], [0, 0]])
    scores = influence(ctx, rows, target, method=Less())["influence"]
    assert scores.to_list() == [1.0, 0.6]
    with pytest.raises(UserError, match="must have a row with a gradient, got only zeros"):
        influence(ctx, rows, target[1:], method=Less())
    by_task = target.with_columns(task=pl.Series(["a", "b"]))
    with pytest.raises(UserError, match="must have a row with a gradient"):
        influence(ctx, rows, by_task, method=Less(task="task"))


# DataInf


def test_data_inf_by_hand() -> None:
    rows, target = np.array([[1.0, 0], [1, 1]]), np.array([[1.0, 2]])
    product = inverse_hessian_product(rows, target[0], 0.1)
    np.testing.assert_allclose(product, [-2.50677, 17.02811], atol=5e-6)
    # The paper's sign is below 0 for what helps: ours is turned.
    np.testing.assert_allclose(-data_inf(rows, target, 0.1), [2.50677, -14.52134], atol=5e-6)


@given(SEEDS)
def test_data_inf_is_the_mean_of_inverses(seed: int) -> None:
    rows, vector = gradients(seed, 7).astype(np.float64), gradients(seed + 1, 1)[0]
    penalty = 0.1 * (rows**2).mean()
    inverses = [np.linalg.inv(np.outer(g, g) + penalty * np.eye(6)) for g in rows]
    expected = np.mean(inverses, axis=0) @ vector
    np.testing.assert_allclose(inverse_hessian_product(rows, vector, 0.1), expected, rtol=1e-9)


def test_layers_add_up_and_none_without_gradients_counts(ctx: Context) -> None:
    one, other, zeros = gradients(0, 5), gradients(1, 5, 3), np.zeros((5, 2))
    rows = frame("r", one=one, other=other, zeros=zeros)
    target = rows[:2]

    def scores(*names: str) -> np.ndarray:
        method = DataInf(vectors=names)
        return influence(ctx, rows, target, method=method)["influence"].to_numpy()

    np.testing.assert_allclose(scores("one", "other", "zeros"), scores("one") + scores("other"))


# GOT-D


def cats_and_dogs() -> tuple[np.ndarray, np.ndarray]:
    """198 cats and 2 dogs; as many cats as dogs are wanted."""
    rng = np.random.default_rng(0)
    cats, dogs = rng.standard_normal((248, 2)), rng.standard_normal((52, 2)) + np.array([6, 0])
    return np.vstack([cats[:198], dogs[:2]]), np.vstack([cats[198:], dogs[2:]])


def test_got_d_takes_what_is_missing_and_not_what_is_near() -> None:
    rows, target = cats_and_dogs()
    masses = np.full(200, 1 / 200)
    f, _ = potentials(squared_distances(rows, target), masses, 2.0, 300, 0.0)
    gradients = calibrated(f)
    assert set(np.argsort(gradients)[:2]) == {198, 199}
    assert (gradients[198:] < -35).all()
    assert np.median(gradients[:198]) > 0
    scores = got_d(rows, target, GotD())
    assert set(np.argsort(-scores)[:2]) == {198, 199}
    # Above 0 helps: mass on some rows is taken from others, so that the mean is 0.
    assert scores[198:].min() > 0 > np.median(scores[:198])
    assert abs(scores.mean()) < 1e-9 * np.abs(scores).max()
    nearest = np.argsort(np.linalg.norm(rows - target.mean(axis=0), axis=1))
    assert not set(nearest[:2]) & {198, 199}


def entropic_cost(costs: np.ndarray, masses: np.ndarray, epsilon: float) -> float:
    """The dual objective at its optimum: the entropic transport's value."""
    f, g = potentials(costs, masses, epsilon, 20_000, 1e-14)
    return float(masses @ f + g.mean())


def test_the_calibrated_potential_is_the_derivative_by_the_rows_mass() -> None:
    rng = np.random.default_rng(1)
    costs = squared_distances(rng.standard_normal((8, 2)), rng.standard_normal((5, 2)))
    masses = np.full(8, 1 / 8)
    f, _ = potentials(costs, masses, 1.0, 20_000, 1e-14)
    gradients, step = calibrated(f), 1e-5
    for row in range(3):
        direction = np.full(8, -1 / 7)
        direction[row] = 1
        up, down = (entropic_cost(costs, masses + s * step * direction, 1.0) for s in (1, -1))
        assert gradients[row] == pytest.approx((up - down) / (2 * step), abs=1e-7)


@given(SEEDS)
def test_potentials_are_those_of_pot(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = squared_distances(rng.standard_normal((9, 3)), rng.standard_normal((6, 3)))
    masses, columns = rng.dirichlet(np.full(9, 5.0)), np.full(6, 1 / 6)
    epsilon = 0.1 * costs.mean()
    f, g = potentials(costs, masses, epsilon, 5000, 1e-13)
    plan = masses[:, None] * columns * np.exp((f[:, None] + g - costs) / epsilon)
    expected = ot.sinkhorn(
        masses, columns, costs, epsilon, method="sinkhorn_log", numItermax=5000, stopThr=1e-13
    )
    np.testing.assert_allclose(plan, expected, atol=1e-9)


def test_what_is_unwanted_counts_against_a_row(ctx: Context) -> None:
    rows = frame("r", vector=[[0.0], [3.0], [-3.0]])
    target, unwanted = frame("t", vector=[[3.0], [-3.0]]), frame("u", vector=[[-3.0]])
    alone = influence(ctx, rows, target, method=GotD())["influence"]
    assert alone[1] == pytest.approx(alone[2])
    both = influence(ctx, rows, target, unwanted, method=GotD())["influence"]
    assert both[1] > both[2]


# TAGCOS


def test_pursuit_finds_the_rows_that_a_vector_is_made_of() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    rows, weights = pursuit(basis, 3 * basis[4] + 2 * basis[1], 4, 0.0, 1e-9)
    assert rows == [4, 1]
    np.testing.assert_allclose(weights, [3, 2])
    # Weights are never below 0: what points away is not taken.
    assert pursuit(basis, -basis[0], 4, 0.0, 1e-9) == ([], pytest.approx(np.zeros(0)))
    ridged = pursuit(basis, 3 * basis[4], 1, 1.0, 1e-9)[1]
    np.testing.assert_allclose(ridged, [1.5])


@given(SEEDS)
def test_pursuit_is_scikit_learns_where_weights_are_free(seed: int) -> None:
    """With rows that are all of use, weights stay above 0 and no ridge: the textbook's."""
    from sklearn.linear_model import OrthogonalMatchingPursuit

    rng = np.random.default_rng(seed)
    rows = np.abs(rng.standard_normal((8, 12)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    target = rows[2] * 3 + rows[5] * 2
    order, weights = pursuit(rows, target, 2, 0.0, 1e-12)
    model = OrthogonalMatchingPursuit(n_nonzero_coefs=2, fit_intercept=False).fit(rows.T, target)
    if (model.coef_ >= 0).all():
        assert set(order) == set(np.flatnonzero(model.coef_))
        np.testing.assert_allclose(weights, model.coef_[order], atol=1e-8)


def test_each_cluster_gives_its_part_and_small_ones_nothing(ctx: Context) -> None:
    rng = np.random.default_rng(0)
    centers = np.repeat([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]], [40, 60, 5], axis=0)
    vectors = centers + 0.1 * rng.standard_normal((105, 3))
    method = Tagcos(vectors=("one", "two"), fraction=0.1, n_clusters=3)
    rows = frame("r", one=vectors + 1, two=vectors - 1)
    result = influence(ctx, rows, method=method)
    picked = result["influence"].to_numpy() > 0
    assert [picked[:40].sum(), picked[40:100].sum(), picked[100:].sum()] == [4, 6, 0]
    assert result["influence_cluster"].n_unique() == 3
    np.testing.assert_array_equal(
        tagcos(vectors.astype(np.float32), method)[0], tagcos(vectors.astype(np.float32), method)[0]
    )


# DsDm


def test_a_datamodel_finds_the_effects_that_losses_are_made_of() -> None:
    rng = np.random.default_rng(0)
    effects = rng.standard_normal(12)
    masks = subsets(pl.Series([str(i) for i in range(12)]), DsDm(num_subsets=60))
    losses = 3 - masks @ effects + 0.01 * rng.standard_normal(60)
    estimated = datamodel(masks, losses, 1e-6)
    # Subsets are of one size, so that effects are known up to a constant.
    np.testing.assert_allclose(estimated - estimated.mean(), effects - effects.mean(), atol=0.03)


def test_a_rows_draws_come_from_its_id() -> None:
    ids = pl.Series([f"{i}" for i in range(20)])
    masks = subsets(ids, DsDm(num_subsets=5))
    np.testing.assert_array_equal(subsets(ids.reverse(), DsDm(num_subsets=5))[:, ::-1], masks)
    assert (subsets(ids, DsDm(num_subsets=5, seed=1)) != masks).any()


# Truths


def logistic(
    features: np.ndarray, labels: np.ndarray, penalty: float = 1e-2, steps: int = 40
) -> np.ndarray:
    """Logistic regression by Newton's method, exact."""
    weights = np.zeros(features.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (p - labels) / len(labels) + penalty * weights
        hessian = (features.T * (p * (1 - p))) @ features / len(labels)
        weights = weights - np.linalg.solve(hessian + penalty * np.eye(len(weights)), gradient)
    return weights


def loss_of(weights: np.ndarray, features: np.ndarray, labels: np.ndarray) -> float:
    margins = features @ weights
    return float(np.mean(np.logaddexp(0, margins) - labels * margins))


def toy(seed: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Rows of which one has a wrong label, and how the target's loss changes without each."""
    rng = np.random.default_rng(seed)
    truth = np.array([2.0, -1.0, 0.5])
    features = rng.standard_normal((60, 3))
    labels = (features[:40] @ truth > 0).astype(float)
    wrong = int(np.abs(features[:40] @ truth).argmax())
    labels[wrong] = 1 - labels[wrong]
    rows, target = (features[:40], labels), (features[40:], (features[40:] @ truth > 0) * 1.0)
    whole = loss_of(logistic(*rows), *target)
    without = [
        whole - loss_of(logistic(np.delete(rows[0], i, 0), np.delete(rows[1], i)), *target)
        for i in range(40)
    ]
    return rows, target, np.array(without), logistic(*rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_row_whose_removal_helps_most_is_found(seed: int, ctx: Context) -> None:
    """By every method that has a target, on a model that is trained again without each row."""
    rows, target, helped, weights = toy(seed)
    worst = int(helped.argmax())

    def rowwise(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-features @ weights))
        return ((p - labels)[:, None] * features).astype(np.float32)

    pool, aim = frame("r", vector=rowwise(*rows)), frame("t", vector=rowwise(*target))
    for method in (Less(), DataInf()):
        scores = influence(ctx, pool, aim, method=method)["influence"]
        assert scores.arg_min() == worst, method.name
    exact = DataInf()
    scores = influence(ctx, pool, aim, method=exact)["influence"].to_numpy()
    assert np.corrcoef(-scores, helped)[0, 1] > 0.8

    method = DsDm(num_subsets=400)
    masks = subsets(pool["id"], method)
    losses = [loss_of(logistic(rows[0][m], rows[1][m]), *target) for m in masks]
    assert datamodel(masks, np.array(losses), 1.0).argmin() == worst


def tiny_rows() -> tuple[pl.DataFrame, pl.DataFrame]:
    length = pl.col("messages").list.eval(pl.element().struct["content"].str.len_chars())
    rows = self_instruct(300).filter(length.list.sum().is_between(60, 160))
    return rows[:6], rows[6:8]


@pytest.mark.proof
def test_dsdm_trains_and_finds_the_row_that_is_the_target(
    ctx: Context, tinylm: LanguageModel
) -> None:
    rows, target = tiny_rows()
    target = rows[2:3]
    method = DsDm(num_subsets=10, max_steps=4, batch_size=3, learning_rate=2e-4, max_length=96)
    scores = influence(ctx, rows, target, method=method, model=tinylm)["influence"]
    assert scores.arg_max() == 2
    # A second call takes the losses that are there.
    again = influence(ctx, rows, target, method=method, model=tinylm)["influence"]
    assert again.equals(scores)


# Mistakes


def test_mistakes(ctx: Context) -> None:
    rows = frame("r", vector=[[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(OptionError, match="less must have an input for 'target'"):
        influence(ctx, rows, method=Less())
    with pytest.raises(OptionError, match="target"):
        influence(ctx, rows, rows, method=Tagcos())
    with pytest.raises(OptionError, match="unwanted"):
        influence(ctx, rows, rows, rows, method=Less())
    with pytest.raises(UserError, match="must have one length on all edges, got 2 and 1"):
        influence(ctx, rows, frame("t", vector=[[1.0]]), method=GotD())
    with pytest.raises(UserError, match="must have rows, got none"):
        influence(ctx, rows, rows[:0], method=GotD())
    with pytest.raises(OptionError, match="must be given with method: dsdm"):
        influence(ctx, rows, rows, method=DsDm())
    assert influence(ctx, rows[:0], method=Tagcos()).columns == ["influence", "influence_cluster"]
