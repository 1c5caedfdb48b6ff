"""Constraints on questions that passages were found for, with answers that follow them.

VIF-RAG: Toward General Instruction-Following Alignment for Retrieval-Augmented Generation (Dong et
al. 2024, arXiv:2410.09584; dongguanting/FollowRAG).

As in the paper: instructions with checkable constraints are joined with retrieval queries, four
each; a model answers with the passages in sight, and only answers that follow the constraints stay.

Ours: the constraints are those that rows carry in `extra` (`compose.constraints`), worded anew for
the new question; constraints that quote their own question are left out; queries are drawn by id;
the layout; without a writer rows end with the question, for `generate.respond`. Functions that a
model wrote are for `score.execution` with `method: checkers`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Final, Literal

from pipeline.models.base import Decoding, Engine
from pipeline.types import Count, NonNegativeFloat, option_group
from stages._constraints.constraint import Constraint, ConstraintError
from stages._constraints.stored import read_turns, stored
from stages._llm.drafts import Draft, Prompt, generate_field
from stages._llm.rows import Rejection, has_tools, joint_license
from stages.compose._row_drafts import Draft as RowDraft
from stages.compose.context.exchanges import Exchange
from stages.compose.context.passages import messages_of as with_passages
from stages.compose.context.retrieval import Index
from stages.compose.context.shown import Retrieval, candidates, draft_of

_QUOTING: Final = "prompt_to_repeat"
"""The argument of constraints that quote their own question."""


@option_group
class VifRag(Retrieval):
    """Constraints on questions with passages (VIF-RAG, arXiv:2410.09584).

    Args:
        name: "vif_rag".
        pool: How many passages a question gets.
        queries_per_row: How many questions each row's constraints are joined with.
        temperature: Of the answers.
        answer_max_tokens: Limit of an answer in tokens.
    """

    name: Literal["vif_rag"] = "vif_rag"
    pool: Count = 3
    queries_per_row: Count = 4
    temperature: NonNegativeFloat = 0.7
    answer_max_tokens: Count = 1024


def drafts_of(
    exchanges: Sequence[Exchange],
    queries: Sequence[Exchange],
    index: Index | None,
    method: VifRag,
    seed: int,
) -> list[Draft]:
    """A draft for each question that constraints are joined with.

    Args:
        exchanges: Rows with constraints.
        queries: Rows with questions; those of one user turn without tools are drawn.
        index: The passages.
        method: The options.
        seed: Of which questions are drawn, and of the wordings.
    """
    rejected: list[Draft] = []
    joined: list[tuple[Exchange, Exchange, Exchange]] = []
    single = sorted((query for query in queries if _is_alone(query)), key=lambda one: one.id)
    for exchange in exchanges:
        rng = random.Random(f"{seed} vif_rag {exchange.id}")
        constraints, rejection = _constraints(exchange)
        others = [query for query in single if query.id != exchange.id]
        if not rejection and not others:
            rejection = "no_query", {"queries": len(single)}
        if rejection:
            rejected.append(draft_of(exchange, []))
            rejected[-1].rejection = rejection
            continue
        for query in rng.sample(others, min(method.queries_per_row, len(others))):
            joined.append((_joined(exchange, query, constraints, rng), exchange, query))
    pools = candidates([query for *_, query in joined], index, method)
    drafts = []
    for (new, exchange, query), pool in zip(joined, pools, strict=True):
        draft = draft_of(new, pool)
        draft.parents = (exchange.id, query.id)
        drafts.append(draft)
    return [*rejected, *drafts]


def _is_alone(query: Exchange) -> bool:
    """Whether the question says all: no turn before it, and no tools that its answer uses."""
    return query.is_single and not has_tools(query.messages, query.draft.tools)


def write(drafts: Sequence[Draft], method: VifRag, engine: Engine, seed: int) -> None:
    """Have the questions answered with their passages in sight.

    Args:
        drafts: Changed in place: `response`.
        method: The options.
        engine: The model.
        seed: Of the sampling.
    """
    decoding = Decoding(method.answer_max_tokens, method.temperature)
    generate_field(engine, drafts, "response", _prompt, decoding, seed=seed)


def messages_of(draft: Draft) -> tuple[list[Any], int | None]:
    """The question with passages and constraints, and the answer where it was written.

    Args:
        draft: A question.
    """
    messages, input_start = with_passages(draft)
    response = draft.fields.get("response")
    answer = [{"role": "assistant", "content": response}] if response else []
    return [*messages, *answer], input_start


def _prompt(draft: Draft) -> Prompt:
    return tuple((turn["role"], turn["content"]) for turn in with_passages(draft)[0])


def _constraints(exchange: Exchange) -> tuple[list[Constraint], Rejection | None]:
    """The constraints of the row's last turn that any question can have, or why there are none."""
    try:
        turns, _ = read_turns(exchange.extra)
    except ConstraintError as error:
        return [], ("unknown_constraint", {"constraint": str(error)})
    constraints = [one for one in (turns[-1] if turns else []) if _QUOTING not in one.arguments]
    return constraints, None if constraints else ("no_constraint", {})


def _joined(
    exchange: Exchange, query: Exchange, constraints: Sequence[Constraint], rng: random.Random
) -> Exchange:
    """The question alone, with the constraints before its input."""
    number = rng.randrange(4)
    wordings = [one.worded(number + n) for n, one in enumerate(constraints)]
    request = query.instruction + "\n\n" + "\n".join(wordings)
    input_ = query.input.strip()
    content = f"{request}\n\n{input_}" if input_ else request
    start = len(request) + 2 if input_ else None
    license = joint_license([exchange.draft.license, query.draft.license])
    turn = {"role": "user", "content": content}
    draft = RowDraft(exchange.id, [turn], None, start, license, 0, start)
    return Exchange(draft, 0, json.dumps(stored(constraints), ensure_ascii=False))
