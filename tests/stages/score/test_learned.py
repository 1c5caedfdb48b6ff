"""score.learned: signals that were planted, labels that say nothing, published numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.execution.plan import check, plan
from pipeline.models import Embedder, LanguageModel
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from schemas.records import RECORD_COLUMNS, prompt_id, record_id
from stages._training import trainer
from stages.score.learned import learned
from stages.score.learned.car import Car, compatibility_adjusted_reward
from stages.score.learned.fine_tuned import FineTuned
from stages.score.learned.heads import Classifier, Pairs, Regressor, pairs_within
from stages.score.learned.held_out import auc, pair_accuracy, spearman
from stages.score.learned.labels import Labelled, Trained, features_of, read_labelled
from stages.score.learned.linear_rule import LinearRule
from stages.score.learned.reward_model import RewardModel
from tests.support.options import options_of, problems
from tests.support.rows import conversations

SIZE = 8
TRUTH = np.random.default_rng(7).normal(size=SIZE)


def pool(count: int, seed: int = 0, noise: float = 0.3, answers: int = 1) -> pl.DataFrame:
    """Conversations with vectors and a `truth` that is linear in them, and noisy labels of it.

    The answers are all of one length, so that length says nothing.
    """
    random = np.random.default_rng(seed)
    texts = [
        [f"Question {seed}-{i // answers:04}?", f"Answer {seed}-{i:04}."] for i in range(count)
    ]
    vectors = random.normal(size=(count, SIZE))
    truth = vectors @ TRUTH
    noisy = truth + noise * random.normal(size=count)
    columns = pl.DataFrame(
        {
            "vector": pl.Series(vectors.astype(np.float32)).arr.to_list(),
            "truth": truth,
            "grade": noisy,
            "good": noisy > 0,
        }
    )
    rows = [record(*text) for text in texts]
    frame = pl.DataFrame(rows, schema=RECORD_COLUMNS)
    return pl.concat([frame, columns], how="horizontal").sort("id")


def record(question: str, answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": record_id(turns), "messages": turns, "origins": []}


def report(ctx: Context) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ctx.files / "report.json").read_text("utf-8"))
    return result


HEADS = [
    Classifier(label="good"),
    Classifier(label="good", calibration="isotonic"),
    Regressor(label="grade"),
    Pairs(label="grade"),
]


@pytest.mark.parametrize("method", HEADS, ids=lambda m: f"{m.name}-{getattr(m, 'calibration', '')}")
def test_a_planted_signal_is_learned_and_shuffled_labels_are_at_chance(
    ctx: Context, method: Trained
) -> None:
    labelled, rows = pool(300, answers=2), pool(100, seed=1)
    result = learned(ctx, rows, labelled, method=method)  # type: ignore[arg-type]
    assert spearmanr(result["learned"], rows["truth"])[0] > 0.9
    assert not result["learned_in_training"].any()
    said = report(ctx)
    head, shuffled = said["held_out"]["head"], said["shuffled"]
    assert said["beyond_chance"]
    assert said["beyond_length"]
    assert head[said["metric"]] > 0.9 > shuffled["highest"]
    assert shuffled["lowest"] <= said["chance"] + 0.1
    assert abs(shuffled["mean"] - said["chance"]) < 0.2
    assert said["rows"]["training"] + said["rows"]["held_out"] == len(labelled)


def test_labels_that_say_nothing_are_not_beyond_chance(ctx: Context) -> None:
    random = np.random.default_rng(3)
    labelled = pool(300).with_columns(good=pl.Series(random.random(300) < 0.5))
    learned(ctx, pool(5, seed=1), labelled, method=Classifier(label="good"))
    said = report(ctx)
    assert said["beyond_chance"] is False
    assert "is not beyond chance" in (ctx.files / "report.md").read_text("utf-8")


def test_a_head_that_reads_length_is_not_better_than_length(ctx: Context) -> None:
    texts = [[f"Q{i}?", "word " * (1 + i % 40)] for i in range(200)]
    rows = pl.DataFrame([record(*text) for text in texts], schema=RECORD_COLUMNS).sort("id")
    words = rows["messages"].list.get(1).struct.field("content").str.len_chars().log1p()
    rows = rows.with_columns(words=words, grade=words * 2 + 1)
    learned(ctx, rows, rows, method=Regressor(label="grade", vector=None, features=("words",)))
    said = report(ctx)
    assert said["beyond_chance"]
    assert said["beyond_length"] is False


def test_the_order_of_the_rows_changes_nothing(ctx: Context, tmp_path: Path) -> None:
    labelled, rows = pool(60, answers=2), pool(30, seed=1)
    other = Context.scratch(tmp_path / "other")
    for method in (HEADS[1], HEADS[3]):
        first = learned(ctx, rows, labelled, method=method)  # type: ignore[arg-type]
        shuffled = labelled.sample(fraction=1, shuffle=True, seed=5)
        turned = learned(other, rows.reverse(), shuffled, method=method)  # type: ignore[arg-type]
        assert_frame_equal(first, turned.reverse())
        assert report(ctx) == report(other)


def split_of(rows: pl.DataFrame, seed: int = 0) -> Labelled:
    method = Regressor(label="grade", held_out=0.3, seed=seed)
    return read_labelled(rows, method, features_of(rows, method))


def test_the_split_is_by_the_prompt_and_its_hash_alone() -> None:
    labelled = pool(120, answers=3)
    data = split_of(labelled)
    held = dict(zip(data.prompts, data.is_held_out.tolist(), strict=True))
    sides = zip(data.prompts, data.is_held_out, strict=True)
    assert all(held[prompt] == side for prompt, side in sides)
    assert 0.1 < data.is_held_out.mean() < 0.5
    part = split_of(labelled[::2])
    assert all(held[p] == side for p, side in zip(part.prompts, part.is_held_out, strict=True))
    other = split_of(labelled, seed=1)
    assert (other.is_held_out != data.is_held_out).any()


def test_a_row_that_trained_the_head_is_marked(ctx: Context) -> None:
    labelled = pool(60, answers=2)
    result = learned(ctx, labelled, labelled, method=Regressor(label="grade"))
    assert int(result["learned_in_training"].sum()) == report(ctx)["rows"]["training"]


def test_labels_that_cannot_be_read_are_counted_and_train_nothing(
    ctx: Context, tmp_path: Path
) -> None:
    rows, labelled = pool(20, seed=1), pool(90)
    broken = labelled.with_row_index().with_columns(
        grade=pl.when(pl.col("index") % 3 == 0)
        .then(pl.lit(None))
        .when(pl.col("index") % 3 == 1)
        .then(pl.col("grade"))
        .otherwise(pl.lit(float("nan")))
    )
    first = learned(ctx, rows, broken, method=Regressor(label="grade"))
    assert report(ctx)["rows"]["without_label"] == 60
    other = Context.scratch(tmp_path / "other")
    assert_frame_equal(first, learned(other, rows, labelled[1::3], method=Regressor(label="grade")))
    assert report(other)["rows"]["without_label"] == 0


def test_a_missing_feature_is_no_score(ctx: Context) -> None:
    rows = pool(40).with_columns(
        words=pl.when(pl.int_range(pl.len()) % 4 > 0).then(pl.col("truth"))
    )
    method = Regressor(label="grade", features=("words",))
    result = learned(ctx, rows, rows, method=method)
    assert result["learned"].is_null().to_list() == rows["words"].is_null().to_list()
    assert report(ctx)["rows"]["without_features"] == 10


@pytest.mark.parametrize(
    ("change", "method", "what"),
    [
        ({"good": pl.lit(True)}, Classifier(label="good"), "the labels must differ, got 1 for all"),
        ({"grade": pl.lit(0.5)}, Regressor(label="grade"), "the labels must differ, got 0.5 for"),
        ({"grade": pl.lit(None)}, Regressor(label="grade"), "must have rows with a label"),
        ({}, Classifier(label="grade"), "the labels of a classifier must be 0 or 1"),
        ({}, Classifier(label="id"), "a score must be a number"),
        ({}, Pairs(label="grade"), "pairs must have two rows of one group"),
        ({"vector": pl.lit(3.0)}, Regressor(label="grade"), "must hold vectors"),
    ],
)
def test_labels_that_teach_nothing_are_refused(
    ctx: Context, change: dict[str, pl.Expr], method: Trained, what: str
) -> None:
    with pytest.raises(UserError, match=what):
        learned(ctx, pool(4, 1), pool(40).with_columns(**change), method=method)  # type: ignore[arg-type]


def test_too_few_labels_of_one_kind_to_calibrate(ctx: Context) -> None:
    labelled = pool(40).with_columns(good=pl.int_range(pl.len()) == 7)
    with pytest.raises(UserError, match=r"calibration must have two groups|must have labels that"):
        learned(ctx, pool(4, 1), labelled, method=Classifier(label="good"))


def test_few_labels_are_no_proof(ctx: Context) -> None:
    learned(ctx, pool(4, 1), pool(12), method=Regressor(label="grade"))
    said = report(ctx)
    assert said["beyond_chance"] is None
    assert "cannot be shown to be beyond chance" in (ctx.files / "report.md").read_text("utf-8")


def test_no_rows_have_no_scores(ctx: Context) -> None:
    method = Classifier(label="good", similarity=True)
    result = learned(ctx, pool(4, 1).clear(), pool(60), method=method)
    assert (len(result), result.columns) == (
        0,
        ["learned", "learned_in_training", "learned_similarity"],
    )


def test_the_similarity_is_that_to_positive_training_rows(ctx: Context) -> None:
    labelled, rows = pool(60), pool(10, seed=1)
    method = Classifier(label="good", similarity=True)
    result = learned(ctx, rows, labelled, method=method)["learned_similarity"]
    data = read_labelled(labelled, method, features_of(labelled, method))
    known = data.features[(data.labels == 1) & ~data.is_held_out]
    own = np.array(rows["vector"].to_list())
    for vector, value in zip(own, result, strict=True):
        cosines = known @ vector / np.linalg.norm(known, axis=1) / np.linalg.norm(vector)
        assert value == pytest.approx(cosines.max(), abs=1e-6)


def test_the_advantage_is_the_reward_over_what_was_expected(ctx: Context) -> None:
    rows = pool(50, seed=1).with_columns(reward=pl.col("truth") + 1)
    method = Regressor(label="grade", advantage="reward")
    result = learned(ctx, rows, pool(200), method=method)
    advantage = rows["reward"] - result["learned"]
    assert np.allclose(result["learned_advantage"], advantage)
    assert advantage.mean() == pytest.approx(1, abs=0.2)
    assert result["learned_priority"].sum() == pytest.approx(1)
    assert ((result["learned_priority"] > 0) == (advantage > 0)).all()


def test_metrics_are_those_of_the_libraries() -> None:
    random = np.random.default_rng(0)
    predicted = random.normal(size=90).round(1)  # with ties
    labels, groups = (random.random(90) < 0.4).astype(float), random.integers(0, 30, 90)
    assert auc(predicted, labels, groups) == pytest.approx(roc_auc_score(labels, predicted))
    grades = random.normal(size=90).round(1)
    assert spearman(predicted, grades, groups) == pytest.approx(spearmanr(predicted, grades)[0])
    right, total = 0.0, 0
    for i in range(90):
        for j in range(90):
            if groups[i] == groups[j] and labels[i] > labels[j]:
                total += 1
                right += (
                    1.0 if predicted[i] > predicted[j] else 0.5 * (predicted[i] == predicted[j])
                )
    assert pair_accuracy(predicted, labels, groups) == pytest.approx(right / total)
    assert len(pairs_within(labels, groups)) == total


# CAR


def test_the_better_reward_loses_where_the_answers_are_foreign() -> None:
    loser, winner = (compatibility_adjusted_reward(*m, 3.0) for m in ((0.2, 1.5), (0.18, 0.5)))
    assert (round(loser, 5), round(winner, 3)) == (0.03636, 0.072)


def teachers() -> pl.DataFrame:
    """Two teachers' answers to two prompts; their means are those of the worked example."""
    rows = [
        {**record(f"Question {i}?", f"{name} says {i}."), "model": name, "reward": r, "loss": loss}
        for name, reward, loss in (("strong", 0.2, 1.5), ("near", 0.18, 0.5))
        for i, r in enumerate((reward - 0.1, reward + 0.1))
    ]
    schema: Any = {**RECORD_COLUMNS, "model": pl.String, "reward": pl.Float64, "loss": pl.Float64}
    return pl.DataFrame(rows, schema=schema).sort("id")


