"""Likelihood scores of several models, and those published: worked examples, orders, traps."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel
from pipeline.models.engines.registry import close_engines
from pipeline.recipe.discovery import find
from schemas.records import RECORD_COLUMNS
from stages.score.loss import FORMULAS, loss
from stages.score.loss.formulas import (
    Pass,
    ds_weight,
    efficiency,
    learnability,
    learning_percentage,
)
from tests.support.options import options_of, problems
from tests.support.rows import DATA, alpaca, conversations, json_lines

CHECKPOINTS = ("learning_percentage", "learning_percentage_approx", "learnability")


def changed(tinylm: LanguageModel, folder: Path, scale: float) -> LanguageModel:
    """tinylm with noise in its weights: another model of the same vocabulary."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(tinylm.model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight += scale * weight.std(correction=0) * noise
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tinylm.model).save_pretrained(folder)
    return LanguageModel(str(folder))


@pytest.fixture(scope="module")
def others(tinylm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two models that differ from tinylm, the second one more."""
    folder = tmp_path_factory.mktemp("others")
    yield tuple(changed(tinylm, folder / str(scale), scale) for scale in (0.05, 0.2))
    close_engines()


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return alpaca(json_lines(DATA / "samples/self_instruct.jsonl.gz")[:10])


def scores(ctx: Context, rows: pl.DataFrame, **options: Any) -> pl.DataFrame:
    return loss(ctx, rows, max_length=256, **options)


@pytest.mark.proof
def test_formulas_of_checkpoints_are_those_of_the_losses_of_each(
    ctx: Context, tinylm: LanguageModel, others: tuple[LanguageModel, ...], rows: pl.DataFrame
) -> None:
    losses = [
        scores(ctx, rows, model=model, formulas=("loss",))["loss"].to_numpy().astype(float)
        for model in (tinylm, *others)
    ]
    formulas = (*CHECKPOINTS, "reducible_loss")
    options = {"model": tinylm, "checkpoints": others, "formulas": formulas}
    got = scores(ctx, rows, **options, min_answer_tokens=1)
    ppl = np.exp(losses)
    expected = {
        "learning_percentage": (ppl[0] - ppl[1]) / (ppl[0] - ppl[2]),
        "learning_percentage_approx": (ppl[0] - ppl[1]) / ppl[0],
        "learnability": (losses[0] - losses[2]) / losses[0],
        "reducible_loss": losses[0] - losses[2],
    }
    for name, values in expected.items():
        own = got[name].to_numpy().astype(float)
        assert (np.isnan(own) == np.isnan(values)).all()
        assert np.allclose(own, values, rtol=1e-3, atol=1e-4, equal_nan=True), name
    assert np.isfinite(losses[0]).sum() > 5
    # A row's score is its own, in whatever order and company.
    order = np.random.default_rng(1).permutation(len(rows))
    assert scores(ctx, rows[order], **options, min_answer_tokens=1).equals(got[order])


@pytest.mark.proof
def test_answers_below_a_length_are_not_learnable(
    ctx: Context, tinylm: LanguageModel, others: tuple[LanguageModel, ...]
) -> None:
    rows = conversations([["Q?", "Yes."], ["Q?", "word " * 20]])
    options = {"model": tinylm, "checkpoints": others[:1], "formulas": ("learnability", "loss")}
    got = scores(ctx, rows, **options)
    short = [len(messages[1]["content"]) < 10 for messages in rows["messages"]]
    assert got["learnability"].is_null().to_list() == short
    assert got["loss"].null_count() == 0


def test_the_worked_examples() -> None:
    assert [ds_weight(1.0, value) for value in (0.5, 1.0, 2.0, 4.0, 10.0)] == [2, 1, 2, 4, 5]
    assert ds_weight(1.0, 0.0) == ds_weight(0.0, 1.0) == 5.0
    assert learning_percentage(3.0, 3.0, 3.0) == 0.0
    assert learning_percentage(5.0, 5.5, 4.0) < 0 < 1 < learning_percentage(5.0, 3.0, 4.0)
    assert np.isnan(learnability(1.0, 0.0))
    assert np.isnan(learnability(0.0, 0.0))
    assert efficiency(np.array([0.3]), np.array([1.0])) is not None
    assert np.isnan(efficiency(np.array([0.3]), np.array([1.0])))


def test_dividing_by_the_loss_after_ranks_as_dividing_by_that_before() -> None:
    before, after = np.random.default_rng(0).uniform(0.1, 5, (2, 200))
    own = [learnability(b, a) for b, a in zip(before, after, strict=True)]
    assert np.argsort(own).tolist() == np.argsort((before - after) / after).tolist()


@pytest.mark.proof
def test_the_reversed_ratio_is_that_of_the_swapped_exchange(
    ctx: Context, tinylm: LanguageModel, rows: pl.DataFrame
) -> None:
    swapped = [[m["content"] for m in reversed(messages)] for messages in rows["messages"]]
    expected = scores(ctx, conversations(swapped), model=tinylm)
    by_answer = {
        messages[0]["content"]: value
        for messages, value in zip(conversations(swapped)["messages"], expected["ifd"], strict=True)
    }
    got = scores(ctx, rows, model=tinylm, formulas=("reversed_ifd", "ifd"))
    for messages, value in zip(rows["messages"], got["reversed_ifd"], strict=True):
        assert value == by_answer[messages[1]["content"]]
    assert (got["reversed_ifd"] != got["ifd"]).sum() > 5


@pytest.mark.proof
def test_the_context_gap_is_the_loss_that_the_input_saves(
    ctx: Context, tinylm: LanguageModel, rows: pl.DataFrame
) -> None:
    got = scores(ctx, rows, model=tinylm, formulas=("context_gap", "loss"))
    pairs = zip(rows["messages"], rows["input_start"], strict=True)
    without = conversations(
        [(m[0]["content"][: start - 2], m[1]["content"]) for m, start in pairs if start is not None]
    )
    alone = scores(ctx, without, model=tinylm, formulas=("loss",))["loss"]
    by_answer = dict(zip((m[1]["content"] for m in without["messages"]), alone, strict=True))
    for messages, start, gap, value in zip(
        rows["messages"], rows["input_start"], got["context_gap"], got["loss"], strict=True
    ):
        if start is None:
            assert gap is None
        elif value is not None:
            assert gap == pytest.approx(by_answer[messages[1]["content"]] - value, abs=1e-5)
    assert 0 < got["context_gap"].null_count() < len(got)


def test_token_losses_have_the_mean_of_the_loss(
    ctx: Context, tinylm: LanguageModel, rows: pl.DataFrame
) -> None:
    rows = pl.concat([rows, conversations([["Q?", ""]]).cast(dict(rows.schema))])
    got = scores(ctx, rows, model=tinylm, formulas=("loss",), token_losses=True)
    assert got.columns == ["loss", "token_losses", "tokens", "error"]
    assert got["token_losses"].dtype == pl.List(pl.Float32)
    assert got["token_losses"].is_null().to_list() == got["loss"].is_null().to_list()
    assert np.allclose(got["token_losses"].list.mean().drop_nulls(), got["loss"].drop_nulls())
    assert got["token_losses"].list.len().max() > 5


@pytest.mark.proof
def test_weights_compare_with_the_rows_for_validation(
    ctx: Context, tinylm: LanguageModel, rows: pl.DataFrame
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tinylm.model)
    plain: Any = AutoModelForCausalLM.from_pretrained(tinylm.model, dtype=torch.float32)

    def whole(messages: Any) -> float:
        ids = tokenizer.apply_chat_template(list(messages), return_dict=True)["input_ids"]
        with torch.no_grad():
            return float(plain(torch.tensor([ids]), labels=torch.tensor([ids])).loss)

    valid = conversations([["Name a sea.", "The Aral Sea."], ["Sing.", "La la."], ["No?", ""]])
    mean = np.mean([whole(m) for m in valid["messages"] if m[1]["content"]])
    some = rows.filter(pl.col("messages").list.last().struct.field("content") != "")[:5]
    got = loss(ctx, some, valid, model=tinylm, formulas=("ds_weight",))
    expected = [ds_weight(float(mean), whole(messages)) for messages in some["messages"]]
    assert np.allclose(got["ds_weight"], expected, rtol=1e-4)
    empty = conversations([["No?", ""]])
    with pytest.raises(UserError, match="no row on the edge `valid` has a loss"):
        loss(ctx, some, empty, model=tinylm, formulas=("ds_weight",))


@pytest.mark.proof
def test_degradation_is_the_mean_divergence_on_the_instruction(
    ctx: Context, tinylm: LanguageModel, others: tuple[LanguageModel, ...], rows: pl.DataFrame
) -> None:
    """Against scipy's, over plain forward passes in double precision."""
    from scipy.spatial.distance import jensenshannon
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tinylm.model)
    models: list[Any] = [
        AutoModelForCausalLM.from_pretrained(name.model, dtype=torch.float32)
        for name in (tinylm, others[1])
    ]
    formulas = ("degradation", "ies")
    got = scores(ctx, rows, model=tinylm, pruned=others[1], formulas=formulas)
    for messages, start, value, ies in zip(
        rows["messages"], rows["input_start"], got["degradation"], got["ies"], strict=True
    ):
        ids = tokenizer.encode(messages[0]["content"][:start].strip())
        with torch.no_grad():
            p, q = (m(torch.tensor([ids])).logits[0].double().softmax(-1).numpy() for m in models)
        mean = (jensenshannon(p, q, axis=1) ** 2).mean()
        assert value == pytest.approx(mean, rel=1e-3)
        cost = (len(ids) + len(messages[1]["content"])) ** 2
        assert ies == pytest.approx(mean / np.log(cost), rel=1e-3)
    less = scores(ctx, rows, model=tinylm, pruned=others[0], formulas=("degradation",))
    assert (less["degradation"] < got["degradation"]).all()
    none = scores(ctx, rows, model=tinylm, pruned=tinylm, formulas=("degradation",))
    assert none["degradation"].abs().max() < 1e-6  # type: ignore[operator]
    assert got["degradation"].max() < np.log(2)  # type: ignore[operator]
    alone = scores(ctx, rows[3:4], model=tinylm, pruned=others[1], formulas=formulas)
    assert alone.equals(got[3:4])


