"""The weights after single epochs of a training, kept beside its last ones.

They lie in the work folder until the training ends, each complete or not there: a training
that was killed goes on from a checkpoint that may be younger than an epoch's end.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models.base import LanguageModel
from stages._training.hyperparameters import Adapter, Hyperparameters
from stages._training.processes import is_first
from stages._training.trainer import SEAL, save, seal


@dataclass(frozen=True)
class KeptEpochs:
    """Which epochs are kept, and where.

    Attributes:
        epochs: Their numbers, from 1.
        rows_per_epoch: Rows or blocks of one pass.
        settings: How the training runs.
        model: What the weights were loaded from.
        tokenizer: Their tokenizer.
        work: The folder that survives kills.
    """

    epochs: Sequence[int]
    rows_per_epoch: int
    settings: Hyperparameters
    model: LanguageModel
    tokenizer: Any
    work: Path

    def ends(self) -> dict[int, list[int]]:
        """The epochs that end with a step, by its number: the one that sees their last row.

        Example:
            >>> model, one = LanguageModel("m"), Hyperparameters(gradient_accumulation_steps=4)
            >>> KeptEpochs([1, 2], 10, one, model, None, Path()).ends()
            {3: [1], 5: [2]}
        """
        ends: dict[int, list[int]] = {}
        for epoch in self.epochs:
            step = math.ceil(epoch * self.rows_per_epoch / self.settings.rows_per_step)
            ends.setdefault(step, []).append(epoch)
        return ends

    def keep(self, weights: Any, step: int) -> None:
        """Keep a copy of the weights where an epoch ends.

        Args:
            weights: The model in training; it stays as it is.
            step: The number of the step that was finished.
        """
        for epoch in self.ends().get(step, ()) if is_first() else ():
            target = self._folder / f"epoch-{epoch}"
            part = target.with_name(target.name + ".part")
            for folder in (target, part):
                shutil.rmtree(folder, ignore_errors=True)
            part.mkdir(parents=True)
            save(copy.deepcopy(weights), self.tokenizer, self.model, part, self.settings.method)
            seal(part)
            part.rename(target)

    def hand_over(self, files: Path) -> None:
        """Move the kept weights to where the step's result lies.

        Args:
            files: The folder of the result.
        """
        if not is_first():
            return
        for epoch in self.epochs:
            source = self._folder / f"epoch-{epoch}"
            (source / SEAL).unlink()
            target = files / "checkpoints" / source.name
            target.parent.mkdir(exist_ok=True)
            shutil.move(source / "model", target)
            if isinstance(self.settings.method, Adapter):
                shutil.move(source / "adapter", target / "adapter")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return self.work / "epochs"