def test_teachers_are_ranked_and_every_row_has_its_teachers_number(ctx: Context) -> None:
    rows = teachers()
    result = learned(ctx, rows, method=Car(reward="reward"))
    near = rows["model"] == "near"
    assert result.filter(near)["learned"].to_list() == pytest.approx([0.072] * 2)
    assert result.filter(~near)["learned"].to_list() == pytest.approx([0.2 / 5.5] * 2)
    assert result["learned_rank"].to_list() == [1 if n else 2 for n in near]
    said = report(ctx)
    assert [t["teacher"] for t in said["teachers"]] == ["near", "strong"]
    assert said["shared_prompts"] == 2
    free = learned(ctx, rows, method=Car(reward="reward", beta=0.0))
    assert free["learned_rank"].to_list() == [2 if n else 1 for n in near]


def test_rows_without_numbers_enter_no_mean(ctx: Context) -> None:
    rows = teachers()
    more = rows[:1].with_columns(id=pl.lit("f" * 32), reward=pl.lit(None, pl.Float64))
    result = learned(ctx, pl.concat([rows, more]), method=Car(reward="reward"))
    assert result["learned"][-1] == result["learned"][0]
    assert sum(t["without_numbers"] for t in report(ctx)["teachers"]) == 1


def test_rewards_must_be_positive_on_the_mean(ctx: Context) -> None:
    negative = teachers().with_columns(reward=-pl.col("reward"))
    with pytest.raises(UserError, match="the mean reward of teacher 'near' must be above 0"):
        learned(ctx, negative, method=Car(reward="reward"))


