"""Flows of agents that teach a skill with a passage: AgentInstruct.

Mitra et al. 2024, arXiv:2407.03502. A passage is transformed into a form that suits the
skill, an instruction of one type is made of it, a suggester says how that could be
harder, an editor does one of it, and then it is answered.
"""

from __future__ import annotations

from typing import Any, Final

from stages._llm.drafts import Draft, Prompt, expand, user
from stages._llm.prompts import Prompts
from stages.generate._parsing.lists import listed_items
from stages.generate.from_documents.agentinstruct_skills import AS_IT_IS, SKILLS
from stages.generate.from_documents.passages import Means

PROMPTS: Final = Prompts(__file__)


def agentinstruct(means: Means, passages: list[Draft]) -> list[Draft]:
    """An instruction of one type for each of the drawn skills of every passage."""
    drafts = expand(passages, lambda d: _planned(means, d))
    for draft in drafts:
        if draft.active and draft["form"] == AS_IT_IS:
            draft.fields["text"] = draft["passage"].strip()
    rewritten = [draft for draft in drafts if draft.active and "text" not in draft.fields]
    means.ask(rewritten, "text", _form_prompt)
    means.ask(drafts, "instruction", _instruction_prompt)
    if means.refine:
        _refine(means, drafts)
    for draft in drafts:
        if draft.active and SKILLS[draft["skill"]].shown:
            draft.fields["input"] = draft["text"]
    means.ask(drafts, "response", _question)
    return drafts


def _planned(means: Means, passage: Draft) -> list[dict[str, Any]]:
    """Which flows a passage goes through, each with its form and its type."""
    names = means.few("agentinstruct", passage, means.task_types)
    planned = []
    for name in names:
        draw, skill = means.draw(f"agentinstruct {name}", passage), SKILLS[name]
        form, kind = draw.choice(tuple(skill.forms)), draw.choice(tuple(skill.types))
        fields = {"skill": name, "task_type": kind, "form": form, "chance": draw.random()}
        planned.append(fields)
    return planned


def _form_prompt(draft: Draft) -> Prompt:
    meaning = SKILLS[draft["skill"]].forms[draft["form"]]
    values = {"passage": draft["passage"], "form": meaning}
    return user(PROMPTS.render("transform", **values))


def _instruction_prompt(draft: Draft) -> Prompt:
    draft.notes["form"] = draft["form"]
    skill = SKILLS[draft["skill"]]
    values = {
        "text": draft["text"],
        "skill": draft["skill"],
        "kind": draft["task_type"],
        "meaning": skill.types[draft["task_type"]],
        "shown": skill.shown,
    }
    return user(PROMPTS.render("instruction", **values))


def _refine(means: Means, drafts: list[Draft]) -> None:
    """Suggestions for each instruction, and one of them carried out."""

    def values(draft: Draft, **more: Any) -> dict[str, Any]:
        shown = SKILLS[draft["skill"]].shown
        return {
            **{"instruction": draft["instruction"], "text": draft["text"] if shown else None},
            **more,
        }

    def suggesting(draft: Draft) -> Prompt:
        return user(PROMPTS.render("suggest", **values(draft)))

    def editing(draft: Draft) -> Prompt:
        found = draft["suggestions"]
        suggestion = found[int(draft["chance"] * len(found))]
        draft.notes |= {"suggestion": suggestion, "first_instruction": draft["instruction"]}
        filled = values(draft, suggestion=suggestion)
        return user(PROMPTS.render("edit", **filled))

    means.ask(drafts, "suggestions", suggesting, read=lambda text: listed_items(text) or None)
    means.ask(drafts, "edited", editing)
    for draft in drafts:
        if draft.active:
            draft.fields["instruction"] = draft["edited"]


def _question(draft: Draft) -> Prompt:
    return user("\n\n".join(filter(None, (draft["instruction"], draft.fields.get("input")))))
