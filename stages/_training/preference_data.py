"""What preference training trains on: pairs as tokens, cut, and in the columns of TRL's trainers.

A side is all that follows the prompt in the rendered conversation. As in TRL, where the prompt
alone is not the beginning of both conversations, a side begins where they part from it, and
all tokens of a side count, results of tools in it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.models.local.chat_template import Unrenderable
from pipeline.models.local.literal_tokens import tokenize
from schemas.pairs import PAIR_COLUMNS, shared_prompt
from schemas.turns import record_message, tools_json
from stages._llm.rendered import render, rendered_text
from stages._training.dataset import HIDDEN, IGNORED, answer_losses

SIDES: Final = ("chosen", "rejected")

_READ: Final = {name: PAIR_COLUMNS[name] for name in ("id", "prompt", *SIDES, "tools")}
_TOKENS: Final = pl.List(pl.Int32)
_ENCODED: Final[dict[str, Any]] = {
    "id": pl.String(), "prompt_ids": _TOKENS, "chosen_ids": _TOKENS, "rejected_ids": _TOKENS,
    HIDDEN: pl.Int64(), "error": pl.String(),
}  # fmt: skip


def read_pairs(files: Sequence[Path]) -> pl.DataFrame:
    """The pairs of shards in any form of `export.pairs`, in id order.

    A row of the form `kto` is a pair with one side.

    Args:
        files: Parquet files.

    Returns:
        `id`, `prompt`, `chosen`, `rejected` and `tools`.
    """
    from pyarrow import parquet

    rows = [_pair(row) for file in files for row in parquet.read_table(file).to_pylist()]
    return pl.DataFrame(rows, schema=_READ).sort("id", maintain_order=True)


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    turns = {
        name: None if row.get(name) is None else [record_message(turn) for turn in row[name]]
        for name in ("prompt", "completion", *SIDES)
    }
    if "label" in row:
        turns["chosen" if row["label"] else "rejected"] = turns["completion"]
    if turns["prompt"] is None:
        chosen, rejected = turns["chosen"] or [], turns["rejected"] or []
        shared = shared_prompt(chosen, rejected)
        turns |= {"prompt": chosen[:shared]}
        turns |= {"chosen": chosen[shared:], "rejected": rejected[shared:]}
    return {"id": row["id"], "tools": tools_json(row.get("tools")), **turns}


def encode_pairs(tokenizer: Any, rows: pl.DataFrame) -> pl.DataFrame:
    """Pairs as tokens.

    Args:
        tokenizer: The model's tokenizer, with the chat template to render with.
        rows: `id`, `prompt`, `chosen`, `rejected` and `tools`.

    Returns:
        `id`, `prompt_ids`, `chosen_ids`, `rejected_ids` (null for a side that is missing),
        `hidden_reasoning` (characters that the template leaves out) and `error` (why it cannot
        show the pair), one row for each of the rows.
    """
    encoded: list[tuple[Any, ...]] = []
    for id_, prompt, chosen, rejected, tools in rows.select(list(_READ)).iter_rows():
        try:
            sides = [side or None for side in (chosen, rejected)]
            tokens = _tokens(tokenizer, prompt or [], sides, tools)
            if tokens[1] == tokens[2]:
                raise Unrenderable("the chat template shows both sides alike")
            # Whole conversations, since a template may refuse or leave out what it is not shown.
            whole = [[*(prompt or []), *side] for side in sides if side]
            hidden = sum(render(tokenizer, turns, tools).hidden_reasoning(turns) for turns in whole)
            encoded.append((id_, *tokens, hidden, None))
        except Unrenderable as error:
            encoded.append((id_, None, None, None, 0, str(error)))
    return pl.DataFrame(encoded, schema=_ENCODED, orient="row")


def _tokens(
    tokenizer: Any, prompt: list[Any], sides: Sequence[list[Any] | None], tools: str | None
) -> tuple[list[int], list[int] | None, list[int] | None]:
    """The tokens of the prompt and of both sides."""
    if not any(sides):
        raise Unrenderable("the pair has no side")

    def ids(turns: list[Any], *, is_prompt: bool = False) -> list[int]:
        text = rendered_text(tokenizer, turns, tools, add_generation_prompt=is_prompt)
        return tokenize(tokenizer, text)[0]

    before = ids(prompt, is_prompt=True)
    chosen, rejected = (None if side is None else ids([*prompt, *side]) for side in sides)
    start = min(_shared(before, whole) for whole in (chosen, rejected) if whole is not None)
    return before[:start], chosen and chosen[start:], rejected and rejected[start:]


def _shared(one: list[int], other: list[int]) -> int:
    """How many tokens two texts begin with alike."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one[:length]) != np.asarray(other[:length]))
    return int(differ[0]) if len(differ) else length


