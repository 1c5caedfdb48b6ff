"""Revision: texts are accepted only where they count, and nothing else changes a row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from pipeline.context import Context
from pipeline.errors import OptionError
from pipeline.models import Embedder, LanguageModel, Scored
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from schemas.records import record_id
from stages._llm.prompts import Prompts
from stages._llm.templates import Template
from stages._llm.token_counts import tokenizer_of
from stages.rewrite._blocks import blocks
from stages.rewrite.revise import Method, revise, self_lengthen
from stages.rewrite.revise.citing import Citing
from stages.rewrite.revise.clear import Clear
from stages.rewrite.revise.coachlm import PROMPTS, CoachLM
from stages.rewrite.revise.coevol import CoEvol
from stages.rewrite.revise.long_is_more import LongIsMore
from stages.rewrite.revise.mammoth2 import Mammoth2
from stages.rewrite.revise.nile import Nile
from stages.rewrite.revise.passes import is_placeholder
from stages.rewrite.revise.realign import ReAlign, refused
from stages.rewrite.revise.realign_formats import TYPES, WITH_EVIDENCE
from stages.rewrite.revise.reflection import Reflection
from stages.rewrite.revise.selective import SelectiveReflection
from stages.rewrite.revise.selective import helped as ifd_of
from stages.rewrite.revise.self_lengthen import SelfLengthen, first_part, repeats, word_count
from stages.score.loss import loss
from tests.support.cases import TINYLM
from tests.support.options import options_of
from tests.support.rows import conversations, frame, json_lines, record, sample
from tests.support.scripted import Answer, Scripted, ScriptedContext
from tests.support.teacher import saying

NO_MODEL: Final = LanguageModel(model="none")
ONE: Final = conversations([("Name a sea.", "Baltic.")])
POOL: Final = sample("self_instruct.jsonl.gz").head(40)
JUDGED: Final = (
    *(Reflection(), CoEvol(), Citing(), CoachLM(), LongIsMore(), Mammoth2(), ReAlign()),
    *(SelfLengthen(), Clear(confidence="LENGTH(id)")),
)
METHODS: Final = (*JUDGED, SelectiveReflection())
EACH: Final = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
EACH_JUDGED: Final = pytest.mark.parametrize("method", JUDGED, ids=lambda m: m.name)


def models(method: Any) -> dict[str, Any]:
    """The method with the models that it needs."""
    needed = {"clear": "judge", "selective_reflection": "student"}.get(method.name)
    return {"model": NO_MODEL, "method": method} | ({needed: NO_MODEL} if needed else {})


class Scoring(Scripted):
    """An engine with likelihoods as well: those of each text are the loss of all its tokens.

    Args:
        script: Answers prompts.
        loss: From a rendered conversation to nats per token.
    """

    def __init__(self, script: Callable[[str], Answer], loss: Callable[[str], float]) -> None:
        super().__init__(script)
        self.tokenizer, self.loss = tokenizer_of(TINYLM), loss

    def loglikelihood(self, sequences: Sequence[Scored]) -> list[NDArray[np.float32]]:
        return [
            np.full(len(s.tokens) - s.start, -self.loss(self.tokenizer.decode(s.tokens)))
            for s in sequences
        ]


def helped(text: str) -> float:
    """The loss of a student whom every prompt helps."""
    return 0.5 if "user" in text else 1.0


def scripted(
    ctx: Context, script: Callable[[str], Answer], loss: Callable[[str], float] = helped
) -> ScriptedContext:
    context = ScriptedContext(ctx.files, ctx.work, ctx.store)
    context.engine = Scoring(script, loss)
    return context


def between(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0]


def scores(first: int, second: int) -> Answer:
    return json.dumps({"reason": "So.", "first": first, "second": second}), "stop"


def writer(new: str, better: str | None = None) -> Callable[[str], Answer]:
    """A model that writes this answer in every form; as a judge it prefers one that holds better.

    With better: None it grades both alike.
    """

    def script(text: str) -> Answer:
        if "answers to one request" in text:
            first = between(text, "The first answer:\n", "\n\nThe second")
            second = between(text, "The second answer:\n", "\n\nGrade each")
            return scores(*(9 if better and better in each else 5 for each in (first, second)))
        if "is the better one" in text:
            shown = (between(text, "A:\n", "\n\nAnswer B"), between(text, "B:\n", "\n\nWhich"))
            first, second = (bool(better and better in each) for each in shown)
            return ("tie" if first == second else "A" if first else "B"), "stop"
        if "with default where" in text:
            return "closed_qa", "stop"
        if "name of one category" in text:
            return "advice", "stop"
        if "\n[Revised instruction]\n" in text:
            old = between(text, "The instruction:\n", "\n\nThe answer:")
            return f"[Revised instruction]\n{old}\n[Revised answer]\n{new}\n[End]", "stop"
        if "\n[New instruction]\n" in text:
            return f"[Critique]\nC.\n[New instruction]\nTwo?\n[New answer]\n{new}\n[End]", "stop"
        if "\n[Critique]\n" in text:
            return f"[Critique]\nC.\n[New answer]\n{new}\n[End]", "stop"
        return (f"[New answer]\n{new}\n[End]" if "\n[New answer]\n" in text else new), "stop"

    return script


def passes(rows: pl.DataFrame) -> list[list[dict[str, Any]]]:
    return [json.loads(text)["passes"] for text in rows["passes"]]


def answers(rows: pl.DataFrame) -> list[str]:
    return [messages[-1]["content"] for messages in rows["messages"]]


def facts(ctx: Context) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((ctx.files / "revisions.json").read_text("utf-8"))
    return written


def test_a_revised_row_says_what_it_comes_from(ctx: Context) -> None:
    method = Reflection(texts=("answer",))
    rows = revise(scripted(ctx, writer("Balkan.")), ONE, model=NO_MODEL, method=method)
    (row,) = rows.to_dicts()
    assert row["id"] == record_id(row["messages"]) != ONE["id"][0]
    assert (row["parents"], row["revision"]) == ([ONE["id"][0]], "revised")
    assert row["operators"] == ["reflection/answer"]
    assert row["messages"][1]["content"] == "Balkan."
    assert json.loads(row["extra"])["original"][1] == {"role": "assistant", "content": "Baltic."}
    (note,) = passes(rows)[0]
    assert (note["critique"], note["response_distance"], note["turn"]) == ("C.", 3, 1)
    assert row["origins"][0]["source"] == "revise"
    assert row["origins"][0]["license"] == ONE["origins"][0][0]["license"]
    assert facts(ctx)["revision"] == {"revised": 1}


@EACH
def test_a_model_that_echoes_changes_no_row(ctx: Context, method: Any) -> None:
    """Whatever its judge says: what is unchanged is not judged."""

    pool = POOL[:1]
    answer = pool["messages"][0][1]["content"]
    context = scripted(ctx, writer(f" {answer}\n", answer))
    if isinstance(method, Reflection):
        method = Reflection(texts=("answer",))
    rows = revise(context, pool, **models(method))
    assert rows["revision"].to_list() == ["unchanged"]
    assert rows.select(pool.columns).equals(pool)
    asked = [request.prompt[-1][1] for call in context.engine.calls for request in call]
    judging = ("answers to one request", "is the better one")
    assert not any(mark in text for text in asked for mark in judging)


@EACH
@pytest.mark.parametrize("new", ["", "N/A", "[New answer here]", "...", "None."])
def test_what_says_nothing_keeps_the_row(ctx: Context, method: Any, new: str) -> None:
    rows = revise(scripted(ctx, writer(new, new)), ONE, **models(method))
    assert rows["revision"][0] != "revised"
    assert rows.select(ONE.columns).equals(ONE)
    assert rows["drop_reason"].to_list() == rows["error"].to_list() == [None]


@EACH
@pytest.mark.parametrize(
    ("finish", "ending"), [("stop", "unparsed"), ("length", "cut"), ("stop", "unreadable")]
)
def test_what_cannot_be_read_keeps_the_row_with_its_end_as_evidence(
    ctx: Context, method: Any, finish: str, ending: str
) -> None:
    answer = "{}" if ending == "unreadable" else " \n "
    rows = revise(scripted(ctx, lambda text: (answer, finish)), ONE, **models(method))
    if ending != "unreadable":
        outcomes = {note["outcome"] for notes in passes(rows) for note in notes}
        assert outcomes <= {"unparsed", "cut", "unreadable"}
    assert rows["drop_reason"].to_list() == [None]
    assert len(rows["journal"][0])


@EACH
def test_what_is_not_answered_fails_and_keeps_nothing(ctx: Context, method: Any) -> None:
    rows = revise(scripted(ctx, lambda text: ("away", "error")), ONE, **models(method))
    assert rows["error"].to_list() == ["away"]
    assert rows["messages"].to_list() == ONE["messages"].to_list()
    assert facts(ctx)["failed"] == 1


def test_an_answer_that_was_not_closed_or_written_twice_is_no_answer() -> None:
    assert blocks("[New answer]\nfour\n[End]", ("New answer",)) == {"New answer": "four"}
    for text in (
        "[New answer]\nfour",
        "[New answer]\nfour\n[New answer]\nfive\n[End]",
        "[End]\n[New answer]\nfour",
        "[New answer]\nfour\n[End]\n[End]",
        "The [New answer] is four [End]",
    ):
        assert blocks(text, ("New answer",)) is None, text
    # Only whole headings are taken away, and no letters around them.
    assert blocks("[New answer]\nEnd\n[End]", ("New answer",)) == {"New answer": "End"}


@pytest.mark.parametrize("text", ["42", "+", "C", "No.", "The same colour.", "Nonetheless."])
def test_short_answers_are_no_placeholders(text: str) -> None:
    assert not is_placeholder(text)


@EACH_JUDGED
def test_a_judge_decides_and_only_a_gain_counts(ctx: Context, method: Any) -> None:
    """Of answers to the same instruction: with another one they cannot be compared."""
    if isinstance(method, Reflection):
        method = Reflection(texts=("answer",))
    new = "It is the North Sea, which is cold and wide and old."
    options: dict[str, Any] = {"model": NO_MODEL, "judge": NO_MODEL, "method": method}
    for better, revision in (("North", "revised"), ("Baltic", "no_gain"), (None, "no_gain")):
        rows = revise(scripted(ctx, writer(new, better)), ONE, **options)
        assert (rows["revision"][0], len(rows)) == (revision, 1), better
        last = [note for note in passes(rows)[0] if "scores" in note][-1]
        assert len(last["scores"]) == 2


@EACH_JUDGED
@pytest.mark.parametrize("place", ["first", "second"])
def test_a_judge_that_prefers_a_place_accepts_nothing_and_it_is_said(
    ctx: Context, method: Any, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(method, Reflection):
        method = Reflection(texts=("answer",))

    long = " ".join(f"word{n}" for n in range(40)) + "."

    def biased(text: str) -> Answer:
        if "answers to one request" in text:
            return scores(9, 1) if place == "first" else scores(1, 9)
        if "is the better one" in text:
            return ("A" if place == "first" else "B"), "stop"
        return writer(long)(text)

    pool = conversations([(f"What is {n}?", f"It is {n}.") for n in range(4)])
    rows = revise(scripted(ctx, biased), pool, model=NO_MODEL, judge=NO_MODEL, method=method)
    assert set(rows["revision"]) == {"no_gain"}
    assert rows["id"].to_list() == pool["id"].to_list()
    judged = facts(ctx)["judge"]
    assert (judged["pairs"], judged["accepted"], judged["orders_agree"]) == (4, 0, 0)
    assert judged["share_of_first_place"] == (place == "first")
    assert judged["always_one_place"]
    assert "decides nothing" in caplog.text


@pytest.mark.parametrize(("unread", "revision", "orders"), [(1, "revised", 1), (2, "unjudged", 0)])
def test_one_order_that_cannot_be_read_leaves_the_other(
    ctx: Context, unread: int, revision: str, orders: int
) -> None:
    write = writer("The North Sea.", "North")

    def half(text: str) -> Answer:
        judging = "answers to one request" in text
        old_first = "The first answer:\nBaltic." in text
        return ("?", "stop") if judging and (unread == 2 or old_first) else write(text)

    rows = revise(scripted(ctx, half), ONE, model=NO_MODEL, method=CoEvol(rounds=1))
    assert rows["revision"].to_list() == [revision]
    shown = passes(rows)[0][0]["scores"]
    assert [scores is not None for scores in shown].count(True) == orders
    judged = facts(ctx)["judge"]
    assert (judged["one_order"], judged["unread"]) == ((1, 0) if orders else (0, 1))


def test_coevol_goes_on_while_there_is_a_gain(ctx: Context) -> None:
    """Each round edits the result of the last; it ends with the first that is no better."""
    written = iter(["One more.", "Two more.", "Worse.", "Never asked for."])

    def script(text: str) -> Answer:
        if "answers to one request" in text:
            rank = ["Baltic.", "One more.", "Two more."]
            worth = [
                rank.index(between(text, start, end)) + 2
                if between(text, start, end) in rank
                else 1
                for start, end in (
                    ("The first answer:\n", "\n\nThe second"),
                    ("The second answer:\n", "\n\nGrade each"),
                )
            ]
            return scores(*worth)
        return (next(written) if "Write the edited answer" in text else "Said."), "stop"

    context = scripted(ctx, script)
    rows = revise(context, ONE, model=NO_MODEL, method=CoEvol(rounds=4))
    assert answers(rows) == ["Two more."]
    assert rows["operators"].to_list() == [["coevol", "coevol"]]
    notes = passes(rows)[0]
    assert [note["outcome"] for note in notes] == ["revised", "revised", "no_gain"]
    assert [note["round"] for note in notes] == [1, 2, 3]
    assert next(written) == "Never asked for."
    # For, against, two replies, advice, edit; and a call with both orders.
    assert [len(call) for call in context.engine.calls] == [1, 1, 1, 1, 1, 1, 2] * 3


def test_debaters_reply_to_each_other_and_are_advised_on_both(ctx: Context) -> None:
    def script(text: str) -> Answer:
        if "Check what the other side" in text:
            return ("FOR2" if "speak for it" in text else "AGAINST2"), "stop"
        if "in a debate" in text:
            return ("FOR1" if "speak for it" in text else "AGAINST1"), "stop"
        return writer("The North Sea.", "North")(text)

    context = scripted(ctx, script)
    revise(context, ONE, model=NO_MODEL, method=CoEvol(rounds=1))
    asked = [request.prompt[-1][1] for call in context.engine.calls for request in call]
    assert "FOR1" in asked[3]
    assert "AGAINST1" in asked[3]
    assert "FOR2" not in asked[3], "a reply is to what was said before"
    assert "FOR2" in asked[4]
    assert "AGAINST2" in asked[4]


def test_later_answers_follow_the_edited_ones(ctx: Context) -> None:
    chat = frame([record("Name a sea.", "Baltic.", "And a river?", "Rhine.")])

    def script(text: str) -> Answer:
        return ("Sea 2." if "Assistant:" not in text else f"River 2 {'Sea 2.' in text}."), "stop"

    options: dict[str, Any] = {"model": NO_MODEL, "method": Mammoth2()}
    rows = revise(scripted(ctx, script), chat, **options, answers="all")
    assert [m["content"] for m in rows["messages"][0]][1::2] == ["Sea 2.", "River 2 True."]
    rows = revise(scripted(ctx, script), chat, **options)
    assert [m["content"] for m in rows["messages"][0]][1::2] == ["Baltic.", "River 2 False."]
    # An instruction with turns after or before it cannot change alone.
    rows = revise(scripted(ctx, writer("Elbe.")), chat, model=NO_MODEL)
    assert rows["operators"].to_list() == [["reflection/answer"]]


def test_the_instruction_is_shown_with_its_input_and_gets_an_answer(ctx: Context) -> None:
    rows = frame([record("Add.\n\n2 and 3", "5", input_start=6)])
    context = scripted(ctx, writer("Both."))
    revised = revise(context, rows, model=NO_MODEL, method=Reflection(texts=("instruction",)))
    assert "2 and 3" in context.engine.calls[0][0].prompt[-1][1]
    assert [m["content"] for m in revised["messages"][0]] == ["Two?", "Both."]
    assert revised["input_start"].to_list() == [None]


def whole(**fields: Any) -> dict[str, Any]:
    row = record("Name a sea.", "Baltic.")
    row["messages"][1] |= fields
    row["id"] = record_id(row["messages"])
    return row


CALL: Final = {"id": "1", "name": "look_up", "arguments": "{}"}


@EACH
@pytest.mark.parametrize(
    ("row", "revision"),
    [
        (whole(tool_calls=[CALL]), "has_tools"),
        (whole(reasoning="I think."), "has_reasoning"),
        (whole(train=False), "not_trained"),
        (whole(content=""), "no_answer"),
        (record("Name a sea."), "no_answer"),
        (record("", "Baltic."), "no_instruction"),
        (record("Be brief.", "Baltic.", roles=("system", "assistant")), "no_instruction"),
    ],
)
def test_rows_that_cannot_follow_stay_whole(
    ctx: Context, method: Any, row: dict[str, Any], revision: str
) -> None:
    rows = frame([row])
    context = scripted(ctx, writer("The North Sea.", "North"))
    result = revise(context, rows, **models(method))
    assert result["revision"].to_list() == [revision]
    assert result.select(rows.columns).equals(rows)
    assert not any(context.engine.calls)


def test_methods_differ_in_what_they_ask(ctx: Context) -> None:
    """Of one server: also Selective Reflection-Tuning, which goes on from what the student took."""
    asked = set()
    nile = {"model": NO_MODEL, "method": Nile(), "embedder": EMBEDDER}
    for options in (*map(models, METHODS), nile):
        context = Encoding(ctx.files, ctx.work, ctx.store)
        context.engine = scripted(ctx, writer("The North Sea.", "North")).engine
        revise(context, ONE, **options)
        asked.add(tuple(r.prompt[-1][1] for call in context.engine.calls for r in call))
    assert len(asked) == len(METHODS) + 1
    assert set(get_args(get_args(Method)[0])) == {Nile, *map(type, METHODS)}


def test_rows_depend_on_themselves_alone(ctx: Context) -> None:
    def script(text: str) -> Answer:
        return writer(f"Longer: {len(text)} words and more.", "Longer")(text)

    for method in METHODS:
        whole_pool = revise(scripted(ctx, script), POOL, **models(method))
        part = revise(scripted(ctx, script), POOL[7:9], **models(method))
        columns = ["id", "messages", "revision", "passes"]
        assert whole_pool[7:9].select(columns).equals(part.select(columns)), method.name


LONG: Final = " ".join(f"word{n}" for n in range(30)) + "."


def lengthened(ctx: Context, old: str, *new: str) -> pl.DataFrame:
    written = iter([*new, *["Stop."] * 9])
    context = scripted(ctx, lambda text: (next(written), "stop"))
    rows = conversations([("Write.", old)])
    return revise(context, rows, model=NO_MODEL, method=SelfLengthen())


def test_only_a_longer_text_that_is_one_counts(ctx: Context) -> None:
    old = " ".join(LONG.split()[:20]) + "."
    assert answers(lengthened(ctx, old, LONG)) == [LONG]
    for new, revision in (
        (LONG.rstrip("."), "not_closed"),
        (f"{LONG} {LONG}", "repetition"),
        ("Short.", "not_longer"),
        (" ".join(LONG.split()[:23]) + ".", "not_longer"),  # 1.15 times the words
    ):
        rows = lengthened(ctx, old, new)
        assert rows["revision"].to_list() == [revision], new
        assert answers(rows) == [old]


def test_the_first_two_thirds_of_the_extended_half_are_gone_on_from(ctx: Context) -> None:
    asked = []

    def script(text: str) -> Answer:
        asked.append(text)
        if "A part of the text" in text:
            return "A one.\n\nA two.\n\nA three.", "stop"
        return "The rest is here, in many words.", "stop"

    rows = conversations([("Write.", "P one.\n\nP two.\n\nP three.\n\nP four.")])
    method = SelfLengthen(num_passes=1)
    result = revise(scripted(ctx, script), rows, model=NO_MODEL, method=method)
    assert "P one.\n\nP two.\n" in asked[0]
    assert "P three." not in asked[0]
    assert answers(result) == ["A one.\n\nA two.\n\nThe rest is here, in many words."]


def test_words_and_repetitions_in_scripts_without_spaces() -> None:
    assert word_count("海很大。") == 3
    assert repeats("海很大风很冷山很高水很深路" * 2)
    assert not repeats("海很大风很冷山很高水很深")
    assert first_part("one") == "one"


def test_realign_types_are_the_authors() -> None:
    assert len(TYPES) == len(set(TYPES)) == 46
    assert len(WITH_EVIDENCE) == 5
    assert set(TYPES) > WITH_EVIDENCE


def test_realign_refuses_what_lost_its_answer() -> None:
    code = "```python\nf = abs\n```"
    assert refused("Sort it.", code, "It sorts.", "explain_code") == "code_changed"
    assert refused("Sort it.", "It sorts.", code, "explain_code") == "code_changed"
    assert refused("How much?", "Two.", "It is two.", "math_puzzles") == "no_number"
    assert refused("2 and 2?", "Four.", "It is four.", "math_puzzles") is None
    assert refused("Which?", "B", "BOTH", "open_qa") == "choice_lost"
    assert refused("Which?", "B", "It is B.", "open_qa") is None
    assert refused("Which?", "4", "It is 14.", "open_qa") == "choice_lost"
    assert refused("Which?", "4", "It is 4.", "open_qa") is None
    assert refused("My week.", "Work.", "Work.", "planning") == "no_plan"


def test_realign_takes_the_longer_candidate_and_leaves_types_without_a_form(ctx: Context) -> None:
    written = iter(["Short one here.", "A longer one, here as well."])

    def script(text: str) -> Answer:
        if "with default where" in text:
            return "closed_qa", "stop"
        return f"[New answer]\n{next(written)}\n[End]", "stop"

    rows = revise(scripted(ctx, script), ONE, model=NO_MODEL, method=ReAlign())
    assert answers(rows) == ["A longer one, here as well."]
    for name, method in (
        ("default", ReAlign()),
        ("poem_generation", ReAlign()),
        ("open_qa", ReAlign(without_evidence="keep")),
    ):
        context = scripted(ctx, saying((name, "stop")))
        rows = revise(context, ONE, model=NO_MODEL, method=method)
        assert rows["revision"].to_list() == ["no_evidence" if name == "open_qa" else "no_format"]
        assert len(context.engine.calls[0]) == 1
        assert not any(context.engine.calls[1:])


def test_a_rubric_is_written_once_for_each_category(ctx: Context) -> None:
    """By the teacher; and rows of a category whose rubric cannot be read stay as they were."""
    pool = conversations([(f"{kind} number {n}", "Old.") for kind in "ab" for n in range(3)])

    def script(text: str) -> Answer:
        if "name of one category" in text:
            return ("advice" if "a number" in text else "summary"), "stop"
        if "You teach" in text:
            return ("RUBRIC" if "advice" in text else " "), "stop"
        return ("It is weak." if "Criticise" in text else f"New: {text[-150:]}"), "stop"

    context = scripted(ctx, script)
    rows = revise(context, pool, model=NO_MODEL, method=Citing())
    ended = dict(zip([m[0]["content"][0] for m in rows["messages"]], rows["revision"], strict=True))
    assert ended == {"a": "revised", "b": "no_rubric"}
    asked = [request.prompt[-1][1] for call in context.engine.calls for request in call]
    assert sum("You teach" in text for text in asked) == 2
    assert all("RUBRIC" in text for text in asked if "Criticise" in text)
    assert all("It is weak." in text for text in asked if "what was criticised" in text)
    assert {note["category"] for notes in passes(rows) for note in notes} == {"advice", "summary"}


@pytest.mark.parametrize(
    ("new", "revision"),
    [
        ("The North Sea.", "revised"),
        ("The North Sea, or \u6d77.", "foreign_characters"),
        (" ".join(f"w{n % 13}" for n in range(26)), "repetition"),
        ("Sea " + " ".join(f"w{n}" for n in range(400)), "over_long"),
    ],
)
def test_a_reviser_that_runs_away_keeps_the_row(ctx: Context, new: str, revision: str) -> None:
    rows = revise(scripted(ctx, writer(new)), ONE, model=NO_MODEL, method=CoachLM())
    assert rows["revision"].to_list() == [revision]
    chat = frame([record("Name a sea.", "Baltic.", "And a river?", "Rhine.")])
    context = scripted(ctx, writer(new))
    rows = revise(context, chat, model=NO_MODEL, method=CoachLM())
    assert rows["revision"].to_list() == ["multi_turn"]
    assert not any(context.engine.calls)


def test_the_recipe_teaches_the_reviser_what_it_will_be_asked() -> None:
    """The texts of `lessons` are those of the prompt and of the form that is read."""
    lessons = vars(Recipe.load("coachlm").steps["lessons"].options)
    values = {"instruction": "Add.", "response": "5"}
    names = {"raw_instruction": "Add.", "raw_response": "5"}
    asked = Template(lessons["user"]).render({"extra": names})
    assert asked.strip() == PROMPTS.render("revise", **values).strip()
    answer = Template(lessons["assistant"]).render({**values, "input": "2 and 3"})
    texts = {"Revised instruction": "Add.\n\n2 and 3", "Revised answer": "5"}
    assert blocks(answer, tuple(texts)) == texts


def test_the_recipe_teaches_the_extender_what_it_will_be_asked() -> None:
    """The text of `lessons_1` is that of the prompt, before the answer as it grew."""
    lessons = vars(Recipe.load("self-lengthen").steps["lessons_1"].options)
    old = {"original": [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "5"}]}
    values = {"instruction": "Add.", "input": "2 and 3", "response": "5, for", "extra": old}
    prompt = Prompts(self_lengthen.__file__).render("extend", request="Add.\n\n2 and 3", part="5")
    assert Template(lessons["user"]).render(values).strip() == prompt.strip()
    assert Template(lessons["assistant"]).render(values) == "5, for"


class Numbers:
    """An encoder whose vectors differ by the number in a text: 0 is what is known."""

    dimensions = 2

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        angles = np.array([float((re.findall(r"\d+", text) or [0])[-1]) for text in texts]) / 10
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class Encoding(ScriptedContext):
    """A scripted context whose embedder is `Numbers`."""

    def open(self, model: Any) -> Any:
        return Numbers() if isinstance(model, Embedder) else self.engine


def test_the_answers_least_like_what_the_model_knows_are_dropped(ctx: Context) -> None:
    """The low tail alone, as the answers are after the revision, whatever the order of the rows."""
    pool = conversations([(f"Question {n}?", f"It is {n}.") for n in range(10)])

    def script(text: str) -> Answer:
        if "Do not answer this" in text:
            return "KNOWN 0", "stop"
        number = int(between(text, "It is ", "."))
        return (f"It is {number}.", "stop") if number % 2 else (f"New, it is {number}", "stop")

    options: dict[str, Any] = {"model": NO_MODEL, "embedder": Embedder(model="none")}
    for rows in (pool, pool.reverse()):
        context = Encoding(ctx.files, ctx.work, ctx.store)
        context.engine = scripted(ctx, script).engine
        result = revise(context, rows, method=Nile(drop_fraction=0.25), **options)
        dropped = result.filter(pl.col("drop_reason") == "inconsistent")
        assert {int(text.strip(".")[-1]) for text in answers(dropped)} == {8, 9}
        assert sorted(result["revision"]) == ["revised"] * 5 + ["unchanged"] * 5
        evidence = [json.loads(text) for text in dropped["evidence"]]
        assert {one["rank"] for one in evidence} == {1, 2}
        asked = [request.prompt[-1][1] for call in context.engine.calls for request in call]
        assert sum("KNOWN 0" in text for text in asked) == 10


class Deaf:
    """An encoder that knows no Chinese."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = [[0.0, 0.0] if re.search("[一-龥]", t) else [1.0, len(t)] for t in texts]
        return np.array(vectors, np.float32)


