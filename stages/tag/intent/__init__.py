"""What a request is after, how hard it is and how well it is put, as a language model tags it.

- `closed_sets`: labels of fixed sets, those of Magpie (see `closed_sets.py`).

Sets of your own are a prompt of your own: `generate.column` with the output `label`, or
`score.column`, which has the probability of each label.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

import polars as pl

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count
from stages.tag.intent.closed_sets import ClosedSets, added_columns, asked_sets, tag_closed_sets

Method = ClosedSets

MAX_TOKENS: Final = 1024
"""Of an answer, as in Magpie's code."""


def _check(options: SimpleNamespace) -> None:
    if asked := asked_sets(options.method):
        if options.model is None:
            what = f"must be a language model for the sets {', '.join(asked)}, got null"
            raise OptionError("model", what, hint="model: NAME")
        return
    for option, value, default in (
        ("model", options.model and options.model.short_name, None),
        ("method.explain", options.method.explain, ClosedSets().explain),
        ("max_tokens", options.max_tokens, MAX_TOKENS),
        ("seed", options.seed, 0),
    ):
        if value != default:
            what = f"must be left out, got {value}"
            raise OptionError(option, what, why="no model is asked for any of the sets")


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    return added_columns(options.method)


@stage(version=1, scope="set", reads=["messages"], adds=_adds, check=_check)
def intent(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel | None = None,
    method: Method = ClosedSets(),
    max_tokens: Count = MAX_TOKENS,
    seed: int = 0,
) -> pl.DataFrame:
    """Tag the request of each conversation: its first user's turn.

    Args:
        rows: Conversations.
        model: The tagger.
        method: What is tagged, and how; the method says what columns it adds.
        max_tokens: Limit of an answer in tokens; that of Magpie's code.
        seed: Enters the requests' keys: with another seed they are sent anew.

    Returns:
        The columns. Dropped: `no_instruction` (there is no user's turn, or it is blank),
        `unreadable` (no label, although it was shown to the model for a repair and sampled
        anew; evidence: the set, why, and the answer's end), `reasoning_unclosed` and `withheld`
        (by the provider's filter).

    Example:
        ```yaml
        tagged:
          uses: tag.intent
          needs: pool
          with: {model: judge, method: {name: closed_sets, sets: [task_category, quality]}}
        good: {uses: select.top, needs: tagged, with: {score: input_quality_level, min_score: 4}}
        ```
    """
    engine = ctx.open(model) if model is not None else None
    return tag_closed_sets(engine, rows, method, max_tokens, seed)
