"""Numbers of tokens by a model's tokenizer alone: no weights are loaded, many texts go at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.models.local.chat_template import load_tokenizer, renders_here
from pipeline.models.local.literal_tokens import tokenize, uncovered
from stages._llm.word_counts import can_be_cut, counts_by_word
from stages._text.rouge import num_threads

_BATCH: Final = 128
"""Texts that one thread tokenizes at a time."""


def check_tokenizer(options: SimpleNamespace) -> None:
    """Refuse a model whose tokenizer is not on this machine.

    Args:
        options: Those of a stage, with `model`; None for no model.

    Raises:
        OptionError: Only a server has the tokenizer.
    """
    if options.model is not None and not renders_here(options.model):
        raise OptionError(
            "model",
            f"must have a tokenizer on this machine, got {options.model.model!r}",
            why="only its server has it",
            hint="give the model tokenizer: FOLDER (or a name on the hub)",
        )


@cache
def tokenizer_of(model: LanguageModel) -> Any:
    """The tokenizer with its chat template; loading takes a second.

    Args:
        model: Whose tokenizer.
    """
    return load_tokenizer(model)


def token_lengths(tokenizer: Any, texts: list[str]) -> NDArray[np.int64]:
    """The number of tokens of each text, without special tokens that the text does not have.

    Args:
        tokenizer: As `tokenizer_of` gives it.
        texts: The texts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return np.array([len(ids) for ids in encoded], dtype=np.int64)
    # Files of encoders say that texts are to be cut or padded.
    backend.no_truncation()
    backend.no_padding()

    encode = partial(_encoded_lengths, backend)
    if can_be_cut(tokenizer):
        return counts_by_word(tokenizer, texts, encode)
    return encode(texts)


def _encoded_lengths(backend: Any, texts: list[str]) -> NDArray[np.int64]:
    """The number of tokens of each text as a whole."""

    def lengths(start: int) -> list[int]:
        batch = texts[start : start + _BATCH]
        return [len(e) for e in backend.encode_batch_fast(batch, add_special_tokens=False)]

    # The library's own threads are off in a process that starts others (TOKENIZERS_PARALLELISM).
    with ThreadPoolExecutor(num_threads()) as pool:
        counted = chain.from_iterable(pool.map(lengths, range(0, len(texts), _BATCH)))
        return np.fromiter(counted, dtype=np.int64, count=len(texts))


def rendered_lengths(tokenizer: Any, texts: list[str]) -> NDArray[np.int64]:
    """The number of tokens of each rendered text; control tokens that it mentions are text.

    Args:
        tokenizer: As `tokenizer_of` gives it.
        texts: What `rendered_text` gives.
    """
    lengths = token_lengths(tokenizer, texts)
    for i in [i for i, text in enumerate(texts) if uncovered(tokenizer, text) != text]:
        lengths[i] = len(tokenize(tokenizer, texts[i])[0])
    return lengths
