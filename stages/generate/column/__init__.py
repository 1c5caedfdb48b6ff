"""A step of one's own: a prompt over the columns of each row, whose answer becomes columns.

What other tools call a text, structured or label column. The prompt is the recipe's own; the
words behind it that say the form of the answer (`show_form`) are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.ask import ParsedCompletion, Rejection, ask
from pipeline.models.base import Decoding, LanguageModel, Request
from pipeline.stage import Documents, Edges, InputFiles, Records, stage
from pipeline.types import Count, Fraction, NonEmpty, NonNegativeFloat
from schemas.turns import View
from stages._llm.row_prompts import (
    RenderedPrompt,
    check_prompt,
    prompt_reads,
    prompts_of,
    row_prompt,
    row_seed,
)
from stages._llm.rows import to_json
from stages.generate.column.outputs import Form, Text, form_of
from stages.generate.column.outputs import Output as AnyOutput

Output = Annotated[AnyOutput, Field(discriminator="name")]

_VERDICT: Final = dict.fromkeys(("drop_reason", "evidence", "error"), pl.String())


def _check(options: SimpleNamespace) -> None:
    row_prompt(options)


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    check_prompt(options, edges)
    return _columns(form_of(options.output, options.column), options)


def _columns(form: Form, options: SimpleNamespace) -> dict[str, Any]:
    """The added columns: lists where there are several samples."""
    several = options.num_samples > 1
    own = dict(form.columns)
    if options.keep_reasoning:
        own[f"{options.column}_reasoning"] = pl.String
    added = {name: pl.List(dtype) if several else dtype for name, dtype in own.items()}
    beside = {f"{options.column}_{name}" for name in ("journal", "reasoning")} & {*form.columns}
    if beside:
        raise OptionError("output", f"must have no field {min(beside)!r}: a column has that name")
    return {**added, f"{options.column}_journal": pl.List(pl.String)}


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
    column: Annotated[str, NonEmpty] = "generation",
    output: Output = Text(),
    num_samples: Count = 1,
    num_examples: Count = 3,
    view: View = "calls",
    seed: int = 0,
    temperature: NonNegativeFloat = 0.7,
    top_p: Fraction = 1.0,
    max_tokens: Count = 1024,
    retry_max_tokens: tuple[Count, ...] = (),
    keep_reasoning: bool = False,
) -> pl.DataFrame:
    r"""Have a model answer a prompt of your own about each row.

    The prompt is a Jinja template over the row's columns by their names, and over the parts of
    its conversation: `instruction`, `input`, `response`, `system`, `reasoning`,
    `conversation`, `messages`, `extra.FIELD` (a column of the same name counts first); of
    documents over `text` and `title`. A name that no row has is an error before anything is
    sent. What stands in a row is never a template. A null that the prompt would show drops the
    row as `null_value`; ask for it with `{% if topic %}` or `{{ topic or "any" }}`.

    Adds the column or, of fields, a column for each; with several samples lists, in which an
    unreadable one is null. `<column>_journal` holds the keys of all answers. To make the answer
    a turn of a conversation, let `rewrite.turns` follow.

    Args:
        rows: The rows; they stay as they are.
        examples: Few-shot rows: the template shows them as
            `{% for example in examples %}{{ example.instruction }}{% endfor %}`. Those of a
            row are drawn by the seed and its id; the row itself is never one of them.
        model: Who answers.
        prompt: The template of the user's turn.
        prompt_file: A file with the template, in place of `prompt`.
        system: The template of a system prompt.
        column: The name of the column, and the beginning of the names beside it.
        output: What the answer is: text, label, structured or json.
        num_samples: Answers to each prompt.
        num_examples: Few-shot rows of each prompt, or as many as there are.
        view: What of a turn is shown: its content, the tool calls too, or all (its reasoning,
            and in a conversation the definitions of the tools).
        seed: Of the sampling, which is each row's own, and of the choice of examples.
        temperature: Of the sampling; 0 is greedy.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of an answer in tokens.
        retry_max_tokens: Increasing limits in tokens with which answers that reached their
            limit are requested again.
        keep_reasoning: Whether what the model reasoned before its answer becomes the column
            `<column>_reasoning`.

    Returns:
        The columns. Dropped: `unreadable` (no sample has the form of the output, although it
        was shown to the model for a repair and sampled anew; evidence: why, and the answer's
        end), `reasoning_unclosed`, `withheld` (by the provider's filter), `null_value`
        and `no_prompt` (the prompt is blank).

    Raises:
        UserError: A template cannot be rendered.

    Example:
        ```yaml
        described:
          uses: generate.column
          needs: {rows: pool, examples: seeds}
          with:
            model: writer
            prompt: |
              {% for example in examples %}
              Request: {{ example.instruction }}
              {% endfor %}
              How hard is this request, compared with those above?
              {{ instruction }}
            column: rating
            output:
              name: structured
              fields: {difficulty: int 1..5, reason: str, level: [easy, hard]}
            num_examples: 2
        ```
    """
    options = SimpleNamespace(
        prompt=prompt, prompt_file=prompt_file, system=system, view=view, column=column,
        num_examples=num_examples, num_samples=num_samples, seed=seed,
        keep_reasoning=keep_reasoning,
    )  # fmt: skip
    form = form_of(output, column)
    prompts = prompts_of(row_prompt(options), rows, examples, form.ending)
    decoding = Decoding(
        *(max_tokens, temperature, top_p), choice=form.choice, json_schema=form.json_schema
    )
    requests = [
        Request(prompt.turns, decoding, row_seed(seed, id_, temperature), sample)
        for id_, prompt in zip(rows["id"], prompts, strict=True)
        for sample in range(num_samples if prompt.rejection is None else 0)
    ]
    answers = iter(
        ask(
            ctx.open(model), requests, parse=form.parse, check=form.check,
            retry_max_tokens=retry_max_tokens, repair=not isinstance(output, Text),
        )
    )  # fmt: skip
    return _table(form, options, prompts, [
        [next(answers) for _ in range(num_samples)] if prompt.rejection is None else []
        for prompt in prompts
    ])  # fmt: skip


def _table(
    form: Form,
    options: SimpleNamespace,
    prompts: Sequence[RenderedPrompt],
    answers: Sequence[Sequence[ParsedCompletion]],
) -> pl.DataFrame:
    """The added columns and the verdict of each row."""
    schema = _columns(form, options)
    table = []
    for prompt, samples in zip(prompts, answers, strict=True):
        rejection, error = prompt.rejection, next((a.error for a in samples if a.error), None)
        readable = [answer for answer in samples if answer.readable]
        if error is None and samples and not readable:
            rejection = samples[0].rejection
        row: dict[str, Any] = _values(form, options, samples) if readable and not error else {}
        row[f"{options.column}_journal"] = [key for a in samples for key in a.journal]
        table.append({**row, **_verdict(rejection, error)})
    return pl.DataFrame(table, schema={**schema, **_VERDICT}, strict=False)


def _values(
    form: Form, options: SimpleNamespace, samples: Sequence[ParsedCompletion]
) -> dict[str, Any]:
    """The values of a row: of several samples lists."""
    by_sample: list[Mapping[str, Any]] = [
        {
            **(form.values(answer.value) if answer.readable else {}),
            f"{options.column}_reasoning": answer.completion.reasoning or None,
        }
        for answer in samples
    ]
    names = [name for name in _columns(form, options) if name != f"{options.column}_journal"]
    values = {name: [sample.get(name) for sample in by_sample] for name in names}
    return values if options.num_samples > 1 else {name: one for name, (one,) in values.items()}


def _verdict(rejection: Rejection | None, error: str | None) -> dict[str, str | None]:
    reason, evidence = (rejection if error is None else None) or (None, None)
    return {
        "drop_reason": reason,
        "evidence": None if evidence is None else to_json(evidence),
        "error": error,
    }
