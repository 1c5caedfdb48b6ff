"""Checkpoints of a training loop of our own, which no library keeps.

As seldom, and as safe, as those of the library's trainers (`trainer.py`): a checkpoint counts once
it is sealed, and the one before it is removed only then.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages._training import trainer


@dataclass
class LoopCheckpoints:
    """The checkpoints of a loop.

    Args:
        folder: Where they lie, below a folder that survives kills.

    Example:
        >>> import tempfile
        >>> checkpoints = LoopCheckpoints(Path(tempfile.mkdtemp()))
        >>> checkpoints.newest()
        (0, {})
    """

    folder: Path
    _saved: float = field(default_factory=time.monotonic, init=False)
    _cost: float = field(default=0.0, init=False)

    def newest(self) -> tuple[int, dict[str, Any]]:
        """The steps that are done, and the state after them; 0 and nothing without one."""
        import torch

        newest = trainer.newest_checkpoint(self.folder)
        if newest is None:
            return 0, {}
        state: dict[str, Any] = torch.load(Path(newest) / "state.pt", weights_only=True)
        return int(newest.rpartition("-")[2]), state

    def step_done(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save a checkpoint where one is due.

        Args:
            step: The steps that are done.
            state: Gives what a later run needs to go on: tensors, numbers, texts, and dicts and
                lists of them.
        """
        import torch

        begun = time.monotonic()
        wait = max(trainer.CHECKPOINT_SECONDS, self._cost / trainer.SAVING_FRACTION)
        if begun - self._saved < wait:
            return
        target = self.folder / f"checkpoint-{step}"
        target.mkdir(parents=True)
        torch.save(dict(state()), target / "state.pt")
        trainer.seal(target)
        for other in self.folder.glob("checkpoint-*"):
            if other != target:
                shutil.rmtree(other)
        self._saved = time.monotonic()
        self._cost = self._saved - begun
