"""How supervised fine-tuning runs: TRL's SFTTrainer, quiet, and resumed after a kill.

It is given rows or blocks that are ready (`_sft.py`) and takes them in their order.

Packed rows do not see each other. TRL's "bfd" blocks carry position ids that begin at 0
with each row; transformers derives a block-diagonal mask from them for eager, SDPA and
flash attention alike, as long as no attention mask is given. TRL lays the blocks of a
batch end to end, so without flash attention the cost of attention grows with the
square of `batch_size`: `gradient_accumulation` gives the same step for less.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.errors import UserError
from pipeline.models.base import LanguageModel
from pipeline.models.local.threads import fix_threads

CHECKPOINT_SECONDS = 30.0
"""Seconds of work between two checkpoints, at least."""

SAVING_SHARE: Final = 0.05
"""The share of the time that saving checkpoints may take."""

SEAL: Final = "complete.json"

Method = Literal["full", "lora"]
Schedule = Literal["constant", "linear", "cosine"]
Step = Callable[[int], None]


@dataclass(frozen=True)
class Hyperparameters:
    """How to train. warmup: a share of the steps. batch_size: rows or blocks per forward pass."""

    method: Method
    lora_rank: int
    lr: float
    schedule: Schedule
    warmup: float
    weight_decay: float
    batch_size: int
    gradient_accumulation: int
    seed: int

    @property
    def per_step(self) -> int:
        """Rows or blocks per optimiser step."""
        return self.batch_size * self.gradient_accumulation


def check_hyperparameters(options: Any) -> None:
    """Refuse values that no training can have. options: any namespace that holds them."""
    limits = [
        ("lr", options.lr > 0, "above 0"),
        ("warmup", 0 <= options.warmup < 1, "a share of the steps: at least 0 and below 1"),
        ("weight_decay", options.weight_decay >= 0, "at least 0"),
        ("batch_size", options.batch_size >= 1, "at least 1"),
        ("gradient_accumulation", options.gradient_accumulation >= 1, "at least 1"),
        ("max_tokens", options.max_tokens >= 2, "at least 2"),
        ("lora_rank", options.lora_rank >= 1, "at least 1"),
    ]
    for name, holds, meaning in limits:
        if not holds:
            raise UserError(f"{name} is {getattr(options, name)}", hint=f"{name} is {meaning}")


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
    """Whether the model trains on a GPU: where there is one, unless it is sent elsewhere."""
    import torch

    return torch.cuda.is_available() and model.device != "cpu"


def load_model(model: LanguageModel, method: Method, max_tokens: int) -> Any:
    """The weights to train: float32 for all of them, the model's dtype beneath an adapter.

    On a CPU it is float32 always. Raises UserError where a row of max_tokens is longer
    than what the model was made for.
    """
    import torch
    from transformers import AutoModelForCausalLM

    fix_threads()
    stored = method == "full" or not on_gpu(model)
    dtype = torch.float32 if stored else getattr(torch, model.dtype)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model.model, revision=model.revision, dtype=dtype
    )
    positions = getattr(loaded.config, "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise UserError(
            f"max_tokens is {max_tokens}, but the model reads at most {positions}",
            hint=f"give max_tokens: {positions} or less",
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
    step_done: Step,
) -> tuple[Any, list[dict[str, float]]]:
    """Train once over a `datasets.Dataset` of encoded rows or packed blocks, in its order.

    folder: where checkpoints lie; a later call goes on from the newest one and gives
    the weights of a call that nobody interrupted. step_done: told the number of each
    finished step. Returns the trained weights and, per step, `step`, `loss` (mean over
    the step's answer tokens, nats) and `lr`. Raises UserError when the loss diverges.
    """
    from transformers import PrinterCallback, set_seed
    from trl.trainer.sft_trainer import SFTTrainer

    set_seed(settings.seed)
    trainer = SFTTrainer(
        model=weights,
        args=_arguments(model, settings, folder, data),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=_adapter(settings) if settings.method == "lora" else None,
        callbacks=[_watch(step_done)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=newest_checkpoint(folder))
    history = [
        {"step": entry["step"], "loss": entry["loss"], "lr": entry["learning_rate"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return trainer.model, history


def _arguments(model: LanguageModel, settings: Hyperparameters, folder: Path, data: Any) -> Any:
    from trl.trainer.sft_config import SFTConfig

    gpu = on_gpu(model)
    steps = math.ceil(len(data) / settings.per_step)
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        packing="seq_lengths" in data.column_names,
        packing_strategy="bfd",
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.lr,
        lr_scheduler_type=_schedule(settings),
        warmup_steps=round(steps * settings.warmup),
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        use_cpu=not gpu,
        bf16=gpu and model.dtype == "bfloat16",
        fp16=gpu and model.dtype == "float16",
        gradient_checkpointing=gpu,
        dataloader_pin_memory=gpu,
        save_strategy="no",
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    # One process trains on one device. TRL refuses the data parallelism that transformers
    # chooses by itself where several GPUs are visible.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _schedule(settings: Hyperparameters) -> str:
    """transformers' name of the schedule; all of these begin with the warm-up."""
    constant = settings.schedule == "constant"
    return "constant_with_warmup" if constant else settings.schedule


def _adapter(settings: Hyperparameters) -> Any:
    """LoRA on every linear layer but the head (Hu et al. 2021, arXiv:2106.09685), alpha = 2 r."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _watch(step_done: Step) -> Any:
    """The trainer's callback: progress, divergence, and when to save."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """saved: when the last checkpoint was done; cost: the seconds that it took."""

        saved, asked, cost = time.monotonic(), 0.0, 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            step_done(state.global_step)
            wait = max(CHECKPOINT_SECONDS, self.cost / SAVING_SHARE)
            self.asked = time.monotonic()
            control.should_save = self.asked - self.saved >= wait

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            self.saved = time.monotonic()
            self.cost = self.saved - self.asked

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
            if not math.isfinite(given["logs"].get("loss", 0.0)):
                raise UserError(
                    f"the training diverged: the loss of step {state.global_step} is not finite",
                    hint=f"lower lr (it is {args.learning_rate:g}) or raise warmup",
                )

    return Watch()


def seal(checkpoint: Path) -> None:
    """Say that a checkpoint is complete: all of its files are on the disk, with these sizes."""
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
    """Write a JSON file that is either whole or not there, however the process ends."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
