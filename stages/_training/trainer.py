"""How supervised fine-tuning runs: TRL's SFTTrainer, quiet, and resumed after a kill.

It takes rows or blocks that are ready (`dataset.py`), in their order.

Packed rows do not see each other. TRL's "bfd" blocks carry position ids that begin at 0
with each row; transformers derives a block-diagonal mask from them for eager, SDPA and
flash attention alike, as long as no attention mask is given. TRL lays the blocks of a
batch end to end, so without flash attention the cost of attention grows with the
square of `per_device_train_batch_size`: `gradient_accumulation_steps` gives the same step
for less.

A checkpoint counts once it is sealed: the sizes of its files, written after all of them
are on the disk. One that a kill left half written has no seal and is removed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pipeline.errors import OptionError, UserError
from pipeline.models.base import LanguageModel
from pipeline.models.local.threads import fix_threads
from stages._training.hyperparameters import Adapter, DoRA, Hyperparameters, Method
from stages._training.objective import Objective, objective_trainer
from stages._training.processes import agreed, by_first, gathered_weights, is_first, size
from stages._training.schedules import scheduler_arguments

CHECKPOINT_SECONDS = 30.0
"""Seconds of work between two checkpoints, at least."""

SAVING_FRACTION: Final = 0.05
"""The fraction of the time that saving checkpoints may take."""

SEAL: Final = "complete.json"

StepDone = Callable[[int], None]
"""Called with the number of each finished step."""

Keep = Callable[[Any, int], None]
"""Called with the weights in training and the number of the step that was finished."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' bars, logs and warnings off the screen; errors still come through."""
    import datasets
    from transformers.utils import logging

    transformers_logging: Any = logging
    loggers = [getLogger(name) for name in ("trl", "accelerate", "peft", "datasets")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    model_bars = transformers_logging.is_progress_bar_enabled()
    data_bars = not datasets.are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if model_bars:
            transformers_logging.enable_progress_bar()
        if data_bars:
            datasets.enable_progress_bars()


def on_gpu(model: LanguageModel) -> bool:
    """Whether the model trains on a GPU: where there is one, unless its device is the CPU."""
    import torch

    return torch.cuda.is_available() and model.device != "cpu"


def load_model(model: LanguageModel, method: Method, max_length: int) -> Any:
    """The weights to train, on the device where they are trained.

    They are float32 where all of them are trained and on a CPU, and of the model's dtype
    beneath an adapter on a GPU.

    Args:
        model: The model.
        method: All weights, or an adapter.
        max_length: Tokens of the longest row.

    Raises:
        OptionError: The model reads fewer than `max_length` tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM

    fix_threads()
    in_float32 = not isinstance(method, Adapter) or not on_gpu(model)
    dtype = torch.float32 if in_float32 else getattr(torch, model.dtype)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model.model, revision=model.revision, dtype=dtype
    )
    positions = getattr(loaded.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise OptionError(
            "max_length",
            f"must be at most {positions}, got {max_length}",
            why="the model reads no longer texts",
        )
    return loaded.to("cuda" if on_gpu(model) else "cpu")


def fit(
    weights: Any,
    tokenizer: Any,
    data: Any,
    *,
    model: LanguageModel,
    settings: Hyperparameters,
    folder: Path,
    step_done: StepDone,
    keep: Keep | None = None,
    objective: Objective | None = None,
    stop_after: int | None = None,
) -> tuple[Any, list[dict[str, float]]]:
    """Train once over encoded rows or packed blocks, in their order.

    Args:
        weights: The model to train, as `load_model` gives it.
        tokenizer: Its tokenizer.
        data: A `datasets.Dataset` of `input_ids` and `labels`; packed blocks also have
            `seq_lengths`.
        model: What the weights were loaded from.
        settings: How to train.
        folder: Where checkpoints lie; a later call goes on from the newest one and gives
            the weights of a call that nobody interrupted.
        step_done: Called with the number of each finished step.
        keep: Called with the weights in training and the same number.
        objective: What is minimised, and when it stops early; None for the mean negative
            log-likelihood of all data.
        stop_after: The step to stop after, with a checkpoint; None for the last one.

    Returns:
        The trained weights and, per step, `step`, `loss` (mean over the step's answer
        tokens, nats), `lr` and what the loss notes.

    Raises:
        UserError: The loss is not finite.
    """
    from transformers import set_seed
    from trl.trainer.sft_config import SFTConfig

    objective = objective or Objective()
    set_seed(settings.seed)
    arguments = trainer_arguments(
        SFTConfig,
        model,
        settings,
        folder,
        len(data),
        dataset_kwargs={"skip_prepare_dataset": True},
        packing="seq_lengths" in data.column_names,
        packing_strategy="bfd",
        **objective.arguments(),
    )
    trainer = objective_trainer(objective, settings)(
        model=weights,
        args=arguments,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=adapter(settings.method),
        callbacks=[callback(step_done, keep, stop_after), *objective.callbacks()],
        eval_dataset=objective.validation,
    )
    return trained(trainer, folder, {name: name for name in objective.loss.noted})


def trained(
    trainer: Any, folder: Path, more: Mapping[str, str] = MappingProxyType({})
) -> tuple[Any, list[dict[str, float]]]:
    """Train, from the newest checkpoint on where there is one.

    Args:
        trainer: A trainer with a `callback`.
        folder: Where checkpoints lie.
        more: Further values of each step: their names here, and in the trainer's log.

    Returns:
        The trained weights and, per step, `step`, `loss`, `lr` and these values.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=agreed(is_first() and newest_checkpoint(folder)))
    names = {"step": "step", "loss": "loss", "lr": "learning_rate", **more}
    history = [
        {name: entry[logged] for name, logged in names.items()}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return gathered_weights(trainer, folder), history


def trainer_arguments(
    config: Any,
    model: LanguageModel,
    settings: Hyperparameters,
    folder: Path,
    num_rows: int,
    **more: Any,
) -> Any:
    """The arguments of a trainer of TRL that goes once over rows in their order.

    Args:
        config: The trainer's class of arguments.
        model: What the weights were loaded from.
        settings: How to train.
        folder: Where checkpoints lie.
        num_rows: Rows or blocks, repeats included.
        more: Further arguments.
    """
    gpu = on_gpu(model)
    steps = math.ceil(num_rows / settings.rows_per_step)
    arguments = config(
        output_dir=str(folder),
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps // size(),
        ddp_backend="gloo" if size() > 1 and not gpu else None,
        ddp_find_unused_parameters=False if size() > 1 else None,
        learning_rate=settings.learning_rate,
        **scheduler_arguments(settings.lr_scheduler_type, steps),
        warmup_steps=round(steps * settings.warmup_ratio),
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        use_cpu=not gpu,
        bf16=gpu and model.dtype == "bfloat16",
        fp16=gpu and model.dtype == "float16",
        gradient_checkpointing=gpu,
        dataloader_pin_memory=gpu,
        save_strategy=more.pop("save_strategy", "no"),
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        **more,
    )
    # One process trains on one device. TRL refuses the data parallelism that transformers
    # chooses by itself where several GPUs are visible.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def adapter(method: Method) -> Any:
    """peft's configuration of the adapter that a method trains; None for all weights."""
    from peft import LoraConfig

    if not isinstance(method, Adapter):
        return None
    return LoraConfig(
        r=method.lora_r,
        lora_alpha=2 * method.lora_r,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        use_dora=isinstance(method, DoRA),
    )


def callback(step_done: StepDone, keep: Keep | None = None, stop_after: int | None = None) -> Any:
    """The trainer's callback: progress, divergence, when to save, and when to stop.

    Args:
        step_done: Called with the number of each finished step.
        keep: Called with the weights in training and the same number.
        stop_after: The step to stop after, with a checkpoint; None for the last one.
    """
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        """saved: when the last checkpoint was done; cost: the seconds that it took."""

        saved, started, cost = time.monotonic(), 0.0, 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:  # noqa: ARG002
            if keep is not None:
                keep(kw["model"], state.global_step)
            step_done(state.global_step)
            wait = max(CHECKPOINT_SECONDS, self.cost / SAVING_FRACTION)
            self.started = time.monotonic()
            control.should_training_stop |= state.global_step == stop_after
            # Clocks differ, and a checkpoint is saved by all processes or by none.
            is_due = agreed(self.started - self.saved >= wait)
            control.should_save = state.global_step == stop_after or is_due

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            agreed(None)  # the others have written their part
            by_first(lambda: seal(Path(args.output_dir) / f"checkpoint-{state.global_step}"))
            self.saved = time.monotonic()
            self.cost = self.saved - self.started

        def on_log(self, args: Any, state: Any, control: Any, **kw: Any) -> None:  # noqa: ARG002
            if not math.isfinite(kw["logs"].get("loss", 0.0)):
                raise UserError(
                    f"the training diverged: the loss of step {state.global_step} is not finite",
                    hint="lower learning_rate or raise warmup_ratio",
                    why=f"learning_rate is {args.learning_rate:g}",
                )

    return Callback()


def save(trained: Any, tokenizer: Any, model: LanguageModel, files: Path, method: Method) -> None:
    """Write weights that `AutoModelForCausalLM.from_pretrained` reads, in the model's dtype.

    Of several processes the first one writes.

    Args:
        trained: The trained weights.
        tokenizer: Their tokenizer.
        model: What they were trained from.
        files: Where `model/` and, of an adapter, `adapter/` are written.
        method: All weights, or an adapter.
    """
    import torch

    if not is_first():
        return
    if isinstance(method, Adapter):
        trained.save_pretrained(files / "adapter")
        trained = trained.merge_and_unload()
    trained.to(getattr(torch, model.dtype)).save_pretrained(files / "model")
    tokenizer.save_pretrained(files / "model")


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete: all of its files are on the disk, with these sizes."""
    sizes = {}
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != SEAL):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[str(path.relative_to(checkpoint))] = path.stat().st_size
    write_json(checkpoint / SEAL, sizes)


def newest_checkpoint(folder: Path) -> str | None:
    """The last complete checkpoint of a folder; what a kill left half written is removed."""
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        if _is_complete(checkpoint):
            complete.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    newest = max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return str(newest) if newest else None


def _is_complete(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / SEAL).read_text("utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is either complete or not there, however the process ends."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
