"""Answers with retrieved passages, which the model is shown and the row leaves out.

Self-Specialization (Kang et al. 2023, arXiv:2310.00160).
- As in the paper: passages of unlabelled texts of the domain are retrieved for each instruction
  with its input and shown before it; the row keeps instruction and answer.
- Ours: TF-IDF in the place of BM25, three passages of 150 words, and the wording.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import polars as pl

from pipeline.types import Count, option_group
from stages._llm.drafts import Draft
from stages._llm.prompts import Prompts
from stages._text.tokens import spaced

PROMPTS: Final = Prompts(__file__)

_WORDS: Final = re.compile(r"\w+")


@option_group
class InContext:
    """Answers with passages of `documents`: Self-Specialization (arXiv:2310.00160).

    Args:
        name: "context".
        num_passages: Passages shown before each prompt.
        passage_words: Words of a passage; a character of Chinese, Japanese or Thai is one.
        system: A system prompt put before the prompt; it stays in the row.
    """

    name: Literal["context"] = "context"
    num_passages: Count = 3
    passage_words: Count = 150
    system: str | None = None


def show_passages(prompts: Sequence[Draft], documents: pl.DataFrame, method: InContext) -> None:
    """Set `shown`: the prompt with the nearest passages before what it requests.

    Args:
        prompts: The prompts, with `before`; changed in place.
        documents: The texts that are searched.
        method: Number and size of the passages.
    """
    active = [draft for draft in prompts if draft.active]
    texts = documents["text"].to_list()
    passages = nearest_passages(
        [draft["before"][-1][1] for draft in active],
        [p for text in texts for p in _split(text or "", method.passage_words)],
        method.num_passages,
    )
    for draft, shown in zip(active, passages, strict=True):
        *history, (_, instruction) = draft["before"]
        text = PROMPTS.render("context", passages=shown, instruction=instruction)
        draft.fields["shown"] = (*history, ("user", text))


def _split(text: str, num_words: int) -> list[str]:
    """Passages of so many words each; a character of Chinese or Japanese is a word."""
    starts, position = [], 0
    for word in _spaced([text])[0].split():
        starts.append(text.index(word, position))
        position = starts[-1] + len(word)
    borders = [*starts[::num_words], len(text)]
    return [" ".join(text[a:b].split()) for a, b in pairwise(borders)]


def _spaced(texts: Sequence[str]) -> list[str]:
    """Each text with spaces between the words of scripts that have none."""
    return (
        pl.DataFrame({"text": texts}, {"text": pl.String})
        .select(spaced(pl.col("text")))["text"]
        .to_list()
    )


def nearest_passages(
    queries: Sequence[str], passages: Sequence[str], number: int
) -> list[list[str]]:
    """For each query the passages with the highest TF-IDF cosine, best first, none at zero.

    >>> nearest_passages(["red pears"], ["red apples", "stones", "green pears, red pears"], 2)
    [['green pears, red pears', 'red apples']]

    Args:
        queries: The texts to find passages for.
        passages: The texts to choose from.
        number: Passages for each query at most.
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(map(_WORDS.search, passages)):
        return [[] for _ in queries]
    vectorizer = TfidfVectorizer(token_pattern=_WORDS.pattern, sublinear_tf=True)
    matrix = vectorizer.fit_transform(_spaced(passages))
    results = []
    for row in vectorizer.transform(_spaced(queries)) if len(queries) else ():
        scores = np.asarray((matrix @ row.T).todense()).ravel()
        best = np.argsort(-scores, kind="stable")[:number]
        results.append([passages[i] for i in best if scores[i] > 0])
    return results
