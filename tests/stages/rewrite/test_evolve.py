"""Evolution in rounds: its requests, what is dropped, and that lineage is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import chain
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
from stages.rewrite.evolve.lift import Lift
from stages.rewrite.evolve.m2lingual import EVOLUTIONS, GENERAL, TAXONOMY, M2Lingual, evolutions
from stages.rewrite.evolve.operators import (
    DATA_FORMATS,
    Operator,
    WizardCoder,
    WizardLM,
    WizardLMCode,
)
from stages.rewrite.evolve.operators import PROMPTS as OPERATOR_PROMPTS
from stages.rewrite.evolve.rubric import Rubric
from stages.rewrite.evolve.smaller import SmallerEvolvers
from stages.rewrite.evolve.turns import TURN_KINDS, Turns
from tests.support.options import options_of, problems
from tests.support.rows import conversations, sample, self_instruct
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


def said(number: int) -> str:
    return f"And what comes after number {number}?"


def test_conversations_grow_by_a_turn_a_round(ctx: Context) -> None:
    def talker(text: str) -> Answer:
        again = said(text.count("User: "))
        return (again if "what the user says next" in text else "Take bread."), "stop"

    context = scripted(ctx, talker)
    rows = evolve(context, ONE, model=NO_MODEL, method=Turns(), rounds=2)
    assert [[m["role"] for m in messages] for messages in rows["messages"]] == [
        ["user", "assistant"] * 2,
        ["user", "assistant"] * 3,
    ]
    assert set(rows["operators"][1]) <= set(TURN_KINDS)
    answered = context.engine.calls[1][0].prompt
    assert answered == (("user", "Name a fruit."), ("assistant", "Apple."), ("user", said(1)))


def test_a_turn_that_was_said_before_or_in_another_language_is_none(ctx: Context) -> None:
    rows = conversations([("Welche Frucht ist im Herbst am süßesten?", "Die Birne ist es.")])

    for turn, reason in (
        ("welche frucht ist im Herbst am süßesten?", "no_gain"),
        ("Which of them is the cheapest one at the market?", "language_changed"),
        ("Und welche davon ist auf dem Markt am billigsten?", None),
    ):

        def talker(text: str, turn: str = turn) -> Answer:
            return (turn if "what the user says next" in text else "Ja."), "stop"

        result = evolve(scripted(ctx, talker), rows, model=NO_MODEL, method=Turns(), rounds=1)
        assert result["drop_reason"].to_list() == [reason]
    assert len(TURN_KINDS) == 21


@pytest.mark.parametrize("row", [("Name a fruit.",), ("Name a fruit.", " ")])
def test_a_conversation_without_an_answer_does_not_go_on(
    ctx: Context, row: tuple[str, ...]
) -> None:
    context = scripted(ctx, lambda _: ("And then?", "stop"))
    rows = evolve(context, conversations([row]), model=NO_MODEL, method=Turns(), rounds=2)
    assert rows["drop_reason"].to_list() == ["no_answer"]
    assert not any(context.engine.calls)


WITH_INPUT = self_instruct(60)
NEW_METHODS = [SmallerEvolvers(), SmallerEvolvers(input="regenerate"), M2Lingual(), Lift()]


def new_writer(text: str) -> Answer:
    """A model that adds a sentence to what it evolves."""
    if "Write the input that" in text:
        return f"A new input for {len(text)}.", "stop"
    if "Here is an instruction:\n" in text:
        before = text.split("Here is an instruction:\n")[1].split("\n\nWrite an")[0]
        return f"{before} And say why it is so.", "stop"
    if "The instruction:\n" in text:
        return text.split("The instruction:\n")[1] + " And say why it is so.", "stop"
    return writer(text)


@pytest.mark.parametrize("method", NEW_METHODS, ids=str)
def test_lineage_is_a_forest_as_deep_as_there_are_rounds(ctx: Context, method: Any) -> None:
    rounds = 4
    rows = evolve(
        scripted(ctx, new_writer), WITH_INPUT, model=NO_MODEL, method=method, rounds=rounds
    )
    rows = rows.filter(pl.col("error").is_null())
    assert rows["round"].value_counts()["count"].to_list() == [len(WITH_INPUT)] * rounds
    kept = rows.filter(pl.col("drop_reason").is_null())
    by_step = {(r["parents"][0], r["round"]): r for r in rows.iter_rows(named=True)}
    assert len(by_step) == len(rows), "one row for each seed and round"
    assert {seed for seed, _ in by_step} == {*WITH_INPUT["id"]}
    for (seed, number), row in by_step.items():
        assert len(row["parents"]) == 1
        assert len(row["operators"]) == number
        if number > 1:
            before = by_step[seed, number - 1]
            assert row["operators"][:-1] == before["operators"]
            if before["drop_reason"] is None:
                text = before["messages"][-2]["content"]
                assert text.startswith(row["evolved_from"])
    assert len(kept) > 0.8 * len(rows)


@pytest.mark.parametrize("operators", [4, 5])
def test_small_evolvers_use_all_operators_alike(ctx: Context, operators: int) -> None:
    """In each round the counts differ by one at most, and each row meets all operators."""
    named = ("constraints", "deepen", "concretize", "reasoning", "breadth")[:operators]
    method = SmallerEvolvers(operators=named)
    pool = WITH_INPUT[:59]
    runs = [
        evolve(scripted(ctx, new_writer), rows, model=NO_MODEL, method=method, rounds=operators)
        for rows in (pool, pool[::-1])
    ]
    for number in range(1, operators + 1):
        counts = Counter(runs[0].filter(round=number)["operators"].list.last())
        assert set(counts) == set(named)
        assert max(counts.values()) - min(counts.values()) <= 1
    last = pl.col("operators").list.last()
    met = runs[0].group_by("parents").agg(last)["operators"].to_list()
    assert all({*operators_} == {*named} for operators_ in met)
    key = ["parents", "round"]
    assert runs[0].sort(key)["operators"].equals(runs[1].sort(key)["operators"])
    first = runs[0].filter(round=1).sort("parents")["operators"].list.first().to_list()
    assert first[:5] == [named[(i + 1) % operators] for i in range(5)]


@pytest.mark.parametrize("handling", ["clear", "regenerate"])
def test_the_old_input_is_not_carried_beside_a_new_instruction(ctx: Context, handling: Any) -> None:
    method = SmallerEvolvers(input=handling)
    context = scripted(ctx, new_writer)
    rows = evolve(context, WITH_INPUT, model=NO_MODEL, method=method, rounds=2)
    asked = [r.prompt[-1][1] for call in context.engine.calls for r in call]
    inputs = WITH_INPUT["input_start"].is_not_null().sum()
    assert sum("Write the input that" in text for text in asked) == (
        2 * inputs if handling == "regenerate" else 0
    )
    starts = dict(WITH_INPUT.select("id", "input_start").iter_rows())
    for row in rows.filter(pl.col("drop_reason").is_null()).iter_rows(named=True):
        if handling == "clear" or starts[row["parents"][0]] is None:
            assert row["input_start"] is None
        else:
            text = row["messages"][0]["content"]
            assert text[row["input_start"] :].startswith("A new input for ")
            assert text[: row["input_start"]].endswith(" And say why it is so.\n\n")
    # Answers are greedy, evolutions are not.
    temperatures = {r.decoding.temperature for call in context.engine.calls[-1:] for r in call}
    assert temperatures == {0.0}
    assert context.engine.calls[0][0].decoding.temperature == 1.0


def test_an_instruction_that_needs_no_input_has_none(ctx: Context) -> None:
    def without(text: str) -> Answer:
        return ("None.", "stop") if "Write the input that" in text else new_writer(text)

    method = SmallerEvolvers(input="regenerate")
    rows = evolve(scripted(ctx, without), WITH_INPUT, model=NO_MODEL, method=method, rounds=1)
    assert rows["input_start"].null_count() == len(rows)
    assert not any("None." in messages[0]["content"] for messages in rows["messages"])


@pytest.mark.parametrize("method", [*NEW_METHODS, Turns(), WizardLM(), WizardCoder()], ids=str)
@pytest.mark.parametrize("of", ["instruction", "prompt"])
def test_echoes_of_either_kind_have_no_survivors(ctx: Context, method: Any, of: str) -> None:
    """A model that gives back the instruction, or all that it was asked."""

    def echo(text: str) -> Answer:
        if "Compare two" in text:
            return "different", "stop"
        return ("name A fruit." if of == "instruction" else text), "stop"

    rows = evolve(scripted(ctx, echo), ONE, model=NO_MODEL, method=method, rounds=3)
    assert len(rows) == 3
    assert {*rows["drop_reason"]} <= {"no_gain", "prompt_leaked"}


@pytest.mark.parametrize(
    ("task", "name"),
    [
        *(("Machine Translation", "translation"), ("nli/xnli", "inference")),
        *(("open_qa", "question answering"), ("Paraphrase identification", "paraphrase")),
        *(("Coding & Debugging", "code"), ("topic classification", "classification")),
        *(("Creative writing", "writing"), ("sentiment-analysis", "sentiment")),
    ],
)
def test_a_task_admits_the_evolutions_of_the_taxonomy(task: str, name: str) -> None:
    assert evolutions(task) == TAXONOMY[name]


def test_the_taxonomy_is_complete() -> None:
    assert {*chain(*TAXONOMY.values(), GENERAL)} == {*EVOLUTIONS}
    assert len(TAXONOMY) == 17
    assert all(len({*names}) == len(names) >= 3 for names in TAXONOMY.values())


BILINGUAL = conversations(
    [
        ("Nenne mir bitte drei schöne Städte in Deutschland.", "Trier, Lübeck, Ulm."),
        ("Traduis cette phrase en anglais : le chat dort sur le lit.", "The cat sleeps."),
    ]
)


def test_evolutions_follow_task_and_language(ctx: Context) -> None:
    tasks = [
        "translation" if "Traduis" in m[0]["content"] else "other" for m in BILINGUAL["messages"]
    ]
    rows = BILINGUAL.with_columns(task=pl.Series(tasks))
    method = M2Lingual(task="task")
    context = scripted(ctx, lambda text: new_writer(text.replace(" And say why", " Warum")))
    result = evolve(context, rows, model=NO_MODEL, method=method, rounds=3)
    for row in result.iter_rows(named=True):
        french = "Traduis" in row["evolved_from"]
        admitted = TAXONOMY["translation"] if french else GENERAL
        assert {*row["operators"]} <= {*admitted}
    prompts = [r.prompt[-1][1] for r in context.engine.calls[0]]
    for prompt in prompts:
        language = "French" if "Traduis" in prompt else "German"
        assert prompt.count(language) == 2
        assert ("the task is: translation" in prompt) == ("Traduis" in prompt)


def test_an_instruction_in_another_language_is_dropped(ctx: Context) -> None:
    def in_english(text: str) -> Answer:
        if "Compare two" in text:
            return "different", "stop"
        return "Name three beautiful towns that lie on a river in Germany.", "stop"

    for probability, reason in ((0.2, "language_changed"), (0.0, None)):
        method = M2Lingual(min_language_probability=probability)
        rows = evolve(
            scripted(ctx, in_english), BILINGUAL[:1], model=NO_MODEL, method=method, rounds=1
        )
        assert rows["drop_reason"].to_list() == [reason]


def test_the_growth_of_each_round_is_reported(ctx: Context) -> None:
    pool = WITH_INPUT[:20]
    rows = evolve(scripted(ctx, new_writer), pool, model=NO_MODEL, method=Lift(), rounds=3)
    facts = json.loads((ctx.files / "evolution.json").read_text("utf-8"))["rounds"]
    assert [fact["round"] for fact in facts] == [1, 2, 3]
    for fact in facts:
        of_round = rows.filter(round=fact["round"])
        assert sum(fact["operators"].values()) == len(of_round)
        assert fact["evolved"] == of_round["drop_reason"].null_count()
        assert fact["evolved"] + sum(fact["dropped"].values()) + fact["failed"] == len(of_round)
        assert fact["growth"] > 1
        assert fact["mean_words"] > fact["mean_words_before"]

    def shrinking(text: str) -> Answer:
        return ("Say it." if "The instruction:\n" in text else "An answer it is."), "stop"

    method = SmallerEvolvers(operators=("deepen",))
    evolve(scripted(ctx, shrinking), pool, model=NO_MODEL, method=method, rounds=1)
    assert json.loads((ctx.files / "evolution.json").read_text("utf-8"))["rounds"][0]["growth"] < 1


def test_methods_differ_in_their_requests(ctx: Context) -> None:
    asked = {}
    for method in [*NEW_METHODS, WizardLM(), WizardLMCode(), WizardCoder(), Turns(), Rubric()]:
        context = scripted(ctx, new_writer)
        evolve(context, WITH_INPUT[:12], model=NO_MODEL, method=method, rounds=2)
        asked[str(method)] = repr(context.engine.calls)
    assert len({*asked.values()}) == len(asked)


def test_odd_rows_are_evolved_or_say_why(ctx: Context) -> None:
    call = {"id": "c", "name": "add", "arguments": "{}"}
    odd: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "Sum?"}, {"role": "assistant", "tool_calls": [call]}],
        [{"role": "user", "content": "\n"}],
        [{"role": "user", "content": "为什么天空在白天是蓝色的，而在晚上是黑色的呢？"}],
        [{"role": "user", "content": "word " * 10_000}, {"role": "assistant", "content": ""}],
        [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "A", "reasoning": "B"},
        ],
    ]
    rows = pl.DataFrame(
        [{"id": record_id(m), "messages": m, "origins": []} for m in odd], schema=RECORD_COLUMNS
    )
    for method in NEW_METHODS:
        result = evolve(scripted(ctx, new_writer), rows, model=NO_MODEL, method=method, rounds=1)
        by_seed = {row["parents"][0]: row for row in result.iter_rows(named=True)}
        reasons = [by_seed[record_id(messages)]["drop_reason"] for messages in odd]
        assert reasons[:2] == ["has_tools", "no_instruction"]
        assert all(reason in (None, "language_changed") for reason in reasons[2:])


def test_columns_of_the_taxonomy_hold_texts() -> None:
    adds = find("rewrite.evolve").adds
    assert callable(adds)
    options = options_of(evolve, method=M2Lingual(task="task"))
    with pytest.raises(OptionError, match="must name a column of texts, got 'task'"):
        adds(options, {"rows": [{"task": pl.List(pl.String())}]})
    adds(options, {"rows": [{"task": pl.String()}]})
    assert find("rewrite.evolve").reads("rows", options)[-1] == "task"


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
