"""How good a model's answers are: by a judge against a baseline, or against references.

- `win_rate`: against the baseline's answers, in both orders, with control of length;
- `revised`: a grade against a revision of the answer itself (RevisEval);
- `overlap`: words shared with gold answers and sources (InstructQA), without a judge.

Grades without a reference are `score.judge`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import sqrt
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction
from schemas.turns import View
from stages._common.charts import table
from stages._common.edges import require_input, required
from stages._llm.judging.labels import Judge
from stages._llm.label_scores import MIN_MASS, warn_of_written_labels
from stages.evaluate.judge import overlap as overlap_method
from stages.evaluate.judge import revised as revised_method
from stages.evaluate.judge import win_rate as win_rate_method
from stages.evaluate.judge.overlap import Overlap, overlap
from stages.evaluate.judge.revised import Revised, grade
from stages.evaluate.judge.win_rate import WinRate, compare, lines

Method = Annotated[WinRate | Revised | Overlap, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    both = ["messages", "tools"]
    if isinstance(options.method, Overlap):
        return {"rows": ["messages", "input_start", "extra"]}
    return {"rows": both, "baseline": both, "others": [*both, "eval_preference"]}


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    method = options.method
    compares = isinstance(method, WinRate)
    require_input(edges, "baseline", method.name, connected=compares)
    if edges.get("others"):
        require_input(edges, "others", method.name, connected=compares)
    match method:
        case WinRate():
            return win_rate_method.ADDS
        case Revised():
            return revised_method.ADDS
    return overlap_method.ADDS


def _check(options: SimpleNamespace) -> None:
    needs_model = not isinstance(options.method, Overlap)
    if needs_model and options.model is None:
        raise OptionError("model", f"must be given with method: {options.method.name}, got none")
    if not needs_model and options.model is not None:
        raise OptionError(
            *("model", "must be left out with method: overlap"), why="nobody is asked"
        )
    if options.reviser is not None and not isinstance(options.method, Revised):
        raise OptionError(
            *("reviser", f"must be left out with method: {options.method.name}"),
            why="nothing is revised",
        )


@stage(
    version=1, scope="set", reads=_reads, adds=_adds, check=_check, files=True, later=("others",)
)
def judge(
    ctx: Context,
    rows: Records,
    baseline: Records | None = None,
    others: dict[str, Records] | None = None,
    *,
    method: Method = WinRate(),
    model: LanguageModel | None = None,
    reviser: LanguageModel | None = None,
    view: View = "calls",
    max_tokens: Count | None = None,
    min_mass: Fraction = MIN_MASS,
    seed: int = 0,
) -> pl.DataFrame:
    """Judge answers against a baseline's, against their own revisions, or against gold answers.

    `judge.json` and `judge.md` have the means with standard errors; of `win_rate` also wins, losses
    and ties, the win rate at equal lengths, and the judge's bias: which share of the votes goes to
    the first place, how often both orders agree, and the share of the longer answer.

    Args:
        rows: Answers of the model under test, as `generate.respond` makes them.
        baseline: Another model's answers to the same prompts, for win_rate; of several to one
            prompt the first by id.
        others: Answers of other models to these prompts, judged against the same baseline by this
            stage: the rate at equal lengths then takes the difficulty of each prompt into account
            (AlpacaEval 2).
        method: win_rate, revised or overlap, each with its own options.
        model: The judge.
        reviser: Who revises the answers, for revised; by default the judge.
        view: What of a turn the judge sees: its content, the tool calls too, or all.
        max_tokens: Limit of a judgement in tokens, by default 4 for a label and 512 for scores with
            reasons. The model's `reasoning.max_tokens` comes on top.
        min_mass: The least probability that all labels together must have.
        seed: Enters the requests' keys.

    Returns:
        The columns of the method. Dropped: `no_baseline` (nothing to compare with), `unreadable`,
        `reasoning_unclosed`, `withheld`. A row without an answer has failed.

    Raises:
        OptionError: A model or the baseline is missing.

    Example:
        ```yaml
        compared:
          uses: evaluate.judge
          needs: {rows: answers, baseline: rivals}
          with: {model: judge, method: {name: win_rate, length: words}}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> turns = [("user", "Which river?"), ("assistant", "It is the Rhine.")]
        >>> messages = [{"role": role, "content": text} for role, text in turns]
        >>> rows = pl.DataFrame({"id": ["a"], "messages": [messages], "input_start": [None],
        ...                      "extra": ['{"truth": "the Rhine"}']})
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> judge(ctx, rows, method=Overlap())["eval_recall"].to_list()
        [1.0]
    """
    _check(SimpleNamespace(method=method, model=model, reviser=reviser))
    if isinstance(method, Overlap):
        frame, measures = overlap(rows, method)
        _write(ctx, {"method": method.name, **_means(measures)})
        return frame
    assert model is not None
    opened = Judge(ctx.open(model), seed, view, max_tokens, min_mass)
    if isinstance(method, WinRate):
        rivals = required(baseline, "baseline", method.name)
        frame, result = compare(opened, rows, rivals, method, others)
    else:
        frame, measures = grade(opened, ctx.open(reviser or model), rows, method)
        result = _means(measures)
    judged = int(frame["error"].is_null().sum())
    warn_of_written_labels("evaluate.judge", min(len(opened.written), judged), judged)
    _write(ctx, {"method": method.name, **result})
    return opened.verdicts(frame)


def _means(measures: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The mean of each measure, its standard error and the number of rows."""
    return {
        name.removeprefix("eval_"): {
            "mean": float(np.mean(values)) if values else None,
            "stderr": float(np.std(values, ddof=1) / sqrt(len(values))) if values[1:] else None,
            "rows": len(values),
        }
        for name, values in measures.items()
    }


def _write(ctx: Context, result: dict[str, Any]) -> None:
    (ctx.files / "judge.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    if result["method"] == "win_rate":
        body = table(["", "value"], [[name, _cell(v)] for name, v in lines(result)])
    else:
        measures = {name: value for name, value in result.items() if name != "method"}
        header = ["measure", "mean", "stderr", "rows"]
        body = table(
            header, [[name, *(_cell(of[h]) for h in header[1:])] for name, of in measures.items()]
        )
    (ctx.files / "judge.md").write_text(
        f"# Answers judged: {result['method']}\n\n{body}\n", "utf-8"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
