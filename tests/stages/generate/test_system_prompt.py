"""System prompts: their rules, the answers under them, and what is dropped and why."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages.generate.system_prompt import system_prompt
from stages.generate.system_prompt.profiles import Profiles, parse_profile
from stages.generate.system_prompt.rules import Rules
from tests.support.options import problems
from tests.support.rows import kept, sample
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
        message = text.split("A user wrote:")[1].split("The assistant answered:")[0]
        return ("No.", "stop") if "?" in message else ("Yes", "stop")
    return "As you wish.", "stop"


def test_every_instruction_gets_a_role_with_rules_and_an_answer(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:20]
    context = scripted(ctx, developer)
    rows = system_prompt(context, pool, model=NO_MODEL, method=Rules(num_rules=(2, 4)))
    assert rows["drop_reason"].null_count() == len(rows) == 20
    for messages, rules, parents in rows.select("messages", "rules", "parents").iter_rows():
        assert [m["role"] for m in messages] == ["system", "user", "assistant"]
        assert 2 <= len(rules) <= 4
        assert all(rule in messages[0]["content"] for rule in rules)
        assert parents[0] in set(pool["id"])
    assert rows["rules"].list.len().n_unique() == 3
    answered = context.engine.calls[1][0].prompt
    assert [role for role, _ in answered] == ["system", "user"]
    again = system_prompt(
        scripted(ctx, developer), pool[::-1], model=NO_MODEL, method=Rules(num_rules=(2, 4))
    )
    assert set(again["id"]) == set(rows["id"])


def test_answers_that_break_the_rules_are_dropped_by_verify(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:20]
    rows = system_prompt(scripted(ctx, developer), pool, model=NO_MODEL, verify=True)
    first = pool["messages"].list.first().struct.field("content")
    questions = first.str.contains("?", literal=True)
    assert Counter(rows["drop_reason"]) == {
        **{"rules_broken": questions.sum(), None: (~questions).sum()},
    }


def test_characters_are_assigned(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:20]
    context = scripted(ctx, developer)
    rows = system_prompt(
        *(context, pool),
        model=NO_MODEL,
        method=Profiles(num_profiles=4, topics=("chess", "steam")),
    )
    assert len(context.engine.calls[0]) == 4
    assert len(kept(rows)) == 20
    first = rows["messages"][0][0]["content"]
    assert "You are Ada." in first
    assert "dryly" in first
    assert json.loads(rows["extra"][0]) == {"character": "Ada"}
    assert set(rows["journal"].list.len()) == {2}


def test_no_usable_character_drops_every_row(
    ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    pool = sample("self_instruct.jsonl.gz")[:3]
    rows = system_prompt(
        *(scripted(ctx, developer), pool), model=NO_MODEL, method=Profiles(topics=("chess",))
    )
    assert Counter(rows["drop_reason"]) == {"profile_unparsed": 3}
    assert "system_prompt: none of 3 drafts became a row: profile_unparsed 3" in caplog.text


def test_profiles_have_all_four_parts() -> None:
    assert parse_profile(PROFILE) == {
        **{"name": "Ada", "knows": "engines; numbers", "speaks": "dryly", "refuses": "gossip"},
    }
    assert parse_profile(PROFILE.replace("Refuses", "Hates")) is None


@pytest.mark.proof
def test_a_live_model_that_cannot_is_told(ctx: Context, tinylm: LanguageModel) -> None:
    rows = system_prompt(ctx, sample("self_instruct.jsonl.gz")[:4], model=tinylm, max_tokens=24)
    assert len(rows) == 4
    reasons = {"system_cut", "system_unparsed", "no_rules", "response_cut"}
    assert set(rows["drop_reason"]) <= reasons


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"name": "rules", "num_rules": [0, 3]},
            "method.num_rules[0] must be at least 1, got 0",
        ),
        (
            {"name": "profiles", "topics": []},
            "method.topics must be of at least 1 element, got []",
        ),
        ({"name": "profiles", "num_rules": [2, 3]}, "method (profiles) has no option 'num_rules'"),
        ({"name": "rules", "topics": ["a"]}, "method (rules) has no option 'topics'"),
    ],
)
def test_a_recipe_s_mistakes(method: dict[str, Any], message: str) -> None:
    assert problems("generate.system_prompt", method=method) == [message]
