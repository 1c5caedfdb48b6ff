"""Answers to existing prompts: by several models, several times, and in several styles.

The modules of the methods say what is as in the papers and what is ours; the sampling
(temperature 0.7, 1,024 tokens) is ours for all of them.

- `answer`: the prompt as it stands. Re-answering a pool with a stronger model is
  Instruction Tuning with GPT-4 (Peng et al. 2023, arXiv:2304.03277); several models
  on one prompt is Ensemble-Instruct (Lee et al. 2023, arXiv:2310.13961).
- `explain`: Orca's system prompts that demand an explanation (see `explain.py`).
- `reason`: ReGenesis's paths of reasoning (see `reason.py`).
- `context`: Self-Specialization's retrieved passages (see `context.py`).
- `continue`: a text's continuation answers its beginning (see `continuation.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from types import SimpleNamespace
from typing import Annotated, Any, Final, Literal

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models.base import Decoding, Engine, LanguageModel
from pipeline.models.side_by_side import side_by_side
from pipeline.stage import Documents, Edges, InputFiles, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat, option_group
from schemas.refusals import REFUSAL
from stages._common.edges import require_input, required
from stages._common.listed_files import lines_of
from stages._llm.drafts import (
    Draft,
    RowMessages,
    filter_drafts,
    generate_field,
    model_names,
    to_frame,
)
from stages._llm.row_values import check_names, columns_of, row_values
from stages._llm.rows import Rejection, continued, has_tools, license_of
from stages.generate.respond.context import InContext, show_passages
from stages.generate.respond.continuation import Continue, beginnings
from stages.generate.respond.explain import SYSTEM_PROMPTS, Explain, set_system_prompts
from stages.generate.respond.reason import Reason, write_reasoning
from stages.generate.respond.turns import with_system

ADDS: Final = {
    "journal": pl.List(pl.String),
    "model": pl.String,
    "sample": pl.Int32,
    "manner": pl.String,
}


_EVIDENCE_CHARACTERS: Final = 200
"""How much of the beginning of a refusal is kept as evidence."""


@option_group
class Answer:
    """The prompt as it stands.

    Args:
        name: "answer".
        system: A system prompt put before the prompt; it stays in the row.
    """

    name: Literal["answer"] = "answer"
    system: str | None = None


Method = Annotated[Answer | Explain | Reason | InContext | Continue, Field(discriminator="name")]


def _reads(options: SimpleNamespace) -> dict[str, list[str]]:
    truth = columns_of([_source_of(options.truth)]) if options.truth else []
    columns = ["messages", "tools", "input_start", "origins", *truth]
    return {"rows": list(dict.fromkeys(columns))}


def _source_of(truth: str) -> str:
    """The column, or the part of a conversation, that holds the right answers."""
    return truth.partition(".")[0] if truth.startswith("extra.") else truth


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    method = options.method
    if not isinstance(method, Continue):
        require_input(edges, "rows", method.name)
    if options.truth:
        (columns,) = edges["rows"]
        check_names("truth", [_source_of(options.truth)], columns)
    if isinstance(method, Continue | InContext):
        require_input(edges, "documents", method.name)
    return ADDS


def _check(options: SimpleNamespace) -> None:
    if not options.models:
        raise OptionError("models", "must name at least one model, got []", hint="models: [NAME]")
    method = options.method
    if options.truth and isinstance(method, Continue):
        raise OptionError(
            *("truth", f"must be left out with method: continue, got {options.truth}"),
            why="a text's continuation has no right answer",
        )
    if isinstance(method, Reason) and method.hint and not options.truth:
        raise OptionError(
            *("truth", "must say where the right answers are with method.hint, got null"),
            why="they are the hint",
            hint="truth: response, or a column",
        )
    if options.system_prompt_files and not isinstance(method, Explain):
        raise OptionError(
            *("system_prompt_files", f"must be left out with method: {method.name}"),
            why="it draws no system prompts",
            hint="method: explain",
        )
    if options.system_prompt_files and method.system_prompts != SYSTEM_PROMPTS:
        raise OptionError(
            "method.system_prompts", "must be left out with system_prompt_files, which replace them"
        )


@stage(
    version=4,
    scope="set",
    reads=_reads,
    adds=_adds,
    check=_check,
    later=("keep_reasoning", "system_prompt_files", "truth"),
)
def respond(
    ctx: Context,
    rows: Records | None = None,
    documents: Documents | None = None,
    *,
    models: tuple[LanguageModel, ...],
    method: Method = Answer(),
    system_prompt_files: InputFiles = (),
    num_answers: Count = 1,
    seed: int = 0,
    temperature: NonNegativeFloat = 0.7,
    top_p: Fraction = 1.0,
    max_tokens: Count = 1024,
    retry_max_tokens: tuple[Count, ...] = (),
    drop_refusals: bool = False,
    keep_reasoning: bool = False,
    truth: str | None = None,
    source: str = "respond",
) -> Records:
    """New records: `num_answers` answers of every model to every prompt.

    The prompt is all of a row up to the last user's turn; `parents` is the row (or the
    document), whose license stays. `select.response` chooses among the answers.
    Adds `journal`, `model` (by its name here; that of the fallback where it answered),
    `sample` (0 to num_answers - 1) and `manner`: the system prompt's name for `explain` (its
    text where it is of a file), the guideline for `reason`.

    Args:
        rows: The prompts, for all methods but `continue`.
        documents: What `context` searches for passages, and what `continue` continues.
        models: Who answers.
        method: How: answer, explain, reason, context or continue.
        system_prompt_files: Text files with a system prompt on each line, which `explain` draws
            from instead of its own: Orca's list, for one. A line `<empty>` stands for none.
        num_answers: Answers of each model to each prompt.
        seed: Seed of the sampling and of what a method draws.
        temperature: Of the answers.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of an answer in tokens.
        retry_max_tokens: Increasing limits in tokens with which answers that reached their
            limit are requested again.
        drop_refusals: Drop answers that open by refusing, by the phrases of `tag.surface`.
        keep_reasoning: Whether what a model reasoned before its answer becomes the answer's
            `reasoning`. It is never part of the content.
        truth: Where the right answer of a row is, if one is known: a column, `extra.FIELD`, or
            `response`, the row's own last answer. It becomes `truth` in the `extra` of each new
            row, by which `score.execution` can verify it, and `reason` requests the final
            answer in a box.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `no_prompt` (nothing to answer), `has_tools` (a
        conversation with tools, which the model would not have), `not_sampled`, `refusal`,
        `no_truth` (of `reason` with `hint`), and for answers that were cut or empty as
        `response_cut`, `response_unparsed`, or with the name of the step of `reason` in their
        place, and for reasoning that did not come to an answer as `reasoning_unclosed`.

    Raises:
        UserError: If an edge that the method needs is not connected.

    Example:
        ```yaml
        answers:
          uses: generate.respond
          needs: {rows: tasks}
          with:
            models: [qwen, mistral]
            method: {name: explain, system_prompts: [steps, justify]}
            num_answers: 2
        ```
    """
    prompts = _prompts(rows, documents, method, seed)
    if truth and rows is not None:
        _note_truth(prompts, rows, truth)
    decoding = Decoding(max_tokens, temperature, top_p)
    names = model_names(models)

    def answers_of(position: int, engine: Engine) -> list[Draft]:
        name = names[position]
        drafts = [
            _copy(prompt, name, sample) for prompt in prompts for sample in range(num_answers)
        ]
        write = partial(
            generate_field, engine, decoding=decoding, seed=seed, retry_max_tokens=retry_max_tokens
        )
        if isinstance(method, Reason):
            write_reasoning(write, drafts, method, seed, boxed=truth is not None)
        else:
            if isinstance(method, Explain):
                set_system_prompts(drafts, method, seed, lines_of(system_prompt_files))
            write(drafts, "response", lambda d: d.fields.get("shown", d["before"]))
        return drafts

    answers = list(chain.from_iterable(side_by_side(ctx, models, answers_of)))
    for draft in answers:
        draft.fields["model"] = draft.notes.get("fallback", {}).get("response", draft["model"])
    if drop_refusals:
        _drop_refusals(answers)
    reasoning = "response" if keep_reasoning else None
    return to_frame(answers, _messages, source, ADDS, keep_reasoning=reasoning)


def _prompts(
    rows: pl.DataFrame | None, documents: pl.DataFrame | None, method: Method, seed: int
) -> list[Draft]:
    """A draft for each prompt: `before` is the row's turns, `shown` what the model sees instead."""
    if isinstance(method, Continue):
        return beginnings(required(documents, "documents", method.name), method, seed)
    system = method.system if isinstance(method, Answer | InContext) else None
    prompts = _last_requests(required(rows, "rows", method.name), system)
    if isinstance(method, InContext):
        show_passages(prompts, required(documents, "documents", method.name), method)
    return prompts


