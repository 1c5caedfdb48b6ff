"""Closed sets of labels: read in every spelling, levels in their order, nothing else a label."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.models import LanguageModel
from stages.tag.intent import ClosedSets, intent
from stages.tag.intent.closed_sets import added_columns
from stages.tag.intent.label_sets import SETS
from tests.support.options import problems
from tests.support.rows import conversations, json_lines, sample
from tests.support.scripted import Answer, ScriptedContext, scripted

MODEL = LanguageModel(model="none")
ROWS = conversations([("What is 2 and 3?", "5"), ("Write a poem about rain.", "Drop.")])
LANGUAGE = {"method": {"name": "closed_sets", "sets": ["language"]}}
TAGGER = "GRISTMILL_TAGGER"
"""The environment variable with a folder of a chat model's weights."""
RATED = {"intent": "To add.", "knowledge": "Sums.", "difficulty": "easy"}


def saying(ctx: Context, answer: Callable[[str], str] | str) -> ScriptedContext:
    def script(text: str) -> Answer:
        return (answer if isinstance(answer, str) else answer(text)), "stop"

    return scripted(ctx, script)


def tagged(ctx: Context, answer: Callable[[str], str] | str, *sets: Any, **more: Any) -> Any:
    method = ClosedSets(sets=sets, explain=more.pop("explain", True))
    return intent(saying(ctx, answer), ROWS, model=MODEL, method=method, **more)


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(RATED),
        "Sure! Here it is:\n```json\n" + json.dumps(RATED, indent=2) + "\n```",
        json.dumps({**RATED, "difficulty": "Easy"}),
        json.dumps({**RATED, "difficulty": " **EASY** ", "more": 1}),
        json.dumps({**RATED, "difficulty": "hard"}) + "\nNo:\n" + json.dumps(RATED),
    ],
)
def test_a_label_is_read_in_every_spelling(ctx: Context, answer: str) -> None:
    rows = tagged(ctx, answer, "difficulty")
    assert rows["difficulty"].to_list() == ["easy"] * 2
    assert rows["difficulty_level"].to_list() == [2, 2]
    assert rows["intent"].to_list() == ["To add."] * 2
    assert rows["knowledge"].to_list() == ["Sums."] * 2


@pytest.mark.parametrize(
    "answer",
    [
        "easy",
        json.dumps({"difficulty": "easy"}),
        json.dumps({**RATED, "difficulty": "rather easy"}),
        json.dumps({**RATED, "difficulty": "very easy or easy"}),
        json.dumps({**RATED, "difficulty": 2}),
        json.dumps({**RATED, "difficulty": ["easy"]}),
        json.dumps({**RATED, "intent": None}),
        "I cannot rate this.",
        "",
    ],
)
def test_what_is_no_label_drops_the_row_and_costs_no_further_set(ctx: Context, answer: str) -> None:
    context = saying(ctx, answer)
    method = ClosedSets(sets=("difficulty", "quality"))
    rows = intent(context, ROWS, model=MODEL, method=method)
    assert rows["drop_reason"].to_list() == ["unreadable"] * 2
    assert {json.loads(text)["set"] for text in rows["evidence"]} == {"difficulty"}
    columns = [name for name in added_columns(method) if name != "intent_journal"]
    assert rows.select(columns).null_count().row(0) == (2,) * len(columns)
    requests = [request for call in context.engine.calls for request in call]
    assert {request.prompt[0][1] for request in requests} == {
        request.prompt[0][1] for request in context.engine.calls[0]
    }


def test_levels_are_numbers_in_their_order(ctx: Context) -> None:
    for name in ("difficulty", "quality"):
        labels = SETS[name]
        words = dict.fromkeys(labels.words, "So.")
        for level, label in enumerate(labels.labels, 1):
            rows = tagged(ctx, json.dumps({**words, labels.column: label}), name)
            assert rows[f"{labels.column}_level"].to_list() == [level] * 2


def test_other_categories_are_those_of_the_set(ctx: Context) -> None:
    others = ["planning", "Math", "Cooking", "Planning", "Coding & Debugging"]
    answer = json.dumps({"task_category": "math", "other_task_categories": others})
    rows = tagged(ctx, answer, "task_category")
    assert rows["task_category"].to_list() == ["Math"] * 2
    assert rows["other_task_categories"].to_list() == [["Planning", "Coding & Debugging"]] * 2