def test_no_answer_has_no_efficiency(
    ctx: Context, tinylm: LanguageModel, others: tuple[LanguageModel, ...]
) -> None:
    asked = conversations([["Name a sea."], ["Name a tree.", " "], ["Name a hill.", "Yes."]])
    got = loss(ctx, asked, model=tinylm, pruned=others[0], formulas=("degradation", "ies"))
    assert got["degradation"].null_count() == 0
    answered = ["Yes." in repr(messages) for messages in asked["messages"].to_list()]
    assert got["ies"].is_not_null().to_list() == answered


@pytest.mark.proof
def test_what_cannot_be_compared_is_null(
    ctx: Context, tinylm: LanguageModel, others: tuple[LanguageModel, ...]
) -> None:
    rows = conversations([["A question?"], ["Q?", ""], ["Q?", "word " * 300], ["Q?", "A tree."]])
    formulas = tuple(name for name in FORMULAS if name not in ("degradation", "ies"))
    options = {"model": tinylm, "checkpoints": others, "formulas": formulas}
    got = loss(ctx, rows, rows, **options, max_length=100)
    for messages, row in zip(rows["messages"], got.to_dicts(), strict=True):
        said = messages[-1]["content"]
        assert row["error"] is None
        if said != "A tree.":
            for name in ("reversed_ifd", "context_gap", *CHECKPOINTS, "reducible_loss"):
                assert row[name] is None, (said, name)
    assert len(loss(ctx, conversations([]), rows, **options)) == 0


