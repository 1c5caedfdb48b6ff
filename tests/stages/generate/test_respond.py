"""Answers to prompts: what the model is shown, what the row keeps, and who wrote it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.errors import OptionError, UserError
from pipeline.models import LanguageModel
from pipeline.recipe.discovery import find
from schemas.records import DOCUMENT_COLUMNS, RECORD_COLUMNS, record_id
from stages._text.passages import split_words
from stages.generate.respond import Answer, respond
from stages.generate.respond.context import InContext, nearest_passages
from stages.generate.respond.continuation import Continue, first_part
from stages.generate.respond.explain import PROMPTS, SYSTEM_PROMPTS, Explain
from stages.generate.respond.reason import PROMPTS as REASON_PROMPTS
from stages.generate.respond.reason import Reason, selected_numbers
from tests.support.options import options_of, problems
from tests.support.rows import DATA, conversations, json_lines, plain
from tests.support.scripted import scripted

ONE = (LanguageModel(model="teacher"),)
TWO = (*ONE, LanguageModel(model="other"))
TEXTS = st.lists(st.sampled_from(["red", "green", "pears", "stones"]), max_size=5).map(" ".join)


def echo(text: str) -> tuple[str, str]:
    return f"on {text[-40:]!r}", "stop"


def documents(*texts: str) -> pl.DataFrame:
    lines = [
        {"id": f"{i:032x}", "text": text, "origins": [{"license": "MIT"}]}
        for i, text in enumerate(texts)
    ]
    return pl.DataFrame(lines, schema=DOCUMENT_COLUMNS)


@pytest.fixture
def rows() -> pl.DataFrame:
    return conversations([("Why is it?", "No."), ("A?", "B.", "C?", "D.")])


def roles(frame: pl.DataFrame) -> set[tuple[str, ...]]:
    return {tuple(m["role"] for m in messages) for messages in frame["messages"]}


def test_every_model_answers_the_last_thing_said(ctx: Context, rows: pl.DataFrame) -> None:
    context = scripted(ctx, echo)
    answers = respond(context, rows, models=TWO, num_answers=2)
    assert len(answers) == 8
    assert Counter(zip(answers["model"], answers["sample"], strict=True)) == {
        (model, sample): 2 for model in ("teacher", "other") for sample in (0, 1)
    }
    assert roles(answers) == {("user", "assistant"), ("user", "assistant") * 2}
    prompts = {request.prompt for request in context.engine.calls[0]}
    assert (("user", "A?"), ("assistant", "B."), ("user", "C?")) in prompts
    assert {request.sample for request in context.engine.calls[0]} == {0, 1}
    assert set(answers["origins"].list.first().struct.field("license")) == {"CC0-1.0"}


REFUSING = ("I'm sorry, but I can't help with that.", "抱歉，我无法回答这个问题。")


def test_refusals_are_dropped_where_that_is_asked(ctx: Context, rows: pl.DataFrame) -> None:
    def answer(text: str) -> tuple[str, str]:
        return (REFUSING[text == "C?"] if text in ("C?", "Why is it?") else "Here."), "stop"

    answers = respond(scripted(ctx, answer), rows, models=ONE, drop_refusals=True)
    assert answers["drop_reason"].to_list() == ["refusal", "refusal"]
    started = [json.loads(evidence)["response_start"] for evidence in answers["evidence"]]
    assert sorted(started) == sorted(REFUSING)
    kept = respond(scripted(ctx, answer), rows, models=ONE)
    assert kept["drop_reason"].null_count() == 2
    harmless = respond(scripted(ctx, echo), rows, models=ONE, drop_refusals=True)
    assert harmless["drop_reason"].null_count() == 2


def test_an_answer_is_stored_without_its_announcement(ctx: Context, rows: pl.DataFrame) -> None:
    announced = "Sure! Here is the answer:\n\nRain.", "stop"
    answers = respond(scripted(ctx, lambda _: announced), rows, models=ONE)
    assert {messages[-1]["content"] for messages in answers["messages"]} == {"Rain."}


def test_a_system_prompt_of_the_user_s_stays(ctx: Context, rows: pl.DataFrame) -> None:
    method = Answer(system="Be brief.")
    answers = respond(scripted(ctx, echo), rows[:1], models=ONE, method=method)
    assert plain(answers["messages"][0])[0] == {"role": "system", "content": "Be brief."}


def test_system_prompts_are_drawn_and_stay(ctx: Context, rows: pl.DataFrame) -> None:
    answers = respond(scripted(ctx, echo), rows, models=ONE, method=Explain(), num_answers=3)
    for _, group in answers.group_by("parents"):
        assert group["manner"].n_unique() == 3
    assert set(answers["manner"]) <= set(SYSTEM_PROMPTS)
    assert all(m[0]["role"] == "system" for m in answers["messages"])
    files = PROMPTS.folder.glob("*.jinja")
    assert list(SYSTEM_PROMPTS) == sorted(file.stem for file in files)


def test_reasoning_goes_from_guideline_to_outline_to_path(ctx: Context, rows: pl.DataFrame) -> None:
    context = scripted(ctx, echo)
    answers = respond(context, rows[:1], models=ONE, method=Reason(), num_answers=2)
    assert [len(asked) for asked in context.engine.calls] == [2, 2, 2]
    first, second, third = (asked[0].prompt[-1][1] for asked in context.engine.calls)
    guideline = answers["manner"][0]
    assert guideline in first
    assert guideline not in second
    assert echo(first)[0] in second
    assert echo(second)[0] in third
    assert answers["manner"].n_unique() == 2
    assert roles(answers) <= {("user", "assistant"), ("user", "assistant") * 2}
    assert answers["journal"].list.len().to_list() == [3, 3]


def test_the_second_try_shows_the_right_answer_in_every_step_but_the_choice(
    ctx: Context, rows: pl.DataFrame
) -> None:
    def selecting(text: str) -> tuple[str, str]:
        return ("2, 5", "stop") if "Which of them fit" in text else echo(text)

    shown = []
    known = rows[:2].with_columns(gold=pl.Series(["forty-two", None], dtype=pl.String))
    for hint in (False, True):
        context = scripted(ctx, selecting)
        method = Reason(selection="model", hint=hint)
        answers = respond(context, known, models=ONE, method=method, truth="gold")
        shown.append([asked[0].prompt[-1][1] for asked in context.engine.calls])
        reasons = [None, "no_truth"] if hint else [None, None]
        assert answers["drop_reason"].to_list() == reasons
        assert json.loads(answers["extra"][0])["truth"] == "forty-two"
    plain, hinted = shown
    assert ["forty-two" in text for text in hinted] == [False, True, True, True]
    assert not any("forty-two" in text for text in plain)
    assert hinted[0] == plain[0]
    assert hinted[1].startswith(plain[1])


def test_each_of_25_answers_follows_another_guideline(ctx: Context, rows: pl.DataFrame) -> None:
    answers = respond(
        scripted(ctx, echo), rows[:1], models=ONE, method=Reason(), num_answers=26, max_tokens=2048
    )
    assert answers["manner"].n_unique() == 25
    assert answers["manner"][0] == answers["manner"][25]


def test_the_model_selects_guidelines_for_each_answer(ctx: Context, rows: pl.DataFrame) -> None:
    samples = iter(range(4))

    def selecting(text: str) -> tuple[str, str]:
        if "Which of them fit" in text:
            return ("Take 3 and 7.", "4. Work backwards.\n5. Say", "none of them", "99")[
                next(samples)
            ], "stop"
        return echo(text)

    context = scripted(ctx, selecting)
    method = Reason(selection="model")
    answers = respond(context, rows[:1], models=ONE, method=method, num_answers=4)
    assert Counter(answers["drop_reason"])["selected_unparsed"] == 2
    lines = REASON_PROMPTS.render("guidelines").splitlines()
    assert answers["manner"].to_list()[:2] == [f"{lines[2]}\n{lines[6]}", f"{lines[3]}\n{lines[4]}"]
    assert [len(asked) for asked in context.engine.calls] == [4, 2, 2, 2]
    first = context.engine.calls[1][0].prompt[-1][1]
    assert lines[2] in first
    assert lines[6] in first
    assert lines[3] not in first


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2, 5", [2, 5]),
        ("**2.** and so on\n\n**5.** too", [2, 5]),
        ("- 2: fits\n- 5: fits", [2, 5]),
        ("2, 2, 5, 7, 9", [2, 5, 7]),
        ("I considered all 25 of them.\nNumbers: 2 and 5", [2, 5]),
        ("0, 26", None),
        ("1" * 30_000 + ".", None),
        ("None fits.", None),
        ("", None),
        ("I would choose 3 guidelines: 4, 7 and 12.", [4, 7, 12]),
        ("Of the 25, I choose 4, 7", [4, 7]),
        ("1. Guideline 4\n2. Guideline 7", [4, 7]),
        ("1. **4**\n2. **7**", [4, 7]),
        ("1. It fits.\n2. So does this.", None),
        ("The task has 3 parts.", None),
        ("I looked at all 25", None),
        ("I choose guideline 7.", [7]),
        ("7", [7]),
        ("[4, 7]", [4, 7]),
        ("12, 13, 14 " * 20_000, [12, 13, 14]),
    ],
)
def test_selected_numbers_are_read_or_not(text: str, numbers: list[int] | None) -> None:
    assert selected_numbers(text, 25) == numbers


@pytest.mark.parametrize(
    ("truth", "values"), [("gold", [42, None]), ("extra.gold", ["42", None]), ("response", None)]
)
def test_the_right_answer_goes_with_each_answer(
    truth: str, values: list[Any] | None, ctx: Context, rows: pl.DataFrame
) -> None:
    golds = rows.with_columns(
        gold=pl.Series([42, None]), extra=pl.Series(['{"gold": "42"}', '{"gold": ""}'])
    )
    context = scripted(ctx, echo)
    answers = respond(context, golds, models=ONE, method=Reason(), truth=truth, num_answers=2)
    noted = [json.loads(extra).get("truth") for extra in answers["extra"]]
    last = [messages[-1]["content"] for messages in golds["messages"]]
    assert noted == [value for value in values or last for _ in range(2)]
    assert all("\\boxed{}" in request.prompt[-1][1] for request in context.engine.calls[2])
    respond(context, golds, models=ONE, method=Reason())
    assert "\\boxed{}" not in context.engine.calls[-1][0].prompt[-1][1]


def test_a_truth_that_is_not_there_is_an_error(rows: pl.DataFrame) -> None:
    adds = find("generate.respond").adds
    assert callable(adds)
    options = options_of(respond, method=Reason(), truth="gold")
    with pytest.raises(OptionError, match="truth must name columns or parts of a row, got 'gold'"):
        adds(options, {"rows": [dict(rows.schema)]})
    options.truth = "extra.gold"
    assert "manner" in adds(options, {"rows": [dict(rows.schema)]})


def test_context_is_shown_and_left_out_of_the_row(ctx: Context) -> None:
    rows = conversations([("How do wasps nest?", "x")])
    texts = documents("Bees dance.", "Wasps chew wood to nest.", "Rust borrows.")
    context = scripted(ctx, echo)
    answers = respond(context, rows, texts, models=ONE, method=InContext(num_passages=1))
    assert "Wasps chew wood" in context.engine.calls[0][0].prompt[-1][1]
    assert answers["messages"][0][0]["content"] == "How do wasps nest?"


@given(st.text(st.characters(max_codepoint=0x24F), max_size=80), st.integers(1, 6))
def test_passages_are_words_between_white_space(text: str, size: int) -> None:
    words = text.split()
    expected = [" ".join(words[i : i + size]) for i in range(0, len(words), size)]
    assert split_words(text, size) == expected


@given(st.text(st.sampled_from("茶です。ที่ดa ,\n"), max_size=40), st.integers(1, 6))
def test_passages_of_scripts_without_spaces_lose_nothing(text: str, size: int) -> None:
    passages = split_words(text, size)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(passages)
    assert all(len(passage) <= size * 8 for passage in passages if "a" not in passage)


def test_chinese_passages_are_cut_and_found() -> None:
    text = "蜜蜂用跳舞告诉同伴花在哪里。" * 3 + "黄蜂嚼木头来筑巢。" * 3
    passages = split_words(text, 13)
    assert passages[0] == "蜜蜂用跳舞告诉同伴花在哪里。"
    (best,) = nearest_passages(["黄蜂怎样筑巢？"], passages, 1)
    assert "筑巢" in best[0]


def test_nearest_passages_are_those_that_share_words() -> None:
    passages = ["red apples", "green pears", "red pears", "stones"]
    first, second = nearest_passages(["red pears please", "nothing"], passages, 2)
    assert first[0] == "red pears"
    assert first[1] in ("red apples", "green pears")
    assert second == []
    assert nearest_passages(["a"], [], 2) == [[]]
    assert nearest_passages(["a"], ["* * *", "..."], 2) == [[]], "signs are no words"
    assert nearest_passages([], passages, 2) == []


@given(st.lists(TEXTS, max_size=6), st.lists(TEXTS, max_size=3))
def test_passages_are_ranked_by_bm25_as_written_out(
    passages: list[str], queries: list[str]
) -> None:
    """Against the sum over the words of a query, word by word; equal scores keep the order."""
    words = [Counter(passage.split()) for passage in passages]
    mean = sum(c.total() for c in words) / max(1, len(words))

    def score(query: str, counts: Counter[str]) -> float:
        total = 0.0
        for word in sorted(set(query.split()) & counts.keys()):
            having = sum(word in other for other in words)
            idf = math.log(1 + (len(words) - having + 0.5) / (having + 0.5))
            damping = 1.5 * (1 - 0.75 + 0.75 * counts.total() / mean)
            total += idf * counts[word] * 2.5 / (counts[word] + damping)
        return total

    for query, nearest in zip(queries, nearest_passages(queries, passages, 3), strict=True):
        scores = sorted((score(query, counts) for counts in words), reverse=True)
        assert len(nearest) == sum(value > 0 for value in scores[:3])
        for text, expected in zip(nearest, scores, strict=False):
            assert score(query, Counter(text.split())) == pytest.approx(expected)


def test_texts_are_cut_and_continued(ctx: Context) -> None:
    book = json_lines(DATA / "samples/rust_book.jsonl.gz")[:6]
    texts = documents(*(row["text"] for row in book), "one")
    context = scripted(ctx, echo)
    answers = respond(context, None, texts, models=ONE, method=Continue(max_documents=4))
    assert Counter(answers["drop_reason"]) == {None: 4, "not_sampled": 2, "no_prompt": 1}
    for messages, parents in (
        answers.filter(pl.col("drop_reason").is_null()).select("messages", "parents").iter_rows()
    ):
        text = texts.filter(pl.col("id") == parents[0])["text"][0].strip()
        beginning = messages[0]["content"]
        assert text.startswith(beginning)
        assert len(beginning) == pytest.approx(len(text) / 2, abs=400)
        assert beginning[-1] in ".!?\"')]"


def test_the_first_part_ends_with_a_sentence_or_a_word() -> None:
    assert first_part("One. Two three four. Five.", 0.7) == "One. Two three four."
    assert first_part("one two three four", 0.5) == "one two"
    assert first_part("word", 0.5) == ""
    assert first_part("  ", 0.5) == ""


def test_rows_without_a_question_are_dropped(ctx: Context) -> None:
    messages = [{"role": "assistant", "content": "Hello."}]
    row = {"id": record_id(messages), "messages": messages, "origins": []}
    answers = respond(scripted(ctx, echo), pl.DataFrame([row], schema=RECORD_COLUMNS), models=ONE)
    assert answers["drop_reason"].to_list() == ["no_prompt"]


def test_a_cut_answer_is_requested_again_with_a_higher_limit(
    ctx: Context, rows: pl.DataFrame
) -> None:
    def long(text: str) -> tuple[str, str]:
        return "so far", "length"

    context = scripted(ctx, long)
    answers = respond(context, rows, models=ONE, max_tokens=8, retry_max_tokens=(16, 32))
    assert [r.decoding.max_tokens for asked in context.engine.calls for r in asked] == [
        *(8, 8, 16, 16, 32, 32),
    ]
    assert set(answers["drop_reason"]) == {"response_cut"}
    assert answers["journal"].list.len().to_list() == [3, 3]


def test_a_missing_edge_is_an_error(ctx: Context, rows: pl.DataFrame) -> None:
    with pytest.raises(UserError, match="continue must have an input for 'documents'"):
        respond(scripted(ctx, echo), rows, models=ONE, method=Continue())
    with pytest.raises(UserError, match="answer must have an input for 'rows'"):
        respond(scripted(ctx, echo), None, documents("a b"), models=ONE)
    with pytest.raises(UserError, match="context must have an input for 'documents'"):
        respond(scripted(ctx, echo), rows, models=ONE, method=InContext())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": []}, "models must name at least one model, got []"),
        ({"num_answers": 0}, "num_answers must be at least 1, got 0"),
        (
            {"method": {"name": "continue", "prefix_fraction": 2.0}},
            "method.prefix_fraction must be below 1, got 2.0",
        ),
        (
            {"method": "continue", "truth": "response"},
            "truth must be left out with method: continue, got response",
        ),
        (
            {"method": {"name": "reason", "hint": True}},
            "truth must say where the right answers are with method.hint, got null",
        ),
        (
            {"method": {"name": "reason", "system": "Be brief."}},
            "method (reason) has no option 'system'",
        ),
        (
            {"method": {"name": "context", "num_passages": 0}},
            "method.num_passages must be at least 1, got 0",
        ),
    ],
)
def test_a_recipe_s_mistakes(options: dict[str, Any], message: str) -> None:
    models = {"models": ["model"]}
    assert problems("generate.respond", **models | options) == [message]


def test_system_prompts_come_from_a_file(ctx: Context, rows: pl.DataFrame, tmp_path: Path) -> None:
    """Orca's first one is no system prompt at all."""
    file = tmp_path / "prompts.txt"
    file.write_text("Give reasons for {{ all }}.\n\n<empty>\nBe brief.\n", "utf-8")
    context = scripted(ctx, echo)
    files = (str(file),)
    answers = respond(
        context, rows, models=ONE, method=Explain(), system_prompt_files=files, num_answers=3
    )
    for _, of_prompt in answers.group_by("parents"):
        assert set(of_prompt["manner"]) == {"Give reasons for {{ all }}.", "<empty>", "Be brief."}
    for manner, messages in answers.select("manner", "messages").iter_rows():
        systems = [m["content"] for m in messages if m["role"] == "system"]
        assert systems == ([] if manner == "<empty>" else [manner])
    options = {"models": ["model"], "system_prompt_files": ["README.md"]}
    (problem,) = problems("generate.respond", **options)
    assert "system_prompt_files must be left out with method: answer" in problem
    chosen = {"name": "explain", "system_prompts": ["steps"]}
    (problem,) = problems("generate.respond", method=chosen, **options)
    assert "method.system_prompts must be left out" in problem


def test_an_unknown_system_prompt_is_an_error() -> None:
    method = {"name": "explain", "system_prompts": ["loud"]}
    [message] = problems("generate.respond", models=["model"], method=method)
    assert message.startswith("method.system_prompts[0] must be 'five', 'justify'")


def test_a_live_model_answers(ctx: Context, tinylm: LanguageModel, rows: pl.DataFrame) -> None:
    answers = respond(ctx, rows, models=(tinylm,), num_answers=2, max_tokens=24)
    assert len(answers) == 4
    assert set(answers["drop_reason"]) <= {None, "response_cut", "duplicate"}
