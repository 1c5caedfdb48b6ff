"""What a teacher says of the blocks of a training, written down before it: its best words.

So teacher and student are never in memory together, and a block that is trained on several times
is read by the teacher once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from stages._training.losses.distill import TopK, top_k
from stages._training.trainer import SEAL, write_json

_PARTS: Final = {"ids": np.int32, "log_probs": np.float32, "tail": np.float32}


@dataclass(frozen=True)
class StoredTeacher:
    """The best words of each position of each block.

    Attributes:
        lengths: The tokens of each block.
        ids: The words: (blocks, length, k).
        log_probs: Their log-probabilities.
        tail: The log-probability of all others: (blocks, length).
    """

    lengths: Sequence[int]
    ids: Any
    log_probs: Any
    tail: Any

    def of(self, numbers: Any, *, laid_out: bool) -> TopK:
        """What it says of the positions of a batch that predict.

        Args:
            numbers: The numbers of its blocks.
            laid_out: Whether the blocks are laid end to end.
        """
        import torch

        at = numbers.tolist()
        longest = max(self.lengths[number] for number in at)
        parts = []
        for name in _PARTS:
            array = getattr(self, name)
            if laid_out:
                values = np.concatenate([array[n, : self.lengths[n]] for n in at])[None]
            else:
                values = np.stack([array[n, :longest] for n in at])
            parts.append(torch.from_numpy(values)[:, :-1].to(numbers.device))
        return TopK(parts[0].long(), parts[1], parts[2])


def store_teacher(
    teacher: Any, blocks: Any, collate: Any, words: int, k: int, temperature: float, folder: Path
) -> StoredTeacher:
    """Read each block by the teacher and write down its best words; what is complete is reused.

    Args:
        teacher: A transformers model.
        blocks: The blocks or rows.
        collate: Makes a model's inputs of a list of them.
        words: The words of the vocabulary; a head may be padded beyond them.
        k: How many words are written.
        temperature: What the teacher's logits are divided by.
        folder: Where they are written.
    """
    import torch

    lengths = [len(ids) for ids in blocks["input_ids"]]
    k = min(k, words)
    positions = len(blocks), max(lengths)
    shapes = {"ids": (*positions, k), "log_probs": (*positions, k), "tail": positions}
    is_complete = (folder / SEAL).exists()
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: np.memmap(folder / name, kind, "r" if is_complete else "w+", shape=shapes[name])
        for name, kind in _PARTS.items()
    }
    if not is_complete:
        device = next(teacher.parameters()).device
        for number, length in enumerate(lengths):
            inputs = collate([blocks[number]])
            inputs = {
                key: value.to(device) if torch.is_tensor(value) else value
                for key, value in inputs.items()
                if key != "labels"
            }
            with torch.inference_mode():
                logits = teacher(**inputs, use_cache=False).logits[..., :words].float()
            best = top_k(logits, k, temperature)
            for name, array in arrays.items():
                array[number, :length] = getattr(best, name)[0].cpu().numpy()
        for array in arrays.values():
            array.flush()
        write_json(folder / SEAL, {"blocks": len(blocks), "k": k})
    return StoredTeacher(lengths, **arrays)