@pytest.mark.proof
def test_models_of_other_vocabularies_are_refused(
    ctx: Context, tinylm: LanguageModel, tmp_path: Path
) -> None:
    other = changed(tinylm, tmp_path / "other", 0.0)
    tokenizer = json.loads((tmp_path / "other/tokenizer.json").read_text())
    names = list(tokenizer["model"]["vocab"])
    vocab = tokenizer["model"]["vocab"]
    vocab[names[300]], vocab[names[301]] = vocab[names[301]], vocab[names[300]]
    (tmp_path / "other/tokenizer.json").write_text(json.dumps(tokenizer))
    rows = conversations([["Q?", "A tree."]])
    with pytest.raises(UserError, match="must have the vocabulary of"):
        loss(ctx, rows, model=tinylm, checkpoints=(other,), formulas=("learnability",))
    close_engines()


@pytest.mark.proof
def test_a_reference_that_knows_the_rows_by_heart_is_warned_of(
    ctx: Context, tinylm: LanguageModel, monkeypatch: Any, caplog: Any, others: Any
) -> None:
    import stages.score.loss as module

    rows = conversations([["Q?", f"word {i} " * 12] for i in range(24)])
    options = {"model": tinylm, "checkpoints": others[:1], "formulas": ("learnability",)}
    with caplog.at_level(logging.WARNING):
        loss(ctx, rows, **options)
        assert "by heart" not in caplog.text
        monkeypatch.setattr(module, "LEARNED", -9.0)
        loss(ctx, rows, **options)
    assert "train it for one epoch" in caplog.text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"formulas": ["learning_percentage"]},
            "checkpoints must be at least 2 for learning_percentage, got 0",
        ),
        ({"formulas": ["learnability"]}, "checkpoints must be at least 1 for learnability, got 0"),
        ({"formulas": ["ies"]}, "pruned must be given with ies"),
        ({"min_answer_tokens": 3}, "min_answer_tokens must be left out without learnability"),
    ],
)
def test_formulas_without_their_models_are_refused(options: dict[str, Any], problem: str) -> None:
    assert problems("score.loss", **options) == [problem]


