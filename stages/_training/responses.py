"""Response tuning: answers without what they answer.

Response Tuning: Response Tuning: Aligning Large Language Models without Instruction (An and Kim
2024, arXiv:2410.02465).

As in the paper: the instruction is taken away and the template stays, so that a model learns what
answers are like and not which answer belongs to what. Ours: of a conversation of several turns all
that others than the assistant say is taken away, tools included.

Instruction following without IT: Instruction Following without Instruction Tuning (Hewitt et al.
2024, arXiv:2409.14254).

As in the paper: a training on the responses alone, as an arm beside one on instructions.
"""

from __future__ import annotations

import polars as pl


def answers_alone(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with nothing said but by the assistant.

    Args:
        rows: `messages`, and `tools` where rows have them.

    Example:
        >>> turns = [("system", "Be brief."), ("user", "Name a sea."), ("assistant", "The Aral.")]
        >>> messages = [{"role": role, "content": content} for role, content in turns]
        >>> rows = answers_alone(pl.DataFrame({"messages": [messages]}))
        >>> [turn["content"] for turn in rows["messages"][0]]
        ['', 'The Aral.']
    """
    turn = pl.element()
    said = pl.when(turn.struct["role"] == "assistant").then(turn.struct["content"])
    kept = turn.struct.with_fields(content=said.otherwise(pl.lit("")))
    # A system prompt goes as a whole: one without words would still say that there is one.
    turns = pl.col("messages").list.filter(pl.element().struct["role"] != "system")
    return rows.with_columns(turns.list.eval(kept)).drop("tools", strict=False)