def test_an_answer_without_a_vector_is_not_the_least_alike(ctx: Context) -> None:
    pool = conversations([("什么海？", "波罗的海。"), *((f"Q{n}?", "x" * n) for n in range(1, 9))])

    class DeafContext(Encoding):
        def open(self, model: Any) -> Any:
            return Deaf() if isinstance(model, Embedder) else self.engine

    context = DeafContext(ctx.files, ctx.work, ctx.store)
    context.engine = scripted(
        ctx, lambda text: ("是波罗的海。" if "什么海" in text else f"Just so, {len(text)}", "stop")
    ).engine
    method = Nile(drop_fraction=0.5)
    rows = revise(context, pool, model=NO_MODEL, embedder=EMBEDDER, method=method)
    chinese = [
        row["drop_reason"]
        for row in rows.iter_rows(named=True)
        if row["messages"][0]["content"] == "什么海？"
    ]
    assert chinese == [None]
    assert (rows["drop_reason"] == "inconsistent").sum() == 4


def test_what_was_taken_back_is_unchanged(ctx: Context) -> None:
    """One pass changes the answer, the next one writes the old one again: the row that came."""

    def script(text: str) -> Answer:
        if "\n[New instruction]\n" in text:
            instruction, answer = "Name a sea.", "North Sea."
            return (
                f"[Critique]\nC.\n[New instruction]\n{instruction}\n[New answer]\n{answer}\n[End]"
            ), "stop"
        return "[Critique]\nC.\n[New answer]\nBaltic.\n[End]", "stop"

    rows = revise(scripted(ctx, script), ONE, model=NO_MODEL, method=Reflection())
    assert rows["id"].to_list() == ONE["id"].to_list()
    assert rows["revision"].to_list() == ["unchanged"]
    assert rows["operators"].to_list() == [[]]
    facts = json.loads((ctx.files / "revisions.json").read_text("utf-8"))
    assert facts["revision"] == {"unchanged": 1}


