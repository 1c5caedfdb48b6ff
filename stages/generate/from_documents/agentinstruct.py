"""AgentInstruct: flows of agents that teach a skill.

AgentInstruct: Toward Generative Teaching with Agentic Flows (Mitra et al. 2024,
arXiv:2407.03502). The authors published no code. As in the paper: a
passage is transformed into a form that suits a skill, an instruction of one of the skill's types
is written about it, a suggester proposes how it could be harder, an editor carries out a
proposal, and the result is answered.

Ours: the skills with their lists (`agentinstruct_skills`), the wording, one agent for each step
where the paper has many, one round of suggestions, and the sampling.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pipeline.models.base import Decoding
from pipeline.types import Count, option_group
from stages._llm.drafts import Draft, Prompt, expand, user
from stages._llm.lists import listed_items
from stages._llm.preambles import instruction_text
from stages._llm.prompts import Prompts
from stages.generate.from_documents.agentinstruct_skills import AS_IT_IS, SKILLS
from stages.generate.from_documents.context import (
    DocumentMethod,
    GenerationContext,
    check_names,
)

PROMPTS: Final = Prompts(__file__)


@option_group
class AgentInstruct(DocumentMethod):
    """AgentInstruct: transformation, instruction, refinement, answer (Mitra et al. 2024).

    Args:
        name: The method.
        skills: The skills to choose from.
        per_passage: Skills of a passage, each with one instruction.
        refine: Have suggester and editor make the instruction harder.
    """

    name: Literal["agentinstruct"] = "agentinstruct"
    skills: tuple[str, ...] = tuple(SKILLS)
    per_passage: Count = 1
    refine: bool = True

    decoding: ClassVar[Decoding] = Decoding(2048, 0.7)
    answer_field: ClassVar[str | None] = "response"

    def __post_init__(self) -> None:
        check_names("skills", self.skills, tuple(SKILLS))

    def run(self, context: GenerationContext, passages: list[Draft]) -> list[Draft]:
        """An instruction for each chosen skill of every passage."""
        drafts = expand(passages, lambda d: self._flows(context, d))
        for draft in drafts:
            if draft.active and draft["form"] == AS_IT_IS:
                draft.fields["text"] = draft["passage"].strip()
        transformed = [draft for draft in drafts if draft.active and "text" not in draft.fields]
        context.generate(transformed, "text", _transform_prompt)
        context.generate(drafts, "instruction", _instruction_prompt, parse=instruction_text)
        if self.refine:
            _refine(context, drafts)
        for draft in drafts:
            if draft.active and SKILLS[draft["skill"]].includes_text:
                draft.fields["input"] = draft["text"]
        context.generate(drafts, "response", _answer_prompt)
        return drafts

    def _flows(self, context: GenerationContext, passage: Draft) -> list[dict[str, Any]]:
        """The chosen skills of a passage, each with a form and a type of instruction."""
        flows = []
        for name in context.choose("agentinstruct", passage, self.skills, self.per_passage):
            rng, skill = context.rng(f"agentinstruct {name}", passage), SKILLS[name]
            form, task_type = rng.choice(tuple(skill.forms)), rng.choice(tuple(skill.types))
            fields = {"skill": name, "task_type": task_type, "form": form, "chance": rng.random()}
            flows.append(fields)
        return flows


def _refine(context: GenerationContext, drafts: list[Draft]) -> None:
    """Suggestions for each instruction, one of which is carried out."""
    context.generate(
        drafts, "suggestions", _suggest_prompt, parse=lambda text: listed_items(text) or None
    )
    context.generate(drafts, "edited", _edit_prompt, parse=instruction_text)
    for draft in drafts:
        if draft.active:
            draft.fields["instruction"] = draft["edited"]


def _transform_prompt(draft: Draft) -> Prompt:
    description = SKILLS[draft["skill"]].forms[draft["form"]]
    values = {"passage": draft["passage"], "form": description}
    return user(PROMPTS.render("transform", **values))


def _instruction_prompt(draft: Draft) -> Prompt:
    draft.notes["form"] = draft["form"]
    skill = SKILLS[draft["skill"]]
    values = {
        "text": draft["text"],
        "skill": draft["skill"],
        "kind": draft["task_type"],
        "meaning": skill.types[draft["task_type"]],
        "shown": skill.includes_text,
    }
    return user(PROMPTS.render("instruction", **values))


def _instruction_and_text(draft: Draft) -> dict[str, Any]:
    text = draft["text"] if SKILLS[draft["skill"]].includes_text else None
    return {"instruction": draft["instruction"], "text": text}


def _suggest_prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("suggest", **_instruction_and_text(draft)))


def _edit_prompt(draft: Draft) -> Prompt:
    suggestions = draft["suggestions"]
    suggestion = suggestions[int(draft["chance"] * len(suggestions))]
    draft.notes |= {"suggestion": suggestion, "first_instruction": draft["instruction"]}
    values = _instruction_and_text(draft) | {"suggestion": suggestion}
    return user(PROMPTS.render("edit", **values))


def _answer_prompt(draft: Draft) -> Prompt:
    return user("\n\n".join(filter(None, (draft["instruction"], draft.fields.get("input")))))
