"""Instructions from combinations of attributes: subjects and levels, metadata, skills.

A pool that a model grows out of examples stays near them. Here the plan comes first:
a table of attributes says what is wanted, and every cell of it is written.

- `curriculum`: Instruction Tuning with Human Curriculum (Lee et al. 2023,
  arXiv:2310.09518). Courses of school and university give concepts, each concept a
  question at each level of Bloom's taxonomy; the levels stay with the rows, for
  training in their order.
- `metadata`: CodecLM (Wang et al. 2024, arXiv:2404.05875). Each seed is encoded as
  its use case and the skills that it needs, and decoded into new instructions.
  `rewrite.evolve` hardens them by rubrics, `score.judge` finds the gap that it keeps.
- `skills`: Can Models Learn Skill Composition from Examples? (Zhao et al. 2024,
  arXiv:2409.19808, after Skill-Mix, arXiv:2310.17567). A text of k - 1 sentences
  shows k random skills; the model then judges whether each is shown.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal

import polars as pl

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models.base import Decoding, LanguageModel
from pipeline.stage import Records, stage
from schemas.records import digest, instruction
from stages._common.unused_options import refuse_idle
from stages._llm.drafts import (
    YES_OR_NO,
    Draft,
    GenerateField,
    RowMessages,
    expand,
    filter_drafts,
    generate_field,
    to_frame,
    user,
)
from stages._llm.prompts import Prompts
from stages._llm.rows import Rejection, task_messages
from stages.generate._parsing.lists import listed_items
from stages.generate.taxonomy.axes import LEVELS, SKILLS, SUBJECTS, TOPICS

PROMPTS: Final = Prompts(__file__)

ADDS: Final = {
    "journal": pl.List(pl.String),
    "subject": pl.String,
    "level": pl.String,
    "attributes": pl.List(pl.String),
}
_USE_CASE = re.compile(r"^[^\w\n]*use case\W*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_SKILLS = re.compile(r"^[^\w\n]*skills\W*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)


def _check(options: SimpleNamespace) -> None:
    unknown = sorted(set(options.levels) - set(LEVELS))
    if unknown:
        raise UserError(
            f"levels: {', '.join(unknown)} is no level of Bloom's taxonomy",
            hint=f"they are {', '.join(LEVELS)}",
        )
    known = options.skills or SKILLS
    if not 1 <= options.combine <= len(known):
        raise UserError(
            f"combine: {options.combine} skills out of {len(known)}",
            hint="a number from 1 to the number of skills",
        )
    if options.method == "skills" and options.count is None:
        raise UserError("method skills draws at random: say how many", hint="count: 100")
    method = options.method
    own = bool(options.subjects)
    refuse_idle(
        *(taxonomy, options),
        (method == "curriculum", "method: curriculum", "subjects concepts levels"),
        (own and method == "curriculum", "subjects of your own", "education"),
        (method == "metadata", "method: metadata", "per_seed most_skills"),
        (method == "skills", "method: skills", "skills topics combine"),
        (method != "skills", "the methods curriculum and metadata", "answer"),
    )


@stage(version=2, scope="set", reads=["messages", "input_start"], adds=ADDS, check=_check)
def taxonomy(
    ctx: Context,
    seeds: Records | None = None,
    *,
    model: LanguageModel,
    method: Literal["curriculum", "metadata", "skills"] = "curriculum",
    count: int | None = None,
    seed: int = 0,
    subjects: tuple[str, ...] = (),
    education: str = "university",
    concepts: int = 10,
    levels: tuple[str, ...] = ("remember", "understand", "apply"),
    per_seed: int = 1,
    most_skills: int = 5,
    skills: dict[str, str] | None = None,
    topics: tuple[str, ...] = TOPICS,
    combine: int = 3,
    answer: bool = True,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_tokens: int = 1024,
    source: str = "taxonomy",
    license: str = "unspecified",
) -> Records:
    """New records, one for each combination of attributes.

    Adds `journal`, `subject` and `level` (of the curriculum) and `attributes` (the
    concept; use case and skills; the skills and the topic). `parents` is the seed.

    count: at most so many combinations are written out, a random choice by `seed`.
    curriculum: subjects (by default those of `_axes.py`, each with its stage of
        education; `education` goes with your own), concepts for each, and Bloom levels
        for each concept: the paper's three, or any.
    metadata: per_seed new instructions from each seed, with at most most_skills.
    skills: combine so many (by default of those in `_axes.py`), each with what shows it,
        in a text about one of the topics. Too few sentences is the difficulty.
    answer: have the instruction answered too; if not, the row ends with the user's turn,
        for `rewrite.evolve` or `generate.respond`.

    Dropped: `not_sampled`, `repeated_concept`, `skill_not_shown`, `no_instruction` (of a
    seed), and answers that were cut or unreadable, by the name of what was to be written.
    """
    decoding = Decoding(max_tokens, temperature, top_p)
    ask = partial(generate_field, ctx.open(model), decoding=decoding, seed=seed)
    if method == "skills":
        drafts = _draw_skills(skills or SKILLS, topics, combine, count or 0, seed)
        ask(drafts, "response", lambda d: user(d["instruction"]))
        _judge_skills(ask, drafts, combine)
        return to_frame(drafts, _talk, source, ADDS, license)
    if method == "curriculum":
        drafts = _list_concepts(ask, _courses(subjects, education), concepts, levels)
    else:
        drafts = _encode(ask, seeds, per_seed, most_skills)
    _sample(drafts, count, seed)
    ask(drafts, "instruction", lambda d: user(PROMPTS.render(f"{d['ask']}", **d.fields)))
    if answer:
        ask(drafts, "response", lambda d: user(d["instruction"]))
    return to_frame(drafts, _talk, source, ADDS, license)


def _talk(draft: Draft) -> RowMessages:
    return task_messages(draft.fields.get("instruction", ""), "", draft.fields.get("response", ""))


def _courses(subjects: Sequence[str], education: str) -> list[Draft]:
    """A draft for each subject with its stage of education."""
    given = {education: subjects} if subjects else SUBJECTS
    return [
        Draft((), {"subject": subject, "education": level})
        for level, found in given.items()
        for subject in found
    ]


def _list_concepts(
    ask: GenerateField, courses: list[Draft], concepts: int, levels: Sequence[str]
) -> list[Draft]:
    """Each course as its concepts, each concept once for every level."""

    def listing(draft: Draft) -> Any:
        return user(PROMPTS.render("concepts", **draft.fields, count=concepts))

    ask(courses, "concepts", listing, read=lambda text: listed_items(text) or None)
    drafts = expand(courses, lambda d: [{"concept": c} for c in d["concepts"][:concepts]])
    seen: set[tuple[str, str]] = set()
    filter_drafts(drafts, lambda draft: _repeated(draft, seen))
    return expand(
        drafts,
        lambda d: [
            {"level": level, "aim": LEVELS[level], "attributes": [d["concept"]], "ask": "question"}
            for level in levels
        ],
    )


def _repeated(draft: Draft, seen: set[tuple[str, str]]) -> Rejection | None:
    """A concept that its course has listed already."""
    key = draft["subject"], draft["concept"].casefold()
    if key in seen:
        return "repeated_concept", {"subject": key[0], "concept": draft["concept"]}
    seen.add(key)
    return None


def _encode(
    ask: GenerateField, seeds: pl.DataFrame | None, per_seed: int, most_skills: int
) -> list[Draft]:
    """Each seed as its use case and skills, as often as it is to be decoded."""
    if seeds is None:
        raise UserError(
            "method metadata encodes seeds, and there are none",
            hint="needs: {seeds: a stage that gives records}",
        )
    texts = seeds.select("id", instruction().alias("text")).iter_rows()
    drafts = [Draft((id_,), {"seed": text or ""}) for id_, text in texts]
    filter_drafts(drafts, lambda d: None if d["seed"].strip() else ("no_instruction", {}))

    def encoding(draft: Draft) -> Any:
        return user(PROMPTS.render("metadata", instruction=draft["seed"], most=most_skills))

    ask(drafts, "metadata", encoding, read=metadata)

    def decodings(draft: Draft) -> list[dict[str, Any]]:
        use_case, skills = draft["metadata"]
        skills = skills[:most_skills]
        fields = {"use_case": use_case, "skills": skills, "attributes": [use_case, *skills]}
        return [{**fields, "ask": "instruction", "number": n} for n in range(per_seed)]

    drafts = expand(drafts, decodings)
    for draft in drafts:
        draft.number = draft.fields.get("number", 0)
    return drafts


def metadata(text: str) -> tuple[str, list[str]] | None:
    """Use case and skills from the two lines that name them; None where one is missing."""
    use_case, skills = _USE_CASE.search(text), _SKILLS.search(text)
    if use_case is None or skills is None:
        return None
    found = [skill.strip(" .\t") for skill in re.split("[;,]", skills[1])]
    found = [skill for skill in dict.fromkeys(found) if skill]
    return (use_case[1].strip(" .\t"), found) if found else None


def _draw_skills(
    skills: Mapping[str, str], topics: Sequence[str], combine: int, count: int, seed: int
) -> list[Draft]:
    """Random skills and a topic each, with the instruction that asks for them."""
    drafts = []
    for number in range(count):
        draw = random.Random(f"{seed} skills {number}")
        names = draw.sample(sorted(skills), combine)
        topic = draw.choice(topics)
        shown = [(name, skills[name]) for name in names]
        text = PROMPTS.render("skills", skills=shown, topic=topic, sentences=max(1, combine - 1))
        fields = {"skills": shown, "instruction": text, "attributes": [*names, topic]}
        drafts.append(Draft((), fields, number=number))
    return drafts


def _judge_skills(ask: GenerateField, drafts: list[Draft], combine: int) -> None:
    """Ask for each skill whether the text shows it; the first that it does not show decides."""
    for place in range(combine):

        def question(draft: Draft, place: int = place) -> Any:
            name, meaning = draft["skills"][place]
            text = draft["response"]
            return user(PROMPTS.render("shown", text=text, name=name, meaning=meaning))

        def judged(draft: Draft, place: int = place) -> Rejection | None:
            missing = "skill_not_shown", {"skill": draft["skills"][place][0]}
            return None if draft["shown"] == "yes" else missing

        ask(drafts, "shown", question, decoding=YES_OR_NO)
        filter_drafts(drafts, judged)


def _sample(drafts: Sequence[Draft], count: int | None, seed: int) -> None:
    """Leave out all but a random few, in the order of a digest of what each is made of."""
    alive = [draft for draft in drafts if draft.active]
    ranked = sorted(alive, key=lambda d: digest([seed, *d.parents, *map(str, d.fields.values())]))
    for draft in ranked[count:] if count is not None else ():
        draft.reject("not_sampled", combinations=len(alive))