SEA, A1, A2, A3 = "Name a sea.", "Baltic.", "It is A2.", "It is A3."
EXCHANGE: Final = re.compile(r"<.im_start.>user\n(.*?)<.im_end.>\n<.im_start.>assistant\n(.*)<.im")
LOSSES: Final = {
    ("ifd", SEA, A1): 0.5,
    ("ifd", "Q2", A2): 0.5,
    ("r_ifd", SEA, A1): 0.5,
    ("r_ifd", SEA, A3): 0.5,
    ("r_ifd", "Q2", A2): 0.5,
    ("r_ifd", "Q2", A3): 0.5,
    ("ifd", SEA, A3): 0.5,
    ("ifd", "Q2", A3): 0.5,
}
"""Losses of answers behind their prompt; without one each token has a loss of 1."""


def recycled(ctx: Context, losses: dict[tuple[str, ...], float], **options: Any) -> dict[str, Any]:
    """What becomes of `ONE`, whose teacher writes Q2 with A2, and A3, by the student's losses."""

    def script(text: str) -> Answer:
        if "\n[New instruction]\n" in text:
            return f"[Critique]\nC.\n[New instruction]\nQ2\n[New answer]\n{A2}\n[End]", "stop"
        return f"[Critique]\nC.\n[New answer]\n{A3}\n[End]", "stop"

    def loss_of(text: str) -> float:
        exchange = EXCHANGE.match(text.replace("\n\nThe text above", "<guess>"))
        if exchange is None:
            return 1.0
        asked, answer = exchange.groups()
        response, guessed, _ = asked.partition("<guess>")
        key = ("r_ifd", answer, response) if guessed else ("ifd", asked, answer)
        return {**LOSSES, **losses}[key]

    options = models(SelectiveReflection(**options))
    return revise(scripted(ctx, script, loss_of), ONE, **options).to_dicts()[0]


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ({("ifd", "Q2", A2): 0.6, ("r_ifd", "Q2", A3): 0.4}, ("Q2", A3)),
        ({("ifd", "Q2", A2): 0.6, ("r_ifd", "Q2", A3): 0.6}, ("Q2", A2)),
        ({("ifd", "Q2", A2): 0.4, ("r_ifd", SEA, A3): 0.4}, (SEA, A3)),
        ({("ifd", "Q2", A2): 0.4, ("r_ifd", SEA, A3): 0.6}, (SEA, A1)),
        ({}, (SEA, A1)),  # equal is no gain
    ],
)
def test_the_student_takes_harder_instructions_and_answers_that_tell_them(
    ctx: Context, losses: dict[tuple[str, ...], float], kept: tuple[str, str]
) -> None:
    row = recycled(ctx, losses)
    assert tuple(message["content"] for message in row["messages"]) == kept
    assert (row["drop_reason"], row["error"]) == (None, None)
    first, second = json.loads(row["passes"])["passes"]
    assert first["ifd"] == pytest.approx(
        [np.exp(-0.5), np.exp(losses.get(("ifd", "Q2", A2), 0.5) - 1)]
    )
    assert (first["outcome"] == "revised", second["outcome"] == "revised") == (
        kept[0] == "Q2",
        kept[1] == A3,
    )
    improved = recycled(ctx, losses, require_new_answer=True)
    assert improved["drop_reason"] == (None if kept[1] == A3 else "answer_kept")


