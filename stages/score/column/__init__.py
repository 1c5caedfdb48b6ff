"""A score of one's own: a prompt over the columns of each row, answered by a number or a label.

The number is the expectation over the probabilities of the scale, as DEITA reads ratings (Liu
et al. 2023, arXiv:2312.15685, section 3); of labels each has its probability. The prompt is the
recipe's own; the words behind it that say the form of the answer (`show_form`) are ours.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, LanguageModel, Request
from pipeline.stage import Documents, Edges, InputFiles, Records, stage
from pipeline.types import Count, Fraction, NonEmpty, NonNegativeInt, option_group
from schemas.turns import View
from stages._common.option_types import Distinct
from stages._llm.label_scores import (
    MIN_MASS,
    TOP_LOGPROBS,
    LabelAnswer,
    ask_labels,
    warn_of_written_labels,
)
from stages._llm.prompts import Prompts
from stages._llm.row_prompts import check_prompt, prompt_reads, prompts_of, row_prompt
from stages._llm.rows import to_json

PROMPTS: Final = Prompts(__file__)

_VERDICT: Final = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())


@option_group
class Scale:
    """A number on a scale of whole numbers: adds the column as the expected number.

    Args:
        name: "scale".
        low: The lowest number.
        high: The highest number.
        show_form: Whether the prompt ends with the scale.
    """

    name: Literal["scale"] = "scale"
    low: NonNegativeInt = 1
    high: Annotated[int, Field(ge=1, le=100)] = 5
    show_form: bool = True

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"low must be below high ({self.high}), got {self.low}")


@option_group
class Labels:
    """One of several labels: adds the column as the most probable one, and one for each label.

    `<column>_<label>` is the label's probability, with _ for what is no letter or digit.

    Args:
        name: "labels".
        labels: What may be answered. YAML reads a bare yes or no as true or false: quote them.
        show_form: Whether the prompt ends with the list of the labels.
    """

    name: Literal["labels"] = "labels"
    labels: Annotated[tuple[str, ...], Field(min_length=2), Distinct]
    show_form: bool = True

    def __post_init__(self) -> None:
        folded = {label.strip().casefold() for label in self.labels}
        if len(folded) < len(self.labels) or "" in folded:
            raise ValueError(f"labels must differ in more than case, got {list(self.labels)}")
        if len({*map(_suffix, self.labels)}) < len(self.labels):
            raise ValueError(f"labels must differ in letters or digits, got {list(self.labels)}")


Answer = Annotated[Scale | Labels, Field(discriminator="name")]


def _suffix(label: str) -> str:
    return re.sub(r"\W+", "_", label.strip())


def _check(options: SimpleNamespace) -> None:
    row_prompt(options)


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    check_prompt(options, edges)
    return _columns(options.answer, options.column)


def _columns(answer: Scale | Labels, column: str) -> dict[str, Any]:
    own: dict[str, Any] = {column: pl.Float64}
    if isinstance(answer, Labels):
        own = {column: pl.String}
        own |= {f"{column}_{_suffix(label)}": pl.Float64 for label in answer.labels}
    beside = {f"{column}_from_logprobs": pl.Boolean, f"{column}_journal": pl.List(pl.String)}
    if repeated := own.keys() & beside.keys():
        why = f"a column has the name {min(repeated)!r}"
        raise OptionError("answer", f"must have no label of that name: {why}")
    return own | beside


@stage(version=1, scope="set", reads=prompt_reads, adds=_adds, check=_check)
def column(
    ctx: Context,
    rows: Records | Documents,
    examples: Records | None = None,
    *,
    model: LanguageModel,
    prompt: str | None = None,
    prompt_file: InputFiles = (),
    system: str | None = None,
    column: Annotated[str, NonEmpty] = "score",
    answer: Answer = Scale(),
    num_examples: Count = 3,
    view: View = "calls",
    max_tokens: Count = 16,
    min_mass: Fraction = MIN_MASS,
    samples: Count = 1,
    seed: int = 0,
) -> pl.DataFrame:
    """Have a model score each row after a prompt of your own.

    The prompt is a template, as that of `generate.column`, which says what it may name.

    Adds the column, and `<column>_<label>` for each of several labels;
    `<column>_from_logprobs` says whether these are probabilities of the model (else the label
    as it was written, with a warning, or the mean of `samples`, and where the first token may
    begin several labels, as 1 and 10 in a vocabulary of single digits); `<column>_journal` has
    the keys of all answers. Deciding is a stage of its own: `select.top`.

    Args:
        rows: The rows; they stay as they are.
        examples: Few-shot rows: the template shows them as
            `{% for example in examples %}{{ example.response }}{% endfor %}`. Those of a
            row are drawn by the seed and its id; the row itself is never one of them.
        model: The judge.
        prompt: The template of the user's turn.
        prompt_file: A file with the template, in place of `prompt`.
        system: The template of a system prompt.
        column: The name of the column, and the beginning of the names beside it.
        answer: What may be answered: scale or labels.
        num_examples: Few-shot rows of each prompt, or as many as there are.
        view: What of a turn is shown: its content, the tool calls too, or all.
        max_tokens: Limit of an answer in tokens. The model's `reasoning.max_tokens` comes on
            top.
        min_mass: The least probability that all labels together must have; with less the
            answer cannot be read.
        samples: Answers that are sampled, for their mean, where there are no probabilities.
        seed: Enters the requests' keys, and the choice of examples.

    Returns:
        The columns. Dropped: `unreadable` (no label, although it was shown to the model for a
        repair and sampled anew), `reasoning_unclosed`, `withheld` (by the provider's
        filter), `null_value` (the prompt would show a null) and `no_prompt` (it is blank).

    Raises:
        UserError: A template cannot be rendered.

    Example:
        ```yaml
        judged:
          uses: score.column
          needs: pool
          with:
            model: judge
            prompt: "How polite is this answer? {{ response }}"
            column: tone
            answer: {name: labels, labels: [rude, neutral, polite]}
        polite: {uses: select.top, needs: judged, with: {score: tone_polite, budget: 1000}}
        ```
    """
    options = {
        "prompt": prompt, "prompt_file": prompt_file, "system": system, "view": view,
        "num_examples": num_examples, "seed": seed,
    }  # fmt: skip
    labels = _labels(answer)
    ending = PROMPTS.render(answer.name, answer=answer) if answer.show_form else ""
    prompts = prompts_of(row_prompt(options), rows, examples, ending)
    decoding = Decoding(max_tokens, choice=tuple(labels), logprobs=TOP_LOGPROBS)
    requests = [Request(p.turns, decoding, seed) for p in prompts if p.rejection is None]
    answers = ask_labels(ctx.open(model), requests, labels, min_mass=min_mass, samples=samples)
    scored = [a for a in answers if a.value is not None]
    written = sum(not a.from_logprobs for a in scored)
    warn_of_written_labels("score.column", written, len(scored))
    waiting = iter(answers)
    table = [
        _row(answer, column, next(waiting))
        if prompt.rejection is None
        else _row(answer, column, LabelAnswer(None, False, [], rejection=prompt.rejection))
        for prompt in prompts
    ]
    return pl.DataFrame(table, schema={**_columns(answer, column), **_VERDICT})


def _labels(answer: Scale | Labels) -> dict[str, float]:
    """What may be answered, with its value; labels have none of their own."""
    if isinstance(answer, Scale):
        return {str(n): float(n) for n in range(answer.low, answer.high + 1)}
    return dict.fromkeys(answer.labels, 0.0)


def _row(answer: Scale | Labels, column: str, result: LabelAnswer) -> dict[str, Any]:
    """The added columns and the verdict of one row."""
    row: dict[str, Any] = {f"{column}_journal": result.journal}
    if result.value is not None:
        row[f"{column}_from_logprobs"] = result.from_logprobs
        row |= _score(answer, column, result)
    reason, evidence = (result.rejection if result.error is None else None) or (None, None)
    row["drop_reason"], row["error"] = reason, result.error
    row["evidence"] = None if evidence is None else to_json(evidence)
    return row


def _score(answer: Scale | Labels, column: str, result: LabelAnswer) -> dict[str, Any]:
    if isinstance(answer, Scale):
        return {column: result.value}
    parts = result.probabilities
    # Of equally probable labels it is the first of the recipe's.
    best = max(answer.labels, key=lambda label: parts.get(label, 0.0))
    return {column: best} | {
        f"{column}_{_suffix(label)}": parts.get(label, 0.0) for label in answer.labels
    }
