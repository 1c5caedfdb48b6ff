"""Which of several passages answer a question: ranking as a task of its own.

RankRAG: RankRAG: Unifying Context Ranking with Retrieval-Augmented Generation in LLMs (Yu et al.
2024, arXiv:2407.02485).

As in the paper: a model that is to answer with passages is also trained, with a small share of the
rows, to say whether a passage holds the answer (`form: single`, True or False), and which of
several do (`form: list`).

Ours: passages are those of `documents`, labelled by `labels` against the answer, where the paper
has labelled data; the wording; the share is for `mix.weights`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pipeline.types import option_group
from stages._llm.drafts import Draft
from stages._llm.prompts import Prompts
from stages._llm.rows import has_tools
from stages._text.planted import holds
from stages.compose.context.exchanges import Exchange
from stages.compose.context.labels import Judge, Labels, Overlap, label_answers
from stages.compose.context.retrieval import Index
from stages.compose.context.shown import Retrieval, Shown, candidates, draft_of, numbered

PROMPTS: Final = Prompts(__file__)


@option_group
class RankRag(Retrieval):
    """Passages to be told apart by whether they answer a question (arXiv:2407.02485).

    Args:
        name: "rankrag".
        form: Whether the answer lists the passages that do, or says of one passage whether it does.
        num_passages: How many passages a list is drawn from.
        labels: What says whether a passage supports the row's answer.
    """

    name: Literal["rankrag"] = "rankrag"
    form: Literal["list", "single"] = "list"
    num_passages: Annotated[int, Field(ge=2)] = 5
    labels: Labels = Overlap()


def drafts_of(
    exchanges: Sequence[Exchange], index: Index | None, method: RankRag, judge: Judge, seed: int
) -> list[Draft]:
    """The rows with passages that answer them and others.

    Args:
        exchanges: Rows that end with an answer.
        index: The passages.
        method: The options.
        judge: Says which passages support an answer.
        seed: Of the order, and of the one passage.
    """
    pools = candidates(exchanges, index, method)
    # A list of which all passages help would ask for nothing.
    needs = ("informative", "distracting")
    form, fixed = method.form, method.form == "single"
    # What tools found stands in no passage, and the new row would not have them.
    with_tools = {e.id: has_tools(e.messages, e.draft.tools) for e in exchanges}
    drafts = [
        draft_of(_alone(exchange), pool, form=form, needs=needs, fixed=fixed)
        for exchange, pool in zip(exchanges, pools, strict=True)
    ]
    for draft in drafts:
        messages = draft["exchange"].messages
        if not draft["exchange"].is_single:
            draft.reject("multi_turn", turns=len(messages))
        elif with_tools[draft["exchange"].id]:
            draft.reject("has_tools")
    label_answers(drafts, judge)
    for draft in drafts:
        if draft.active:
            _choose(draft, method, seed)
    return drafts


def _alone(exchange: Exchange) -> Exchange:
    """The row without its tools and constraints: they are of the answer, which is another now."""
    return exchange._replace(draft=exchange.draft._replace(tools=None), extra="{}")


def _choose(draft: Draft, method: RankRag, seed: int) -> None:
    """Some passages of each kind, in random order; or one."""
    shown: list[Shown] = draft["shown"]
    answer = draft["exchange"].answer
    gold = [one for one in shown if one.informative]
    others = [o for o in shown if not o.informative and not holds(o.passage.text, answer)]
    if not gold or not others:
        reason = "no_distractor" if gold else "unsupported"
        draft.reject(reason, passages=len(shown))
        return
    rng = random.Random(f"{seed} rankrag {draft['exchange'].id}")
    if method.form == "single":
        draft.fields["shown"] = [rng.choice((gold[0], others[0]))]
        return
    gold = gold[: method.num_passages - 1]
    chosen = [*gold, *others[: method.num_passages - len(gold)]]
    rng.shuffle(chosen)
    draft.fields["shown"] = chosen


def messages_of(draft: Draft) -> tuple[list[Any], int | None]:
    """The question of the ranking, and which passages answer it.

    Args:
        draft: The row.
    """
    exchange, shown = draft["exchange"], draft["shown"]
    prompt = PROMPTS.render(draft["form"], question=exchange.question, passages=numbered(shown))
    if draft["form"] == "single":
        answer = str(all(one.informative for one in shown))
    else:
        answer = ", ".join(f"[{n}]" for n, one in enumerate(shown, 1) if one.informative)
    roles = ("user", prompt), ("assistant", answer)
    return [{"role": role, "content": text} for role, text in roles], None