@pytest.mark.parametrize("ratio", ["ifd", "r_ifd"])
def test_the_student_drops_what_misleads_it(ctx: Context, ratio: str) -> None:
    refused = {("r_ifd", SEA, A3): 2.0, ("ifd", "Q2", A2): 0.0}
    for value, reason in ((1.0, "above_one"), (1.5, "above_one"), (0.999, None)):
        row = recycled(ctx, refused | {(ratio, SEA, A1): value})
        assert row["drop_reason"] == reason
        if reason is not None:
            assert json.loads(row["evidence"])[ratio] == pytest.approx(np.exp(value - 1), abs=1e-6)


def test_a_score_that_is_missing_is_no_score_of_zero(ctx: Context) -> None:
    """The texts stay, and the row: the authors' code took the new ones and let them pass."""
    row = recycled(ctx, {}, max_length=4)
    assert (row["id"], row["revision"], row["drop_reason"]) == (ONE["id"][0], "unscored", None)
    notes = json.loads(row["passes"])["passes"]
    assert [note["outcome"] for note in notes] == ["unscored", "unscored"]
    assert notes[-1]["final"] == {"ifd": None, "r_ifd": None}


CONFIDENT: Final = conversations([(f"What is {n}?", f"It is {n}.") for n in range(8)])


