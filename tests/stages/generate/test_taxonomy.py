"""Combinations of attributes: every cell is asked for, and each row says which cell it fills."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from stages._llm.lists import listed_items
from stages.generate.taxonomy import Curriculum, Metadata, Skills, taxonomy
from stages.generate.taxonomy.axes import LEVELS, SKILLS, SUBJECTS
from stages.generate.taxonomy.metadata import use_case_and_skills
from tests.support.options import problems
from tests.support.rows import conversations
from tests.support.scripted import scripted

NO_MODEL = LanguageModel(model="none")


def teacher(text: str) -> tuple[str, str]:
    """A model that follows every prompt of the stage."""
    if "syllabus" in text:
        return "Here they are:\n1. Supply\n2) Demand\n- supply\n4. Price", "stop"
    if "Bloom" in text:
        concept = text.split("concept: ")[1].split(".")[0]
        level = text.split('level "')[1].split('"')[0]
        return f"What about {concept} ({level})?", "stop"
    if "Describe the instruction" in text:
        return "Use case: letters.\nSkills: tact; grammar; tact", "stop"
    if "Write one new instruction" in text:
        return "Write a letter to a neighbour.", "stop"
    if "Does the text show" in text:
        return ("no", "stop") if "Skill: irony" in text else ("yes", "stop")
    return f"An answer to: {text[-30:]}", "stop"


def reasons(frame: pl.DataFrame) -> Counter:
    return Counter(frame["drop_reason"].to_list())


def test_every_concept_is_asked_at_every_level(ctx: Context) -> None:
    context = scripted(ctx, teacher)
    rows = taxonomy(
        context,
        model=NO_MODEL,
        method=Curriculum(subjects=("economics",), levels=("remember", "create")),
    )
    kept = rows.filter(pl.col("drop_reason").is_null())
    cells = set(zip(kept["attributes"].list.first(), kept["level"], strict=True))
    assert cells == {
        (c, lv) for c in ("Supply", "Demand", "Price") for lv in ("remember", "create")
    }
    assert reasons(rows) == {None: 6, "repeated_concept": 1}
    asked = [request.prompt[-1][1] for request in context.engine.calls[1]]
    assert any(LEVELS["create"] in text and "university" in text for text in asked)
    assert kept["journal"].list.len().to_list() == [3] * 6
    assert set(kept["subject"]) == {"economics"}


def test_the_whole_curriculum_is_there_by_default(ctx: Context) -> None:
    context = scripted(ctx, teacher)
    taxonomy(context, model=NO_MODEL, method=Curriculum(num_rows=5))
    assert len(context.engine.calls[0]) == sum(map(len, SUBJECTS.values()))
    assert [len(asked) for asked in context.engine.calls[1:]] == [5, 5]


def test_seeds_are_encoded_and_decoded(ctx: Context) -> None:
    seeds = conversations([("Write a note.", "Dear"), ("Say hello.", "Hello")])
    rows = taxonomy(
        *(scripted(ctx, teacher), seeds),
        model=NO_MODEL,
        method=Metadata(per_seed=2, answer=False),
    )
    assert rows["attributes"].to_list() == [["letters", "tact", "grammar"]] * 4
    assert {tuple(p) for p in rows["parents"]} == {(i,) for i in seeds["id"]}
    assert reasons(rows) == {None: 1, "duplicate": 3}  # the teacher knows one letter only
    assert rows["messages"].list.len().to_list() == [1] * 4


def test_metadata_are_read_or_not() -> None:
    assert use_case_and_skills("**Use case**: poems\n**Skills**: rhyme, metre") == (
        "poems",
        ["rhyme", "metre"],
    )
    assert use_case_and_skills("Use case: poems") is None
    assert use_case_and_skills("Skills: rhyme") is None
    assert use_case_and_skills("") is None


def test_lists_are_read_whatever_their_marks() -> None:
    assert listed_items("Sure!\n1. a b\n 2) c\n- d\n* e\nand so on") == ["a b", "c", "d", "e"]
    assert listed_items("none") == []


def test_texts_must_show_every_skill(ctx: Context) -> None:
    context = scripted(ctx, teacher)
    rows = taxonomy(context, model=NO_MODEL, method=Skills(num_rows=30, num_skills=4))
    for drawn, why, evidence in rows.select("attributes", "drop_reason", "evidence").iter_rows():
        assert len(set(drawn[:4])) == 4
        assert set(drawn[:4]) <= set(SKILLS)
        assert (why == "skill_not_shown") == ("irony" in drawn[:4])
        assert why is None or json.loads(evidence) == {"skill": "irony"}
    assert 0 < reasons(rows)["skill_not_shown"] < 30
    first = context.engine.calls[0][0].prompt[-1][1]
    assert "at most 3 sentences" in first
    fewer = taxonomy(context, model=NO_MODEL, method=Skills(num_rows=5, num_skills=4))
    assert fewer["id"].to_list() == rows["id"].to_list()[:5]


@pytest.mark.proof
def test_a_model_that_follows_nothing_is_told(
    ctx: Context, tinylm: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    rows = taxonomy(ctx, model=tinylm, method=Curriculum(subjects=("law", "music")), max_tokens=16)
    lost = rows["drop_reason"].is_not_null().sum()
    assert lost == len(rows)
    assert "taxonomy: none of" in caplog.text


METADATA = {"name": "metadata"}
SKILL = {"name": "skills", "num_rows": 9}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "curriculum", "levels": ["rember"]}, "method.levels\\[0\\] must be .*'remember'"),
        ({"name": "curriculum", "levels": []}, "method.levels must be of at least 1"),
        ({"name": "curriculum", "education": "school"}, "education must be left out without"),
        ({"name": "curriculum", "num_concepts": 0}, "method.num_concepts must be at least 1"),
        ("skills", "'method.num_rows' is missing"),
        ({**SKILL, "num_skills": 99}, "method.num_skills must be at most 25, got 99"),
        ({**SKILL, "num_skills": 2, "skills": {"a": "b"}}, "num_skills must be at most 1, got 2"),
        ({"name": "curriculum", "per_seed": 2}, "no option 'per_seed'"),
        ({"name": "curriculum", "max_skills": 2}, "no option 'max_skills'"),
        ({"name": "curriculum", "skills": {"a": "b"}}, "no option 'skills'"),
        ({"name": "curriculum", "topics": ["a"]}, "no option 'topics'"),
        ({"name": "curriculum", "num_skills": 1}, "no option 'num_skills'"),
        ({**SKILL, "subjects": ["law"]}, "no option 'subjects'"),
        ({**SKILL, "num_concepts": 2}, "no option 'num_concepts'"),
        ({**SKILL, "levels": ["create"]}, "no option 'levels'"),
        ({**SKILL, "answer": False}, "no option 'answer'"),
        ({**METADATA, "education": "school"}, "no option 'education'"),
    ],
)
def test_wrong_options_are_named_before_anything_runs(method: object, message: str) -> None:
    (problem,) = problems("generate.taxonomy", method=method)
    assert re.search(message, problem), problem


def test_lists_come_from_files(ctx: Context, tmp_path: Path) -> None:
    skills, topics, subjects = (
        tmp_path / f"{name}.txt" for name in ("skills", "topics", "courses")
    )
    skills.write_text("\ufeffpun: one word has two meanings\n\n litotes : less: is said\n", "utf-8")
    topics.write_text("tea\r\nrain\r\n", "utf-8")
    subjects.write_text("heraldry\nbotany", "utf-8")
    context = scripted(ctx, teacher)
    files = {"skill_files": (str(skills),), "topic_files": (str(topics),)}
    rows = taxonomy(context, model=NO_MODEL, method=Skills(num_rows=12, num_skills=2), **files)
    shown = {tuple(attributes) for attributes in rows["attributes"]}
    assert {name for *names, _ in shown for name in names} == {"pun", "litotes"}
    assert {topic for *_, topic in shown} == {"tea", "rain"}
    asked = context.engine.calls[0][0].prompt[-1][1]
    assert "one word has two meanings" in asked
    assert "less: is said" in asked
    method = Curriculum(education="school")
    courses = taxonomy(context, model=NO_MODEL, method=method, subject_files=(str(subjects),))
    assert set(courses["subject"]) == {"heraldry", "botany"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("irony", r"skills.txt:1: a line must be NAME: DESCRIPTION, got 'irony'"),
        ("\nirony: \n", r"skills.txt:2: a line must be NAME: DESCRIPTION"),
        ("a: b\na: c", r"skills.txt:2: names must differ, got 'a' twice"),
        ("a: b", r"num_skills must be at most 1, got 2"),
        (b"a: \xff", r"skills.txt cannot be read as text"),
    ],
)
def test_mistakes_in_lists_are_named(
    ctx: Context, tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = tmp_path / "skills.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    method = Skills(num_rows=2, num_skills=2)
    with pytest.raises(UserError, match=message):
        taxonomy(scripted(ctx, teacher), model=NO_MODEL, method=method, skill_files=(str(path),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": {**SKILL}, "subject_files": ["README.md"]}, "subject_files must be left out"),
        ({"method": "curriculum", "skill_files": ["README.md"]}, "skill_files must be left out"),
        (
            {"method": {**SKILL, "topics": ["tea"]}, "topic_files": ["README.md"]},
            "method.topics must be left out with topic_files",
        ),
    ],
)
def test_a_file_and_a_list_are_one_too_many(options: dict, message: str) -> None:
    (problem,) = problems("generate.taxonomy", **options)
    assert message in problem


def test_metadata_without_seeds_is_told(ctx: Context) -> None:
    with pytest.raises(UserError, match="metadata must have an input for 'seeds'"):
        taxonomy(scripted(ctx, teacher), model=NO_MODEL, method=Metadata())
