"""CodecLM's encoding and decoding: from seeds to metadata to new instructions.

CodecLM: Aligning Language Models with Tailored Synthetic Data (Wang et al. 2024,
arXiv:2404.05875). The authors published no code.

As in the paper: a strong model encodes each seed as its use case and the skills that a good
answer needs, and decodes these into new instructions. The column `attributes` carries the
metadata on to `rewrite.evolve`, which improves the instructions by rubrics of them and keeps
those that the target model answers worse (`method: {name: rubric, metadata: attributes}` and
`target`). Ours: the wording of the prompts, the form of the answers, and all numbers.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

from pipeline.types import Count, option_group
from schemas.records import instruction
from stages._common.edges import required
from stages._llm.drafts import Draft, Prompt, expand, filter_drafts, user
from stages._llm.prompts import Prompts
from stages.generate._parsing.sections import labelled_lines
from stages.generate.taxonomy.context import TaxonomyContext, write_instructions

PROMPTS: Final = Prompts(__file__)

_LABELS: Final = ("Use case", "Skills")


@option_group
class Metadata:
    """Seeds are encoded as use case and skills and decoded again (Wang et al. 2024).

    Args:
        name: The method.
        per_seed: New instructions from each seed; ours, as the next one.
        max_skills: Largest number of skills of a seed.
        num_rows: Size of the random sample of instructions that are written out; null for
            all.
        answer: Have the instructions answered; else a row ends with the user's turn, for
            `rewrite.evolve` or `generate.respond`.
    """

    name: Literal["metadata"] = "metadata"
    per_seed: Count = 1
    max_skills: Count = 5
    num_rows: Count | None = None
    answer: bool = True

    def run(self, context: TaxonomyContext) -> list[Draft]:
        """Drafts for each new instruction of each seed."""
        rows = required(context.seeds, "seeds", self.name)
        texts = rows.select("id", instruction().alias("text")).iter_rows()
        seeds = [Draft((id_,), {"seed": text or ""}) for id_, text in texts]
        filter_drafts(seeds, lambda d: None if d["seed"].strip() else ("no_instruction", {}))
        context.generate(seeds, "metadata", self._encoding_prompt, parse=use_case_and_skills)
        drafts = expand(seeds, self._decodings)
        for draft in drafts:
            draft.number = draft.fields.get("number", 0)
        write_instructions(context, drafts, _decoding_prompt, self.num_rows, self.answer)
        return drafts

    def _encoding_prompt(self, draft: Draft) -> Prompt:
        values = {"instruction": draft["seed"], "most": self.max_skills}
        return user(PROMPTS.render("metadata", **values))

    def _decodings(self, draft: Draft) -> list[dict[str, Any]]:
        # The values, that of `prompt` too, enter the digest by which drafts are sampled.
        use_case, skills = draft["metadata"]
        skills = skills[: self.max_skills]
        fields = {"use_case": use_case, "skills": skills, "attributes": [use_case, *skills]}
        return [{**fields, "prompt": "instruction", "number": n} for n in range(self.per_seed)]


def use_case_and_skills(text: str) -> tuple[str, list[str]] | None:
    """Use case and skills from the two labels that name them; None where one is missing.

    Example:
        >>> use_case_and_skills("**Use case**: poems\\n**Skills**: rhyme; metre; rhyme")
        ('poems', ['rhyme', 'metre'])
    """
    parts = labelled_lines(text, _LABELS)
    if parts is None:
        return None
    use_case, skills = (parts[label] for label in _LABELS)
    names = [skill.strip(" .*-•\t") for skill in re.split("[;,；，、•\n]", skills)]
    names = [name for name in dict.fromkeys(names) if name]
    return (use_case.strip(" .\t"), names) if names else None


def _decoding_prompt(draft: Draft) -> Prompt:
    return user(PROMPTS.render("instruction", **draft.fields))