def test_formulas_and_inputs_go_together(tinylm: LanguageModel) -> None:
    stage = find("score.loss")
    check = stage.check
    assert check is not None
    for wrong in ({"checkpoints": (tinylm,)}, {"pruned": tinylm}):
        with pytest.raises(OptionError, match="must be left out with ifd"):
            check(options_of(loss, model=tinylm, **wrong))
    edges: dict[str, Any] = {"rows": [RECORD_COLUMNS]}
    weighed = options_of(loss, model=tinylm, formulas=("ds_weight",))
    with pytest.raises(OptionError, match="must have an input for 'valid'"):
        stage.adds(weighed, edges)
    with pytest.raises(OptionError, match="does not read 'valid'"):
        stage.adds(options_of(loss, model=tinylm), {**edges, "valid": [RECORD_COLUMNS]})
    assert "ds_weight" in stage.adds(weighed, {**edges, "valid": [RECORD_COLUMNS]})


@pytest.mark.proof
def test_the_published_order_is_that_of_perplexities(shared: Path) -> None:
    """Small2Large's 10% of Alpaca by LLaMA-2-7B: at most 1,000 ascending runs, one a cluster."""
    ppl = pl.read_parquet(shared / "references/small2large_alpaca_llama2_7b_ppl.parquet").to_numpy()
    with gzip.open(shared / "references/small2large_alpaca_llama2_7b_selected.json.gz") as file:
        published = np.array(json.load(file)["lp1"]["10"])
    values = ppl.astype(float)

    def descents(scores: np.ndarray) -> int:
        return int((np.diff(scores[published]) < 0).sum())

    definition = FORMULAS["learning_percentage"]
    assert [one.model for one in definition.compares if isinstance(one, Pass)] == [
        "model", "first", "last",
    ]  # fmt: skip
    measured = np.array([learning_percentage(*row) for row in values[:, [0, 1, 3]]])
    assert descents(measured) == 830
    assert descents(np.array([learning_percentage(*r) for r in np.log(values[:, [0, 1, 3]])])) > 2e3
    assert descents((values[:, 0] - values[:, 1]) / values[:, 0]) > 2e3
    assert ((measured > 1).sum(), (measured < 0).sum()) == (401, 38)
    assert round(float(np.median(measured[published])), 3) == 0.546
    assert round(float(np.median(measured)), 3) == 0.806
