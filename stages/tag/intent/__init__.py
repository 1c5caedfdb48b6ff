"""What a request is after, how hard it is and how well it is put, as a language model tags it.

- `closed_sets`: labels of fixed sets, those of Magpie, Beyond IID and ReAlign, and CodecLM's
  metadata (see `closed_sets.py`).
- `open`: InsTag's open tags, with one name for each (see `open.py` and `normalization.py`).

Sets of your own are a prompt of your own: `generate.column` with the output `label`, or
`score.column`, which has the probability of each label.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Embedder, LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count
from stages.tag.intent.closed_sets import ClosedSets, added_columns, asked_sets, tag_closed_sets
from stages.tag.intent.open import Open, open_columns, tag_open

Method = Annotated[ClosedSets | Open, Field(discriminator="name")]

MAX_TOKENS: Final = 1024
"""Of an answer, as in Magpie's code."""


def _check(options: SimpleNamespace) -> None:
    method = options.method
    if isinstance(method, ClosedSets):
        asked = asked_sets(method)
        what = f"for the sets {', '.join(asked)}"
        unused = [("method.explain", method.explain, ClosedSets().explain)]
        if options.embedder is not None:
            name = options.embedder.model
            raise OptionError("embedder", f"must be left out, got {name}", why="nothing is merged")
    else:
        asked, what = [method.name] if method.column is None else [], "for the method open"
        unused = [("method.explain", method.explain, Open().explain)]
        _check_clustering(options)
    if asked:
        if options.model is None:
            hint = "model: NAME"
            raise OptionError("model", f"must be a language model {what}, got null", hint=hint)
        return
    for option, value, default in (
        ("model", options.model and options.model.short_name, None),
        *unused,
        ("max_tokens", options.max_tokens, MAX_TOKENS),
        ("seed", options.seed, 0),
    ):
        if value != default:
            what = f"must be left out, got {value}"
            raise OptionError(option, what, why="no model is asked for anything")


def _check_clustering(options: SimpleNamespace) -> None:
    """Options of a step that does not happen are a mistake."""
    method, default = options.method, Open()
    for is_used, why, names in (
        (options.embedder is not None, "there is no embedder", ("clustering", "min_similarity")),
        (method.min_support is not None, "method.min_support is null", ("min_confidence",)),
    ):
        for name in names:
            value = getattr(method, name)
            if not is_used and value != getattr(default, name):
                raise OptionError(f"method.{name}", f"must be left out, got {value}", why=why)


def _reads(options: SimpleNamespace) -> list[str]:
    column = options.method.column if isinstance(options.method, Open) else None
    return ["messages"] if column is None else [column]


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    method = options.method
    return open_columns(method) if isinstance(method, Open) else added_columns(method)


@stage(
    version=1,
    scope="set",
    reads=_reads,
    adds=_adds,
    check=_check,
    files=True,
    later=("embedder",),
)
def intent(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel | None = None,
    method: Method = ClosedSets(),
    embedder: Embedder | None = None,
    max_tokens: Count = MAX_TOKENS,
    seed: int = 0,
) -> pl.DataFrame:
    """Tag the request of each conversation: its first user's turn.

    Args:
        rows: Conversations.
        model: The tagger.
        method: What is tagged, and how; the method says what columns it adds.
        embedder: By whose vectors the method open merges tags; null for no such merging.
        max_tokens: Limit of an answer in tokens; that of Magpie's code.
        seed: Enters the requests' keys: with another seed they are sent anew.

    Returns:
        The columns. Dropped: `no_instruction` (there is no user's turn, or it is blank),
        `unreadable` (no label, although it was shown to the model for a repair and sampled
        anew; evidence: the set, why, and the answer's end), `reasoning_unclosed` and `withheld`
        (by the provider's filter), and `missing_tags` (the column of raw tags has none). A row all
        of whose open tags are dropped is kept, with none.

    Example:
        ```yaml
        tagged:
          uses: tag.intent
          needs: pool
          with: {model: judge, method: {name: closed_sets, sets: [task_category, quality]}}
        good: {uses: select.top, needs: tagged, with: {score: input_quality_level, min_score: 4}}
        ```

        Tags that another tagger has written, normalized:

        >>> import tempfile
        >>> from pathlib import Path
        >>> raw = pl.DataFrame({"id": ["a", "b"], "raw": [["Recipe!", "Sea"], ["recipe"]]})
        >>> method = Open(column="raw", min_count=2, min_support=None)
        >>> intent(Context.scratch(Path(tempfile.mkdtemp())), raw, method=method)["tags"].to_list()
        [['recipe'], ['recipe']]
    """
    engine = ctx.open(model) if model is not None else None
    if isinstance(method, Open):
        return tag_open(ctx, engine, rows, method, embedder, max_tokens, seed)
    return tag_closed_sets(ctx, engine, rows, method, max_tokens, seed)
