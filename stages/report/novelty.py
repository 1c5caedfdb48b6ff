"""What is new in the data that a model was tuned on: texts that it writes and its base would not.

CGE (what's new in my data): What's New in My Data? Novelty Exploration via Contrastive Generation
(Isonuma and Titov 2024, arXiv:2410.14765).

As in the paper: a token's score is log p_tuned - log p_base; `static` draws many texts by it;
`iterative` tunes the base on the texts so far before it contrasts it again, so that the texts
become more various; the difference of the log-likelihoods of whole texts tells the novel rows of
the tuning data from the others, by the area under the ROC curve. It finds what is rare in the data:
a novelty that most of the data shares is no longer told from them.

Ours: the plausible tokens are those of at least 0.1 times the probability of the most probable one
(the constant of contrastive decoding, Li et al. 2022, arXiv:2210.15097; the authors published no
code), and of these one is drawn in proportion to exp(score / temperature); differences of texts are
means per token; texts of the tuned model alone, drawn plainly, stand beside them; texts answer
prompts, where there are some; rounds of several texts, and how the base is tuned on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, PositiveFloat, PositiveFraction
from stages._common.charts import dot_plot, table
from stages._selection.scores import Expression, expression_columns
from stages._training.trainer import quiet, write_json
from stages.report._contrastive import Contrast
from stages.report._exploration import (
    CONTRASTIVE,
    PLAIN,
    Decoding,
    Explorer,
    Iterative,
    Method,
    Static,
)

SHOWN: Final = 10
"""Texts of each kind on the page."""

DOTS: Final = 200
"""Most dots of a kind in the picture."""


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    planted = expression_columns(options.planted)
    rows = list(dict.fromkeys(["messages", "tools", *planted]))
    return {"prompts": ["messages"], "rows": rows}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    if options.planted and not edges.get("rows"):
        what = f"must be left out without the edge 'rows', got {options.planted!r}"
        raise OptionError("planted", what, hint="needs: {..., rows: STAGE}")
    return {}


def _check(options: SimpleNamespace) -> None:
    for name in ("tuned", "base"):
        model = getattr(options, name)
        if model is not None and model.engine != "transformers":
            raise OptionError(
                name,
                f"must be a model with engine: transformers, got {model.engine}",
                why="the probabilities of all tokens are needed",
            )
    if isinstance(options.method, Iterative) and options.method.rounds > options.num_samples:
        what = f"must be at most num_samples ({options.num_samples}), got {options.method.rounds}"
        raise OptionError("method.rounds", what)


@stage(version=1, scope="set", reads=_reads, adds=_adds, check=_check)
def novelty(
    ctx: Context,
    prompts: Records | None = None,
    rows: Records | None = None,
    *,
    tuned: LanguageModel,
    base: LanguageModel,
    method: Method = Static(),
    num_samples: Count = 100,
    max_tokens: Count = 128,
    alpha: PositiveFraction = 0.1,
    temperature: PositiveFloat = 1.0,
    planted: Expression | None = None,
    max_length: Annotated[int, Field(ge=2)] = 2048,
    seed: int = 0,
) -> None:
    """Write texts that show what a tuned model learned, and rank the rows that it learned from.

    Writes `novelty.json` (every number), `novelty.md`, `novelty.svg`, and `samples.jsonl`: for each
    text its `kind` (contrastive, or plain for one of the tuned model alone), `round`, `prompt`,
    `text`, `tokens`, and `difference`, the mean over its tokens of log p_tuned - log p_base, in
    nats; and, with `rows`, `rows.jsonl` with the difference of each row's answers. Each finished
    round is kept in `ctx.work`.

    Args:
        prompts: Conversations whose first requests the texts answer, in turn; held-out ones show
            what the model says unasked. Without any, a text is what a user would say first.
        rows: The rows that the model was tuned on, where they are at hand.
        tuned: The tuned model.
        base: What it was tuned from; both have one vocabulary.
        method: `static` or `iterative`.
        num_samples: Texts of each kind.
        max_tokens: Limit of a text in tokens.
        alpha: How probable a token must be under the tuned model, as a part of the most probable
            one's probability.
        temperature: Divides the scores of the contrast, and the logits of the plain texts.
        planted: A column of `rows`, or an SQL expression over columns, that is true for the
            novel ones; how well the differences tell them from the others is in the report, as the
            area under the ROC curve.
        max_length: Tokens of a row, or of prompt and text together, at most.
        seed: Of the sampling, and of the order of the texts that the base is tuned on.

    Raises:
        UserError: The vocabularies differ, or no prompt can be rendered within the limit.

    Example:
        ```yaml
        new: {uses: report.novelty, needs: {prompts: heldout, rows: pool},
              with: {tuned: tuned, base: base, num_samples: 200, planted: is_planted}}
        ```
    """
    with quiet():
        decoding = Decoding(Contrast(alpha, temperature), max_tokens, max_length, seed)
        explorer = Explorer.of(ctx, tuned, base, prompts, decoding)
        samples = explorer.samples(method, num_samples)
        ranked = None if rows is None else explorer.ranked(rows, planted)
    _write_lines(ctx.files / "samples.jsonl", samples)
    if ranked is not None:
        _write_lines(ctx.files / "rows.jsonl", ranked)
    result = _summary(samples, ranked, planted is not None)
    write_json(ctx.files / "novelty.json", result)
    (ctx.files / "novelty.md").write_text(_page(result, samples), "utf-8")
    (ctx.files / "novelty.svg").write_text(_picture(samples, ranked or []), "utf-8")


Line = Mapping[str, Any]


def _write_lines(file: Path, lines: Sequence[Line]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.write_text(text, "utf-8")


def _groups(samples: Sequence[Line], ranked: Sequence[Line]) -> dict[str, list[float]]:
    """The differences of each kind of text and of row; kinds without any are left out."""
    groups = {
        kind: [line["difference"] for line in samples if line["kind"] == kind]
        for kind in (CONTRASTIVE, PLAIN)
    }
    scored = [line for line in ranked if line["difference"] is not None]
    for name, value in (("rows", None), ("planted rows", True), ("other rows", False)):
        of = [line["difference"] for line in scored if line.get("planted") is value]
        groups[name] = of
    return {name: values for name, values in groups.items() if values}


def _summary(
    samples: Sequence[Line], ranked: Sequence[Line] | None, planted: bool
) -> dict[str, Any]:
    """The numbers of the report."""
    groups = _groups(samples, ranked or [])
    result: dict[str, Any] = {
        "differences": {
            name: {
                "count": len(values),
                "mean": float(np.mean(values)),
                "quantiles": [float(q) for q in np.quantile(values, (0.1, 0.5, 0.9))],
            }
            for name, values in groups.items()
        }
    }
    if ranked is not None:
        result["rows_not_scored"] = sum(line["difference"] is None for line in ranked)
    if planted:
        result["auc"] = auc(groups.get("planted rows", []), groups.get("other rows", []))
    return result


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """How often a value of the one is above one of the other, equal ones as a half.

    Args:
        positive: Values that should be high.
        negative: Values that should be low.

    Returns:
        The area under the ROC curve; None where either has no value.

    >>> auc([3.0, 2.0], [1.0, 2.0])
    0.875
    """
    from sklearn.metrics import roc_auc_score

    if not positive or not negative:
        return None
    labels = [1] * len(positive) + [0] * len(negative)
    return float(roc_auc_score(labels, [*positive, *negative]))


def _page(result: dict[str, Any], samples: Sequence[Line]) -> str:
    """The report as Markdown."""
    header = ["log p_tuned - log p_base", "count", "mean", "10%", "50%", "90%"]
    rows = [
        [name, f"{of['count']:,}", *(f"{v:.3f}" for v in (of["mean"], *of["quantiles"]))]
        for name, of in result["differences"].items()
    ]
    parts = ["# What is new in the tuning data", table(header, rows)]
    if result.get("auc") is not None:
        parts.append(f"Area under the ROC curve, planted against other rows: {result['auc']:.3f}.")
    if result.get("rows_not_scored"):
        parts.append(f"Rows without an answer, or too long: {result['rows_not_scored']:,}.")
    for kind, title in (
        (CONTRASTIVE, "Texts by the contrast of the models"),
        (PLAIN, "Texts of the tuned model alone"),
    ):
        of_kind = [line for line in samples if line["kind"] == kind]
        best = sorted(of_kind, key=lambda line: -line["difference"])[:SHOWN]
        lines = [f"- {line['difference']:.3f}: {_one_line(line['text'])}" for line in best]
        parts.append(f"## {title}\n\nThe largest differences first.\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _one_line(text: str, limit: int = 300) -> str:
    """A text in one line of Markdown that shows it as it is."""
    line = " ".join(text.split()).replace("`", "'")
    return f"`{line[:limit]}{'...' if len(line) > limit else ''}`" if line else "(nothing)"


def _picture(samples: Sequence[Line], ranked: Sequence[Line]) -> str:
    """A dot for each text and row, or for evenly many of their ranks."""
    groups = {}
    for name, values in _groups(samples, ranked).items():
        at = np.linspace(0, len(values) - 1, min(DOTS, len(values))).round().astype(int)
        groups[name] = [sorted(values)[i] for i in at]
    label = "log p_tuned - log p_base, nats per token"
    return dot_plot("What the tuned model says more than its base", label, groups, {"equal": 0.0})
