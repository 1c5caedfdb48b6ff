"""What a persona brings: the last step of Persona Hub (Ge et al. 2024, arXiv:2406.20094).

- As in the paper: the six uses of section 4 (mathematical and logical problems, instructions,
  knowledge-rich texts, characters of games, tools), and the three ways to ask of section 3:
  zero-shot, few-shot, and persona-enhanced few-shot, in which each example stands under the
  persona of somebody who would bring it, which text-to-persona gives beforehand.
- As in the authors' code (tencent-ailab/persona-hub): a request a persona, sampled at a
  temperature of 0.6 with a nucleus of 0.95 and 2,048 tokens; a problem comes without its solution,
  and is hard; a character belongs to a world that the prompt describes (`world`; theirs is the
  game of the paper's example).
- Ours: the words of the prompts, which are shorter. Problems and instructions are rows that wait
  for an answer (`generate.respond`); a text, a character or a tool is the answer to the request
  that it was written for, without the examples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Literal

import polars as pl

from pipeline.errors import UserError
from pipeline.types import Count, option_group
from schemas.records import first_user_turn
from stages._llm.drafts import Draft, GenerateField, user
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages.generate.personas.descriptions import parse_description

PROMPTS: Final = Prompts(__file__)

Kind = Literal["math", "reasoning", "instruction", "knowledge", "npc", "tool"]

_ANSWERED: Final = ("knowledge", "npc", "tool")
"""The kinds whose text is the answer to the request for it."""


@option_group
class Tasks:
    """What a persona would bring, or write.

    Args:
        name: "tasks".
        kind: A math problem, a problem of logical reasoning, an instruction (what the person
            would ask an assistant), a knowledge-rich text, a character of a game (npc), or the
            interface of a tool that the person needs.
        prompting: Whether examples are shown: zero_shot, few_shot, or persona_few_shot, with a
            persona for each example.
        num_examples: Examples that are drawn for each request.
        per_persona: Tasks of each persona, each sampled by itself.
        world: The world that a character of a game belongs to, in words of the prompt.
    """

    name: Literal["tasks"] = "tasks"
    kind: Kind = "instruction"
    prompting: Literal["zero_shot", "few_shot", "persona_few_shot"] = "zero_shot"
    num_examples: Count = 3
    per_persona: Count = 1
    world: str | None = None

    def __post_init__(self) -> None:
        if self.world is not None and self.kind != "npc":
            raise ValueError(f"world must be left out for the kind {self.kind}, got one")
        if self.prompting == "zero_shot" and self.num_examples != 3:
            raise ValueError(
                f"num_examples must be left out for zero_shot, got {self.num_examples}"
            )


def write_tasks(
    write: GenerateField,
    people: Sequence[Draft],
    examples: pl.DataFrame | None,
    method: Tasks,
    seed: int,
) -> list[Draft]:
    """Drafts with the tasks of each persona.

    Args:
        write: Sends the requests.
        people: The personas.
        examples: Few-shot rows; None for zero-shot.
        method: The options.
        seed: Of the choice of examples.

    Raises:
        UserError: No example can be shown.
    """
    drafts: list[Draft] = []
    for person in people:
        for number in range(method.per_persona if person.active else 1):
            draft = person.child(persona_task=method.kind)
            draft.number, draft.rejection = number, person.rejection
            drafts.append(draft)
    for draft in drafts:
        draft.fields["examples"] = []
    if examples is not None:
        _show_examples(write, drafts, examples, method, seed)

    if method.kind in _ANSWERED:
        write(drafts, "answer", lambda d: user(_prompt(d, d["examples"], method)))
        for draft in drafts:
            draft.fields["request"] = _prompt(draft, [], method)
    else:
        write(
            *(drafts, "task", lambda d: user(_prompt(d, d["examples"], method))),
            parse=instruction_text,
        )
    return drafts


def _prompt(draft: Draft, examples: Sequence[Draft], method: Tasks) -> str:
    shown = [{"text": e["text"], "persona": e.fields.get("persona")} for e in examples]
    return PROMPTS.render(
        method.kind, persona=draft["persona"], examples=shown, world=method.world
    ).strip()


def _show_examples(
    write: GenerateField, drafts: Sequence[Draft], rows: pl.DataFrame, method: Tasks, seed: int
) -> None:
    """Draw the examples of each request; persona-enhanced, with somebody who would bring each.

    An example without a persona is not shown, and a request without any ends as its first one.
    """
    texts = rows.select("id", first_user_turn().alias("text")).sort("id").iter_rows()
    pool = [Draft((id_,), {"text": text.strip()}) for id_, text in texts if (text or "").strip()]
    if not pool:
        raise UserError(
            "the examples must hold at least one user's turn that can be shown, got none",
            hint="other examples, or prompting: zero_shot",
        )
    active = [draft for draft in drafts if draft.active]
    drawn = [_drawn(draft, pool, method, seed) for draft in active]
    if method.prompting == "persona_few_shot":
        used = {id(example) for examples in drawn for example in examples}
        write(
            *([example for example in pool if id(example) in used], "persona"),
            lambda d: user(PROMPTS.render("whose", text=d["text"])),
            parse=parse_description,
        )
    for draft, examples in zip(active, drawn, strict=True):
        draft.fields["examples"] = [example for example in examples if example.active]
        draft.journal += [key for example in examples for key in example.journal]
        # Others would be shown, once all are answered.
        draft.error = next((example.error for example in examples if example.error), None)
        if not draft["examples"]:
            draft.rejection = examples[0].rejection


def _drawn(draft: Draft, pool: Sequence[Draft], method: Tasks, seed: int) -> list[Draft]:
    """The examples of a request, drawn by its persona and number."""
    generator = random.Random(f"{seed} examples {draft.parents} {draft.number}")
    return generator.sample(pool, min(method.num_examples, len(pool)))
