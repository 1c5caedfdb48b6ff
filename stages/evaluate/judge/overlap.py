"""Whether an answer holds the gold answer, and says nothing but what its source says.

InstructQA: Evaluating Correctness and Faithfulness of Instruction-Following Models for Question
Answering (Adlakha et al. 2023, arXiv:2307.16877; McGill-NLP/instruct-qa).

As in the paper: recall of the gold answer's words for correctness, since exact match and F1 punish
verbose answers that are right; K-Precision, the share of the answer's words that the passage holds,
for faithfulness; words as SQuAD normalises them. Ours: exact match and F1 stand beside them; an
answer without any word has a precision of 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

import polars as pl

from pipeline.types import option_group
from schemas.records import first_user_turn, input_text, response
from stages._llm.judging.labels import NO_ANSWER
from stages.evaluate._overlap import exact_match, token_f1, token_precision, token_recall

ADDS: Final[dict[str, Any]] = dict.fromkeys(
    ("eval_em", "eval_f1", "eval_recall", "eval_faithfulness"), pl.Float64()
)


@option_group
class Overlap:
    """Overlap with gold answers (correctness) and with the source (faithfulness); nobody is asked.

    Adds `eval_em`, `eval_f1` and `eval_recall`, null without a gold answer, and
    `eval_faithfulness`, null without a source.

    Args:
        name: "overlap".
        gold: The field of `extra` with the gold answers: a text or a list. `generate.respond`
            writes `truth`.
        knowledge: What the answer may say: the first user turn's separate input, the whole turn, or
            `extra.FIELD`.
    """

    name: Literal["overlap"] = "overlap"
    gold: str = "truth"
    knowledge: str = "input"

    def __post_init__(self) -> None:
        if self.knowledge not in ("input", "prompt") and not self.knowledge.startswith("extra."):
            raise ValueError(
                f"knowledge must be input, prompt or extra.FIELD, got {self.knowledge!r}"
            )


def overlap(rows: pl.DataFrame, method: Overlap) -> tuple[pl.DataFrame, dict[str, list[float]]]:
    """The added columns with errors, and the numbers of each measure.

    Args:
        rows: The answers.
        method: The options.
    """
    parts = rows.select(
        "extra", answer=response(), input=input_text(), prompt=first_user_turn().fill_null("")
    )
    table = []
    for extra, answer, data, prompt in parts.iter_rows():
        fields: Mapping[str, Any] = json.loads(extra) if extra else {}
        named = {"input": data, "prompt": prompt}
        knowledge = named.get(method.knowledge) or fields.get(
            method.knowledge.removeprefix("extra.")
        )
        table.append(_row(answer, _texts(fields.get(method.gold)), knowledge))
    frame = pl.DataFrame(table, schema={**ADDS, "error": pl.String()})
    return frame, {name: frame[name].drop_nulls().to_list() for name in ADDS}


def _row(answer: str | None, gold: list[str], knowledge: Any) -> dict[str, Any]:
    if not answer:
        return dict.fromkeys(ADDS) | {"error": NO_ANSWER}
    measures = {"em": exact_match, "f1": token_f1, "recall": token_recall}
    row: dict[str, Any] = {
        f"eval_{name}": measure(answer, gold) if gold else None
        for name, measure in measures.items()
    }
    text = knowledge.strip() if isinstance(knowledge, str) else ""
    return row | {
        "eval_faithfulness": token_precision(answer, text) if text else None,
        "error": None,
    }


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(v) for v in values if v is not None and str(v).strip()]