def cleared(ctx: Context, confidences: Sequence[float | None], better: set[int]) -> pl.DataFrame:
    """What becomes of rows whose candidates are better for these numbers."""

    def script(text: str) -> Answer:
        if "is the better one" in text:
            wins = int(between(text, "What is ", "?")) in better
            shown = between(text, "A:\n", "\n\nAnswer B").startswith("New")
            return ("tie" if not wins else "A" if shown else "B"), "stop"
        return f"New: {text}", "stop"

    rows = CONFIDENT.with_columns(
        agreement_confidence=pl.Series(confidences, dtype=pl.Float64).gather(
            [int(m[0]["content"][8]) for m in CONFIDENT["messages"]]
        )
    )
    result = revise(scripted(ctx, script), rows, **models(Clear()))
    numbers = [int(m[0]["content"][8]) for m in result["messages"]]
    return result.with_columns(number=pl.Series(numbers)).sort("number")


def test_what_is_surely_better_comes_in_and_what_is_not_trusted_goes(ctx: Context) -> None:
    """Replaced, dropped below the median, or kept; and unknown confidence drops nothing."""
    known = [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8]  # the median is 0.5
    rows = cleared(ctx, [*known, None], better={0, 6})
    assert rows["drop_reason"].to_list() == [
        *(None, "low_confidence", "low_confidence"),
        *[None] * 5,
    ]
    assert [m[1]["content"].startswith("New") for m in rows["messages"]] == [
        *(True, *[False] * 5, True, False),
    ]
    assert json.loads(rows["evidence"][1]) == {
        **{"confidence": 0.2, "minimum": 0.5, "outcome": "no_gain"},
    }
    judged = facts(ctx)["judge"]
    assert (judged["pairs"], judged["accepted"]) == (8, 2)
    assert cleared(ctx, [None] * 8, better=set())["drop_reason"].null_count() == 8