def _last_requests(rows: pl.DataFrame, system: str | None) -> list[Draft]:
    """Each row's turns up to the last one of the user."""
    drafts = []
    columns = rows.select("id", "messages", "tools", "input_start", "origins")
    for id_, messages, tools, input_start, origins in columns.iter_rows():
        turns = [(m["role"], m["content"] or "") for m in messages or ()]
        last = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=-1)
        before: tuple[tuple[str, str], ...] = tuple(turns[: last + 1])
        if system is not None:
            before = with_system(system, before)
        originals = (messages or [])[: last + 1]
        fields = {"before": before, "originals": originals, "input_start": input_start}
        draft = Draft((id_,), fields, license_of(origins))
        if last < 0 or not turns[last][1].strip():
            draft.reject("no_prompt")
        elif has_tools(originals, tools):
            draft.reject("has_tools")
        drafts.append(draft)
    return drafts


def _note_truth(prompts: Sequence[Draft], rows: pl.DataFrame, truth: str) -> None:
    """Note the right answer of each row, where it is known, in its prompt's draft."""
    source = _source_of(truth)
    for draft, values in zip(prompts, row_values(rows, [source]), strict=True):
        value = values[source]
        if source != truth:
            value = (value or {}).get(truth.removeprefix("extra."))
        if value is not None and value != "":
            draft.notes["truth"] = value if isinstance(value, str | int | float) else str(value)


def _copy(prompt: Draft, model: str, sample: int) -> Draft:
    """A draft for one sample of one model; it is rejected for the reason of its prompt."""
    draft = prompt.child(model=model, sample=sample)
    draft.number, draft.rejection = sample, prompt.rejection
    return draft


def _drop_refusals(drafts: Sequence[Draft]) -> None:
    texts = pl.Series([draft.fields.get("response") for draft in drafts], dtype=pl.String)
    refusing = {
        id(draft)
        for draft, refuses in zip(drafts, texts.str.contains(REFUSAL), strict=True)
        if refuses
    }

    def rejection(draft: Draft) -> Rejection | None:
        start = draft["response"][:_EVIDENCE_CHARACTERS]
        return ("refusal", {"response_start": start}) if id(draft) in refusing else None

    filter_drafts(drafts, rejection)


def _messages(draft: Draft) -> RowMessages:
    turns: Sequence[tuple[str, str]] = draft["before"]
    if draft.fields.get("response"):
        turns = [*turns, ("assistant", draft["response"])]
    return continued(turns, draft.fields.get("originals", ())), draft.fields.get("input_start")
