"""The losses on logits made by hand: published answers, neutral settings, gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.errors import UserError
from stages._training.losses.base import DFT, IGNORED, NLL, Batch, Loss, token_log_probs
from stages._training.losses.figa import FIGA, changed
from stages._training.losses.intuitive import Intuitive, discounted_weights
from stages._training.losses.kl import KL, forward_kl
from stages._training.losses.minor import Minor
from stages._training.losses.mixup import Mixup
from stages._training.losses.preference import UFT, DavIR
from stages._training.losses.tool_tokens import ERRORS, ToolTokens, key_tokens, without_failed
from stages._training.losses.unlikelihood import Unlikelihood

WORDS = 7


class Model:
    """A linear model over one-hot words: gives logits, embeddings and hidden states."""

    def __init__(self, seed: int = 0) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(WORDS, 5, generator=generator, requires_grad=True)
        self.head = torch.randn(5, WORDS, generator=generator, requires_grad=True)

    def __call__(self, input_ids: Any = None, inputs_embeds: Any = None, **_: Any) -> Any:
        hidden = self.embedding[input_ids] if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(logits=hidden @ self.head, hidden_states=[hidden])

    def get_input_embeddings(self) -> Any:
        return lambda ids: self.embedding[ids]

    def get_output_embeddings(self) -> Any:
        return lambda hidden: hidden @ self.head


def batch(
    model: Model | None = None, weights: Sequence[Sequence[float]] | None = None, **more: Any
) -> Batch:
    import torch

    ids = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 5, 4, 2, 2, 0]])
    labels = ids.masked_fill(torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]]) == 1, IGNORED)
    one = torch.ones(2, 5) if weights is None else torch.tensor(weights)
    rows = torch.tensor([[0] * 5, [1] * 5])
    more.setdefault("generator", torch.Generator().manual_seed(1))
    return Batch({"input_ids": ids}, labels[:, 1:], one, rows, model or Model(), **more)


def plain(one: Batch) -> float:
    import torch

    logits = one.model(**one.inputs).logits[:, :-1]
    return float(
        torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), one.targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
    )


@pytest.mark.parametrize(
    "loss",
    [
        NLL(),
        KL(beta=0),
        Unlikelihood(alpha=0),
        Intuitive(own_fraction=0, gamma=None),
        FIGA(initial="x"),
        ToolTokens(),
        Mixup(perplexities=("x",), mu=0),
    ],
    ids=lambda loss: loss.name,
)
def test_neutral_settings_are_plain_cross_entropy(loss: Loss) -> None:
    reference = Model(9)
    one = batch(reference=lambda inputs: reference(**inputs).logits)
    assert loss.total(one).item() == pytest.approx(plain(one), rel=1e-6)
    assert float(loss.count(one.targets, one.weights, one.rows)) == 8


def test_weights_are_those_of_the_tokens() -> None:
    doubled = batch(weights=[[2.0] * 5, [2.0] * 5])
    assert float(NLL().total(doubled)) == pytest.approx(2 * plain(doubled), rel=1e-6)
    assert float(NLL().count(doubled.targets, doubled.weights, doubled.rows)) == 16
    first = batch(weights=[[1.0] * 5, [0.0] * 5])
    alone = batch()
    expected = -float(alone.log_probs[0].sum())
    assert float(NLL().total(first)) == pytest.approx(expected, rel=1e-6)


def test_dft_weighs_a_token_by_its_probability_without_gradient() -> None:
    one = batch()
    probabilities = one.log_probs.detach().exp()
    expected = -(probabilities * one.log_probs).sum()
    assert float(DFT().total(one)) == pytest.approx(float(expected), rel=1e-6)
    DFT().total(one).backward()
    gradient = one.model.head.grad.clone()
    one.model.head.grad = None
    (-(probabilities * batch(one.model).log_probs)).sum().backward()
    assert np.allclose(gradient, one.model.head.grad, atol=1e-6)


def test_kl_is_the_true_divergence_and_none_to_itself() -> None:
    import torch

    student, teacher = torch.tensor([2.0, 0, -1]), torch.tensor([1.0, 1, 0])
    assert 4 * float(forward_kl(teacher, student, 2.0)) == pytest.approx(0.49079, abs=1e-5)
    model, other = Model(), Model(3)
    same = batch(model, reference=lambda inputs: model(**inputs).logits)
    assert float(KL(beta=5).total(same)) == pytest.approx(plain(same), rel=1e-6)
    distinct = batch(model, reference=lambda inputs: other(**inputs).logits)
    total = float(KL(beta=0.5).total(distinct))
    assert total > plain(distinct)
    assert total == pytest.approx(plain(distinct) + 0.5 * float(distinct.notes["kl"]), rel=1e-6)


def test_minor_sft_is_the_published_value_and_fades_as_a_row_is_learned() -> None:
    import torch

    assert -torch.nn.functional.logsigmoid(torch.tensor(-0.2)) == pytest.approx(0.79814, abs=1e-5)
    gradients = []
    for difference, loss, expected in (
        (0.0, Minor(), math.log(2)),
        (-2.0, Minor(), 0.79814),
        (-2.0, Minor(per_token=True), math.log1p(math.exp(0.05))),
        (2.0, Minor(), 0.59814),
    ):
        reference = Model(2)
        one = batch(reference=lambda inputs, reference=reference: reference(**inputs).logits)
        base = token_log_probs(one.reference_logits, one.targets).detach()
        learned = (base + difference / 4 * one.scored).requires_grad_()  # rows have four tokens
        one.__dict__["log_probs"] = learned
        assert float(loss.count(one.targets, one.weights, one.rows)) == 2
        assert float(loss.total(one)) / 2 == pytest.approx(expected, abs=1e-5)
        loss.total(one).backward()
        gradients.append(float(learned.grad.abs().sum()))
    assert gradients[3] < gradients[0] < gradients[1]


def preferred(difference: float, loss: UFT | DavIR, values: dict[str, Any]) -> tuple[Batch, float]:
    """A pass whose first row is likelier by `difference` than by the reference, and its loss."""
    reference = Model(2)
    one = batch(reference=lambda inputs: reference(**inputs).logits, values=values)
    base = token_log_probs(one.reference_logits, one.targets).detach()
    learned = base.clone()
    learned[0] += difference / 4 * one.scored[0]
    one.__dict__["log_probs"] = learned
    count = float(loss.count(one.targets, one.weights, one.rows))
    return one, loss.total(one).item() / count


def test_uft_is_a_quarter_at_the_reference_and_takes_the_feedback_as_its_target() -> None:
    import torch

    targets = {"row_target": torch.tensor([1.0, 0.0])}
    assert preferred(0.0, UFT(), targets)[1] == pytest.approx(0.25)
    sigmoid = 1 / (1 + math.exp(-2.0))
    expected = ((sigmoid - 1) ** 2 + 0.25) / 2
    assert preferred(2.0, UFT(beta=1.0), targets)[1] == pytest.approx(expected, abs=1e-5)
    swapped = {"row_target": torch.tensor([0.0, 1.0])}
    assert preferred(2.0, UFT(beta=1.0), swapped)[1] == pytest.approx(
        (sigmoid**2 + 0.25) / 2, abs=1e-5
    )


def test_davir_divides_by_the_references_loss_and_its_margin_is_that_of_the_sides() -> None:
    one, loss = preferred(0.0, DavIR(), {})
    assert loss == pytest.approx(math.log(2), abs=1e-6)
    assert float(one.notes["margin"]) == pytest.approx(0.0, abs=1e-6)
    one, loss = preferred(2.0, DavIR(), {})
    reference = -float(token_log_probs(one.reference_logits, one.targets)[0].sum())
    assert float(one.notes["margin"]) / 2 == pytest.approx(2.0 / reference, rel=1e-4)
    assert loss == pytest.approx(math.log1p(math.exp(-2.0 / reference)), abs=1e-5)
    # Swapping the sides flips the sign of the margin.
    ids, log_probs = one.inputs["input_ids"].flip(0), one.log_probs.flip(0)
    swapped = Batch(
        {"input_ids": ids}, one.targets.flip(0), one.weights, one.rows, None, one.reference
    )
    swapped.__dict__["log_probs"] = log_probs
    DavIR().total(swapped)
    assert float(swapped.notes["margin"]) == pytest.approx(-float(one.notes["margin"]), rel=1e-5)


def test_intuitive_weights_are_the_published_ones() -> None:
    import torch

    losses = torch.tensor([[1.0, 2.0, 3.0]])
    zeros = torch.zeros(1, 3, dtype=torch.long)
    one = Batch({}, zeros, torch.ones(1, 3), zeros, None)
    weights = discounted_weights(losses, one, 0.95)[0].tolist()
    assert weights == pytest.approx([1.25005, 1.08118, 0.66877], abs=1e-5)


def test_intuitive_weights_of_packed_rows_are_those_of_rows_by_themselves() -> None:
    import torch

    losses = torch.tensor([[1.0, 2.0, 9.0, 3.0, 1.0]])
    targets = torch.tensor([[1, 1, IGNORED, 1, 1]])
    rows = torch.tensor([[0, 0, 1, 1, 1]])
    packed = discounted_weights(losses, Batch({}, targets, losses, rows, None), 0.5)
    zeros = torch.zeros(1, 2, dtype=torch.long)
    for part in (slice(0, 2), slice(3, 5)):
        alone = Batch({}, zeros, torch.ones(1, 2), zeros, None)
        expected = discounted_weights(losses[:, part], alone, 0.5)
        assert packed[:, part].tolist() == expected.tolist()
    assert float(packed[0, 2]) == 0


def test_intuitive_inputs_of_the_first_answer_token_are_its_own() -> None:
    """What loss is not on is read as it is; own predictions change the loss of what follows."""
    model = Model()
    mixed = float(Intuitive(own_fraction=0.5, gamma=None).total(batch(model)))
    assert mixed != pytest.approx(plain(batch(model)), rel=1e-3)


def test_unlikelihood_is_the_sum_over_the_earlier_tokens() -> None:
    one = batch()
    probabilities = one.logits.softmax(-1)
    expected = plain(one)
    for row in range(2):
        at = [t for t in range(5) if one.targets[row, t] != IGNORED]
        for i, t in enumerate(at):
            target = int(one.targets[row, t])
            for candidate in {int(one.targets[row, s]) for s in at[:i]} - {target}:
                expected -= 0.5 * np.log1p(-float(probabilities[row, t, candidate]))
    assert float(Unlikelihood(alpha=0.5).total(one)) == pytest.approx(expected, rel=1e-5)


def test_figa_weighs_what_a_revision_changed() -> None:
    first, revised = [IGNORED, 1, 2, 3, 9], [IGNORED, IGNORED, 1, 5, 3, 6, 9]
    assert changed(first, revised, end=True, weight=1.0) == [0, 0, 0, 1, 0, 1, 1]
    assert changed(revised, first, end=False, weight=-0.5) == [0, 0, -0.5, 0, 0]
    assert changed(revised, revised, end=True, weight=1.0) == [0, 0, 0, 0, 0, 0, 1]


def test_figa_unlearns_only_what_is_likely() -> None:
    model = Model()
    weights = [[0.0, 1.0, -0.5, -0.5, -0.5], [0.0] * 5]
    losses = -batch(model).log_probs[0].detach().numpy()
    limit = float(np.sort(losses[2:5])[1]) + 1e-6
    expected = losses[1] - 0.5 * sum(value for value in losses[2:5] if value <= limit)
    one = batch(model, weights)
    loss = FIGA(initial="x", max_loss=limit)
    assert loss.total(one).item() == pytest.approx(expected, rel=1e-5)
    assert int(loss.count(one.targets, one.weights, one.rows)) == 4


def test_mixup_ends_are_the_two_rows() -> None:
    """Where lambda is 0 or 1, the mixed loss is the plain one of one row's first tokens."""
    from stages._training.losses import mixup

    one = batch()
    hidden = one.model(**one.inputs).hidden_states[-1][:, :-1]
    losses = -one.log_probs
    loss, beta = Mixup(perplexities=("x",), mu=1.0), mixup._beta
    try:
        for part, row in ((1.0, 0), (0.0, 1)):
            mixup._beta = lambda *_, part=part: part
            total, tokens = loss._mixed(one, hidden)
            assert tokens == 4
            assert float(total) == pytest.approx(float(losses[row].sum()), rel=1e-5)
    finally:
        mixup._beta = beta


