"""The verb `train`: a training from exported shards alone, on any machine, by any launcher.

It needs the folder that an export stage wrote, the model, and this repository: no recipe, no
store. Under torchrun or srun each process runs it, and the first one writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.app import app, quiet_libraries, verb
from pipeline.errors import Exit, UserError

if TYPE_CHECKING:
    from pipeline.execution.training import Training


@verb(app)
def train(
    shards: Annotated[
        Path, typer.Argument(metavar="SHARDS", help="The folder that an export stage wrote.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A folder with weights, or a name on the hub.")
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where the trained model is written.")],
    uses: Annotated[
        str, typer.Option(metavar="STAGE", help="train.sft, train.preference or another.")
    ] = "train.sft",
    options: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="OPTION=VALUE",
            help="An option of the stage, e.g. num_train_epochs=2, or of the model, e.g. "
            "model.dtype=bfloat16; repeatable.",
        ),
    ] = [],  # noqa: B006
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Processes, each on a device of its own: a number, or auto; by default one, or "
            "as many as a launcher started.",
            show_default=False,
        ),
    ] = None,
    accelerate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="FSDP or DeepSpeed settings, as `accelerate config` writes them.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Train a model on exported shards, without a recipe; torchrun and srun may start it."""
    quiet_libraries()
    from pipeline.execution.launched import adopt_slurm, is_first
    from pipeline.execution.training import Training

    adopt_slurm()
    fields = {"model": model, "devices": _number(devices)}
    fields |= {} if accelerate is None else {"accelerate": accelerate}
    training = Training.of(uses, shards, fields, options, to)
    _run(training)
    if is_first():
        print(f"{uses}: {to}")
        for line in _summary(to):
            print(f"  {line}")
    return Exit.DONE


def _number(devices: str | None) -> int | str:
    """The option `--devices` as a recipe has it."""
    from pipeline.execution.launched import launched

    if devices is None:
        return launched()
    if devices != "auto" and not (devices.isdecimal() and int(devices)):
        raise UserError(f"--devices must be a number from 1 on, or auto, got {devices!r}")
    return devices if devices == "auto" else int(devices)


def _run(training: Training) -> None:
    """Run a training and show how far it is."""
    from pipeline.execution.launched import is_first
    from pipeline.execution.progress import StartedStep, watch

    if not is_first():
        training.run(lambda *_: None)
        return
    progress = watch(["train"])
    try:
        progress.start(StartedStep(1, "train", training.stage.name))
        training.run(progress.update)
        progress.finish("trained")
    finally:
        progress.close()


def _summary(folder: Path) -> Sequence[str]:
    """What the metrics of a training say, in lines."""
    import json

    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    losses = [step["loss"] for step in metrics["losses"]]
    lines = [f"{metrics['steps']:,} steps, {metrics['trained_tokens']:,} tokens"]
    if losses:
        lines.append(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    if "validation" in metrics:
        before, after = metrics["validation"]["before"], metrics["validation"]["after"]
        lines.append(f"validation {before:.4f} -> {after:.4f}")
    return lines