def test_a_candidate_needs_both_orders_and_more_than_the_threshold(ctx: Context) -> None:
    def half(text: str) -> Answer:
        if "is the better one" not in text:
            return "The North Sea.", "stop"
        return ("B" if "A:\nBaltic." in text else "?"), "stop"

    rows = revise(scripted(ctx, half), ONE, **models(Clear(confidence="LENGTH(id)")))
    assert rows["revision"].to_list() == ["unjudged"]

    def first(text: str) -> Answer:
        return ("A" if "is the better one" in text else "The North Sea."), "stop"

    for limit, revision in ((0.5, "no_gain"), (0.49, "revised")):
        method = Clear(confidence="LENGTH(id)", min_probability=limit)
        rows = revise(scripted(ctx, first), ONE, **models(method))
        assert rows["revision"].to_list() == [revision]


def test_a_judge_that_prefers_whatever_is_new_is_said(
    ctx: Context, caplog: pytest.LogCaptureFixture
) -> None:
    pool = conversations([(f"What is {n}?", f"It is {n}.") for n in range(10)])
    rows = revise(
        scripted(ctx, writer("New.", "New")), pool, **models(Clear(confidence="LENGTH(id)"))
    )
    assert set(rows["revision"]) == {"revised"}
    assert facts(ctx)["judge"]["always_the_new_answer"]
    assert "preferred all of 10 new answers" in caplog.text