def cut_pairs(rows: pl.DataFrame, max_length: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Encoded pairs cut at the end of their sides, without those whose prompt leaves no room.

    Args:
        rows: What `encode_pairs` gives.
        max_length: Tokens of prompt and side together, at most.

    Returns:
        The pairs to train on, and counts: `rows`, `tokens` (of prompts and sides, a prompt
        once for each side) of them; `rows_cut` and `tokens_cut`; what is not trained on:
        `rows_too_long`, whose sides do not begin or do not part before the limit, and
        `rows_refused`.

    >>> row = ("a", [1, 2], [3, 4, 5], [6], 0, None)
    >>> cut, counts = cut_pairs(pl.DataFrame([row], schema=_ENCODED, orient="row"), 4)
    >>> cut["chosen_ids"].to_list(), counts["tokens_cut"]
    ([[3, 4]], 1)
    """
    shown = rows.filter(pl.col("error").is_null())
    room = max_length - pl.col("prompt_ids").list.len().cast(pl.Int64)
    fitting = shown.filter(room > 0)
    cut = fitting.with_columns(pl.col(f"{side}_ids").list.head(room) for side in SIDES)
    # A limit before the place where two sides part leaves nothing to prefer.
    parted = ~pl.col("chosen_ids").eq(pl.col("rejected_ids")).fill_null(value=False)
    differing = cut.select(parted).to_series()
    cut, fitting = cut.filter(differing), fitting.filter(differing)
    lengths, before = side_lengths(cut), side_lengths(fitting)
    return cut.drop("error", HIDDEN), {
        "rows": len(cut),
        "tokens": int(lengths.sum()),
        "rows_cut": int((lengths < before).any(axis=1).sum()),
        "tokens_cut": int((before - lengths).sum()),
        "rows_too_long": len(shown) - len(fitting),
        "rows_refused": len(rows) - len(shown),
    }


def side_lengths(rows: pl.DataFrame) -> NDArray[np.int64]:
    """The tokens of prompt and side, 0 for a missing side: shape (rows, 2)."""
    prompt = pl.col("prompt_ids").list.len()
    lengths = {side: prompt + pl.col(f"{side}_ids").list.len() for side in SIDES}
    filled = (length.cast(pl.Int64).fill_null(0).alias(side) for side, length in lengths.items())
    return rows.select(filled).to_numpy()


def halves(rows: pl.DataFrame) -> pl.DataFrame:
    """Each side of each pair by itself: `prompt_ids`, `completion_ids` and `label` (KTO)."""
    columns = ["id", "prompt_ids", "completion_ids", "label"]
    parts = [
        rows.select(
            "id", "prompt_ids", completion_ids=f"{side}_ids", label=pl.lit(side == "chosen")
        )
        for side in SIDES
    ]
    both = pl.concat(parts).filter(pl.col("completion_ids").is_not_null())
    return both.select(columns).sort("id", "label", maintain_order=True)


def with_mismatched(rows: pl.DataFrame, batch_size: int) -> pl.DataFrame:
    """The halves with `KL_completion_ids`: in each batch the completion of the row before.

    KTO estimates the divergence from the reference on completions that do not belong to their
    prompts; TRL takes those of the same batch, turned by one.

    Args:
        rows: The halves, in the order in which they are trained on.
        batch_size: Rows of a forward pass.
    """
    at = np.arange(len(rows))
    first = at - at % batch_size
    last = np.minimum(first + batch_size, len(rows)) - 1
    return rows.with_columns(
        KL_completion_ids=rows["completion_ids"][np.where(at == first, last, at - 1)]
    )


def log_probs(weights: Any, rows: pl.DataFrame) -> NDArray[np.float64]:
    """The log-probability of both sides of each encoded pair, given its prompt: (rows, 2).

    Args:
        weights: A transformers model, or a peft one.
        rows: Encoded pairs with both sides.
    """
    ignored = pl.lit(IGNORED, pl.Int32).repeat_by(pl.col("prompt_ids").list.len())
    sides = pl.concat(
        rows.select(
            pl.concat_list("prompt_ids", side).alias("input_ids"),
            pl.concat_list(ignored, side).alias("labels"),
        )
        for side in ("chosen_ids", "rejected_ids")
    )
    return -answer_losses(weights, sides)["loss"].to_numpy().reshape(2, -1).T
