"""How preference training runs: TRL's trainers of DPO, KTO and ORPO on encoded pairs.

Rows are encoded, cut and ordered before (`preference_data.py`), so the trainers' own
preparation is left out. The reference is the model that the training starts from; beneath
an adapter, the same weights without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.models.base import LanguageModel
from pipeline.types import NonNegativeFloat, PositiveFloat, option_group
from stages._training.dataset import dataset
from stages._training.hyperparameters import Adapter, Hyperparameters
from stages._training.schedules import scheduled
from stages._training.trainer import (
    StepDone,
    adapter,
    callback,
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


Loss = Annotated[DPO | IPO | ORPO | KTO, Field(discriminator="name")]


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
    """Train once over encoded pairs, or halves of them for KTO, in their order.

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

    set_seed(settings.seed)
    trainer_class, config, more = _trainer(loss)
    data = dataset(_orpo_columns(rows) if isinstance(loss, ORPO) else rows.drop("id"))
    arguments = trainer_arguments(
        config, model, settings, folder, len(data), max_length=max_length, **more
    )
    reference = {}
    if not isinstance(loss, ORPO) and not isinstance(settings.method, Adapter):
        reference = {"ref_model": load_model(model, settings.method, max_length)}
    trainer = scheduled(trainer_class, settings.lr_scheduler_type)(
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
