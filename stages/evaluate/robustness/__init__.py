"""How much a model's results depend on what should not matter: one module per method.

- `spread`: a score over the wordings, languages or tenses of a task;
- `injection`: answers about data in which another request is planted;
- `verbalizer`: labels in natural, neutral and swapped words.

The worst case always stands next to the mean.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import LanguageModel
from pipeline.stage import Edges, Records, stage
from stages._common.charts import table
from stages.evaluate.robustness import injection, verbalizer
from stages.evaluate.robustness.injection import Injection, injected
from stages.evaluate.robustness.spread import Spread, spread
from stages.evaluate.robustness.verbalizer import Verbalizer, verbalized

Method = Annotated[Spread | Injection | Verbalizer, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> list[str]:
    if isinstance(options.method, Spread):
        return list(options.method.columns)
    return ["messages", "tools", "input_start", "extra"]


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    match options.method:
        case Injection():
            return injection.ADDS
        case Verbalizer():
            return verbalizer.ADDS
    for columns in edges["rows"]:
        kind = columns.get(options.method.score)
        if kind is not None and not (
            pl.Series([], dtype=kind).dtype.is_numeric() or _is_flag(kind)
        ):
            raise OptionError("method.score", f"must be a column of numbers or flags, got {kind}")
    return {}


def _is_flag(kind: Any) -> bool:
    return bool(kind == pl.Boolean)


def _check(options: SimpleNamespace) -> None:
    needs_model = not isinstance(options.method, Spread)
    if needs_model and options.model is None:
        raise OptionError("model", f"must be given with method: {options.method.name}, got none")
    if not needs_model and options.model is not None:
        raise OptionError(
            *("model", "must be left out with method: spread"), why="it compares what has a score"
        )


@stage(version=1, scope="set", reads=_reads, adds=_adds, check=_check, files=True)
def robustness(
    ctx: Context,
    rows: Records,
    *,
    method: Method,
    model: LanguageModel | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Measure how much a model's results depend on wording, label words or planted requests.

    `robustness.json` and `robustness.md` have the numbers. No row is dropped for its score; a row
    that a method cannot use, or whose answers cannot be read, is dropped with the reason.

    Args:
        rows: For `spread` rows with a score; for `injection` questions about a separate input with
            their answers; for `verbalizer` texts with their label as the answer.
        method: spread, injection or verbalizer, each with its own options.
        model: The model under test, for injection and verbalizer.
        seed: Of what is planted; it enters the requests' keys.

    Returns:
        The columns of the method. Dropped by injection: `no_data` (no separate input, or no gold
        answer), `nothing_to_plant`; by verbalizer: `unknown_label`, `unreadable`; by both
        `reasoning_unclosed` and `withheld`.

    Raises:
        OptionError: A model is missing.

    Example:
        ```yaml
        phrased: {uses: rewrite.paraphrase, needs: exams, with: {model: writer, method: variants}}
        scored:  {uses: score.loss, needs: phrased, with: {model: student, formulas: [loss]}}
        spread:
          uses: evaluate.robustness
          needs: scored
          with: {method: {name: spread, score: loss, variant: variant, task: group}}
        ```

        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> rows = pl.DataFrame({"id": ["a", "b"], "wording": ["1", "2"], "right": [True, False]})
        >>> ctx = Context.scratch(Path(mkdtemp()))
        >>> result = robustness(ctx, rows, method=Spread(score="right", variant="wording"))
        >>> json.loads((ctx.files / "robustness.json").read_text())["kinds"]["all"]["worst"]
        0.0
    """
    if isinstance(method, Spread):
        result: dict[str, Any] = {"kinds": spread(rows, method)}
        frame = pl.DataFrame({"error": [None] * len(rows)}, schema={"error": pl.String})
    else:
        _check(SimpleNamespace(method=method, model=model))
        assert model is not None
        engine = ctx.open(model)
        if isinstance(method, Injection):
            frame, result = injected(engine, rows, method, seed)
        else:
            frame, result = verbalized(engine, rows, method, seed)
    result = {"method": method.name, **result}
    (ctx.files / "robustness.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    (ctx.files / "robustness.md").write_text(as_markdown(result), "utf-8")
    return frame


def as_markdown(result: dict[str, Any]) -> str:
    """The numbers as a table.

    Args:
        result: What `robustness.json` holds.
    """
    groups = result.get("kinds") or {
        name: value for name, value in result.items() if isinstance(value, dict)
    }
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    cells = [[group, *(_cell(of.get(name)) for name in names)] for group, of in groups.items()]
    single = {n: v for n, v in result.items() if n != "method" and not isinstance(v, dict)}
    lines = [f"- {name.replace('_', ' ')}: {_cell(value)}" for name, value in single.items()]
    parts = [f"# Robustness: {result['method']}", table(["", *names], cells), "\n".join(lines)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