# InstructMining


def test_the_published_rules() -> None:
    rows = pl.DataFrame({"r": [1.0, None], "n": [100.0, 1.0], "k": [0.5, 1.0]})
    indicators = {"Rew": "r", "Len": "n", "Knn_6": "k"}
    method = LinearRule(indicators=indicators, published="instructmining-v1")
    ctx = Context.scratch(Path(pytest.importorskip("tempfile").mkdtemp()))
    result = learned(ctx, rows.with_columns(id=pl.Series(["a", "b"])), method=method)["learned"]
    assert result.to_list() == [pytest.approx(1.0694 - 0.1498 + 0.008257 - 0.4675), None]
    third = LinearRule(
        indicators={"Rew": "r", "Und": "k", "Nat": "k", "Coh": "k"}, published="instructmining-v3"
    )
    expected = 0.0274 - 0.0078 + 0.5 * (0.4421 - 0.3212 - 0.1520)
    assert learned(ctx, rows, method=third)["learned"][0] == pytest.approx(expected)


def test_a_planted_rule_is_recovered_from_runs(ctx: Context, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    reward, length = random.normal(size=30), random.uniform(10, 300, size=30)
    noise = random.normal(size=30) * 1e-3
    loss = np.exp(0.4 - 0.15 * reward + 1e-3 * length + noise)
    runs = tmp_path / "runs.csv"
    pl.DataFrame({"reward": reward, "length": length, "loss": loss}).write_csv(runs)
    with runs.open("a", encoding="utf-8") as file:
        file.write("not a number,3,1\n")
    rows = pl.DataFrame({"id": ["a"], "judge": [2.0], "words": [100]})
    method = LinearRule(indicators={"reward": "judge", "length": "words"})
    result = learned(ctx, rows, method=method, runs=(str(runs),))
    assert result["learned"].item() == pytest.approx(0.4 - 0.3 + 0.1, abs=5e-3)
    said = report(ctx)
    assert said["coefficients"]["reward"] == pytest.approx(-0.15, abs=2e-3)
    assert said["r2"] > 0.99
    assert (said["trainings"], said["trainings_without_number"]) == (30, 1)
    assert said["standard_errors"]["reward"] < 1e-3


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a,loss\n1,2\n", "must determine 2 coefficients, got 1 trainings"),
        ("a,loss\n1,2\n1,3\n1,4\n", "must determine 2 coefficients, got 3 trainings"),
        ("a,loss\n1,2\n2,2\n3,2\n", "the loss of runs must differ"),
        ("a,loss\n1,2\n2,-2\n3,2\n", "loss must be above 0"),
        ("b,loss\n1,2\n", "must have the columns a, loss, got none named a"),
    ],
)
def test_runs_that_determine_no_rule_are_refused(
    ctx: Context, tmp_path: Path, text: str, what: str
) -> None:
    (tmp_path / "runs.csv").write_text(text)
    rows = pl.DataFrame({"id": ["a"], "a": [2.0]})
    with pytest.raises(UserError, match=what):
        learned(
            ctx, rows, method=LinearRule(indicators={"a": "a"}), runs=(str(tmp_path / "runs.csv"),)
        )


