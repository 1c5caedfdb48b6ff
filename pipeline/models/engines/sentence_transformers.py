"""Embedders through sentence-transformers; a vector depends on its text alone.

Static models (one vector per token, averaged) do that in any batch. Contextual
ones round differently for other batch shapes, so a text goes into batches whose
width is a function of its own number of tokens and whose number of rows is fixed;
texts that only fill a batch take the places left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Embedder, local_folder
from pipeline.models.identity import resolved_revision
from pipeline.models.local.threads import fix_threads

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NARROWEST: Final = 16
ROWS: Final = {"cpu": 32, "cuda": 256}
CHUNK: Final = 1024


class SentenceEncoder:
    """A sentence encoder in memory. Nothing in it depends on the stage that uses it."""

    process = False

    def __init__(self, model: Embedder) -> None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        fix_threads()
        folder = local_folder(model.model)
        revision = None if folder else resolved_revision(model)
        self.model = SentenceTransformer(model.model, device=model.device, revision=revision)
        self.is_static = isinstance(self.model[0], StaticEmbedding)
        self.dimensions = int(self.model.get_embedding_dimension() or 0)

    def bind(
        self,
        model: Embedder,  # noqa: ARG002
        identity: dict[str, Any],  # noqa: ARG002
        ctx: Context,  # noqa: ARG002
    ) -> SentenceEncoder:
        return self

    def close(self) -> None:
        """Nothing is running."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimensions), as the model gives them.

        A text beyond the model's own limit is cut there, as the model's users expect.
        A static model has nothing to say of a text without any known token: zeros.
        """
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        if self.is_static:
            for start in range(0, len(texts), CHUNK):
                part = slice(start, start + CHUNK)
                vectors[part] = self._averages(list(texts[part]))
            return vectors
        size = ROWS.get(self.model.device.type, 32)
        for width, members in self._buckets(texts).items():
            for start in range(0, len(members), size):
                rows = members[start : start + size]
                vectors[rows] = self._batch([texts[i] for i in rows], width, size)
        return vectors

    def _averages(self, texts: list[str]) -> NDArray[np.float32]:
        """The vectors of a static model, in single precision where its own has none.

        In half precision the sum over some 50,000 tokens overflows, and a text without
        tokens, whose average is zero, is divided by a length that is rounded to zero.
        """
        vectors = self.model.encode(texts, batch_size=CHUNK, show_progress_bar=False)
        lost = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        vectors = vectors.astype(np.float32)
        if len(lost):
            again = [texts[i] for i in lost]
            vectors[lost] = self._single.encode(again, batch_size=CHUNK, show_progress_bar=False)
        return vectors

    @cached_property
    def _single(self) -> SentenceTransformer:
        return deepcopy(self.model).float()

    def _buckets(self, texts: Sequence[str]) -> dict[int, list[int]]:
        """The texts' positions by the width that each is padded to."""
        limit = int(self.model.max_seq_length or 512)
        buckets: dict[int, list[int]] = {}
        for start in range(0, len(texts), CHUNK):
            # The model's own way from text to tokens: it may put a prompt or a template around.
            inputs = self.model.preprocess(list(texts[start : start + CHUNK]))
            for i, tokens in enumerate(inputs["attention_mask"].sum(1).tolist(), start):
                buckets.setdefault(min(width_of(tokens), limit), []).append(i)
        return dict(sorted(buckets.items()))

    def _batch(self, texts: list[str], width: int, size: int) -> NDArray[np.float32]:
        filled = texts + [texts[0]] * (size - len(texts))
        padding = {"text": {"padding": "max_length", "max_length": width}}
        vectors = self.model.encode(
            filled, batch_size=size, show_progress_bar=False, processing_kwargs=padding
        )
        return np.asarray(vectors[: len(texts)], dtype=np.float32)


def width_of(tokens: int) -> int:
    """The width for a text: a power of two, or one and a half of one, from 16 on."""
    power = max(NARROWEST, 1 << (tokens - 1).bit_length())
    lower = power * 3 // 4
    return lower if NARROWEST < tokens <= lower else power


def load(model: Embedder) -> SentenceEncoder:
    """Load an encoder. Raises UserError for a folder or name that holds none."""
    try:
        return SentenceEncoder(model)
    except (OSError, ValueError) as error:
        raise UserError(
            "the embedder cannot be loaded",
            where=model.model,
            why=str(error).strip().splitlines()[0],
        ) from error
