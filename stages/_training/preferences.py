"""How preference training runs: TRL's trainers of DPO, KTO and ORPO on encoded pairs.

Rows are encoded, cut and ordered before (`preference_data.py`), so the trainers' own
preparation is left out. The reference is the model that the training starts from; beneath
an adapter, the same weights without it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.models.base import LanguageModel
from pipeline.types import Fraction, NonEmpty, NonNegativeFloat, PositiveFloat, option_group
from stages._common.option_types import Distinct
from stages._training.dataset import IGNORED, dataset
from stages._training.hyperparameters import Adapter, Hyperparameters
from stages._training.losses.preference import UFT, DavIR
from stages._training.objective import Objective
from stages._training.preference_data import SIDES
from stages._training.schedules import scheduled
from stages._training.shared_passes import shared
from stages._training.trainer import (
    StepDone,
    adapter,
    callback,
    fit,
    load_model,
    trained,
    trainer_arguments,
)

LOGGED: Final = {"margin": "rewards/margins"}
"""What is noted of each step, by the trainers' names."""


@option_group
class DPO:
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290).

    Args:
        beta: How much it costs to leave the reference.
        sft_weight: The weight of the negative log-likelihood of the chosen side, per token,
            beside the loss of the pair; 0 for none. With it chosen answers do not become
            less likely (RPO: Pang et al. 2024, arXiv:2404.19733).
    """

    name: Literal["dpo"] = "dpo"
    beta: PositiveFloat = 0.1
    sft_weight: NonNegativeFloat = 0.0


@option_group
class IPO:
    """Identity preference optimization (Azar et al. 2023, arXiv:2310.12036), per token as in TRL.

    Args:
        beta: The paper's tau: the margin that is aimed at is 1 / (2 beta).
    """

    name: Literal["ipo"] = "ipo"
    beta: PositiveFloat = 0.1


@option_group
class ORPO:
    """Odds-ratio preference optimization (Hong et al. 2024, arXiv:2403.07691), without a reference.

    Args:
        beta: The paper's lambda, the weight of the odds ratio beside the loss of supervised
            fine-tuning, which is on prompt and chosen side as in the authors' code.
    """

    name: Literal["orpo"] = "orpo"
    beta: PositiveFloat = 0.1


@option_group
class KTO:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306).

    Each side counts by itself, so that pairs with one side are trained on too.

    Args:
        beta: How much it costs to leave the reference.
        desirable_weight: The weight of chosen sides.
        undesirable_weight: The weight of rejected sides.
    """

    name: Literal["kto"] = "kto"
    beta: PositiveFloat = 0.1
    desirable_weight: PositiveFloat = 1.0
    undesirable_weight: PositiveFloat = 1.0


LossType = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip
"""TRL's losses of pairs."""


@option_group
class TRL:
    """One or several of TRL's losses of pairs, by TRL's names and with its options.

    `loss_type: [sigmoid, sft]` is DPO with supervised fine-tuning on the chosen sides.

    Args:
        loss_type: The losses, which are added.
        loss_weights: The weight of each; none means 1.
        beta: How much it costs to leave the reference.
        label_smoothing: The fraction of pairs that are held to be swapped, for `robust`,
            `exo_pair`, `aot` and `aot_unpaired`.
        ld_alpha: How much the tokens of a side count that are beyond the length of the other one;
            null for all alike (LD-DPO).
        use_weighting: Weigh pairs by how likely the model finds them (WPO).
        f_divergence_type: What is held down between model and reference.
    """

    name: Literal["trl"] = "trl"
    loss_type: Annotated[tuple[LossType, ...], NonEmpty, Distinct]
    loss_weights: tuple[float, ...] = ()
    beta: PositiveFloat = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    ld_alpha: Fraction | None = None
    use_weighting: bool = False
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = (
        "reverse_kl"
    )

    def __post_init__(self) -> None:
        if self.loss_weights and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(
                f"loss_weights must be {len(self.loss_type)}, one for each loss_type, "
                f"got {len(self.loss_weights)}"
            )
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            raise ValueError("label_smoothing must be above 0 with exo_pair, got 0")

    def arguments(self) -> dict[str, Any]:
        """Those of TRL's trainer."""
        return {
            "loss_type": list(self.loss_type),
            "loss_weights": list(self.loss_weights) or None,
            "beta": self.beta,
            "label_smoothing": self.label_smoothing,
            "ld_alpha": self.ld_alpha,
            "use_weighting": self.use_weighting,
            "f_divergence_type": self.f_divergence_type,
        }


Loss = Annotated[DPO | IPO | ORPO | KTO | TRL | UFT | DavIR, Field(discriminator="name")]


