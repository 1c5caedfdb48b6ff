"""tag.surface: made cases for each flag, and labelled real data for their precision."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from pipeline.context import Context
from stages.tag.surface import surface
from tests.support.options import problems
from tests.support.rows import SAMPLES, alpaca, frame, json_lines, record, self_instruct

CTX = Context.__new__(Context)  # the stage computes only


def tag(*contents: str, **options: object) -> dict[str, object]:
    return surface(CTX, frame([record(*contents)]), **options).row(0, named=True)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I keep the soil of my tomatoes moist?", "en"),
        ("Wie halte ich die Erde meiner Tomaten feucht?", "de"),
        ("Comment puis-je garder la terre de mes tomates humide ?", "fr"),
        ("¿Cómo puedo mantener húmeda la tierra de mis tomates?", "es"),
        ("如何让我的西红柿的土壤保持湿润？请给出三个建议。", "zh"),
        ("土マトの土を湿らせておくにはどうすればよいですか。", "ja"),
        ("Как сохранить влажной почву для моих помидоров?", "ru"),
        ("42", "und"),
        ("", "und"),
        ("Paris", "und"),
    ],
)
def test_language(text: str, language: str) -> None:
    tags = tag(text, "")
    assert tags["language"] == language
    assert 0 <= tags["language_score"] <= 1  # type: ignore[operator]


def test_languages_restricts_the_choice() -> None:
    text = "Wie geht es dir heute, mein Freund?"
    assert tag(text, "", languages=("en", "fr"), min_confidence=0.0)["language"] in ("en", "fr")
    assert tag(text, "")["language"] == "de"  # the other choice is not remembered


def test_only_the_first_characters_count() -> None:
    text = (
        "This is an English sentence that goes on for a while. " + "Und hier ist es deutsch. " * 90
    )
    assert tag(text, "", max_characters=50)["language"] == "en"
    assert tag(text, "", max_characters=5000)["language"] == "de"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x" * 199, "short"),
        ("x" * 200, "medium"),
        ("x" * 1000, "long"),
    ],
)
def test_length_class(answer: str, expected: str) -> None:
    assert tag("Go on.", answer)["length_class"] == expected


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("is_code", "Use this:\n```python\nx = 1\n```"),
        ("is_code", "def add(a, b):\n    return a + b"),
        ("is_code", "SELECT name FROM people WHERE age > 3;"),
        ("is_code", "for (int i = 0; i < n; i++) {\n  total += i;\n}"),
        ("is_math", "3 apples and 4 apples: 3 + 4 = 7"),
        ("is_math", r"The value is \frac{1}{2}."),
        ("is_math", "2x + 3 = 7, so x is 2."),
        ("is_list", "Buy:\n- milk\n- bread"),
        ("is_list", "1. Wake up\n2. Get up"),
        ("is_list", "a) first\nb) second"),
        ("is_refusal", "I'm sorry, but I cannot assist with that request."),
        ("is_refusal", "I can’t help with that."),
        ("is_refusal", "Unfortunately, I am not able to provide medical advice."),
        ("is_refusal", "As an AI language model, I am unable to browse the internet."),
        ("is_ai_disclaimer", "As an AI language model, I do not eat."),
        ("is_ai_disclaimer", "Well, I'm just a language model."),
    ],
)
def test_flags(flag: str, answer: str) -> None:
    assert tag("Please do.", answer)[flag] is True


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("is_code", "You can select a seat from the plan; return tickets are cheaper."),
        ("is_code", "The class of 1999 met while it rained."),
        ("is_math", "In 1999 there were 3 of us, from 9-5."),
        ("is_list", "I have 1. only one point"),
        ("is_list", "Well - this - is no list - at all"),
        ("is_refusal", "I can't believe it, what a day!"),
        ("is_refusal", "The word 'sorry' is what I cannot spell."),
        ("is_refusal", "I'm sorry to hear of your loss."),
        ("is_ai_disclaimer", "You are as dim as an AI-generated insult."),
        ("is_ai_disclaimer", "AI will change the world."),
    ],
)
def test_flags_not_set(flag: str, answer: str) -> None:
    assert tag("Please do.", answer)[flag] is False


def test_turns_and_input() -> None:
    assert tag("A question?", "An answer.", "Another?", "Yes.")["is_multi_turn"] is True
    assert tag("A question?", "An answer.")["is_multi_turn"] is False
    rows = frame([record("Add.\n\n1, 2", "3", input_start=6), record("Add.", "3")])
    assert sorted(surface(CTX, rows)["has_input"]) == [False, True]
    first_only = tag("Q?", "I'm sorry, but I can't help with that.", "Please!", "Fine: here.")
    assert first_only["is_refusal"] is True  # any answer


def test_types_and_odd_conversations() -> None:
    odd = frame(
        [
            record(),
            record("only a question"),
            record("be kind", roles=("system",)),
            record("be kind", "hello there", "hi", roles=("system", "user", "assistant")),
        ]
    )
    result = surface(CTX, odd)
    added = surface.__stage__.adds  # type: ignore[attr-defined]
    assert dict(result.schema) == added
    assert result.null_count().sum_horizontal().item() == 0
    assert dict(surface(CTX, odd.head(0)).schema) == added


def test_a_row_depends_on_itself_alone() -> None:
    rows = self_instruct(300)
    places = list(range(len(rows)))
    random.Random(0).shuffle(places)
    whole = surface(CTX, rows)
    assert surface(CTX, rows[places]).equals(whole[places])
    assert pl.concat([surface(CTX, rows[:100]), surface(CTX, rows[100:])]).equals(whole)


def test_mistakes_are_reported_before_anything_runs() -> None:
    assert problems("tag.surface", languages=["en", "zh"]) == []
    (problem,) = problems("tag.surface", languages=["klingon"])
    assert problem == "languages must be languages that py3langid identifies, got klingon"
    (problem,) = problems("tag.surface", lengths=[1000, 200])
    assert problem == "lengths must be increasing, got [1000, 200]"
    assert problems("tag.surface", lengths=[0, 200]) != []


def test_real_samples() -> None:
    """Rates on bundled data, a little below (or above) what was measured."""
    maths = json_lines(SAMPLES.parent / "benchmarks/gsm8k_test.jsonl.gz")
    tagged = surface(CTX, frame(record(row["question"], row["answer"]) for row in maths))
    assert tagged["is_math"].mean() > 0.98
    assert tagged["is_code"].mean() < 0.005
    assert (tagged["language"] == "en").mean() > 0.99
    programs = json_lines(SAMPLES.parent / "benchmarks/HumanEval.jsonl.gz")
    code = surface(CTX, frame(record(r["prompt"], r["canonical_solution"]) for r in programs))
    assert code["is_code"].mean() > 0.99


def test_rates_on_labelled_pools(shared: Path) -> None:
    """gpteacher holds programs only; dolly hardly any; the parallel pools have one language."""
    programs = json_lines(shared / "pools/gpteacher_codegen.json.gz")
    assert surface(CTX, alpaca(programs, "response"))["is_code"].mean() > 0.85
    prose = surface(CTX, alpaca(json_lines(shared / "pools/dolly_3k_filtered.json.gz")))
    assert prose["is_code"].mean() < 0.005
    assert prose["is_math"].mean() < 0.02
    assert (prose["language"] == "en").mean() > 0.97
    chinese = alpaca(json_lines(shared / "pools/alpaca_zh_10k.json.gz")[:2000])
    named = surface(CTX, chinese, languages=("zh", "en"))["language"]
    assert (named == "zh").mean() > 0.95
