"""Combinations of attributes: every cell is asked for, and each row says which cell it fills."""

from __future__ import annotations

import json
from collections import Counter

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from stages.generate._parsing.lists import listed_items
from stages.generate.taxonomy import metadata, taxonomy
from stages.generate.taxonomy.axes import LEVELS, SKILLS, SUBJECTS
from tests.support.options import options_of
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
    made = taxonomy(
        *(context,), model=NO_MODEL, subjects=("economics",), levels=("remember", "create")
    )
    kept = made.filter(pl.col("drop_reason").is_null())
    cells = set(zip(kept["attributes"].list.first(), kept["level"], strict=True))
    assert cells == {
        (c, lv) for c in ("Supply", "Demand", "Price") for lv in ("remember", "create")
    }
    assert reasons(made) == {None: 6, "repeated_concept": 1}
    asked = [request.prompt[-1][1] for request in context.engine.asked[1]]
    assert any(LEVELS["create"] in text and "university" in text for text in asked)
    assert kept["journal"].list.len().to_list() == [3] * 6
    assert set(kept["subject"]) == {"economics"}


def test_the_whole_curriculum_is_there_by_default(ctx: Context) -> None:
    context = scripted(ctx, teacher)
    taxonomy(context, model=NO_MODEL, count=5)
    assert len(context.engine.asked[0]) == sum(map(len, SUBJECTS.values()))
    assert [len(asked) for asked in context.engine.asked[1:]] == [5, 5]


def test_seeds_are_encoded_and_decoded(ctx: Context) -> None:
    seeds = conversations([("Write a note.", "Dear"), ("Say hello.", "Hello")])
    made = taxonomy(
        scripted(ctx, teacher), seeds, model=NO_MODEL, method="metadata", per_seed=2, answer=False
    )
    assert made["attributes"].to_list() == [["letters", "tact", "grammar"]] * 4
    assert {tuple(p) for p in made["parents"]} == {(i,) for i in seeds["id"]}
    assert reasons(made) == {None: 1, "duplicate": 3}  # the teacher knows one letter only
    assert made["messages"].list.len().to_list() == [1] * 4


def test_metadata_are_read_or_not() -> None:
    assert metadata("**Use case**: poems\n**Skills**: rhyme, metre") == (
        "poems",
        ["rhyme", "metre"],
    )
    assert metadata("Use case: poems") is None
    assert metadata("Skills: rhyme") is None
    assert metadata("") is None


def test_lists_are_read_whatever_their_marks() -> None:
    assert listed_items("Sure!\n1. a b\n 2) c\n- d\n* e\nand so on") == ["a b", "c", "d", "e"]
    assert listed_items("none") == []


def test_texts_must_show_every_skill(ctx: Context) -> None:
    context = scripted(ctx, teacher)
    made = taxonomy(context, model=NO_MODEL, method="skills", count=30, combine=4)
    for drawn, why, evidence in made.select("attributes", "drop_reason", "evidence").iter_rows():
        assert len(set(drawn[:4])) == 4
        assert set(drawn[:4]) <= set(SKILLS)
        assert (why == "skill_not_shown") == ("irony" in drawn[:4])
        assert why is None or json.loads(evidence) == {"skill": "irony"}
    assert 0 < reasons(made)["skill_not_shown"] < 30
    first = context.engine.asked[0][0].prompt[-1][1]
    assert "at most 3 sentences" in first
    again = taxonomy(context, model=NO_MODEL, method="skills", count=5, combine=4)
    assert again["id"].to_list() == made["id"].to_list()[:5]


def test_a_model_that_follows_nothing_is_told(
    ctx: Context, tinylm: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    made = taxonomy(ctx, model=tinylm, subjects=("law", "music"), max_tokens=16)
    lost = made["drop_reason"].is_not_null().sum()
    assert lost == len(made)
    assert "taxonomy: none of" in caplog.text


@pytest.mark.parametrize(
    "options", [{"levels": ("rember",)}, {"method": "skills"}, {"combine": 99}]
)
def test_mistakes_are_told_before_anything_runs(options: dict) -> None:
    from stages.generate.taxonomy import _check

    with pytest.raises(UserError):
        _check(options_of(taxonomy, **options))


def test_metadata_without_seeds_is_told(ctx: Context) -> None:
    with pytest.raises(UserError, match="encodes seeds"):
        taxonomy(scripted(ctx, teacher), model=NO_MODEL, method="metadata")
