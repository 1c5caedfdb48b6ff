"""Constraints that a program can check, added to requests whose answers follow them.

Three sources (see `methods.py` for each paper, and what is as in it): `rules`, facts of the answer
(RuleR); `length_tokens`, tokens for its length (Ruler); `lengths`, its length in words (CoDI-Eval).
None needs a language model.

What is asked for is checked once more on the text that is written in the end, after all changes
of it: a constraint that a later change falsified would be seen there, and the row is dropped. No
two constraints of a row conflict (`stages/_constraints/conflicts.py`). They stand in `extra`, in
the layout of IFEval's file, where `evaluate.constraints` reads them.

Not here: constraints whose checkers a language model writes (AutoIF, VIF-RAG); their functions are
run by `score.execution` with `method: checkers`.
"""

from __future__ import annotations

from typing import Annotated, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.stage import Records, stage
from stages._llm.rows import Row, rows_to_frame
from stages.compose.constraints.drafts import drafts_of
from stages.compose.constraints.methods import Lengths, LengthTokens, Rules

Method = Annotated[Rules | LengthTokens | Lengths, Field(discriminator="name")]

_ADDS: Final = {"constraint_kinds": pl.List(pl.String())}


@stage(
    version=1,
    scope="set",
    reads=["messages", "tools", "input_start", "origins"],
    adds=_ADDS,
)
def constraints(
    ctx: Context,
    rows: Records,
    *,
    method: Method = Rules(),
    seed: int = 0,
    source: str = "constraints",
) -> Records:
    """New records: each a row whose request asks for something that its last answer has.

    The rows themselves are not among them: `load.concat` puts both together. The request is the
    last user turn; sentences are added to it, before a separate input. All other turns, tools and
    reasoning stay. `parents` is the row, whose license stays. Adds `constraint_kinds`; `extra`
    has `instruction_id_list` and `kwargs`.

    Args:
        rows: Conversations with an answer.
        method: `rules`, `length_tokens` or `lengths`, each with its own options.
        seed: Seed of all that is drawn, for each row by its id.
        source: Name of the new records' source.

    Returns:
        The new records. Dropped, as they were: `no_answer` (the last turn is no answer, or a blank
        one), `no_request`, `not_trained` (the answer is not to be learnt), `conflict` (two
        constraints cannot hold together), `not_satisfied` (one does not hold of the final text);
        by rules `no_rule` (the answer has none of the facts); by length tokens `between_bands`
        and `over_quota`. Equal new rows are `duplicate`.

    Example:
        ```yaml
        asked: {uses: compose.constraints, needs: pool, with: {
          method: {name: rules, max_rules: 2, edited: 0.1}}}
        ```
    """
    new: list[Row] = []
    drafts, rejected = [], []
    for draft in drafts_of(rows):
        rejection = draft.rejection()
        if rejection:
            rejected.append(draft.dropped(*rejection))
        else:
            drafts.append(draft)
    new = method.rows(drafts, seed)
    ctx.progress(len(rows), len(rows))
    return rows_to_frame([*rejected, *new], source, _ADDS)