def test_mixup_pairs_a_sure_row_with_an_unsure_one() -> None:
    rows = pl.DataFrame(
        {"id": [*"abcde"], "loss": [8.0, 1.0, 6.0, 2.0, 7.0], "more": [8.0, 1.5, 6.0, 2.0, 9.0]}
    )
    pairs = Mixup(perplexities=("loss", "more")).pairs(rows, 8, seed=0).reshape(-1, 2)
    assert {*pairs[:, 0].tolist()} == {1, 3} | ({2} & {*pairs[:, 0].tolist()})
    assert {*pairs[:, 1].tolist()} <= {0, 4, 2}
    assert not {*pairs[:, 0].tolist()} & {*pairs[:, 1].tolist()}


def test_calls_that_fail_are_not_trained_on() -> None:
    import re

    def called(answer: str) -> list[dict[str, Any]]:
        call = [{"id": "c", "name": "tide", "arguments": "{}"}]
        return [
            {"role": "user", "content": "Tide?"},
            {"role": "assistant", "content": None, "tool_calls": call},
            {"role": "tool", "content": answer},
            {"role": "assistant", "content": "There.", "tool_calls": None},
        ]

    pattern = re.compile("|".join(ERRORS))
    assert [turn.get("train") for turn in without_failed(called("Error: no port"), pattern)] == [
        None, False, None, None,
    ]  # fmt: skip
    assert without_failed(called("3.1 m"), pattern) == called("3.1 m")