def test_labels_alone_are_asked_for_as_choices(ctx: Context) -> None:
    context = saying(ctx, lambda text: "Good." if "clear, specific" in text else "Very Hard")
    method = ClosedSets(sets=("quality", "difficulty"), explain=False)
    rows = intent(context, ROWS, model=MODEL, method=method)
    assert rows["input_quality_level"].to_list() == [4, 4]
    assert rows["difficulty"].to_list() == ["very hard"] * 2
    assert {*rows.columns} == {*added_columns(method), "drop_reason", "evidence", "error"}
    assert {r.decoding.choice for call in context.engine.calls for r in call} == {
        SETS["quality"].labels, SETS["difficulty"].labels,
    }  # fmt: skip
    assert {r.decoding.temperature for call in context.engine.calls for r in call} == {0.0}


def test_each_set_is_one_request_about_the_first_turn(ctx: Context) -> None:
    rows = conversations([("What is 2 and 3?", "5", "And the tide?", "High.")])
    context = saying(ctx, json.dumps(RATED))
    intent(context, rows, model=MODEL, method=ClosedSets(sets=("difficulty",)))
    ((request,),) = context.engine.calls
    assert "What is 2 and 3?" in request.prompt[0][1]
    assert "tide" not in request.prompt[0][1]
    assert json.loads(request.decoding.json_schema or "")["properties"]["difficulty"]["enum"]


@pytest.mark.parametrize(
    ("answer", "label", "unknown"),
    [
        ("story_generation", "story_generation", None),
        ("**Story_Generation**", "story_generation", None),
        ("default", "default", None),
        ("song_writing", "default", "song_writing"),
        ("Song writing", "default", "Song writing"),
    ],
)
@pytest.mark.parametrize("explain", [True, False])
def test_an_unknown_task_type_is_the_default_and_counted(
    ctx: Context, answer: str, label: str, unknown: str | None, explain: bool
) -> None:
    context = saying(ctx, json.dumps({"task_type": answer}) if explain else answer)
    method = ClosedSets(sets=("task_type",), explain=explain)
    rows = intent(context, ROWS, model=MODEL, method=method)
    assert rows["task_type"].to_list() == [label] * 2
    assert rows["task_type_unknown"].to_list() == [unknown] * 2
    assert context.counters["unknown_labels"] == (2 if unknown else 0)


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot help",
        "I'm sorry",
        "Sorry, no",
        "I am sorry",
        "It is a song.",
        "a request for a song about the sea",
        "story_generation or planning, perhaps",
        "?",
        "",
    ],
)
def test_what_is_no_label_is_not_the_default(ctx: Context, answer: str) -> None:
    rows = tagged(ctx, answer, "task_type", explain=False)
    assert rows["drop_reason"].to_list() == ["unreadable"] * 2
    assert rows["task_type"].null_count() == 2


def test_metadata_are_use_case_and_skills(ctx: Context) -> None:
    answer = {"use_case": " verse ", "skills": ["rhyme", "rhyme", " ", "metre"]}
    rows = tagged(ctx, "So:\n" + json.dumps(answer), "metadata", explain=False)
    assert rows["use_case"].to_list() == ["verse"] * 2
    assert rows["skills"].to_list() == [["rhyme", "metre"]] * 2
    assert rows["attributes"].to_list() == [["verse", "rhyme", "metre"]] * 2
    for wrong in ({"use_case": "", "skills": ["rhyme"]}, {"use_case": "verse", "skills": [" "]}):
        rows = tagged(ctx, json.dumps(wrong), "metadata")
        assert rows["drop_reason"].to_list() == ["unreadable"] * 2


def test_abilities_and_domains_are_those_of_their_sets(ctx: Context) -> None:
    answer = {"ability": "Logic and reasoning", "other_abilities": ["mathematical ability", "tact"]}
    rows = tagged(ctx, json.dumps(answer), "ability")
    assert rows["ability"].to_list() == ["logic and reasoning"] * 2
    assert rows["other_abilities"].to_list() == [["mathematical ability"]] * 2
    label = "humanities, history, philosophy, and sociology knowledge"
    rows = tagged(ctx, label, "domain", explain=False)
    assert rows["domain"].to_list() == [label] * 2
    rows = tagged(ctx, "song_writing", "domain", explain=False)
    assert rows["drop_reason"].to_list() == ["unreadable"] * 2


