"""Search results before the question; the answer begins with what each of them is good for.

SAIL: SAIL: Search-Augmented Instruction Learning (Luo et al. 2023, arXiv:2305.15225;
luohongyin/SAIL).

As in the paper: every row gets search results, of which some distract; a model of entailment says
which of them the answer agrees with; the target first names the informative and the distracting
ones, then answers. Retrieval is a search engine's (`results`) and BM25.

As in the authors' code: 20% of the rows get no result and are shown the word None, 10% one, 30% two
and 40% more; they are drawn from the top 6 and one hit of BM25, in random order; a result is
informative if entailment has a larger logit than contradiction.

Ours: the 40% get three (their branch for three is never reached, and gives four:
`shares: [0.2, 0.1, 0.3, 0, 0.4]`); every result has a label, also where results are drawn at
random, where their code leaves it undefined, and a single informative result is used, which their
statement tells to ignore; the passage is the premise and the answer the hypothesis; without a model
of entailment a language model is asked or words are compared; vectors; the wording.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator

from pipeline.types import Fraction, NonEmpty, NonNegativeInt, option_group
from stages._llm.drafts import Draft
from stages._llm.prompts import Prompts
from stages.compose.context.exchanges import Exchange
from stages.compose.context.labels import Judge, Labels, Overlap, label_answers
from stages.compose.context.retrieval import Index
from stages.compose.context.shown import Retrieval, Shown, candidates, draft_of, numbered

PROMPTS: Final = Prompts(__file__)

_TOLERANCE: Final = 1e-6


def _whole(shares: tuple[float, ...]) -> tuple[float, ...]:
    if abs(sum(shares) - 1) > _TOLERANCE:
        raise ValueError(f"must add up to 1, got {[*shares]}")
    return shares


@option_group
class Sail(Retrieval):
    """Search results, named as informative or distracting (Luo et al. 2023, arXiv:2305.15225).

    Args:
        name: "sail".
        shares: The shares of rows that get no result, one, two, three, and so on.
        by_words: How many of the best by BM25 join the pool, where vectors or `results` fill it.
        labels: What says whether a result is informative.
    """

    name: Literal["sail"] = "sail"
    shares: Annotated[tuple[Fraction, ...], NonEmpty, AfterValidator(_whole)] = (0.2, 0.1, 0.3, 0.4)
    by_words: NonNegativeInt = 1
    labels: Labels = Overlap()


def drafts_of(
    exchanges: Sequence[Exchange], index: Index | None, method: Sail, judge: Judge, seed: int
) -> list[Draft]:
    """The rows with labelled results.

    Args:
        exchanges: Rows that end with an answer.
        index: The passages.
        method: The options.
        judge: Labels results.
        seed: Of how many and which results a row gets, and of their order.
    """
    pools = candidates(exchanges, index, method)
    if index is not None and method.by_words:
        words = index.by_words([exchange.question for exchange in exchanges], method.by_words)
        for pool, hits in zip(pools, words, strict=True):
            known = {one.passage.id for one in pool}
            new = [hit for hit in hits if hit.passage.id not in known]
            pool += [Shown(hit.passage, hit.score, len(pool) + n) for n, hit in enumerate(new)]
    drafts = []
    for exchange, pool in zip(exchanges, pools, strict=True):
        rng = random.Random(f"{seed} sail {exchange.id}")
        (number,) = rng.choices(range(len(method.shares)), method.shares)
        drafts.append(draft_of(exchange, rng.sample(pool, min(number, len(pool)))))
    label_answers(drafts, judge)
    return drafts


def messages_of(draft: Draft) -> tuple[list[Any], int | None]:
    """The results or the word None, the question, and the answer behind the statement.

    Args:
        draft: The row.
    """
    exchange, shown = draft["exchange"], draft["shown"]
    text = PROMPTS.render("results", results=numbered(shown))
    messages, input_start = exchange.shown_with(text)
    if shown:
        answer = f"{statement(shown)}\n\n{exchange.answer}"
        messages[-1] = {**messages[-1], "content": answer}
    return messages, input_start


def statement(shown: Sequence[Shown]) -> str:
    """What the target says of the results.

    Args:
        shown: The results in their order.
    """
    numbers = {
        label: [number for number, one in enumerate(shown, 1) if one.label == label]
        for label in ("informative", "distracting")
    }
    return PROMPTS.render("statement", **numbers)
