"""Wrong answers made into rows: the faulty step with its correction, or both sides with tags.

- `lema`: LeMa's corrections: the wrong step, why, and the solution from there;
- `mistake_tuning`: the right and the wrong rationale, each behind its tag;
- `overmiss`: OVERMISS's over- and miss-translations beside the right one.

Errors are sampled from models, there already, or injected. Injected ones transfer badly to real
ones: every row says where its error is from, and `corrections.json` counts them by source.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.models.counting import is_counting
from pipeline.models.side_by_side import side_by_side
from pipeline.stage import Edges, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from stages._llm.drafts import Draft, generate_field, model_names, to_frame
from stages._llm.row_values import check_names, columns_of, row_values
from stages.rewrite._exchanges import READS, exchange_drafts
from stages.rewrite.correct.lema import LeMa
from stages.rewrite.correct.locating import locating_facts
from stages.rewrite.correct.mistake_tuning import MistakeTuning
from stages.rewrite.correct.overmiss import OverMiss
from stages.rewrite.correct.solutions import Corrector, Errors, InColumn, Injected, Sampled

Method = Annotated[LeMa | MistakeTuning | OverMiss, Field(discriminator="name")]

ADDS: Final[dict[str, Any]] = {
    "journal": pl.List(pl.String),
    "error_source": pl.String(),
    "solver": pl.String(),
    "mistake_step": pl.Int32(),
    "tag": pl.String(),
    "pair": pl.String(),
}

RESPONSE: Final = "response"


def _errors(options: SimpleNamespace) -> Sampled | Injected | InColumn:
    default = Injected() if isinstance(options.method, OverMiss) else Sampled()
    errors: Sampled | Injected | InColumn = options.errors or default
    return errors


def _sources(options: SimpleNamespace) -> list[str]:
    """The columns, or parts of a row, that hold gold answers and wrong solutions."""
    errors = _errors(options)
    named = [options.gold]
    if isinstance(errors, InColumn):
        named += [errors.wrong, *([errors.mistake_step] if errors.mistake_step else [])]
    return list(dict.fromkeys(name.partition(".")[0] for name in named))


def _reads(options: SimpleNamespace) -> list[str]:
    return list(dict.fromkeys([*READS, *columns_of(_sources(options))]))


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    (columns,) = edges["rows"]
    check_names("gold", [options.gold.partition(".")[0]], columns)
    check_names("errors", _sources(options), columns)
    return ADDS


def _check(options: SimpleNamespace) -> None:
    errors, method = _errors(options), options.method
    if isinstance(method, OverMiss) and not isinstance(errors, Injected):
        raise OptionError(
            *("errors", f"must be injected with method: overmiss, got {errors.name}"),
            why="a translation has no final answer by which a sampled one is wrong",
            hint="errors: {name: injected, by: model}",
        )
    if isinstance(method, OverMiss) and options.gold != RESPONSE:
        raise OptionError("gold", f"must be left out with method: overmiss, got {options.gold}")
    if options.solvers and not isinstance(errors, Sampled):
        raise OptionError(
            *("solvers", f"must be left out with errors: {errors.name}"),
            why="nothing is sampled",
        )


@stage(version=1, scope="set", reads=_reads, adds=_adds, check=_check, files=True)
def correct(
    ctx: Context,
    rows: Records,
    *,
    model: LanguageModel,
    solvers: tuple[LanguageModel, ...] = (),
    method: Method = LeMa(),
    errors: Errors | None = None,
    gold: str = RESPONSE,
    seed: int = 0,
    temperature: NonNegativeFloat | None = None,
    top_p: Fraction = 1.0,
    max_tokens: Count | None = None,
    source: str = "correct",
) -> Records:
    """New records out of wrong answers; the rows themselves are not among them.

    `parents` is the row, whose license stays. Adds `journal`, `error_source` (sampled, injected or
    given), `solver` (the model that a sampled solution is from), `mistake_step` (the position of
    the step that the model names, from 0), `tag` (correct or incorrect) and `pair` (the row that
    both sides of a pair are from); null where a method has none. `extra` holds the wrong text and
    the right one. `corrections.json` counts how the solutions of each source ended, and how often
    the model names the right step where it is known, beside the best constant.

    Args:
        rows: Problems with their answers.
        model: Corrects, injects and rethinks.
        solvers: The models whose wrong solutions are sampled; by default the model.
        method: lema, mistake_tuning or overmiss, each with its own options.
        errors: Where wrong answers are from: sampled, injected or column; by default injected
            with overmiss, and sampled with the others.
        gold: Where the right answer is: `response`, a column, or `extra.FIELD`. Of a solution its
            final answer counts.
        seed: Seed of the sampling and of what is drawn.
        temperature: Of what the model writes; by default the method's own.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of a text in tokens; by default the method's own.
        source: Name of the new records' source.

    Returns:
        The new records. Dropped: `right` (a solution that is not wrong), `unparsed` (a solution or
        correction without a final answer that can be read), `not_gold` (a correction that does
        not lead to the gold answer), `no_gold`, `no_solution`, `no_fault` (no error could be
        injected), `no_mistake`, `prefix_changed`, `another_is_kept`, for texts that were cut or
        cannot be read `wrong_cut`, `correction_cut`, `correction_unparsed` and so on, and rows
        that are no problem with an answer in plain text as `has_tools`, `has_reasoning`,
        `multi_turn`, `not_trained`, `no_answer` or `no_instruction`; with overmiss also
        `no_input`, `too_short` and `has_tags`.

    Example:
        ```yaml
        mistakes:
          uses: rewrite.correct
          needs: problems
          with: {model: teacher, solvers: [weak, weaker], method: lema}
        ```
    """
    options = SimpleNamespace(method=method, errors=errors, gold=gold)
    chosen = _errors(options)
    own = method.decoding
    temperature = own.temperature if temperature is None else temperature
    decoding = Decoding(max_tokens or own.max_tokens, temperature, top_p)
    write = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
    solving = solvers or (model,)
    each_solver = partial(side_by_side, ctx, solving)
    corrector = Corrector(write, model_names(solving), each_solver, chosen, seed)
    needs_answer = gold == RESPONSE or not isinstance(method, LeMa) or chosen.name == "injected"
    problems = exchange_drafts(rows, answered=needs_answer)
    _note_sources(problems, rows, options)
    written = method.run(corrector, problems)
    frame = to_frame(written, method.messages_of, source, ADDS)
    _write_facts(ctx.files, written)
    return frame


def _note_sources(problems: Sequence[Draft], rows: pl.DataFrame, options: SimpleNamespace) -> None:
    """Put the gold answer of each row, and what it has of a wrong solution, into its draft."""
    errors = _errors(options)
    for draft, values in zip(problems, row_values(rows, _sources(options)), strict=True):

        def value(name: str, values: dict[str, Any] = values) -> Any:
            column, _, field = name.partition(".")
            return (values[column] or {}).get(field) if field else values[column]

        draft.fields["gold"] = value(options.gold)
        if isinstance(errors, InColumn):
            draft.fields["wrong"] = value(errors.wrong)
            if errors.mistake_step:
                draft.fields["known_step"] = value(errors.mistake_step)


def _write_facts(folder: Path, drafts: Sequence[Draft]) -> None:
    """Write `corrections.json`: the ends by source of the error, and what the model located."""
    sources: dict[str, Counter[str]] = {}
    for draft in drafts:
        reason = draft.rejection[0] if draft.rejection else "kept"
        counts = sources.setdefault(draft["error_source"], Counter())
        counts["failed" if draft.error is not None else reason] += 1
    facts: dict[str, Any] = {"sources": {name: dict(c) for name, c in sorted(sources.items())}}
    located = [
        (draft["known_step"], draft["mistake_step"])
        for draft in drafts
        if "known_step" in draft.fields and draft.fields.get("located") and not is_counting()
    ]
    facts["located"] = locating_facts(located)
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    (folder / "corrections.json").write_text(text + "\n", "utf-8")
