"""A model that gives NaN: no stage takes that for a value, and only those rows fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from stages._gradients.parameters import Adapter
from stages.embed.activations import activations
from stages.embed.gradients import gradients
from stages.score.context import context
from stages.score.influence import influence
from stages.score.influence.dsdm import DsDm
from stages.score.learned import learned
from stages.score.learned.fine_tuned import FineTuned
from stages.score.learned.reward_model import RewardModel
from stages.score.loss import loss
from stages.score.one_shot import Miwv, Pairwise, one_shot
from stages.train.autoencoder import autoencoder
from tests.support.rows import conversations

WORD = "Z"
"""What the spoiled model has NaN for, wherever it reads it."""

TEXTS = [
    ("Name a sea.", "The North Sea."),
    ("Name a tree.", "Z"),
    ("What is Z?", "A letter."),
    ("Hello", "Good day."),
]
ANCHORS = conversations([("Name a hill.", "The high one."), ("Say no.", "No.")])
ROWS = conversations(TEXTS)
SPOILED = [any(WORD in m["content"] for m in messages) for messages in ROWS["messages"]]
VECTORS = pl.Series("vector", [[1.0, 0.0], [0.9, 0.1]], dtype=pl.List(pl.Float32))


@pytest.fixture(scope="module")
def spoiled(tinylm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """tinylm, with a head of its own, and NaN as what it reads for one word."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("spoiled")
    tokenizer: Any = AutoTokenizer.from_pretrained(tinylm.model)
    model: Any = AutoModelForCausalLM.from_pretrained(tinylm.model, dtype=torch.float32)
    head = model.get_output_embeddings().weight.detach().clone()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    numbers = {i for text in (WORD, f" {WORD}") for i in tokenizer(text)["input_ids"]}
    words = {tokenizer.decode([i]).strip() for i in numbers}
    assert words <= {WORD, ""}
    with torch.no_grad():
        for i in numbers:
            if tokenizer.decode([i]).strip():
                model.get_input_embeddings().weight[i] = torch.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LanguageModel(str(folder))


STAGES: dict[str, Callable[..., pl.DataFrame]] = {
    "loss": lambda ctx, rows, model: loss(
        ctx, rows, ANCHORS, model=model, formulas=("loss", "ifd", "ds_weight"), token_losses=True
    ),
    "degradation": lambda ctx, rows, model: loss(
        ctx,
        rows,
        model=model,
        pruned=replace(model, dtype="bfloat16"),
        formulas=("loss", "degradation"),
    ),
    "golden": lambda ctx, rows, model: one_shot(ctx, rows, ANCHORS, model=model),
    "pairwise": lambda ctx, rows, model: one_shot(
        ctx, rows, ANCHORS, model=model, method=Pairwise(neighbors=None)
    ),
    "context": lambda ctx, rows, model: context(ctx, rows, model=model),
    "activations": lambda ctx, rows, model: activations(ctx, rows, model=model),
    "gradients": lambda ctx, rows, model: gradients(
        ctx,
        rows,
        model=model,
        parameters=Adapter(lora_r=2, target_modules=("v_proj",)),
        dimensions=8,
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_rows_that_the_model_gives_nan_for_fail_and_the_others_are_as_before(
    name: str, ctx: Context, tinylm: LanguageModel, spoiled: LanguageModel
) -> None:
    got = STAGES[name](ctx, ROWS, spoiled)
    assert [error is not None for error in got["error"]] == SPOILED
    assert all("finite" in error for error in got["error"].drop_nulls())
    clean = pl.Series(SPOILED).not_()
    before = STAGES[name](ctx, ROWS, replace(spoiled, model=tinylm.model))
    assert_frame_equal(got.filter(clean), before.filter(clean), abs_tol=1e-4)
    text = repr(got.to_dicts())
    assert "nan" not in text.lower().replace("finite", ""), text


def test_the_loss_behind_a_neighbor_is_no_number(ctx: Context, spoiled: LanguageModel) -> None:
    rows = conversations([TEXTS[0], TEXTS[3]]).with_columns(VECTORS)
    for answer, fails in (("Z", True), ("The high one.", False)):
        anchor = conversations([("Name a hill.", answer)]).with_columns(VECTORS[:1])
        got = one_shot(ctx, rows, anchor, model=spoiled, method=Miwv())
        assert [value is None for value in got["one_shot_miwv"]] == [fails, fails]
        assert [error is not None for error in got["error"]] == [fails, fails]


def test_what_needs_all_rows_says_so(
    ctx: Context, tinylm: LanguageModel, spoiled: LanguageModel
) -> None:
    with pytest.raises(UserError, match="a row on the edge `valid` must have a loss"):
        loss(ctx, ROWS[:1], ROWS, model=spoiled, formulas=("ds_weight",))
    with pytest.raises(UserError, match="the hidden states of layer -1 must be finite"):
        autoencoder(ctx, ROWS, model=spoiled, num_features=8, k=2, max_steps=1)
    with pytest.raises(UserError, match="the training diverged: the error of step"):
        autoencoder(ctx, ROWS, model=tinylm, num_features=8, k=2, max_steps=50, learning_rate=1e30)


@pytest.mark.proof
def test_trainings_that_diverge_say_so(ctx: Context, tinylm: LanguageModel) -> None:
    options: dict[str, Any] = {"num_subsets": 2, "max_steps": 3, "batch_size": 1}
    with pytest.raises(UserError, match=r"diverged|must be finite"):
        influence(ctx, ROWS, ANCHORS, method=DsDm(**options, learning_rate=1e30), model=tinylm)
    rows = ROWS.with_columns(good=pl.Series([0.0, 1.0, 0.0, 1.0]))
    method = FineTuned(
        label="good", held_out=1e-9, max_steps=9, batch_size=2, learning_rate=1e30, max_length=64
    )
    with pytest.raises(UserError, match="the training diverged: the loss of step"):
        learned(ctx, rows, rows, model=tinylm, method=method)


@pytest.mark.proof
def test_a_reward_that_is_no_number_fails(
    ctx: Context, spoiled: LanguageModel, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model: Any = AutoModelForSequenceClassification.from_pretrained(spoiled.model, num_labels=1)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(spoiled.model).save_pretrained(tmp_path)
    got = learned(ctx, ROWS, model=LanguageModel(str(tmp_path)), method=RewardModel())
    assert [error is not None for error in got["error"]] == SPOILED
    assert got["learned"].is_finite().to_list() == [None if s else True for s in SPOILED]
