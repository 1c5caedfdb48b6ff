"""Which weights a model has, as a text that rows can carry.

What was measured with one model says nothing of another, nor of another revision of the same
name. Rows therefore hold the digest of a folder, the name on the hub with its commit, what a
server calls the model, or the recipe's own `id`; an adapter belongs to it. Engine, number format
and chat template do not: a model is sampled by one engine and trained by another.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.models.base import LanguageModel
from pipeline.models.counting import is_counting
from pipeline.models.identity import identity
from pipeline.store.file_hashes import FileDigests


def weights_of(model: LanguageModel, store: Path) -> str:
    """The weights of a model, as JSON text.

    Args:
        model: The model.
        store: The folder of the store, which remembers the digests of files.

    Raises:
        UserError: There is no such model.

    Example:
        >>> weights_of(LanguageModel(model="qwen", id="qwen@1"), Path())
        '{"id": "qwen@1"}'
    """
    if is_counting():
        return json.dumps({"id": model.short_name})
    parts = identity(model, FileDigests(store / "files.json"))
    lora = {"lora": parts["lora"]} if "lora" in parts else {}
    return json.dumps(parts["weights"] | lora, ensure_ascii=False, sort_keys=True)