# options


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "classifier"}, "the option 'method.label' is missing"),
        (
            {"method": {"name": "regressor", "label": "x", "vector": None}},
            "features must be given without a vector, got none",
        ),
        (
            {
                "method": {
                    "name": "linear_rule",
                    "indicators": {"Rew": "b"},
                    "published": "instructmining-v1",
                }
            },
            "indicators must be Knn_6, Len, Rew, got Rew",
        ),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], what: str) -> None:
    assert any(what in problem for problem in problems("score.learned", **options))


def test_only_heads_that_are_trained_take_labelled_rows() -> None:
    stage = find("score.learned")
    head, rule = Regressor(label="x"), Car(reward="x")
    cases: Any = [(head, {"rows": [{}]}), (rule, {"rows": [{}], "labelled": [{}]})]
    for method, edges in cases:
        with pytest.raises(UserError, match="labelled"):
            stage.adds(options_of(learned, method=method), edges)
    added = stage.adds(options_of(learned, method=head), {"rows": [{}], "labelled": [{}]})
    assert set(added) == {"learned", "learned_in_training"}


def test_a_rule_comes_from_one_place() -> None:
    check_options, rule = find("score.learned").check, LinearRule(indicators={"a": "b"})
    other = LinearRule(indicators={"a": "b"}, coefficients={"a": 2.0})
    assert check_options is not None
    for options, count in (({"method": rule}, "none"), ({"method": other, "runs": ("x",)}, "2")):
        with pytest.raises(UserError, match=f"must be one of .* got {count} of them"):
            check_options(options_of(learned, **options))


