"""Evolution in rounds: its requests, what is dropped, and that lineage is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, get_args

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from schemas.records import RECORD_COLUMNS, record_id
from stages.rewrite.evolve import evolve
from stages.rewrite.evolve.elimination import leaked, refused
from stages.rewrite.evolve.operators import (
    DATA_FORMATS,
    Operator,
    WizardCoder,
    WizardLM,
    WizardLMCode,
)
from stages.rewrite.evolve.operators import PROMPTS as OPERATOR_PROMPTS
from stages.rewrite.evolve.rubric import Rubric
from stages.rewrite.evolve.turns import TURN_KINDS, Turns
from tests.support.options import options_of, problems
from tests.support.rows import conversations, sample
from tests.support.scripted import Answer, Scripted, ScriptedContext, scripted

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


def test_every_round_evolves_the_result_of_the_last(ctx: Context) -> None:
    context = scripted(ctx, writer)
    method = WizardLM(operators=("constraints", "deepen"))
    rows = evolve(context, ONE, model=NO_MODEL, rounds=3, method=method)
    assert rows["round"].to_list() == [1, 2, 3]
    users = [messages[0]["content"] for messages in rows["messages"]]
    assert users == ["Name a fruit." + " Also." * n for n in (1, 2, 3)]
    assert rows["evolved_from"].to_list() == ["Name a fruit.", *users[:2]]
    assert rows["operators"].list.len().to_list() == [1, 2, 3]
    assert set(map(tuple, rows["parents"])) == {(ONE["id"][0],)}
    # Rewrite, compare, answer: three requests a round, and nothing more.
    assert [len(asked) for asked in context.engine.calls] == [1] * 9


def test_what_fails_is_dropped_and_the_old_instruction_goes_on(ctx: Context) -> None:
    def stubborn(text: str) -> Answer:
        if "Compare two" in text:
            return "equal", "stop"
        return writer(text)

    method = WizardLM(operators=("deepen",))
    rows = evolve(scripted(ctx, stubborn), ONE, model=NO_MODEL, rounds=2, method=method)
    assert rows["drop_reason"].to_list() == ["no_gain", "no_gain"]
    assert rows["evolved_from"].to_list() == ["Name a fruit."] * 2
    assert rows["messages"][0][0]["content"] == "Name a fruit. Also."


def test_the_released_script_eliminates_nothing(ctx: Context) -> None:
    def sorry(text: str) -> Answer:
        return ("Sorry.", "stop") if text.endswith("Also.") else writer(text)

    released = WizardLMCode(operators=("deepen",))
    rows = evolve(scripted(ctx, sorry), ONE, model=NO_MODEL, method=released, rounds=1)
    assert rows["drop_reason"].to_list() == [None]
    paper = WizardLM(operators=("deepen",))
    rows = evolve(scripted(ctx, sorry), ONE, model=NO_MODEL, method=paper, rounds=1)
    assert rows["drop_reason"].to_list() == ["refusal"]


@pytest.mark.parametrize("group", [WizardLM, WizardCoder])
def test_operators_are_drawn_alike(ctx: Context, group: type[WizardLM] | type[WizardCoder]) -> None:
    pool = sample("self_instruct.jsonl.gz")[:600]
    method = group(write_answers=False, eliminate=False)
    rows = evolve(scripted(ctx, writer), pool, model=NO_MODEL, method=method, rounds=1)
    drawn = Counter(rows["operators"].list.first())
    assert set(drawn) == set(method.operators)
    expected = 600 / len(drawn)
    assert all(abs(n - expected) < 4 * expected**0.5 for n in drawn.values()), drawn


def test_complicated_input_has_a_data_format(ctx: Context) -> None:
    """Each of them about as often; other operators name none."""
    pool = sample("self_instruct.jsonl.gz")[:300]
    method = WizardLM(operators=("complicate",), write_answers=False, eliminate=False)
    context = scripted(ctx, writer)
    evolve(context, pool, model=NO_MODEL, method=method, rounds=1)
    prompts = [request.prompt[-1][1] for request in context.engine.calls[0]]
    shown = Counter(form for form in DATA_FORMATS for text in prompts if f"on: {form}, " in text)
    assert shown.total() == 300
    assert min(shown[form] for form in DATA_FORMATS) > 25
    own = WizardLM(operators=("complicate", "deepen"), data_formats=("a CSV table",))
    context = scripted(ctx, writer)
    evolve(context, pool[:40], model=NO_MODEL, method=own, rounds=1)
    rewriting = [request.prompt[-1][1] for request in context.engine.calls[0]]
    complicated = [text for text in rewriting if "to work on" in text]
    assert 0 < len(complicated) < 40
    assert all("a CSV table" in text for text in complicated)


@pytest.mark.parametrize("method", [WizardLM(), WizardCoder(), Rubric()])
def test_a_model_that_echoes_has_no_survivors(ctx: Context, method: Any) -> None:
    """Whatever it says to the comparison, which it is not asked."""

    def echo(text: str) -> Answer:
        if "which criteria" in text:
            return "1. Ask for two.", "stop"
        return ("different" if "Compare two" in text else "  name A fruit.\n"), "stop"

    context = scripted(ctx, echo)
    rows = evolve(context, ONE, model=NO_MODEL, method=method, rounds=3)
    assert set(rows["drop_reason"]) == {"no_gain"}
    asked = [request.prompt[-1][1] for call in context.engine.calls for request in call]
    assert not any("Compare two" in text for text in asked)


def test_every_operator_is_a_prompt_file() -> None:
    folder = OPERATOR_PROMPTS.folder
    files = {str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.jinja")}
    assert files == set(get_args(Operator))


def test_rubrics_name_the_change_that_is_applied(ctx: Context) -> None:
    context = scripted(ctx, writer)
    rows = evolve(context, ONE, model=NO_MODEL, method=Rubric(), rounds=1)
    applied = context.engine.calls[1][0].prompt[-1][1]
    assert "Ask for two." in applied or "Ask for a rare one." in applied
    assert rows["messages"][0][0]["content"] == "Something else entirely."


ENCODED = conversations([("Write a letter.", "Dear"), ("Say hello.", "Hello")]).with_columns(
    attributes=pl.Series([["letters", "tact", "grammar"], None], dtype=pl.List(pl.String))
)
BY_METADATA = Rubric(metadata="attributes", eliminate=False)


def encoded_writer(text: str) -> Answer:
    """A strong model: four changes for a kind of instruction, each applied by naming it."""
    if "Use case: letters" in text:
        return "\n".join(f"{n}. Ask for {n}." for n in (1, 2, 3, 4)), "stop"
    if "Change it in this way: " in text:
        before = text.split("Here is an instruction:\n")[1].split("\n\n")[0]
        change = text.split("Change it in this way: ")[1].split("\n")[0]
        return f"{before} {change}", "stop"
    return "A strong answer.", "stop"


def test_rubrics_of_metadata_are_written_once_and_each_round_takes_another(ctx: Context) -> None:
    context = scripted(ctx, encoded_writer)
    rows = evolve(context, ENCODED, model=NO_MODEL, method=BY_METADATA, rounds=4)
    done = rows.filter(pl.col("drop_reason").is_null()).sort("round")
    assert rows["drop_reason"].drop_nulls().to_list() == ["no_metadata"]
    assert "tact; grammar" in context.engine.calls[0][0].prompt[-1][1]
    assert [len(call) for call in context.engine.calls] == [1] * 9
    actions = [json.loads(extra)["action"] for extra in done["extra"]]
    assert sorted(actions) == [f"Ask for {n}." for n in (1, 2, 3, 4)]
    assert done["messages"][3][0]["content"] == " ".join(["Write a letter.", *actions])


class Contrasted(ScriptedContext):
    """A context with a strong model, a target and a judge, each with a script of its own."""

    scripts: ClassVar[dict[str, Callable[[str], Answer]]] = {}

    def open(self, model: LanguageModel) -> Scripted:  # type: ignore[override]
        return Scripted(self.scripts[str(model.model)])


def contrasted(ctx: Context, good: Callable[[str], str]) -> pl.DataFrame:
    """Four rounds before a target; `good` says of an instruction whose answer is good."""

    def judge(text: str) -> Answer:
        instruction = text.split("\n\n")[1]
        first = text.split("An answer:\n")[1].split("\n")[0]
        return ("9" if good(instruction) in (first, "both") else "4"), "stop"

    Contrasted.scripts = {
        "strong": encoded_writer,
        "target": lambda _: ("A weak answer.", "stop"),
        "judge": judge,
    }
    models = {name: LanguageModel(model=name) for name in ("target", "judge")}
    return evolve(
        Contrasted(ctx.files, ctx.work, ctx.store),
        ENCODED.head(1),
        model=LanguageModel(model="strong"),
        **models,
        method=BY_METADATA,
        rounds=4,
    )


def test_rounds_end_where_the_target_answers_worse(ctx: Context) -> None:
    def good(instruction: str) -> str:
        return "A strong answer." if instruction.count("Ask for") > 1 else "both"

    rows = contrasted(ctx, good)
    assert rows["drop_reason"].to_list() == ["no_gap", None]
    assert rows["quality_gap"].to_list() == [0.0, 5.0]
    assert json.loads(rows["evidence"][0]) == {"strong": 9.0, "target": 9.0}
    first, second = (messages[0]["content"] for messages in rows["messages"])
    assert second.startswith(first), "what shows no gap goes on as it is"
    assert rows["messages"][1][-1]["content"] == "A strong answer."


def test_what_the_target_answers_better_is_kept_with_its_answer(ctx: Context) -> None:
    rows = contrasted(ctx, lambda _: "A weak answer.")
    assert rows["quality_gap"].to_list() == [-5.0]
    assert rows["messages"][0][-1]["content"] == "A weak answer."
    assert json.loads(rows["extra"][0])["answered_by"] == "target"


def test_instructions_without_a_gap_are_never_kept(ctx: Context) -> None:
    rows = contrasted(ctx, lambda _: "both")
    assert rows["drop_reason"].to_list() == ["no_gap"] * 4


def test_conversations_grow_by_a_turn_a_round(ctx: Context) -> None:
    def talker(text: str) -> Answer:
        return ("And then?" if "what the user says next" in text else "Take bread."), "stop"

    context = scripted(ctx, talker)
    rows = evolve(context, ONE, model=NO_MODEL, method=Turns(), rounds=2)
    assert [[m["role"] for m in messages] for messages in rows["messages"]] == [
        ["user", "assistant"] * 2,
        ["user", "assistant"] * 3,
    ]
    assert set(rows["operators"][1]) <= set(TURN_KINDS)
    answered = context.engine.calls[1][0].prompt
    assert answered == (("user", "Name a fruit."), ("assistant", "Apple."), ("user", "And then?"))


def test_leaks_and_refusals_are_recognized() -> None:
    before = "Improve the given prompt."
    assert leaked("#Rewritten Prompt#: Do it.", "Do it.") is not None
    assert leaked("Here is the rewritten instruction: do it.", "Do it.") is not None
    assert leaked("Improve the given prompt at length.", before) is None
    assert leaked("Use #hashtags in C# code.", "Use tags.") is None
    assert refused("Sorry, I cannot do that.") == ("refusal", {"words": 5})
    assert refused("I am sorry to say. " + "word " * 80) is None
    assert refused("... !!") is not None
    assert refused("the and of it") is not None
    for fine in ("42", "the 7 of it", "Ja, 你好", "x"):
        assert refused(fine) is None or fine == "x", fine


def test_rows_without_a_user_say_so(ctx: Context) -> None:
    messages = [{"role": "assistant", "content": "Hello."}]
    row = {"id": record_id(messages), "messages": messages, "origins": []}
    rows = evolve(scripted(ctx, writer), pl.DataFrame([row], schema=RECORD_COLUMNS), model=NO_MODEL)
    assert rows["drop_reason"].to_list() == ["no_instruction"]


def test_the_order_of_rows_does_not_matter(ctx: Context) -> None:
    pool = sample("self_instruct.jsonl.gz")[:30]
    one, other = (
        evolve(scripted(ctx, writer), ordered, model=NO_MODEL, rounds=2)
        for ordered in (pool, pool[::-1])
    )
    key = ["parents", "round"]
    assert one.sort(key)["operators"].to_list() == other.sort(key)["operators"].to_list()


@pytest.mark.proof
def test_a_live_model_gives_a_row_for_each_round(ctx: Context, tinylm: LanguageModel) -> None:
    pool = sample("self_instruct.jsonl.gz")[:4]
    rows = evolve(ctx, pool, model=tinylm, rounds=2, max_tokens=32)
    assert len(rows) == 8
    assert rows["round"].to_list() == [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        (
            {"method": {"name": "turns", "write_answers": False}},
            "method (turns) has no option 'write_answers'",
        ),
        (
            {"method": {"name": "rubric", "operators": ["deepen"]}},
            "method (rubric) has no option 'operators'",
        ),
        (
            {"method": {"name": "rubric", "write_answers": False}, "answerer": "model"},
            "answerer must be left out where nothing is answered",
        ),
        ({"target": "model"}, "target must be left out with method: wizardlm as it is"),
        (
            {"method": {"name": "rubric", "write_answers": False}, "target": "model"},
            "target must be left out with method: rubric as it is",
        ),
        ({"judge": "model"}, "judge must be left out without target, got none"),
        (
            {"method": {"name": "rubric", "min_gap": 2}},
            "method.min_gap must be left out without target, got 2.0",
        ),
    ],
)
def test_a_recipe_s_mistakes(options: dict[str, Any], message: str) -> None:
    assert problems("rewrite.evolve", **options) == [message]


def test_metadata_must_be_lists_of_texts() -> None:
    options = options_of(evolve, method=Rubric(metadata="length"))
    adds = find("rewrite.evolve").adds
    assert callable(adds)
    with pytest.raises(OptionError, match="must name a column of lists of texts, got 'length'"):
        adds(options, {"rows": [{"length": pl.Int64()}]})
    assert "quality_gap" not in adds(options, {"rows": [{"length": pl.List(pl.String())}]})


@pytest.mark.parametrize(("method", "name"), [("wizardlm", "deeper"), ("turns", "deepen")])
def test_an_unknown_operator_is_an_error(method: str, name: str) -> None:
    [message] = problems("rewrite.evolve", method={"name": method, "operators": [name]})
    assert message.startswith("method.operators[0] must be ")
    assert message.endswith(f"got {name!r}")
