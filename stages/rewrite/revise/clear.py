"""CLEAR: a tuned model's answer where it is surely better, and no answer of low confidence.

CLEAR: Automated Data Curation for Robust Language Model Fine-Tuning (Chen and Mueller 2024,
arXiv:2403.12776).

As in the paper: every row has a confidence, by the model before it is tuned (`score.agreement`:
how far samples agree with the answer, and what the model says of it); the model that was tuned on
the confident rows answers each prompt, at temperature 0; its answer takes the place of the old one
where a judge holds it for better with a probability above 0.8; else the row is dropped where its
confidence lies below the median, and stays as it was where it does not.

Ours: the wording; the probability is that of the label among A, B and tie, averaged over both
orders, of which both must be readable, where the paper has its own estimate of confidence; a row of
unknown confidence is not dropped. No code was found; this follows what others
report of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from pipeline.models.base import Decoding
from pipeline.models.counting import is_counting
from pipeline.types import Fraction, option_group
from stages._llm.drafts import Draft, Prompt
from stages._llm.label_scores import MIN_MASS
from stages._selection.scores import Expression
from stages.rewrite.revise.passes import Reviser

CONFIDENCE: Final = "confidence"
"""The field of a draft that holds the row's confidence; None where there is none."""


@option_group
class Clear:
    """The candidate of a tuned model, else the old answer if there is trust in it (CLEAR).

    The model is the tuned one, the judge the one before. Drops `low_confidence`.

    Args:
        name: "clear".
        confidence: A column, or an SQL expression over columns: how sure the answer is right.
        min_probability: A candidate counts where the judge's probability that it is better
            exceeds this.
        quantile: Rows below this quantile of the known confidences are dropped, unless they were
            replaced; 0 drops none.
        min_mass: The least probability of the judge's labels together; with less, the answers are
            `unjudged`.
    """

    name: Literal["clear"] = "clear"
    confidence: Expression = "agreement_confidence"
    min_probability: Annotated[float, Field(ge=0, lt=1)] = 0.8
    quantile: Fraction = 0.5
    min_mass: Fraction = MIN_MASS

    decoding: ClassVar[Decoding] = Decoding(2048, 0.0)

    def run(self, reviser: Reviser, drafts: Sequence[Draft]) -> None:
        """Have candidates written and judged, and drop what is neither replaced nor trusted."""
        attempts = [draft.child() for draft in drafts]
        reviser.write(attempts, "new_response", _conversation, parse=_text)
        gate = None
        if reviser.judge is not None:
            gate = partial(
                reviser.judge.surely_better,
                min_probability=self.min_probability,
                min_mass=self.min_mass,
            )
        replaced = {d.parents for d in reviser.conclude(drafts, attempts, "clear", gate)}
        if not is_counting():
            self._drop([draft for draft in drafts if draft.active], replaced)

    def _drop(self, drafts: Sequence[Draft], replaced: set[tuple[str, ...]]) -> None:
        """Drop the rows with a confidence below the quantile that kept their answer."""
        known = [draft[CONFIDENCE] for draft in drafts if draft[CONFIDENCE] is not None]
        limit = float(np.quantile(known, self.quantile)) if known else 0.0
        for draft in drafts:
            value = draft[CONFIDENCE]
            evidence: dict[str, Any] = {"confidence": value, "minimum": limit}
            draft["passes"][-1].update(evidence)
            if value is not None and value < limit and draft.parents not in replaced:
                outcome = draft["passes"][-1]["outcome"]
                draft.reject("low_confidence", outcome=outcome, **evidence)


def _conversation(draft: Draft) -> Prompt:
    """All that precedes the answer, as a chat."""
    return tuple(draft["turns"][: draft["at"]])


def _text(text: str) -> str | None:
    return text.strip() or None