EMBEDDER: Final = Embedder(model="none")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": Nile()}, "embedder"),
        ({"embedder": EMBEDDER}, "embedder"),
        ({"teacher": NO_MODEL}, "teacher"),
        ({"student": NO_MODEL}, "student"),
        ({"method": SelectiveReflection()}, "student"),
        ({"method": SelectiveReflection(), "student": NO_MODEL, "judge": NO_MODEL}, "judge"),
        ({"method": SelectiveReflection(), "student": NO_MODEL, "answers": "all"}, "answers"),
        ({"method": Clear()}, "judge"),
        ({"method": Clear(), "judge": NO_MODEL, "answers": "all"}, "answers"),
        ({"judge_max_tokens": 9}, "judge_max_tokens"),
        ({"method": Nile(), "embedder": EMBEDDER, "answers": "all"}, "answers"),
    ],
)
def test_options_that_do_nothing_are_refused(options: dict[str, Any], problem: str) -> None:
    check = find("rewrite.revise").check
    assert check is not None
    check(options_of(revise, model=NO_MODEL))
    with pytest.raises(OptionError) as error:
        check(options_of(revise, model=NO_MODEL, **options))
    assert error.value.option == problem


@pytest.mark.proof
def test_the_students_ratio_is_that_of_score_loss(ctx: Context) -> None:
    rows = POOL.head(20)
    scored = loss(ctx, rows, model=TINYLM)
    turns = [tuple((m["role"], m["content"]) for m in messages) for messages in rows["messages"]]
    ratios = ifd_of(ctx.open(TINYLM), turns, 2048)
    assert pl.Series(ratios, dtype=pl.Float32).equals(scored["ifd"].rename(""))
    assert ifd_of(ctx.open(TINYLM), turns[:1], 4) == [None]