# a ready-made reward model


def reward_model_folder(tinylm: LanguageModel, folder: Path) -> LanguageModel:
    """tinylm with a head of one output, as a reward model is stored."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tinylm.model, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tinylm.model).save_pretrained(folder)
    return LanguageModel(model=str(folder))


@pytest.mark.proof
def test_rewards_are_those_of_the_model_one_row_at_a_time(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = reward_model_folder(tinylm, tmp_path / "reward")
    texts = [[f"Question {i}?", "word " * (1 + 7 * i)] for i in range(20)]
    rows = conversations([*texts, ["Nothing?", ""]])
    result = learned(ctx, rows, model=model, method=RewardModel(max_length=128))
    weights = AutoModelForSequenceClassification.from_pretrained(
        model.model, dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(model.model)
    for row, value in zip(rows["messages"], result["learned"], strict=True):
        turns = [{"role": m["role"], "content": m["content"]} for m in row]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        if ids["input_ids"].shape[1] > 128 or not turns[-1]["content"]:
            assert value is None
            continue
        with torch.inference_mode():
            assert value == pytest.approx(weights(**ids).logits.item(), abs=1e-4)
    alone = learned(ctx, rows[3:4], model=model, method=RewardModel(max_length=128))
    assert alone["learned"].item() == result["learned"][3]


@pytest.mark.proof
def test_a_model_without_a_trained_head_is_refused(ctx: Context, tinylm: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"must be a trained reward model|must have one output"):
        learned(ctx, pool(2), model=tinylm, method=RewardModel())


@pytest.mark.proof
@pytest.mark.parametrize("objective", ["classifier", "pairs"])
def test_a_model_is_fine_tuned_to_know_a_word(
    ctx: Context, tmp_path: Path, tinylm: LanguageModel, objective: Any
) -> None:
    """What it learns is beyond length, and its weights are a reward model."""
    records = [
        record(f"Question {i // 2}?", f"The {word} number {i} is here.") | {"good": word == "river"}
        for i, word in enumerate(["river", "table"] * 60)
    ]
    rows = pl.DataFrame(records, {**RECORD_COLUMNS, "good": pl.Boolean}).sort("id")
    method = FineTuned(
        label="good", objective=objective, max_steps=8, learning_rate=5e-4, max_length=64
    )
    result = learned(ctx, rows, rows, model=tinylm, method=method)
    said = report(ctx)
    assert said["held_out"]["head"][said["metric"]] > 0.9
    assert said["beyond_length"]
    if objective == "pairs":  # a reward has no zero, and its weights give it again
        again = LanguageModel(model=str(ctx.files / "model"))
        other = Context.scratch(tmp_path / "other")
        scored = learned(other, rows, model=again, method=RewardModel(max_length=64))
        assert np.allclose(scored["learned"], result["learned"], atol=1e-4)
    else:
        assert result["learned"].is_between(0, 1).all()


@pytest.mark.proof
def test_a_killed_fine_tuning_goes_on_and_gives_the_same_weights(
    tmp_path: Path, tinylm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        record(f"Question {i}?", f"The {word} number {i} is here.") | {"good": word == "river"}
        for i, word in enumerate(["river", "table"] * 20)
    ]
    rows = pl.DataFrame(records, {**RECORD_COLUMNS, "good": pl.Boolean}).sort("id")
    method = FineTuned(
        label="good", objective="classifier", max_steps=7, learning_rate=5e-4, max_length=64
    )
    whole, killed = Context.scratch(tmp_path / "whole"), Context.scratch(tmp_path / "killed")
    expected = learned(whole, rows, rows, model=tinylm, method=method)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "SAVING_FRACTION", 1e9)
    steps: list[float] = []

    def dies(done: float, total: float | None) -> None:
        if total == 7:
            steps.append(done)
        if steps == [1, 2, 3, 4, 5]:
            raise KeyboardInterrupt

    killed.report = dies
    with pytest.raises(KeyboardInterrupt):
        learned(killed, rows, rows, model=tinylm, method=method)
    result = learned(killed, rows, rows, model=tinylm, method=method)
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7]
    assert result.equals(expected)
    for path in (whole.files / "model").iterdir():
        assert (killed.files / "model" / path.name).read_bytes() == path.read_bytes()


# the oracle: pairs that experts have revised


def revised(shared: Path, part: str, potion: Embedder, ctx: Context) -> pl.DataFrame:
    """Answers before (label 0) and after (1) an expert revised them, with vectors."""
    from stages.embed.text import text

    pairs = pl.read_csv(shared / f"references/expert_revised_pairs_{part}.csv.gz")
    records = [
        record(source, answer.removeprefix("Response: ")) | {"revised": label}
        for source, after, before in pairs.iter_rows()
        for label, answer in ((1.0, after), (0.0, before))
    ]
    rows = pl.DataFrame(records, schema={**RECORD_COLUMNS, "revised": pl.Float64})
    rows = rows.unique("id", maintain_order=True).sort("id")
    answers = rows["messages"].list.get(1).struct.field("content").str.len_chars()
    vectors = text(ctx, rows, embedder=potion)
    return rows.with_columns(vector=vectors["vector"], log_length=answers.log1p())


@pytest.mark.proof
def test_the_revised_answer_is_known_from_the_original(
    ctx: Context, shared: Path, potion: Embedder
) -> None:
    """Beyond chance with vectors alone, and beyond length alone once length is a feature too."""
    train, valid = (revised(shared, part, potion, ctx) for part in ("train", "valid"))
    _, groups = np.unique([prompt_id(m) for m in valid["messages"]], return_inverse=True)
    truth = valid["revised"].to_numpy()
    length = pair_accuracy(valid["log_length"].to_numpy(), truth, groups)
    assert 0.78 < length < 0.85  # experts write more
    accuracy = {}
    for method in (
        Pairs(label="revised", regularization=100.0),
        Pairs(label="revised", regularization=10.0, features=("log_length",)),
    ):
        scores = learned(ctx, valid, train, method=method)["learned"].to_numpy()
        accuracy[method.features] = pair_accuracy(scores, truth, groups)
        assert report(ctx)["beyond_chance"]
        assert abs(report(ctx)["shuffled"]["mean"] - 0.5) < 0.06
    assert report(ctx)["beyond_length"]  # of the second one
    assert accuracy[()] > 0.8
    assert accuracy["log_length",] > length + 0.05
    calibrated = Classifier(label="revised", calibration="isotonic", features=("log_length",))
    learned(ctx, valid, train, method=replace(calibrated, regularization=10.0))
    said = report(ctx)["held_out"]["head"]
    assert said["auc"] > 0.78
    assert said["calibration_error"] < 0.06


def test_deita_is_wired_with_scorers_that_are_trained_here(tmp_path: Path) -> None:
    models = [f"models.{name}.id=one" for name in ("grader", "embedder", "student")]
    recipe = Recipe.load("deita", models, profile="own-scorers")
    planned = plan(recipe, Store(tmp_path))
    check(planned)
    uses = [step.step.stage.name for step in planned]
    assert uses.count("score.learned") == 2
