"""Conversations measured as the model that will be tuned reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.models.base import LanguageModel
from pipeline.models.local.chat_template import Unrenderable
from stages._llm.rendered import rendered_text
from stages._llm.token_counts import rendered_lengths, token_lengths, tokenizer_of


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
            conversations: The turns of each.
        """
        results: list[int | str] = []
        texts: list[str] = []
        for messages in conversations:
            try:
                texts.append(rendered_text(self._tokenizer, messages))
                results.append(0)
            except Unrenderable as error:
                results.append(str(error))
        counted = iter(rendered_lengths(self._tokenizer, texts))
        return [result if isinstance(result, str) else int(next(counted)) for result in results]
