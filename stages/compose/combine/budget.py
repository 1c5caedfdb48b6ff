"""Conversations measured as the model that will be tuned reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.models.base import LanguageModel
from pipeline.models.local.chat_template import Unrenderable
from stages._llm.drafts import Draft, RowMessages, filter_drafts
from stages._llm.rendered import rendered_text
from stages._llm.rows import Rejection
from stages._llm.token_counts import rendered_lengths, token_lengths, tokenizer_of

_BATCH: Final = 512
"""Conversations whose tokens are counted at a time."""


class TokenBudget:
    """A limit in tokens of a model's tokenizer, with its chat template.

    Args:
        model: Whose tokenizer.
        max_tokens: The most tokens of a conversation.
    """

    def __init__(self, model: LanguageModel, max_tokens: int) -> None:
        self._tokenizer = tokenizer_of(model)
        self.max_tokens = max_tokens

    def text_lengths(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text by itself.

        Args:
            texts: The texts.
        """
        return [int(n) for n in token_lengths(self._tokenizer, [*texts])]

    def lengths(self, conversations: Iterable[Sequence[Mapping[str, Any]]]) -> list[int | str]:
        """The number of tokens of each conversation, or why it cannot be rendered.

        Args:
            conversations: The turns of each; they may be made as they are read.
        """
        results: list[int | str] = []
        counts: list[Future[NDArray[np.int64]]] = []
        # While tokens are counted, which holds no lock of Python's, the next texts are rendered.
        with ThreadPoolExecutor(1) as pool:
            rest = iter(conversations)
            while batch := [*islice(rest, _BATCH)]:
                texts: list[str] = []
                for messages in batch:
                    try:
                        texts.append(rendered_text(self._tokenizer, messages))
                        results.append(0)
                    except Unrenderable as error:
                        results.append(str(error))
                counts.append(pool.submit(rendered_lengths, self._tokenizer, texts))
            counted = iter([int(length) for count in counts for length in count.result()])
        return [result if isinstance(result, str) else next(counted) for result in results]

    def limit(self, drafts: Sequence[Draft], messages_of: Callable[[Draft], RowMessages]) -> None:
        """Note the `tokens` of active drafts, and drop those that exceed the budget.

        Args:
            drafts: Changed in place. One that cannot be rendered has failed.
            messages_of: The conversation of a draft.
        """
        active = [draft for draft in drafts if draft.active]
        lengths = self.lengths(messages_of(draft)[0] for draft in active)
        for draft, length in zip(active, lengths, strict=True):
            if isinstance(length, str):
                draft.error = length
            else:
                draft.fields["tokens"] = length
        filter_drafts(drafts, self._rejection)

    def _rejection(self, draft: Draft) -> Rejection | None:
        if draft["tokens"] <= self.max_tokens:
            return None
        return "over_budget", {"tokens": draft["tokens"], "max_tokens": self.max_tokens}
