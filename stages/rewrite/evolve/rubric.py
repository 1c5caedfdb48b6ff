"""Self-Rubrics: the model itself names how an instruction could become harder.

CodecLM: Aligning Language Models with Tailored Synthetic Data (Wang et al. 2024,
arXiv:2404.05875). The authors published no code.

As in the paper: a strong model writes criteria of difficulty and an action for each from the
metadata of an instruction (its use case and the skills that it needs, which
`generate.taxonomy` with `metadata` writes); each round draws one of the actions, another one
each time, and improves the instruction by it; Contrastive Filtering ends the rounds of an
instruction (see `contrast.py`).

Ours: the wording of the prompts; criteria and actions are one list of changes; 4 of them;
after the last one they begin anew; `eliminate`, which is WizardLM's; and rows without
metadata, for which each round has the changes written from the instruction itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

from pipeline.types import Count, NonNegativeFloat, option_group
from stages._llm.drafts import Draft, GenerateField, Prompt, user
from stages._llm.preambles import requested_items
from stages._llm.prompts import Prompts

PROMPTS: Final = Prompts(__file__)

MIN_GAP: Final = 3.0


@option_group
class Rubric:
    """CodecLM's Self-Rubrics (Wang et al. 2024, arXiv:2404.05875).

    Args:
        name: "rubric".
        metadata: The column with the use case and the skills of each instruction, in this
            order: `attributes` of `generate.taxonomy` with `metadata`, as in the paper. Null:
            the changes are written from each instruction anew, which is ours.
        num_actions: Changes that are requested; ours.
        min_gap: With `target`, the least difference of the two answers' grades, from 1 to 10,
            with which an instruction is kept.
        eliminate: Drop evolutions that failed (see `elimination.py`).
        write_answers: Have the instructions answered; if not, rows end with the user's turn.
    """

    name: Literal["rubric"] = "rubric"
    metadata: str | None = None
    num_actions: Count = 4
    min_gap: NonNegativeFloat = MIN_GAP
    eliminate: bool = True
    write_answers: bool = True


def metadata_of(drafts: Sequence[Draft], values: Sequence[Sequence[str] | None]) -> None:
    """Set `use_case` and `skills` of drafts, or reject them as `no_metadata`.

    Args:
        drafts: One for each row; changed in place.
        values: The column of metadata.
    """
    for draft, attributes in zip(drafts, values, strict=True):
        if draft.active and not attributes:
            draft.reject("no_metadata")
        elif attributes:
            use_case, *skills = attributes
            draft.fields |= {"use_case": use_case, "skills": skills}


def write_metadata_actions(write: GenerateField, drafts: Sequence[Draft], method: Rubric) -> None:
    """Set `actions` of drafts, from their metadata, for all rounds.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        drafts: Changed in place.
        method: The number of actions.
    """

    def request(draft: Draft) -> Prompt:
        values: dict[str, Any] = {name: draft[name] for name in ("use_case", "skills")}
        return user(PROMPTS.render("metadata_actions", count=method.num_actions, **values))

    write(drafts, "actions", request, parse=partial(_items, method))


def write_actions(write: GenerateField, drafts: Sequence[Draft], method: Rubric, seed: int) -> None:
    """Set `action` of every draft: one of the changes that the model named.

    Args:
        write: `generate_field` with engine, decoding and seed filled in.
        drafts: The drafts of one round; changed in place.
        method: Where the changes come from.
        seed: Seed of their order.
    """
    if method.metadata is None:

        def request(draft: Draft) -> Prompt:
            instruction = draft["instruction"]
            text = PROMPTS.render("actions", count=method.num_actions, instruction=instruction)
            return user(text)

        write(drafts, "actions", request, parse=partial(_items, method))
    for draft in drafts:
        if not draft.active:
            continue
        actions = draft["actions"]
        if method.metadata is None:
            draft.fields["action"] = actions[int(draft["draw"] * len(actions))].strip()
        else:
            order = random.Random(f"{seed} actions {draft.parents}").sample(actions, len(actions))
            action = order[(draft["round"] - 1) % len(order)].strip()
            draft.fields["action"] = draft.notes["action"] = action


def _items(method: Rubric, text: str) -> list[str] | None:
    return requested_items(text, method.num_actions) or None


def prompt(draft: Draft) -> Prompt:
    """The request to apply the action to the instruction."""
    text = PROMPTS.render("apply", instruction=draft["instruction"], action=draft["action"])
    return user(text)