@pytest.mark.proof
def test_distances_are_those_that_coachlm_published() -> None:
    """Character edits of instruction, input and answer, in the rows that state their sum."""
    path = ROOT.parent / "shared/data/references/coachlm_expert_revised.json.gz"
    if not path.is_file():
        pytest.skip("needs the published revisions")
    rows = json_lines(path)
    same = [
        sum(
            Levenshtein.distance(row[f"Raw {name}"], row[f"Revised {name}"])
            for name in ("Instruction", "Input", "Response")
        )
        == int(row["Distance"])
        for row in rows
    ]
    assert (sum(same), len(same)) == (1455, 1534)


@pytest.mark.parametrize(
    ("old", "new", "revision"),
    [
        ("波罗的海是欧洲北部的一个海。" * 4, "波罗的海。", "shorter"),
        ("波罗的海是欧洲北部的一个海。", "这是一个海，叫做波罗的海，在欧洲北部。", "revised"),
        ("one two three four", "one two", "shorter"),
        ("one two three four", "one two three", "revised"),
    ],
)
def test_half_an_answer_is_too_short_in_any_script(
    ctx: Context, old: str, new: str, revision: str
) -> None:
    def script(text: str) -> Answer:
        is_form = "[New answer]" in text
        return (f"[New answer]\n{new}\n[End]" if is_form else "closed_qa"), "stop"

    rows = conversations([("什么海？", old)])
    result = revise(scripted(ctx, script), rows, model=NO_MODEL, method=ReAlign())
    assert result["revision"].to_list() == [revision]


def test_an_answer_that_is_not_trained_on_is_not_revised(ctx: Context) -> None:
    row = record(
        "Name a sea.", "Baltic.", "Another.", "North Sea.", roles=("user", "assistant") * 2
    )
    row["messages"][1]["train"] = False
    context = scripted(ctx, saying(("It is a longer answer.", "stop")))
    rows = revise(context, frame([row]), model=NO_MODEL, method=Mammoth2(), answers="all")
    first, second = rows["messages"][0][1], rows["messages"][0][3]
    assert (first["content"], first["train"]) == ("Baltic.", False)
    assert second["content"] == "It is a longer answer."
