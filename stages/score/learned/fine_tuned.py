"""A model that is trained here to score whole conversations: a sequence classifier of one output.

So are DEITA's scorers (Liu et al. 2023, arXiv:2312.15685), Cappy (Tan et al. 2023,
arXiv:2311.06720) and reward models: all weights of a language model learn the labels, and its last
token's state gives the number. Its files are a model for `method: reward_model`.

Ours: one number in place of DEITA's distribution over grades, plain AdamW at a constant rate, and
no shuffled labels in the report, since each would be a training of its own. A training that was
killed goes on from its last checkpoint and gives the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.types import Count, PositiveFloat, option_group
from stages._training.loop_checkpoints import LoopCheckpoints
from stages._training.trainer import quiet
from stages.score.learned.heads import Classifier, Pairs, Regressor, pairs_within
from stages.score.learned.held_out import check_training, tested_report
from stages.score.learned.labels import Floats, Head, Labelled, Trained, read_labelled
from stages.score.learned.reward_model import (
    Inputs,
    RewardModel,
    batch_of,
    columns_of,
    encoded_rows,
    load,
    rewards,
)

KINDS: Final[dict[str, type[Head]]] = {
    "classifier": Classifier,
    "regressor": Regressor,
    "pairs": Pairs,
}


@option_group
class FineTuned(Trained):
    """A number that all weights of the option `model` learn, from conversations as they are.

    `learned` is a probability under `classifier`. `model/` among the files are the weights.

    Args:
        objective: What is learned, as by the methods of these names: `classifier`, `regressor` or
            `pairs`.
        form: How a conversation is shown, as under `reward_model`.
        max_length: Tokens of the longest conversation; a longer one trains nothing and has no
            score.
        max_steps: Steps of the training; null for `num_train_epochs`.
        num_train_epochs: How often each row, or each pair, is seen.
        batch_size: Rows, or pairs, of a step.
        learning_rate: Of AdamW, without a schedule.
    """

    name: Literal["fine_tuned"] = "fine_tuned"
    objective: Literal["classifier", "regressor", "pairs"] = "regressor"
    form: Literal["chat", "pair"] = "chat"
    max_length: Annotated[int, Field(ge=2)] = 1024
    max_steps: Count | None = None
    num_train_epochs: Count = 1
    batch_size: Count = 8
    learning_rate: PositiveFloat = 2.0e-5


def fine_tune(
    ctx: Context,
    rows: pl.DataFrame,
    labelled: pl.DataFrame,
    model: LanguageModel,
    method: FineTuned,
) -> tuple[pl.DataFrame, Labelled, dict[str, Any]]:
    """Train the model, and score rows with it.

    Args:
        ctx: Where the weights go.
        rows: The rows to score.
        labelled: The rows with labels.
        model: The model to train.
        method: The options.

    Returns:
        `learned` and `error` of each row; the labelled rows that were used; the report.

    Raises:
        UserError: The labels cannot teach a score, the model cannot be loaded, or the loss
            diverges.
    """
    import torch

    labelled = labelled.sort("id")
    with torch.random.fork_rng():
        torch.manual_seed(method.seed)
        weights, tokenizer = load(replace(model, dtype="float32"), trained=False)
        shown = RewardModel(form=method.form, max_length=method.max_length)
        inputs = encoded_rows(labelled, model, tokenizer, shown)[0]
        features = np.array([[np.nan if each is None else 0.0] for each in inputs])
        data = read_labelled(labelled, method, features.reshape(-1, 1))
        kind = KINDS[method.objective](label=method.label, seed=method.seed)
        kind = replace(kind, calibration="none") if isinstance(kind, Classifier) else kind
        check_training(data, kind)
        by_id = dict(zip(labelled["id"], inputs, strict=True))
        used = [by_id[id_] or {} for id_ in data.ids]
        _train(ctx, weights.train(), used, data, method)
    weights.eval()
    held = [one for one, test in zip(used, data.is_held_out, strict=True) if test]
    report = tested_report(data, kind, _scores(ctx, weights, held, method))
    report |= {"method": f"fine-tuned {method.objective}", "shuffled": None}
    inputs, errors = encoded_rows(rows, model, tokenizer, shown)
    result = columns_of(_scores(ctx, weights, inputs, method), inputs, errors)
    with quiet():
        weights.save_pretrained(ctx.files / "model")
        tokenizer.save_pretrained(ctx.files / "model")
    return result, data, report


def _scores(
    ctx: Context, weights: Any, inputs: Sequence[Inputs | None], method: FineTuned
) -> Floats:
    values = np.array(rewards(ctx, weights, inputs), dtype=np.float64)
    return 1 / (1 + np.exp(-values)) if method.objective == "classifier" else values


def _train(
    ctx: Context, weights: Any, inputs: Sequence[Inputs], data: Labelled, method: FineTuned
) -> None:
    """Train on the rows that are not held out, or on their pairs."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, mse_loss

    training = np.flatnonzero(~data.is_held_out)
    units = training[:, None]
    if method.objective == "pairs":
        units = training[pairs_within(data.labels[training], data.groups[training])]
    optimizer = torch.optim.AdamW(weights.parameters(), lr=method.learning_rate)
    steps = method.max_steps or -(-len(units) * method.num_train_epochs // method.batch_size)
    checkpoints = LoopCheckpoints(ctx.work / "checkpoints")
    done, state = checkpoints.newest()
    if done:
        weights.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["generator"])
        torch.cuda.set_rng_state_all(state["gpu_generators"])
    for step, chosen in enumerate(islice(_batches(units, method), done, steps), done + 1):
        rows = chosen.T.reshape(-1).tolist()  # of pairs all better ones, then all worse ones
        with batch_of(weights, [inputs[i] for i in rows], len(rows)) as batch:
            logits = weights(**batch).logits[:, 0]
        labels = torch.tensor(data.labels[rows], dtype=logits.dtype, device=logits.device)
        loss: Any
        if method.objective == "pairs":
            better, worse = logits.chunk(2)
            loss = -logsigmoid(better - worse).mean()
        elif method.objective == "classifier":
            loss = binary_cross_entropy_with_logits(logits, labels)
        else:
            loss = mse_loss(logits, labels)
        if not torch.isfinite(loss):
            raise UserError(
                f"the training diverged: the loss of step {step + 1} is not finite",
                hint="lower learning_rate",
                why=f"learning_rate is {method.learning_rate:g}",
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ctx.progress(step, steps)
        checkpoints.step_done(step, lambda: {
            "weights": weights.state_dict(), "optimizer": optimizer.state_dict(),
            "generator": torch.get_rng_state(),
            "gpu_generators": torch.cuda.get_rng_state_all(),
        })  # fmt: skip


def _batches(units: NDArray[np.int64], method: FineTuned) -> Iterator[NDArray[np.int64]]:
    """Batches of rows or pairs without end, in a new order each time round."""
    generator = np.random.default_rng(method.seed)
    while len(units):
        order = generator.permutation(len(units))
        for start in range(0, len(order), method.batch_size):
            yield units[order[start : start + method.batch_size]]
