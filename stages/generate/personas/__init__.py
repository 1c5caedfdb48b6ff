"""Persona Hub (Ge et al. 2024, arXiv:2406.20094): people as prompts, so that no two are alike.

- `text`: who would read or write a text (text-to-persona; see `descriptions.py`).
- `relations`: who is close to a person (persona-to-persona; see `descriptions.py`).
- `tasks`: what such a person brings: problems, prompts, articles, characters, tools (see
  `tasks.py`).

A persona is a row whose user's turn is the description, so that every other stage works on it:
`dedup.minhash` and, behind `embed.text`, `dedup.semantic` keep those that differ; `load.records`
or `generate.sample` bring personas of a file. The recipe `persona-hub` has all steps.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Final

import polars as pl
from pydantic import Field

from pipeline.context import Context
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Documents, Edges, Records, stage
from pipeline.types import Count, Fraction, NonNegativeFloat
from schemas.records import Message, first_user_turn
from stages._common.edges import require_input, required
from stages._llm.drafts import Draft, GenerateField, RowMessages, generate_field, to_frame
from stages._llm.rows import license_of
from stages.generate.personas.descriptions import FromText, Relations, describe_readers, relate
from stages.generate.personas.tasks import Tasks, write_tasks

ADDS: Final = {
    "journal": pl.List(pl.String),
    "persona": pl.String,
    "persona_task": pl.String,
    "relation_step": pl.Int32,
}

Method = Annotated[FromText | Relations | Tasks, Field(discriminator="name")]


def _adds(options: SimpleNamespace, edges: Edges) -> dict[str, Any]:
    method = options.method
    require_input(edges, "documents", method.name, connected=isinstance(method, FromText))
    require_input(edges, "personas", method.name, connected=not isinstance(method, FromText))
    shows = isinstance(method, Tasks) and method.prompting != "zero_shot"
    require_input(edges, "examples", _prompting(method), connected=shows)
    return ADDS


def _prompting(method: FromText | Relations | Tasks) -> str:
    """What a message about examples calls the method."""
    return method.prompting if isinstance(method, Tasks) else method.name


@stage(
    version=2,
    scope="set",
    reads={
        "documents": ["text", "origins"],
        "personas": ["messages", "origins"],
        "examples": ["messages"],
    },
    adds=_adds,
)
def personas(
    ctx: Context,
    documents: Documents | None = None,
    personas: Records | None = None,
    examples: Records | None = None,
    *,
    model: LanguageModel,
    method: Method = FromText(),
    seed: int = 0,
    temperature: NonNegativeFloat = 0.6,
    top_p: Fraction = 0.95,
    max_tokens: Count = 2048,
    source: str = "personas",
) -> Records:
    """New records: personas, or what they bring.

    `parents` is the document, or the persona that it comes from, whose license stays. Adds
    `journal`; `persona`, the description; `persona_task`, the kind of task; `relation_step`, how
    many relations a persona is away from one that came in.

    Args:
        documents: The texts, for `text`.
        personas: Rows whose user's turn describes a person, for `relations` and `tasks`.
        examples: Few-shot rows for `tasks`, whose user's turn is such a task.
        model: Writes.
        method: text, relations or tasks, each with its own options.
        seed: Of the sampling, and of what a method draws.
        temperature: Of the sampling; 0.6, as `top_p` and `max_tokens`, is of the authors' code.
        top_p: Nucleus of the sampling.
        max_tokens: Limit of an answer in tokens.
        source: Name of the new records' source.

    Returns:
        The new records. Rows are dropped as `no_text` and `no_persona` (there is nothing to start
        from), `not_sampled`, `persona_length`, `duplicate`, and for answers that were cut or
        empty as `persona_cut`, `persona_unparsed`, `task_cut`, `task_unparsed`, `answer_cut`,
        `answer_unparsed`, or as `reasoning_unclosed`.

    Raises:
        UserError: If an edge that the method needs is not connected.

    Example:
        ```yaml
        people:   {uses: generate.personas, needs: {documents: pages}, with: {model: writer}}
        problems:
          uses: generate.personas
          needs: {personas: people}
          with: {model: writer, method: {name: tasks, kind: math}}
        ```
    """
    write = partial(
        generate_field,
        ctx.open(model),
        decoding=Decoding(max_tokens, temperature, top_p),
        seed=seed,
    )
    drafts = _written(write, documents, personas, examples, method, seed)
    return to_frame(drafts, _messages, source, ADDS)


def _written(
    write: GenerateField,
    documents: pl.DataFrame | None,
    personas: pl.DataFrame | None,
    examples: pl.DataFrame | None,
    method: FromText | Relations | Tasks,
    seed: int,
) -> list[Draft]:
    if isinstance(method, FromText):
        return describe_readers(write, required(documents, "documents", method.name), method, seed)
    people = _people(required(personas, "personas", method.name))
    if isinstance(method, Relations):
        return relate(write, people, method)
    shown = None
    if method.prompting != "zero_shot":
        shown = required(examples, "examples", method.prompting)
    return write_tasks(write, people, shown, method, seed)


def _people(rows: pl.DataFrame) -> list[Draft]:
    """A draft for each persona that comes in."""
    columns = rows.select("id", first_user_turn().alias("text"), "origins")
    drafts = []
    for id_, text, origins in columns.iter_rows():
        draft = Draft((id_,), {"persona": (text or "").strip()}, license_of(origins))
        if not draft["persona"]:
            draft.reject("no_persona")
        drafts.append(draft)
    return drafts


def _messages(draft: Draft) -> RowMessages:
    """A persona, a task, or a request with the text that was written for it."""
    fields = draft.fields
    request = fields.get("request", fields.get("task") or fields.get("persona") or "")
    messages: list[Message] = [{"role": "user", "content": request}]
    if fields.get("answer"):
        messages.append({"role": "assistant", "content": fields["answer"]})
    return messages, None
