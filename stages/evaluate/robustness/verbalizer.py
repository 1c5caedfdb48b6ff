"""Whether a model says labels in the words that it is given, also in words against their meaning.

Verbalizer manipulation: Instruction-following Evaluation through Verbalizer Manipulation (Li et
al. 2023, arXiv:2307.10558).

As in the paper: the label of a classification is to be said by natural words, by neutral ones and
by words of the opposite meaning; who follows the instruction is right with all three, who follows
what it knows is right with the first alone. Ours: one set of words of each kind (the paper takes
twelve), the wording, that the answer is the most probable of the words, and `follows_meaning`: how
often the swapped words are used as if they had their own meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.models.base import Decoding, Engine, Request
from pipeline.types import Fraction, option_group
from schemas.records import first_user_turn, response
from stages._common.option_types import Distinct
from stages._llm.drafts import user
from stages._llm.label_scores import MIN_MASS, TOP_LOGPROBS, LabelAnswer, ask_labels
from stages._llm.prompts import Prompts
from stages._llm.rows import to_json

PROMPTS: Final = Prompts(__file__)

SETS: Final = ("natural", "neutral", "swapped")
ADDS: Final[dict[str, Any]] = {f"robustness_{name}": pl.Boolean() for name in SETS}
VERDICT: Final = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())
_MAX_TOKENS: Final = 8

Labels = Annotated[tuple[str, ...], Field(min_length=2), Distinct]


@option_group
class Verbalizer:
    """A classification is answered in natural, neutral and swapped words for its labels.

    Adds `robustness_natural`, `robustness_neutral` and `robustness_swapped`: whether the label was
    right. A row whose answer is none of the labels is dropped as `unknown_label`.

    Args:
        name: "verbalizer".
        labels: The labels, as the rows' answers have them; they are the natural words. Swapped,
            each is said by the next one.
        neutral: A word for each label that means nothing.
        min_mass: The least probability that all words together must have; with less the answer
            cannot be read.
    """

    name: Literal["verbalizer"] = "verbalizer"
    labels: Labels
    neutral: Labels = ("foo", "bar")
    min_mass: Fraction = MIN_MASS

    def __post_init__(self) -> None:
        if len(self.neutral) != len(self.labels):
            raise ValueError(
                f"neutral must have a word for each of the {len(self.labels)} labels, "
                f"got {len(self.neutral)}"
            )

    def words(self, kind: str) -> dict[str, str]:
        """The word for each label.

        Args:
            kind: One of `SETS`.

        >>> Verbalizer(labels=("positive", "negative")).words("swapped")
        {'positive': 'negative', 'negative': 'positive'}
        """
        words = {
            "natural": self.labels,
            "neutral": self.neutral,
            "swapped": (*self.labels[1:], self.labels[0]),
        }[kind]
        return dict(zip(self.labels, words, strict=True))


def verbalized(
    engine: Engine, rows: pl.DataFrame, method: Verbalizer, seed: int
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The added columns with verdicts, and the summary.

    Args:
        engine: The model under test.
        rows: Records: a text to classify, and its label as the answer.
        method: The options.
        seed: Enters the requests' keys.
    """
    texts = rows.select(text=first_user_turn(), label=response().str.strip_chars())
    columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in (*ADDS, *VERDICT)}
    usable = [i for i, label in enumerate(texts["label"]) if label in method.labels]
    meant = {"follows": 0, "read": 0}
    for i in sorted({*range(len(rows))} - {*usable}):
        columns["drop_reason"][i] = "unknown_label"
        columns["evidence"][i] = to_json({"label": texts["label"][i]})
    for kind in SETS:
        words = method.words(kind)
        answers = _ask(engine, [texts["text"][i] for i in usable], words, method, seed)
        for i, answer in zip(usable, answers, strict=True):
            said = _note(columns, i, kind, answer)
            if said is not None:
                columns[f"robustness_{kind}"][i] = said == words[texts["label"][i]]
                if kind == "swapped":
                    meant["read"] += 1
                    meant["follows"] += said == texts["label"][i]
    for i in usable:
        if columns["drop_reason"][i] is not None or columns["error"][i] is not None:
            for name in ADDS:
                columns[name][i] = None
    frame = pl.DataFrame(columns, schema={**ADDS, **VERDICT})
    follows = meant["follows"] / meant["read"] if meant["read"] else None
    return frame, summary(frame) | {"follows_meaning": follows}


def _ask(
    engine: Engine,
    texts: Sequence[str],
    words: Mapping[str, str],
    method: Verbalizer,
    seed: int,
) -> list[LabelAnswer]:
    decoding = Decoding(_MAX_TOKENS, choice=tuple(words.values()), logprobs=TOP_LOGPROBS)
    prompts = [PROMPTS.render("label", text=text, words=words) for text in texts]
    requests = [Request(user(prompt), decoding, seed) for prompt in prompts]
    labels = dict.fromkeys(words.values(), 0.0)
    return ask_labels(engine, requests, labels, min_mass=method.min_mass)


def _note(columns: Mapping[str, list[Any]], row: int, kind: str, answer: LabelAnswer) -> str | None:
    """The word that was said; None with the verdict where there is none."""
    if answer.value is not None:
        return max(answer.probabilities, key=lambda word: answer.probabilities[word])
    if answer.error is not None:
        columns["error"][row] = answer.error
        columns["drop_reason"][row] = columns["evidence"][row] = None
    elif columns["error"][row] is None:
        reason, evidence = answer.rejection or ("unreadable", {})
        columns["drop_reason"][row] = reason
        columns["evidence"][row] = to_json({"words": kind, **evidence})
    return None


def summary(frame: pl.DataFrame) -> dict[str, Any]:
    """Accuracy with its standard error for each set of words; the worst, and the largest drop.

    Args:
        frame: The added columns.

    >>> frame = pl.DataFrame({name: [True, name.endswith("natural")] for name in ADDS})
    >>> summary(frame)["worst"], summary(frame)["drop"]
    (0.5, 0.5)
    """
    accuracy = {name: frame[f"robustness_{name}"].mean() for name in SETS}
    n = len(frame) - frame["robustness_natural"].null_count()
    known = [value for value in accuracy.values() if isinstance(value, float)]
    natural = accuracy["natural"]
    return {
        "rows": n,
        **{
            name: {"accuracy": value, "stderr": _stderr(value, n)}
            for name, value in accuracy.items()
        },
        "mean": sum(known) / len(known) if known else None,
        "worst": min(known, default=None),
        "drop": natural - min(known) if isinstance(natural, float) else None,
    }


def _stderr(accuracy: Any, n: int) -> float | None:
    return sqrt(accuracy * (1 - accuracy) / (n - 1)) if n > 1 else None
