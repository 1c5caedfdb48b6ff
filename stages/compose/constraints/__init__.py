"""Constraints that a program can check, added to requests, with answers that follow them.

Five sources, each with its papers in the module of its name, and what is as in them:

- `rules`, facts of the answer (RuleR), `length_tokens`, tokens for its length (Ruler), `lengths`,
  its length in words (CoDI-Eval): see `methods.py`. No language model is asked;
- `drawn`, several that go together, for prompts whose answers are yet to come (Light-IF, IFBench):
  `drawn.py`. No language model is asked here either;
- `autoif`, constraints with functions that a language model wrote, and its answers that these let
  pass (AutoIF, VIF-RAG): `autoif.py`.

What is asked for is checked once more on the text that is written in the end, after all changes
of it: a constraint that a later change falsified would be seen there, and the row is dropped. No
two constraints of a row conflict (`stages/_constraints/conflicts.py`). Those of known kinds stand
in `extra` in the layout of IFEval's file, where `evaluate.constraints` reads them; those of
`autoif` as `constraints` and `checkers`, which `score.execution` runs again
(`method: {name: checkers, checkers: extra.checkers}`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction as Exact
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, InputFiles, Records, stage
from pipeline.types import Fraction
from stages._common.garbage import collected_by_hand
from stages._llm.rows import Row, rows_to_frame, to_json
from stages.compose._row_drafts import Draft, drafts_of
from stages.compose.constraints import autoif
from stages.compose.constraints.autoif import AutoIf
from stages.compose.constraints.drawn import Drawn
from stages.compose.constraints.methods import Lengths, LengthTokens, Rules
from stages.compose.constraints.written import constraints_of

Method = Annotated[Rules | LengthTokens | Lengths | Drawn | AutoIf, Field(discriminator="name")]

_ADDS: Final[dict[str, Any]] = {
    "constraint_kinds": pl.List(pl.String()),
    "trivially_true": pl.Boolean(),
}


def _columns(method: Method) -> dict[str, Any]:
    return {**_ADDS, **autoif.ADDS} if isinstance(method, AutoIf) else _ADDS


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    return _columns(options.method)


def _check(options: SimpleNamespace) -> None:
    needs_model = isinstance(options.method, AutoIf)
    if needs_model and options.model is None:
        raise OptionError(
            *("model", "must be given with method: autoif, got none"),
            why="a language model writes constraints, functions and answers",
            hint="model: NAME, one of the recipe's models",
        )
    for name in () if needs_model else ("model", "judge", "constraint_files"):
        if getattr(options, name):
            raise OptionError(
                *(name, f"must be left out with method: {options.method.name}"),
                why="no language model is asked",
                hint=f"leave {name} out, or method: autoif",
            )


@stage(
    version=3,
    scope="set",
    reads=["messages", "tools", "input_start", "origins"],
    adds=_adds,
    check=_check,
)
def constraints(
    ctx: Context,
    rows: Records,
    *,
    method: Method = Rules(),
    model: LanguageModel | None = None,
    judge: LanguageModel | None = None,
    constraint_files: InputFiles = (),
    max_trivially_true: Fraction = 1.0,
    seed: int = 0,
    source: str = "constraints",
) -> Records:
    """New records: each a row whose request asks for something that a program can check.

    The rows themselves are not among them: `load.concat` puts both together. The request is the
    last user turn; sentences are added to it, before a separate input. All other turns, tools and
    reasoning stay. `parents` is the row, whose license stays. Adds `constraint_kinds` and
    `trivially_true`, whether the row's own answer, which nobody asked for it, follows all that
    is asked for (null without one); `extra` has `instruction_id_list` and `kwargs`. Autoif adds
    `constraint_rate`, the part of the functions that let the answer pass, `constraint_quality`,
    the judge's score, and `journal`, the keys of completions; its `extra` has `constraints` and
    `checkers`.

    Args:
        rows: Conversations; rules, length tokens and lengths need an answer, others a request.
        method: `rules`, `length_tokens`, `lengths`, `drawn` or `autoif`, each with its own options.
        model: Writes constraints, functions and answers with autoif.
        judge: Compares and scores with autoif; by default the model itself.
        constraint_files: JSON Lines of constraints that have functions already, for autoif:
            `instruction` with `functions`, a list of sources (or the authors' `eval_func`).
        max_trivially_true: The most part of the new rows that may be trivially true; others, by the
            seed, are dropped.
        seed: Seed of all that is drawn, for each row by its id, and of the sampling.
        source: Name of the new records' source.

    Returns:
        The new records. Dropped, as they were: `no_answer` (the last turn is no answer, or a blank
        one), `no_request`, `not_trained` (the answer is not to be learnt), `conflict` (two
        constraints cannot hold together), `not_satisfied` (one does not hold of the final text);
        by rules `no_rule` (the answer has none of the facts); by length tokens `between_bands`
        and `over_quota`. By autoif answers as `unverifiable` (no function says anything of it),
        `not_satisfied`, `low_quality`, `response_cut`, `response_unparsed`, `quality_cut`,
        `quality_unparsed`; constraints, which are rows of their own then, as `too_few_functions`,
        `not_validated`, `contradiction`, `conflict`, `no_query`, `rule_cut`, `rule_unparsed`,
        `coexistence_cut`, `coexistence_unparsed`, `unreadable`; and requests for constraints as
        `sentences_cut` or `sentences_unparsed`. Beyond the share: `trivially_true`. Equal new
        rows are `duplicate`.

    Raises:
        UserError: A line of a constraint file holds no constraint with functions, or functions are
            to run on a machine that can isolate them by nothing.

    Example:
        ```yaml
        asked: {uses: compose.constraints, needs: pool, with: {
          method: {name: rules, max_rules: 2, edited: 0.1}}}
        ```
    """
    needs_model = isinstance(method, AutoIf)
    with nullcontext() if needs_model else collected_by_hand():
        new = _rows(ctx, rows, method, model, judge, constraint_files, seed)
        if max_trivially_true < 1:
            _limit_trivial(new, max_trivially_true, seed)
        ctx.progress(len(rows), len(rows))
        return rows_to_frame(new, source, _columns(method))


def _rows(
    ctx: Context,
    rows: pl.DataFrame,
    method: Method,
    model: LanguageModel | None,
    judge: LanguageModel | None,
    constraint_files: Sequence[str],
    seed: int,
) -> list[Row]:
    """The rows that cannot get constraints, dropped, and then those of the method."""
    needs_answer = not isinstance(method, Drawn | AutoIf)
    drafts: list[Draft] = []
    rejected: list[Row] = []
    for draft in drafts_of(rows):
        rejection = draft.rejection(needs_answer=needs_answer)
        if rejection:
            rejected.append(draft.dropped(*rejection))
        else:
            drafts.append(draft)
    if not isinstance(method, AutoIf):
        return rejected + method.rows(drafts, seed)
    assert model is not None, "checked with the options"
    engine = ctx.open(model)
    judging = engine if judge is None else ctx.open(judge)
    return rejected + method.rows(drafts, seed, engine, judging, constraints_of(constraint_files))


def _limit_trivial(new: Sequence[Row], share: float, seed: int) -> None:
    """Drop rows that are trivially true until they are no more than a share of all that is kept."""
    kept = [row for row in new if row["drop_reason"] is None and row["error"] is None]
    trivial = [row for row in kept if row["trivially_true"]]
    part = Exact(str(share))
    most = int(part * (len(kept) - len(trivial)) / (1 - part))
    order = sorted(trivial, key=lambda row: random.Random(f"{seed} {row['id']}").random())
    for row in order[most:]:
        row["drop_reason"] = "trivially_true"
        row["evidence"] = to_json({"max_trivially_true": share})
