"""compose.translate: what must stay stays, what comes back is in its language, no row is lost."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.context import Context
from pipeline.models import LanguageModel
from schemas.records import RECORD_COLUMNS, record_id
from stages._text.languages import NAMES, identifier, other_language
from stages.compose.translate import translate
from stages.compose.translate.methods import Full, Selective
from stages.compose.translate.parts import FIELDS, parts_of, translated
from stages.compose.translate.protect import KINDS, PATTERNS, Kind, Protection
from tests.support.options import problems
from tests.support.rows import alpaca, conversations, kept, record, self_instruct
from tests.support.scripted import Answer, scripted

NO_MODEL = LanguageModel(model="none")
SHARED = Path(__file__).parents[4] / "shared"
WORDS = {
    "Write a short story about the river": "Schreibe eine kurze Geschichte über den Fluss",
    "in the valley": "in dem Tal, an dem wir wohnen",
    "The river runs quietly through the fields": "Der Fluss fließt ruhig durch die Felder",
    "and then it rains": "und dann regnet es wieder den ganzen Tag",
}
INSTRUCTION = "Write a short story about the river in the valley, see `run(1)` and {name}."
INPUT = "The river runs quietly through the fields 12 times: https://example.org/a?b=1."
ANSWER = "The river runs quietly through the fields and then it rains 3.5 mm.\n```py\nx = 1\n```"
ROW = alpaca([{"instruction": INSTRUCTION, "input": INPUT, "output": ANSWER}])


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context.scratch(tmp_path)


def german(text: str) -> str:
    for english, word in WORDS.items():
        text = text.replace(english, word)
    return text


def asked_parts(prompt: str) -> list[str]:
    return re.findall(r"^\[Part \d+\]\n(.*?)(?=\n\[)", prompt, re.DOTALL | re.MULTILINE)


def saying(change: Callable[[str], str]) -> Callable[[str], Answer]:
    """A model that changes each part in a way."""

    def script(prompt: str) -> Answer:
        parts = [change(part) for part in asked_parts(prompt)]
        written = [f"[Part {n}]\n{part}" for n, part in enumerate(parts, 1)]
        return "\n".join([*written, "[End]"]), "stop"

    return script


def run(
    ctx: Context, script: Callable[[str], Answer], rows: pl.DataFrame = ROW, **options: Any
) -> pl.DataFrame:
    options = {"languages": ("de",), "per_row": 1, **options}
    return translate(scripted(ctx, script), rows, model=NO_MODEL, **options)


def test_a_row_is_translated_as_one_and_what_must_stay_stays(ctx: Context) -> None:
    context = scripted(ctx, saying(german))
    [row] = translate(context, ROW, model=NO_MODEL, languages=("de",)).to_dicts()
    assert row["drop_reason"] is None
    assert [len(call) for call in context.engine.calls] == [1]
    prompt = context.engine.calls[0][0].prompt[-1][1]
    assert len(asked_parts(prompt)) == 3
    for text in ("`run(1)`", "{name}", "12", "https://example.org/a?b=1", "3.5", "x = 1"):
        assert text not in prompt
    request, answer = (turn["content"] for turn in row["messages"])
    assert request == f"{german(INSTRUCTION)}\n\n{german(INPUT)}"
    assert request[row["input_start"] :] == german(INPUT)
    assert answer == german(ANSWER)
    assert (row["language"], row["left_as_is"], row["protected"]) == ("de", [], 6)
    assert row["parents"] == ROW["id"].to_list()


@pytest.mark.parametrize("method", [Selective(), Full()])
def test_a_model_that_echoes_has_no_survivors(ctx: Context, method: Any) -> None:
    rows = run(ctx, saying(lambda text: text), self_instruct(60), method=method)
    assert set(rows["drop_reason"]) == {"untranslated"}


def without(mark: str) -> Callable[[str], str]:
    return lambda text: german(text).replace(mark, "")


LOST = {
    "code_lost": without("⟦1⟧"),
    "placeholder_lost": without("⟦2⟧"),
    "number_lost": without("⟦3⟧"),
    "url_lost": without("⟦4⟧"),
    "markers_lost": lambda text: german(text) + (" ⟦77⟧" if "⟦1⟧" in text else ""),
}


@pytest.mark.parametrize("reason", LOST)
def test_what_is_lost_is_named(ctx: Context, reason: str) -> None:
    [row] = run(ctx, saying(LOST[reason])).to_dicts()
    assert row["drop_reason"] == reason
    assert json.loads(row["evidence"])["part"] in (1, 2)


def test_a_mark_twice_or_in_another_part_has_lost_its_text(ctx: Context) -> None:
    twice = run(ctx, saying(lambda text: german(text).replace("⟦5⟧", "⟦5⟧ ⟦5⟧")))
    assert twice["drop_reason"].to_list() == ["number_lost"]
    moved = run(ctx, saying(lambda t: german(t) + (" ⟦3⟧" if "⟦1⟧" in t else "")))
    assert moved["drop_reason"].to_list() == ["markers_lost"]


def english(text: str) -> str:
    return text.replace("The river", "This stream of water").replace("Write a", "Compose some")


def spanish(text: str) -> str:
    return re.sub(r"[A-Z][^.⟦]*", "El perro de mi vecino duerme todo el día en el jardín ", text)


def test_another_language_is_noticed_whoever_writes_it(ctx: Context) -> None:
    for wrong in (english, spanish):
        [row] = run(ctx, saying(wrong)).to_dicts()
        assert row["drop_reason"] == "wrong_language", wrong
    [row] = run(ctx, saying(spanish), min_language_probability=0.0).to_dicts()
    assert row["drop_reason"] is None, "the control"


def test_a_row_in_the_language_is_not_translated_into_it(ctx: Context) -> None:
    rows = conversations([(german("Write a short story about the river"), "Es war einmal.")])
    context = scripted(ctx, saying(lambda text: text))
    result = translate(context, rows, model=NO_MODEL, languages=("de",))
    assert result["drop_reason"].to_list() == ["same_language"]
    assert not any(context.engine.calls)


def test_lengths_that_cannot_be_are_refused(ctx: Context) -> None:
    longer = saying(lambda text: german(text) + " Und dann kam noch ein langer Satz dazu." * 20)
    assert run(ctx, longer)["drop_reason"].to_list() == ["length_ratio"]
    shorter = saying(lambda text: "Nun " + " ".join(re.findall("⟦[0-9]+⟧", text)))
    rows = conversations([("Write a short story about the river in the valley.", "Yes. " * 9)])
    assert run(ctx, shorter, rows)["drop_reason"].to_list() == ["length_ratio"]
    assert kept(run(ctx, longer, length_ratio=(0.0, 99.0))).height == 1


def payload(text: str) -> str:
    """The task is translated, the text that it works on is not."""
    return text if "Tell me" in text else german(text)


def test_what_the_task_works_on_may_stay_where_that_is_said(ctx: Context) -> None:
    task = "Write a short story about the river in the valley"
    rows = alpaca([{"instruction": task, "input": "Tell me the way home, please!", "output": task}])
    [row] = run(ctx, saying(payload), rows).to_dicts()
    assert (row["drop_reason"], row["left_as_is"]) == (None, ["input"])
    assert row["messages"][0]["content"].endswith("Tell me the way home, please!")
    [row] = run(ctx, saying(payload), rows, method=Full()).to_dicts()
    assert row["drop_reason"] == "untranslated"
    assert json.loads(row["evidence"]) == {"part": 2, "field": "input"}
    half = saying(lambda text: german(text) + " Tell me the way home, please!" * 9)
    rows = conversations([(task + ". Tell me the way home, please!", "Yes.")])
    assert run(ctx, half, rows, method=Full())["drop_reason"].to_list() == ["untranslated"]


def test_fields_that_are_not_named_keep_their_language(ctx: Context) -> None:
    context = scripted(ctx, saying(german))
    options = {"languages": ("de",), "fields": ("response",)}
    [row] = translate(context, ROW, model=NO_MODEL, **options).to_dicts()
    assert row["messages"][0]["content"] == f"{INSTRUCTION}\n\n{INPUT}"
    assert row["messages"][1]["content"] == german(ANSWER)
    assert row["input_start"] == ROW["input_start"][0]
    assert INSTRUCTION not in context.engine.calls[0][0].prompt[-1][1]


def test_languages_are_drawn_from_seed_and_id(ctx: Context) -> None:
    pool = self_instruct(60)
    languages = ("de", "fr", "hi", "zh")
    first, other = (
        run(ctx, saying(german), rows, languages=languages, per_row=2)
        for rows in (pool, pool[::-1][:40])
    )
    assert len(first) == 120

    def drawn(rows: pl.DataFrame) -> dict[str, set[str]]:
        pairs = rows.group_by(pl.col("parents").list.first()).agg("language").iter_rows()
        return {id_: {*values} for id_, values in pairs}

    assert all(drawn(first)[id_] == values for id_, values in drawn(other).items())
    assert {len(values) for values in drawn(first).values()} == {2}
    counts = first["language"].value_counts()["count"]
    assert counts.min() > 15


PIECES = (
    "`a b`", "{x}", "{{ y }}", "[NAME]", "https://a.bc/d", "3,000.5", "NATO", "get_item", "⟦7⟧",
    "⟦", "$a_1$", "a word", "日本", "Then", "x", "\n", "%s", "<b>", "12%",
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=12),
)
def test_marks_are_put_back_as_they_were(pieces: list[str]) -> None:
    """Whatever a text holds, also marks: masked and restored it is the text itself."""
    text = " ".join(pieces)
    protection = Protection()
    masked = protection.mask(text, 1)
    assert protection.restore(masked, 1) == (text, None)
    for span in protection.spans:
        assert span.text in text
    assert not any(piece in masked for piece in ("3,000.5", "NATO", "get_item", "{x}", "%s"))


def test_each_kind_is_recognized_and_words_are_not() -> None:
    examples: dict[Kind, list[str]] = {
        "code": ["```\nx = 1\n```", "`f(x)`"],
        "math": [r"\(x^2\)", r"$\frac{1}{2}$", "$$y$$"],
        "url": ["https://a.b/c_d?e=1", "www.example.com", "me.you@mail.org"],
        "placeholder": ["{name}", "{{ x.y }}", "${HOME}", "%(n)s", "<br/>", "[YOUR NAME]"],
        "name": ["snake_case", "camelCase", "PyTorch", "NASA", "@ada", "Ada Lovelace", "len()"],
        "number": ["42", "3.14", "1,000", "-7", "50%", "12:30"],
    }
    assert {*examples} == {*KINDS} == {*PATTERNS}
    for kind, texts in examples.items():
        for text in texts:
            protection = Protection()
            assert protection.mask(f"see then {text} there", 1) == "see then ⟦1⟧ there", text
            assert protection.spans[0].kind == kind, text
    for words in ("Write it down. Then stop.", "It's 2nd to none, isn't it?", "A b (c) - d!"):
        assert Protection().mask(words, 1) == words
    assert Protection(keep=("Gristmill",)).mask("Gristmill grinds.", 1) == "⟦1⟧ grinds."
    assert Protection((), ()).mask("12 `a` {b}", 1) == "12 `a` {b}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("他有3个苹果。", "他有⟦1⟧个苹果。"),
        ("价格是50%，共1,000元。", "价格是⟦1⟧，共⟦2⟧元。"),
        ("见https://x.com/a。然后用API读取。", "见⟦1⟧。然后用⟦2⟧读取。"),
        ("写信到me@a.org吧", "写信到⟦1⟧吧"),
        ("使用len()和a_b函数", "使用⟦1⟧和⟦2⟧函数"),
        ("ราคา50บาท", "ราคา⟦1⟧บาท"),
        ("가격은 3개", "가격은 ⟦1⟧개"),
        ("日本語でNASAを", "日本語で⟦1⟧を"),
    ],
)
def test_scripts_without_spaces_border_on_what_stays(text: str, masked: str) -> None:
    protection = Protection()
    assert protection.mask(text, 1) == masked
    assert protection.restore(masked, 1) == (text, None)


@pytest.mark.parametrize(
    "piece", ["{{", "{%", "\\[", "\\(", "$=", "=", "a.", "<a", "www.", "1,", "_a"]
)
def test_long_rows_of_beginnings_are_read_once(piece: str) -> None:
    start = time.perf_counter()
    Protection().mask("$" + piece * (50_000 // len(piece)) + " x", 1)
    assert time.perf_counter() - start < 1


def test_parts_put_together_are_the_conversation() -> None:
    for messages, start in self_instruct(80).select("messages", "input_start").iter_rows():
        parts = parts_of(messages, start, FIELDS)
        same = {(part.turn, part.field): part.text for part in parts}
        assert translated(messages, start, same) == (messages, start)


def test_odd_rows_are_whole_or_say_why(ctx: Context) -> None:
    call = {"id": "c", "name": "add", "arguments": "{}"}
    long = "The river runs quietly through the fields. " * 1_200
    odd: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "Sum?"}, {"role": "assistant", "tool_calls": [call]}],
        [
            {"role": "user", "content": "Sum?"},
            {"role": "tool", "content": "The sum is written here"},
            {"role": "assistant", "content": "Two."},
        ],
        [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So.", "reasoning": "H"},
        ],
        [{"role": "user", "content": " "}, {"role": "assistant", "content": ""}],
        [{"role": "user", "content": "```\nx\n```"}],
        [],
        [{"role": "user", "content": "The river runs quietly through the fields"}],
        [{"role": "user", "content": long}, {"role": "assistant", "content": "So."}],
        [
            {"role": "system", "content": "Write a short story about the river"},
            {"role": "user", "content": "The river runs quietly through the fields"},
            {"role": "assistant", "content": "and then it rains"},
            {"role": "user", "content": "Write a short story about the river"},
            {"role": "assistant", "content": "in the valley", "train": False},
        ],
    ]
    rows = pl.DataFrame(
        [{**record(), "id": record_id(m), "messages": m} for m in odd], schema=RECORD_COLUMNS
    )
    result = run(ctx, saying(german), rows)
    reasons = [*["has_tools"] * 2, "has_reasoning", *["nothing_to_translate"] * 3, *[None] * 3]
    assert result["drop_reason"].to_list() == reasons
    several = result["messages"].to_list()[-1]
    assert [turn["role"] for turn in several] == [turn["role"] for turn in odd[-1]]
    assert [turn["content"] for turn in several] == [german(turn["content"]) for turn in odd[-1]]
    assert several[-1]["train"] is False


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("[Part 1]\nHallo.\n[End]", "stop"), "translated_unparsed"),
        (("[Part 1]\nHallo.\n[Part 2]\nDu.\n[Part 3]\nDa.", "stop"), "translated_unparsed"),
        (("Ich übersetze das jetzt nicht.", "stop"), "translated_unparsed"),
        (("I cannot help with that.", "stop"), "translated_unparsed"),
        (("[Part 1]\nHal", "length"), "translated_cut"),
        (("", "stop"), "translated_unparsed"),
    ],
)
def test_an_answer_without_the_parts_is_no_translation(
    ctx: Context, answer: Answer, reason: str
) -> None:
    assert run(ctx, lambda _: answer)["drop_reason"].to_list() == [reason]


def test_a_refusal_is_no_translation_of_a_single_part(ctx: Context) -> None:
    rows = conversations([("The river runs quietly through the fields.",)])
    refused = run(ctx, lambda _: ("I'm sorry, but I can't help with that.", "stop"), rows)
    assert refused["drop_reason"].to_list() == ["wrong_language"]


def test_all_named_languages_can_be_identified() -> None:
    assert {*NAMES} <= {*identifier().labels}
    assert len(NAMES) >= 80
    assert len({*NAMES.values()}) == len(NAMES)
    assert {*get_args(Kind)} == {*KINDS}


@pytest.mark.proof
def test_human_checked_translations_pass_and_their_sources_do_not() -> None:
    path = SHARED / "data/pools/alpaca_en_zh_parallel.parquet"
    if not path.exists():
        pytest.skip("needs the shared data")
    pairs = pl.read_parquet(path).filter(score=5).head(1_500)
    passed, refused, within = 0, 0, 0
    for source, target in pairs.select("en_output", "zh_output").iter_rows():
        bare = [Protection().bare(text) for text in (source, target)]
        refused += other_language(bare[0], "zh", 0.2) is not None
        passed += other_language(bare[1], "zh", 0.2) is None
        ratio = len(target.encode()) / max(1, len(source.encode()))
        within += len(source.encode()) < 40 or 0.25 <= ratio <= 4
    assert passed > 0.97 * len(pairs)
    assert within > 0.97 * len(pairs)
    long = sum(len(text) > 40 for text in pairs["en_output"])
    assert refused > 0.95 * long


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"languages": ["German"]}, "languages[0] must be a code such as de, fr or zh"),
        ({"languages": []}, "languages must"),
        ({"languages": ["de", "de"]}, "languages must name each once"),
        ({"languages": ["de"], "per_row": 2}, "per_row must be at most 1, got 2"),
        ({"languages": ["de"], "length_ratio": [4, 1]}, "length_ratio must be increasing"),
        ({"languages": ["de"], "protect": ["poems"]}, "protect[0] must be"),
        ({}, "the option 'languages' is missing"),
    ],
)
def test_a_recipe_s_mistakes(options: dict[str, Any], message: str) -> None:
    [problem] = problems("compose.translate", **options)
    assert problem.startswith(message), problem


@pytest.mark.parametrize("gap", ["\n\n", "\n", " \n\n ", ""])
def test_what_stands_between_instruction_and_input_stays(gap: str) -> None:
    messages = [{"role": "user", "content": f"Sort.{gap}b, a"}]
    new = {(0, "instruction"): "Sortiere."}
    turns, start = translated(messages, len(f"Sort.{gap}"), new)
    assert turns[0]["content"] == f"Sortiere.{gap}b, a"
    assert turns[0]["content"][start:] == "b, a"


def test_an_input_alone_gets_no_line_before_it() -> None:
    assert translated([{"role": "user", "content": "Tea"}], 0, {}) == (
        [{"role": "user", "content": "Tea"}],
        0,
    )