def fit_preferences(
    weights: Any,
    tokenizer: Any,
    rows: pl.DataFrame,
    *,
    loss: Loss,
    model: LanguageModel,
    settings: Hyperparameters,
    max_length: int,
    folder: Path,
    step_done: StepDone,
) -> tuple[Any, list[dict[str, float]]]:
    """Train once over encoded pairs, or halves of them for KTO and UFT, in their order.

    Args:
        weights: The model to train, as `load_model` gives it.
        tokenizer: Its tokenizer.
        rows: The encoded pairs; halves with mismatched completions for KTO.
        loss: The loss.
        model: What the weights were loaded from.
        settings: How to train.
        max_length: Tokens of prompt and side together, at most.
        folder: Where checkpoints lie; a later call goes on from the newest one.
        step_done: Called with the number of each finished step.

    Returns:
        The trained weights and, per step, `step`, `loss`, `lr` and `margin` (of the rewards).

    Raises:
        UserError: The loss is not finite.
    """
    from transformers import set_seed

    if isinstance(loss, UFT | DavIR):
        return _fit_rows(
            weights, tokenizer, rows, loss, model, settings, max_length, folder, step_done
        )
    set_seed(settings.seed)
    trainer_class, config, more = _trainer(loss)
    data = dataset(_orpo_columns(rows) if isinstance(loss, ORPO) else rows.drop("id"))
    arguments = trainer_arguments(
        config, model, settings, folder, len(data), max_length=max_length, **more
    )
    reference = {}
    if not isinstance(loss, ORPO) and not isinstance(settings.method, Adapter):
        reference = {"ref_model": load_model(model, settings.method, max_length)}
    trainer = shared(scheduled(trainer_class, settings.lr_scheduler_type), mean=True)(
        model=weights,
        args=arguments,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=adapter(settings.method),
        callbacks=[callback(step_done)],
        **reference,
    )
    logged = {} if isinstance(loss, KTO) else LOGGED
    return trained(trainer, folder, logged)


def _trainer(loss: Loss) -> tuple[Any, Any, dict[str, Any]]:
    """The trainer's class, that of its arguments, and those that the loss sets."""
    match loss:
        case DPO(beta=beta, sft_weight=weight):
            terms = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, weight]}
            return (*_dpo(), {"beta": beta, **(terms if weight else {"loss_type": ["sigmoid"]})})
        case TRL():
            return (*_dpo(), loss.arguments())
        case IPO(beta=beta):
            return (*_dpo(), {"beta": beta, "loss_type": ["ipo"]})
        case KTO():
            names = ("beta", "desirable_weight", "undesirable_weight")
            return (*_kto(), {name: getattr(loss, name) for name in names})
    return (*_orpo(), {"beta": loss.beta})


def _dpo() -> tuple[Any, Any]:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Trainer(DPOTrainer):
        """Takes encoded rows as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return Trainer, DPOConfig


def _kto() -> tuple[Any, Any]:
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    class Trainer(KTOTrainer):
        """Takes encoded rows as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    return Trainer, KTOConfig


def _orpo() -> tuple[Any, Any]:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class Trainer(ORPOTrainer):
        """Takes encoded rows as they are."""

        def tokenize_row(self, feature: Any, model: Any = None) -> Any:  # noqa: ARG002
            return feature

    return Trainer, ORPOConfig


def _fit_rows(
    weights: Any,
    tokenizer: Any,
    rows: pl.DataFrame,
    loss: UFT | DavIR,
    model: LanguageModel,
    settings: Hyperparameters,
    max_length: int,
    folder: Path,
    step_done: StepDone,
) -> tuple[Any, list[dict[str, float]]]:
    """The same for losses over rows: those of a pair follow each other."""
    reference = None
    if not isinstance(settings.method, Adapter):
        reference = load_model(model, settings.method, max_length).eval()
    if isinstance(loss, DavIR):
        batch_size = 2 * settings.per_device_train_batch_size
        settings = replace(settings, per_device_train_batch_size=batch_size)
    return fit(
        weights,
        tokenizer,
        dataset(_half_rows(rows) if isinstance(loss, UFT) else _pair_rows(rows)),
        model=model,
        settings=settings,
        folder=folder,
        step_done=step_done,
        objective=Objective(loss, reference=reference),
    )


def _half_rows(halves: pl.DataFrame) -> pl.DataFrame:
    """Halves as rows to train on, with their feedback: 1 for chosen sides, 0 for rejected ones."""
    return _labelled(halves, "completion_ids").with_columns(target=halves["label"].cast(pl.Float32))


def _pair_rows(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs as rows to train on, the chosen side before the rejected one."""
    sides = [_labelled(pairs, f"{side}_ids").with_row_index("pair") for side in SIDES]
    return pl.concat(sides).sort("pair", maintain_order=True).drop("pair")


def _labelled(rows: pl.DataFrame, side: str) -> pl.DataFrame:
    ignored = pl.lit(IGNORED, pl.Int32).repeat_by(pl.col("prompt_ids").list.len())
    return rows.select(
        input_ids=pl.concat_list("prompt_ids", side), labels=pl.concat_list(ignored, side)
    )


def _orpo_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of ORPO's collator: whole conversations, labels behind the prompt."""
    ignored = pl.lit(-100, pl.Int32).repeat_by(pl.col("prompt_ids").list.len())
    columns = []
    for side in ("chosen", "rejected"):
        whole = pl.concat_list("prompt_ids", f"{side}_ids")
        labels = pl.concat_list(ignored, f"{side}_ids")
        seen = pl.lit(1, pl.Int32).repeat_by(whole.list.len())
        columns += [
            whole.alias(f"{side}_input_ids"),
            seen.alias(f"{side}_attention_mask"),
            labels.alias(f"{side}_labels"),
        ]
    return rows.select(columns)
