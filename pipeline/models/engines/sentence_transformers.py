"""Embedders through sentence-transformers; a vector depends on its text alone.

Static models (one vector for each token, averaged) do that in any batch. Contextual ones
round differently for other batch shapes, so a text is put into a batch whose width is a
function of its own number of tokens and whose number of rows is fixed; copies of the
first text fill a batch that is not full.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.models.base import Embedder, EngineContext, local_folder
from pipeline.models.identity import resolved_revision
from pipeline.models.local.threads import fix_threads

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MIN_WIDTH: Final = 16
"""Tokens of the narrowest batch."""
ROWS: Final = {"cpu": 32, "cuda": 256}
"""Rows of a batch, by kind of device."""
CHUNK: Final = 1024
"""Texts that are tokenized together."""


class SentenceEncoder:
    """A sentence encoder in memory, which is the same for all stages.

    Args:
        model: The embedder.

    Attributes:
        model: The model of sentence-transformers.
        is_static: Whether it averages one vector for each token.
        dimensions: Length of a vector.

    Raises:
        OSError: The model cannot be read.
        ValueError: The folder or the name has no sentence encoder.
    """

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
        ctx: EngineContext,  # noqa: ARG002
    ) -> SentenceEncoder:
        """The encoder itself; see `registry.Loaded`."""
        return self

    def close(self) -> None:
        """Nothing is running."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts.

        Returns:
            float32 vectors of shape (len(texts), dimensions), not normalized. A text beyond
            the model's own limit is truncated, as in the library. A static model gives
            zeros for a text without any known token.
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
        """The vectors of a static model, computed in float32 where its own type overflows.

        In half precision the sum over some 50,000 tokens overflows, and a text without
        tokens, whose average is zero, is divided by a length that is rounded to zero.
        """
        vectors = self.model.encode(texts, batch_size=CHUNK, show_progress_bar=False)
        overflown = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        vectors = vectors.astype(np.float32)
        if len(overflown):
            retry = [texts[i] for i in overflown]
            vectors[overflown] = self._float32_model.encode(
                retry, batch_size=CHUNK, show_progress_bar=False
            )
        return vectors

    @cached_property
    def _float32_model(self) -> SentenceTransformer:
        return deepcopy(self.model).float()

    def _buckets(self, texts: Sequence[str]) -> dict[int, list[int]]:
        """The texts' positions by the width that each is padded to."""
        limit = int(self.model.max_seq_length or 512)
        buckets: dict[int, list[int]] = {}
        for start in range(0, len(texts), CHUNK):
            # The model's own tokenization: it may add a prompt or a template.
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
    """The width that a text is padded to: a power of two or three quarters of one, from 16 on.

    Example:
        >>> [width_of(tokens) for tokens in (1, 17, 25, 100)]
        [16, 24, 32, 128]
    """
    power = max(MIN_WIDTH, 1 << (tokens - 1).bit_length())
    lower = power * 3 // 4
    return lower if MIN_WIDTH < tokens <= lower else power


def load(model: Embedder) -> SentenceEncoder:
    """Load an encoder.

    Raises:
        UserError: The folder or the name has no encoder that can be loaded.
    """
    try:
        return SentenceEncoder(model)
    except (OSError, ValueError) as error:
        raise UserError(
            "the embedder cannot be loaded",
            where=model.model,
            why=str(error).strip().splitlines()[0],
        ) from error
