"""System prompts: what is laid down, how it is answered, and what is dropped and why."""

from __future__ import annotations

import json
from collections import Counter

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from stages.generate.system_prompt import _check, profile, system_prompt
from tests.support.options import options_of
from tests.support.rows import sample
from tests.support.scripted import scripted

NO_MODEL = LanguageModel(model="none")
PROFILE = "Name: Ada.\nKnows: engines; numbers\n**Speaks:** dryly\nRefuses: gossip"


def developer(text: str) -> tuple[str, str]:
    if "Write a system prompt" in text:
        number = int(text.split("Then list ")[1].split()[0])
        return "You are a clerk.\n" + "\n".join(f"{n + 1}. Rule {n}" for n in range(number)), "stop"
    if "Invent a character" in text:
        return (PROFILE, "stop") if "chess" not in text else ("A knight.", "stop")
    if "follow the role" in text:
        asked = text.split("A user wrote:")[1].split("The assistant answered:")[0]
        return ("No.", "stop") if "?" in asked else ("Yes", "stop")
    return "As you wish.", "stop"


def kept(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("drop_reason").is_null())


def test_every_instruction_gets_a_role_with_rules_and_an_answer(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:20]
    context = scripted(ctx, developer)
    made = system_prompt(context, pool, model=NO_MODEL, rules=(2, 4))
    assert made["drop_reason"].null_count() == len(made) == 20
    for messages, rules, parents in made.select("messages", "rules", "parents").iter_rows():
        assert [m["role"] for m in messages] == ["system", "user", "assistant"]
        assert 2 <= len(rules) <= 4
        assert all(rule in messages[0]["content"] for rule in rules)
        assert parents[0] in set(pool["id"])
    assert made["rules"].list.len().n_unique() == 3
    answered = context.engine.asked[1][0].prompt
    assert [role for role, _ in answered] == ["system", "user"]
    again = system_prompt(scripted(ctx, developer), pool[::-1], model=NO_MODEL, rules=(2, 4))
    assert set(again["id"]) == set(made["id"])


def test_answers_that_break_the_rules_are_dropped_where_that_is_asked(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:20]
    made = system_prompt(scripted(ctx, developer), pool, model=NO_MODEL, verify=True)
    asks = pool["messages"].list.first().struct.field("content").str.contains("?", literal=True)
    assert Counter(made["drop_reason"]) == {"rules_broken": asks.sum(), None: (~asks).sum()}


def test_characters_are_dealt_out(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:20]
    context = scripted(ctx, developer)
    made = system_prompt(
        *(context, pool), model=NO_MODEL, method="profiles", profiles=4, topics=("chess", "steam")
    )
    assert len(context.engine.asked[0]) == 4
    assert len(kept(made)) == 20
    first = made["messages"][0][0]["content"]
    assert "You are Ada." in first
    assert "dryly" in first
    assert json.loads(made["extra"][0]) == {"character": "Ada"}
    assert set(made["journal"].list.len()) == {2}


def test_no_usable_character_is_told_by_every_row(
    ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    pool = sample("self_instruct.jsonl.gz")[:3]
    made = system_prompt(
        *(scripted(ctx, developer), pool), model=NO_MODEL, method="profiles", topics=("chess",)
    )
    assert Counter(made["drop_reason"]) == {"profile_unparsed": 3}
    assert "system_prompt: none of 3 drafts became a row: profile_unparsed 3" in caplog.text


def test_profiles_have_all_four_parts() -> None:
    assert profile(PROFILE) == {
        **{"name": "Ada", "knows": "engines; numbers", "speaks": "dryly", "refuses": "gossip"},
    }
    assert profile(PROFILE.replace("Refuses", "Hates")) is None


@pytest.mark.proof
def test_a_live_model_that_cannot_is_told(ctx: Context, tinylm: LanguageModel) -> None:
    made = system_prompt(ctx, sample("self_instruct.jsonl.gz")[:4], model=tinylm, max_tokens=24)
    assert len(made) == 4
    assert set(made["drop_reason"].drop_nulls()) <= {"system_cut", "system_unparsed", "no_rules"}


@pytest.mark.parametrize("options", [{"rules": (0, 3)}, {"method": "profiles", "topics": ()}])
def test_mistakes_are_told_before_anything_runs(options: dict) -> None:
    with pytest.raises(UserError):
        _check(options_of(system_prompt, **options))