def test_key_tokens_part_one_tool_from_another() -> None:
    pieces = ['{"name": "', "get", "_t", "ime", '", ', '"get', "_t", "ide"]
    assert key_tokens(pieces, ["get_time", "get_tide"], {"get_time", "get_tide"}) == {1, 3, 5, 7}
    assert key_tokens(pieces, ["get_time"], {"get_time"}) == {1}
    assert key_tokens(pieces, ["absent"], {"absent"}) == set()


def test_log_probs_are_zero_where_no_target_is() -> None:
    one = batch()
    assert not token_log_probs(one.logits, one.targets)[~one.scored].any()


def test_mixup_takes_no_row_whose_confidence_is_unknown() -> None:
    """No number ranks as the largest, and a missing one is in neither half."""
    mixup_loss = Mixup(perplexities=("loss", "more"))
    rows = pl.DataFrame({"id": [*"abc"], "loss": [8.0, 1.0, 6.0], "more": [8.0, 1.5, 6.0]})
    for wrong in (None, float("nan"), float("inf")):
        unknown = rows.with_columns(more=pl.Series([8.0, wrong, 6.0]))
        with pytest.raises(UserError, match="row b: mixup must have two rows"):
            mixup_loss.pairs(unknown, 4, seed=0)
    with pytest.raises(UserError, match="there is 1"):
        mixup_loss.pairs(rows[:1], 4, seed=0)
    assert {*mixup_loss.pairs(rows[:2], 4, seed=0).tolist()} == {0, 1}


def test_figa_leaves_a_row_alone_that_ends_with_no_answer() -> None:
    asked = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    rows = pl.DataFrame(
        {"id": [*"ab"], "messages": [asked, [*asked, asked[0]]], "x": ["No.", "No."]}
    )
    both = FIGA(initial="x").rows(rows)
    assert both["id"].to_list() == ["a", "b", "a"]
    assert both["messages"][2][-1]["content"] == "No."


def test_a_row_of_weight_0_says_nothing_to_minor_sft() -> None:
    import torch

    reference = Model(2)
    one = batch(reference=lambda inputs: reference(**inputs).logits)
    one = replace(one, weights=one.weights * torch.tensor([[0.0], [1.0]]))
    value = Minor(per_token=True).total(one)
    assert torch.isfinite(value)
    value.backward()
    assert torch.isfinite(one.model.head.grad).all()