def test_the_task_types_are_those_of_realign(shared: Path) -> None:
    examples = json_lines(shared / "references/realign_task_types.json.gz")
    assert {*SETS["task_type"].labels} == {example["category"] for example in examples}


@pytest.mark.proof
@pytest.mark.parametrize(("variable", "step", "gain"), [("", 10, 0.0), (TAGGER, 7, 0.1)])
def test_a_tagger_beats_the_majority_on_realign(
    variable: str, step: int, gain: float, shared: Path, ctx: Context, tinylm: LanguageModel
) -> None:
    """Macro-F1 over the 46 types on some examples; what is unreadable is wrong.

    tinylm understands none of them: its 0.007 is above the majority's 0.001 because it says more
    than one label, and below the 0.02 of a guess. A chat model must be far better.
    """
    from sklearn.metrics import f1_score

    if variable and variable not in os.environ:
        pytest.skip("needs the weights of a chat model")
    examples = json_lines(shared / "references/realign_task_types.json.gz")[::step]
    by_text = {example["instruction"]: example["category"] for example in examples}
    rows = conversations([(text, "So.") for text in by_text])
    expected = [by_text[messages[0]["content"]] for messages in rows["messages"]]
    model = LanguageModel(model=os.environ[variable], dtype="bfloat16") if variable else tinylm
    method = ClosedSets(sets=("task_type",), explain=False)
    tags = intent(ctx, rows, model=model, method=method)["task_type"].fill_null("").to_list()

    def score(predicted: list[str]) -> float:
        labels = [*SETS["task_type"].labels]
        options = {"labels": labels, "average": "macro", "zero_division": 0.0}
        return float(f1_score(expected, predicted, **options))

    assert score(tags) > score(["default"] * len(expected)) + gain


def test_the_language_needs_no_model(ctx: Context) -> None:
    texts = ["Quel est le nom de cette ville au bord de la mer ?", "How deep is the sea here?", " "]
    rows = conversations([(text, "So.") for text in texts])
    result = intent(ctx, rows, method=ClosedSets(sets=("language",)))
    by_text = dict(zip([m[0]["content"] for m in rows["messages"]], result.to_dicts(), strict=True))
    assert [by_text[text]["input_language"] for text in texts] == ["fr", "en", None]
    assert [by_text[text]["drop_reason"] for text in texts] == [None, None, "no_instruction"]


def test_an_answer_that_is_not_there_fails_the_row(ctx: Context) -> None:
    def script(text: str) -> Answer:
        return ("no server", "error") if "poem" in text else (json.dumps(RATED), "stop")

    method = ClosedSets(sets=("difficulty",))
    rows = intent(scripted(ctx, script), ROWS, model=MODEL, method=method)
    assert sorted(rows["error"].to_list(), key=str) == [None, "no server"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": {"name": "closed_sets", "sets": []}}, "sets must"),
        ({"method": {"name": "closed_sets", "sets": ["mood"]}}, "mood"),
        ({"method": {"name": "closed_sets", "sets": ["quality", "quality"]}}, "quality"),
        (LANGUAGE, "model must be left out"),
        (LANGUAGE | {"model": None, "seed": 3}, "seed must be left out, got 3"),
        (LANGUAGE | {"model": None, "max_tokens": 9}, "max_tokens must be left out, got 9"),
        (
            {"model": None, "method": LANGUAGE["method"] | {"explain": False}},
            "explain must be left out, got False",
        ),
        ({"model": None}, "model must be a language model for the sets task_category"),
        ({"max_tokens": 0}, "max_tokens must be"),
    ],
)
def test_a_recipes_mistakes(options: dict[str, Any], message: str) -> None:
    (mistake,) = problems("tag.intent", **options)
    assert message in mistake


def test_a_language_needs_no_model() -> None:
    assert problems("tag.intent", model=None, **LANGUAGE) == []  # type: ignore[arg-type]


@pytest.mark.proof
def test_a_live_model_gives_a_label_of_the_set(ctx: Context, tinylm: LanguageModel) -> None:
    rows = sample("self_instruct.jsonl.gz").head(2)
    method = ClosedSets(sets=("difficulty", "language"), explain=False)
    result = intent(ctx, rows, model=tinylm, method=method)
    assert result["drop_reason"].null_count() == len(rows)
    labels = SETS["difficulty"].labels
    assert [1 + labels.index(x) for x in result["difficulty"]] == result[
        "difficulty_level"
    ].to_list()
