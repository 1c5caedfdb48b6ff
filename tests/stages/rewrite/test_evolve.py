"""Evolution in rounds: what is asked, what is thrown away, and that lineage is kept."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import UserError
from pipeline.models import LanguageModel
from schemas.records import RECORD_COLUMNS, record_id
from stages.rewrite._operators import OPERATORS, TURNS, leaked, refused
from stages.rewrite.evolve import _check, evolve
from tests.support.options import options_of
from tests.support.rows import conversations, sample
from tests.support.scripted import Answer, scripted

NO_MODEL = LanguageModel(model="none")
ONE = conversations([("Name a fruit.", "Apple.")])


def writer(text: str) -> Answer:
    """A model that evolves by adding a word, and answers at length."""
    if "Compare two" in text:
        return "different", "stop"
    if "by which criteria" in text.lower():
        return "1. Ask for two.\n2. Ask for a rare one.", "stop"
    if "The instruction:\n" in text:
        return text.split("The instruction:\n")[1] + " Also.", "stop"
    if "Here is" in text:
        return "Something else entirely.", "stop"
    return "An answer with enough words in it.", "stop"


def test_every_round_evolves_what_the_last_one_made(ctx: Context) -> None:
    context = scripted(ctx, writer)
    made = evolve(context, ONE, model=NO_MODEL, rounds=3, operators=("constraints", "deepen"))
    assert made["round"].to_list() == [1, 2, 3]
    users = [messages[0]["content"] for messages in made["messages"]]
    assert users == ["Name a fruit." + " Also." * n for n in (1, 2, 3)]
    assert made["evolved_from"].to_list() == ["Name a fruit.", *users[:2]]
    assert made["operators"].list.len().to_list() == [1, 2, 3]
    assert set(map(tuple, made["parents"])) == {(ONE["id"][0],)}
    # Rewrite, compare, answer: three requests a round, and nothing more.
    assert [len(asked) for asked in context.engine.asked] == [1] * 9


def test_what_fails_is_told_and_the_old_instruction_goes_on(ctx: Context) -> None:
    def stubborn(text: str) -> Answer:
        if "Compare two" in text:
            return "equal", "stop"
        return writer(text)

    made = evolve(scripted(ctx, stubborn), ONE, model=NO_MODEL, rounds=2, operators=("deepen",))
    assert made["drop_reason"].to_list() == ["no_gain", "no_gain"]
    assert made["evolved_from"].to_list() == ["Name a fruit."] * 2
    assert made["messages"][0][0]["content"] == "Name a fruit. Also."


def test_the_released_script_throws_nothing_away(ctx: Context) -> None:
    def sorry(text: str) -> Answer:
        return ("Sorry.", "stop") if text.endswith("Also.") else writer(text)

    made = evolve(
        *(scripted(ctx, sorry), ONE),
        model=NO_MODEL,
        method="wizardlm-code",
        rounds=1,
        operators=("deepen",),
    )
    assert made["drop_reason"].to_list() == [None]
    made = evolve(scripted(ctx, sorry), ONE, model=NO_MODEL, rounds=1, operators=("deepen",))
    assert made["drop_reason"].to_list() == ["sorry"]


@pytest.mark.parametrize("method", ["wizardlm", "wizardcoder"])
def test_operators_are_drawn_alike(ctx: Context, method: str) -> None:
    pool = sample("self_instruct.jsonl.gz")[:600]
    made = evolve(
        *(scripted(ctx, writer), pool),
        model=NO_MODEL,
        method=method,
        rounds=1,
        answer=False,
        eliminate=False,
    )  # type: ignore[arg-type]
    drawn = Counter(made["operators"].list.first())
    assert set(drawn) == set(OPERATORS[method])
    expected = 600 / len(drawn)
    assert all(abs(n - expected) < 4 * expected**0.5 for n in drawn.values()), drawn


def test_rubrics_name_the_change_that_is_applied(ctx: Context) -> None:
    context = scripted(ctx, writer)
    made = evolve(context, ONE, model=NO_MODEL, method="rubric", rounds=1)
    applied = context.engine.asked[1][0].prompt[-1][1]
    assert "Ask for two." in applied or "Ask for a rare one." in applied
    assert made["messages"][0][0]["content"] == "Something else entirely."


def test_conversations_grow_by_a_turn_a_round(ctx: Context) -> None:
    def talker(text: str) -> Answer:
        return ("And then?" if "what the user says next" in text else "Take bread."), "stop"

    context = scripted(ctx, talker)
    made = evolve(context, ONE, model=NO_MODEL, method="turns", rounds=2)
    assert [[m["role"] for m in messages] for messages in made["messages"]] == [
        ["user", "assistant"] * 2,
        ["user", "assistant"] * 3,
    ]
    assert set(made["operators"][1]) <= set(TURNS)
    answered = context.engine.asked[1][0].prompt
    assert answered == (("user", "Name a fruit."), ("assistant", "Apple."), ("user", "And then?"))


def test_leaks_and_refusals_are_known() -> None:
    given = "Improve the given prompt."
    assert leaked("#Rewritten Prompt#: Do it.", "Do it.") is not None
    assert leaked("Here is the rewritten instruction: do it.", "Do it.") is not None
    assert leaked("Improve the given prompt at length.", given) is None
    assert leaked("Use #hashtags in C# code.", "Use tags.") is None
    assert refused("Sorry, I cannot do that.") == ("sorry", {"words": 5})
    assert refused("I am sorry to say. " + "word " * 80) is None
    assert refused("... !!") is not None
    assert refused("the and of it") is not None
    for fine in ("42", "the 7 of it", "Ja, 你好", "x"):
        assert refused(fine) is None or fine == "x", fine


def test_rows_without_a_user_say_so(ctx: Context) -> None:
    messages = [{"role": "assistant", "content": "Hello."}]
    row = {"id": record_id(messages), "messages": messages, "origins": []}
    made = evolve(scripted(ctx, writer), pl.DataFrame([row], schema=RECORD_COLUMNS), model=NO_MODEL)
    assert made["drop_reason"].to_list() == ["no_instruction"]


def test_the_order_of_rows_does_not_matter(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:30]
    one, other = (
        evolve(scripted(ctx, writer), rows, model=NO_MODEL, rounds=2) for rows in (pool, pool[::-1])
    )
    key = ["parents", "round"]
    assert one.sort(key)["operators"].to_list() == other.sort(key)["operators"].to_list()


@pytest.mark.proof
def test_a_live_model_is_told_what_it_cannot_do(ctx: Context, tinylm: LanguageModel) -> None:
    pool = sample("self_instruct.jsonl.gz")[:4]
    made = evolve(ctx, pool, model=tinylm, rounds=2, max_tokens=32)
    assert len(made) == 8
    assert made["round"].to_list() == [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    "wrong", [{"rounds": 0}, {"operators": ("deeper",)}, {"method": "turns", "answer": False}]
)
def test_mistakes_are_told_before_anything_runs(wrong: dict) -> None:
    with pytest.raises(UserError):
        _check(options_of(evolve, **wrong))
