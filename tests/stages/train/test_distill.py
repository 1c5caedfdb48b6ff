"""Distillation: published values, top k against all words, and trainings with tinylm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models import LanguageModel
from stages._training.losses.base import NLL
from stages._training.losses.distill import Confidence, Logits, top_k
from stages.train.distill import distill
from tests.stages._training.test_losses import WORDS, Model, batch
from tests.stages.train.test_sft_methods import losses, rows, train, write_shards


def test_the_loss_is_the_published_one_and_none_to_oneself() -> None:
    import torch

    from stages._training.losses.base import Batch

    logits = {"student": [2.0, 0.0, -1.0], "teacher": [1.0, 1.0, 0.0]}
    one = Batch({}, torch.tensor([[0]]), torch.ones(1, 1), torch.zeros(1, 1).long(), None)
    one.__dict__["logits"] = torch.tensor([[logits["student"]]])
    one.__dict__["reference_logits"] = torch.tensor([[logits["teacher"]]])
    assert Logits(temperature=2.0).total(one).item() == pytest.approx(0.49079, abs=1e-5)
    one.__dict__["reference_logits"] = one.logits
    assert Logits(temperature=2.0).total(one).item() == pytest.approx(0.0, abs=1e-7)


def test_weight_0_and_the_second_phase_are_plain_cross_entropy() -> None:
    other = Model(5)
    for loss, progress in ((Logits(weight=0), 0.0), (Logits(weight=0.7, phase=0.5), 0.5)):
        one = batch(reference=lambda inputs: other(**inputs).logits, progress=progress)
        assert loss.total(one).item() == pytest.approx(NLL().total(one).item(), rel=1e-6)
    first = batch(reference=lambda inputs: other(**inputs).logits, progress=0.4)
    assert Logits(weight=0.7, phase=0.5).total(first).item() != NLL().total(first).item()


@pytest.mark.parametrize("loss", [Logits(weight=0.6, temperature=2.0), Confidence(warmup=0)])
def test_the_best_words_are_all_words_where_k_is_the_vocabulary(loss: Any) -> None:
    model, other = Model(), Model(5)

    def teacher(inputs: Any) -> Any:
        return other(**inputs).logits

    exact = loss.total(batch(model, reference=teacher)).item()
    results = []
    for k in range(1, WORDS + 1):
        one = batch(model)
        noted = top_k(teacher(one.inputs)[:, :-1], k, loss.temperature)
        assert ((noted.log_probs.exp().sum(-1) + noted.tail.exp()) - 1).abs().max() < 1e-5
        results.append(loss.total(batch(model, stored=noted)).item())
    assert results[-1] == pytest.approx(exact, rel=1e-5)
    # Grouping words together loses what parts them: a divergence can only fall.
    assert results == sorted(results) or not isinstance(loss, Logits)


def test_confidence_moves_from_the_teacher_to_the_student() -> None:
    model, other = Model(), Model(5)
    values = {}
    for progress in (0.0, 0.05, 0.1, 1.0):
        one = batch(model, reference=lambda inputs: other(**inputs).logits, progress=progress)
        values[progress] = Confidence(weight=0.5, warmup=0.1).total(one).item()
    weak = -(other(**one.inputs).logits[:, :-1].softmax(-1) * one.logits.log_softmax(-1)).sum(-1)
    assert values[0.0] == pytest.approx(one.sum(weak).item(), rel=1e-5)
    own = one.sum(-one.logits.log_softmax(-1).amax(-1)).item()
    assert values[1.0] == values[0.1] == pytest.approx((values[0.0] + own) / 2, rel=1e-5)
    assert values[0.05] == pytest.approx(0.75 * values[0.0] + 0.25 * own, rel=1e-5)


def distilled(folder: Path, shards: Path, **options: Any) -> dict[str, Any]:
    ctx = Context.scratch(folder)
    distill(
        ctx,
        shards,
        **{
            "max_steps": 2, "learning_rate": 1e-3, "max_length": 64, "warmup_ratio": 0.0,
            "gradient_accumulation_steps": 2, "lr_scheduler_type": "constant", **options,
        },
    )  # fmt: skip
    result: dict[str, Any] = json.loads((ctx.files / "metrics.json").read_text())
    return result


@pytest.mark.proof
def test_a_student_learns_from_its_teacher(tmp_path: Path, tinylm: LanguageModel) -> None:
    """The divergence from another model falls, that from itself is 0, and top k = |V| is exact."""
    shards = write_shards(tmp_path / "s", rows())
    itself = distilled(tmp_path / "a", shards, model=tinylm, teacher=tinylm)
    assert abs(itself["losses"][0]["kl"]) < 1e-5
    taught = train(tmp_path / "b", shards, tinylm, max_steps=4)
    teacher = LanguageModel(model=str(taught["ctx"].files / "model"))
    pair = {"model": tinylm, "teacher": teacher}
    online = distilled(tmp_path / "c", shards, max_steps=6, **pair)
    assert online["losses"][-1]["kl"] < 0.8 * online["losses"][0]["kl"]
    stored = distilled(tmp_path / "d", shards, max_steps=6, top_k=8192, **pair)
    assert losses(stored) == pytest.approx(losses(online), rel=1e-3)
    padded = {"packing": False, "per_device_train_batch_size": 2, "max_steps": 1}
    sparse = distilled(tmp_path / "e", shards, top_k=8, **padded, **pair)
    exact = distilled(tmp_path / "f", shards, **padded, **pair)
    assert 0 < sparse["losses"][0]["kl"] < exact["losses"][0]["kl"]
    weak = distilled(tmp_path / "g", shards, loss=Confidence(), **pair)
    assert len(weak["losses"]) == 2


def test_a_teacher_of_another_vocabulary_is_refused(
    ctx: Context, tmp_path: Path, tinylm: LanguageModel
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tinylm.model)
    tokenizer.add_tokens(["<|another|>"])
    tokenizer.save_pretrained(tmp_path / "teacher")
    shards = write_shards(tmp_path / "s", rows(2))
    other = LanguageModel(model=str(tmp_path / "teacher"))
    with pytest.raises(OptionError, match="must have the student's vocabulary"):
        distill(ctx, shards, model=tinylm, teacher=other, max_steps=1)
