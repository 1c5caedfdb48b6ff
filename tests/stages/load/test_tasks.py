"""load.tasks: what becomes of labelled rows under each method, and what must hold of all."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from stages.load.tasks.drawing import Draws
from stages.load.tasks.flan import Feedback, Flan, FlanCollection, unified
from stages.load.tasks.holding_out import HeldOut
from stages.load.tasks.meta_tuning import MetaTuning
from stages.load.tasks.natural_instructions import ENCODINGS, NaturalInstructions
from stages.load.tasks.patterns import STYLES
from stages.load.tasks.rendering import InvalidRow
from stages.load.tasks.t0 import T0
from tests.support.labelled import (
    LABELS,
    TASKS,
    Folder,
    check,
    jsonl,
    kept,
    load,
    patterns,
    reasons,
    templates,
    turns,
)

ASK = ("{text} Is it so?\n\n{options_}", "{answer}")
INVERTED = ("Write something to which one says {answer}.", "{text}")
NATURAL = sorted(TASKS.glob("natural/*.json"))
METHODS: dict[str, tuple[list[Path], Any]] = {
    "flan": ([TASKS / "tasks.yaml"], Flan()),
    "flan few": ([TASKS / "tasks.yaml", TASKS / "reasoning.yaml"], Flan(num_shots=2)),
    "flan_collection": (
        [TASKS / "tasks.yaml", TASKS / "reasoning.yaml", TASKS / "dialogues.yaml"],
        FlanCollection(),
    ),
    "t0": ([TASKS / "promptsource.yaml"], T0()),
    "natural_instructions": (NATURAL, NaturalInstructions()),
    "meta_tuning": ([TASKS / "questions.yaml"], MetaTuning()),
    "feedback": ([TASKS / "feedback.yaml"], Feedback()),
}


def labelled(count: int) -> list[dict[str, Any]]:
    return [{"text": f"Thing {n} is here.", "label": n % 2} for n in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, t__jsonl=jsonl(labelled(200)), p__jsonl=patterns(ASK, INVERTED))


ENTRY = {"data": "t.jsonl", "templates": "p.jsonl", "options": [*LABELS]}


@pytest.mark.parametrize("name", METHODS)
def test_rendering_is_repeatable_and_leaves_no_mark_of_a_template(name: str) -> None:
    paths, method = METHODS[name]
    frame = load(*paths, method=method, seed=3)
    assert frame.equals(load(*paths, method=method, seed=3))
    rows = kept(frame)
    assert len(rows) >= 12
    assert reasons(frame).keys() <= {"not_applicable", "duplicate"}
    for prompt, target in turns(frame):
        assert not re.search(r"[{}]|\|\|\||None", prompt + target)
        assert prompt.strip()
        assert target.strip()
    assert rows.select("task", "template", "cluster").null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("name", METHODS)
def test_the_answer_is_among_the_options_and_the_target_says_it(name: str) -> None:
    paths, method = METHODS[name]
    rows = kept(load(*paths, method=method))
    for row in rows.filter(pl.col("options").is_not_null()).iter_rows(named=True):
        assert row["answer"] in row["options"]
        target = row["messages"][1]["content"]
        names = [style.names(len(row["options"])) for style in STYLES]
        named = [ns[row["options"].index(row["answer"])] for ns in names if ns]
        assert target in (row["answer"], *(named if name == "flan_collection" else ()))


@pytest.mark.parametrize("name", ["flan", "flan_collection", "t0", "meta_tuning"])
def test_another_seed_draws_otherwise(name: str) -> None:
    paths, method = METHODS[name]
    same = [{*kept(load(*paths, method=method, seed=seed))["id"]} for seed in (0, 1)]
    assert (same[0] == same[1]) is (name == "meta_tuning")


@pytest.mark.parametrize(
    "method", [Flan(), FlanCollection(few_shot=0), T0()], ids=["flan", "flan_collection", "t0"]
)
def test_a_row_stays_as_it_is_when_others_come_and_go(tmp_path: Path, method: Any) -> None:
    """Whatever the order of the file, and without half of it; T0's shares are of all rows."""
    rows = [json.loads(line) for line in (TASKS / "entailment.jsonl").read_text().splitlines()]
    shuffled = random.Random(1).sample(rows, len(rows))
    results = []
    for part in (rows, shuffled, shuffled[::2]):
        folder = Folder(tmp_path, e__jsonl=jsonl(part))
        entry: dict[str, Any] = {"data": "e.jsonl", "options": ["yes", "perhaps", "no"]}
        entry["templates"] = str(TASKS / "patterns.jsonl")
        if method.name == "t0":
            entry = {"data": "e.jsonl", "templates": str(TASKS / "promptsource/entailment.yaml")}
        results.append({*kept(folder.load({"entailment": entry}, method=method))["id"]})
    assert results[0] == results[1]
    assert method.name == "t0" or results[2] <= results[0]


def test_integer_labels_have_names(tmp_path: Path) -> None:
    """Numbers, their texts in CSV, names and letters say the same; -1 is not the last option."""
    folder = Folder(tmp_path, p__jsonl=patterns(ASK))
    answers = {"yes": (1, "1", "yes", "B", True, 1.0), "no": (0, "0", "no", "A", False)}
    unknown = (-1, "-1", 2, 0.5, "maybe", [1])
    cases = [(value, answer) for answer, values in answers.items() for value in values]
    cases += [*((value, None) for value in unknown), *((value, "") for value in (None, "", " "))]
    for value, answer in cases:
        folder.write("t.jsonl", jsonl([{"text": "It rains.", "label": value}]))
        frame = folder.load({"t": ENTRY})
        if answer:
            assert kept(frame)["answer"].to_list() == [answer]
        else:
            expected = "empty_target" if answer == "" else "answer_not_in_options"
            assert reasons(frame) == {expected: 1}


def test_a_row_has_options_of_its_own(tmp_path: Path) -> None:
    rows = [
        {"text": "1?", "choices": ["a", "b", "c"], "label": 2, "A": "x", "B": "y"},
        {"text": "2?", "choices": {"text": ["d", "e"], "label": ["A", "B"]}, "label": "A"},
        {"text": "3?", "choices": [], "label": 0, "A": "x", "B": "y"},
    ]
    folder = Folder(tmp_path, t__jsonl=jsonl(rows), p__jsonl=patterns(ASK))
    frame = folder.load({"t": {**ENTRY, "options": "choices"}})
    assert kept(frame).select("options", "answer").rows() == [
        (["a", "b", "c"], "c"), (["d", "e"], "d")
    ]  # fmt: skip
    (error,) = frame["error"].drop_nulls()
    assert "choices must hold the options" in error
    columns = folder.load({"t": {**ENTRY, "options": {"fields": ["A", "B"]}}})
    assert kept(columns)["options"].to_list() == [["x", "y"]]
    assert reasons(columns) == {"answer_not_in_options": 1}  # no option 2
    assert columns["error"].drop_nulls().len() == 1


def test_fields_of_templates_are_those_that_the_list_says(tmp_path: Path) -> None:
    rows = [{"sentence": "It rains.", "gold": 1, "n": [1, 2]}, {"gold": 0}]
    both = patterns(("{text} ({n}) So?", "{answer}"))
    jinja = templates(("{{ text }} ||| {{ label }}", None))
    folder = Folder(tmp_path, t__jsonl=jsonl(rows), p__jsonl=both, t__yaml=jinja)
    entry = {"data": "t.jsonl", "answer": "gold", "options": [*LABELS], "templates": "p.jsonl"}
    frame = folder.load({"t": {**entry, "fields": {"text": "sentence"}}})
    assert turns(frame) == [("It rains. (1, 2) So?", "yes")]
    assert reasons(frame) == {"unresolved_field": 1}
    entry = {"data": "t.jsonl", "templates": "t.yaml"}
    frame = folder.load(
        {"t": {**entry, "fields": {"text": "sentence", "label": "gold"}}}, method=T0()
    )
    assert turns(frame) == [("It rains.", "1")]


def test_values_are_no_templates(tmp_path: Path) -> None:
    rows = [{"text": "{answer} {{ text }} {% if %} {options_} ||| {", "label": 1}]
    folder = Folder(
        tmp_path,
        t__jsonl=jsonl(rows),
        p__jsonl=patterns(ASK),
        t__yaml=templates(("{{ text }} So? ||| {{ answer_choices[label] }}", "no ||| yes")),
    )
    for templates_file, method in (("p.jsonl", Flan()), ("t.yaml", T0())):
        frame = folder.load({"t": {**ENTRY, "templates": templates_file}}, method=method)
        ((prompt, target),) = turns(frame)
        assert prompt.startswith(rows[0]["text"])
        assert target == "yes"


def test_the_cap_is_the_first_rows_or_random_ones(folder: Folder) -> None:
    first = folder.load({"t": ENTRY}, method=Flan(max_rows=50, inverted=False))
    assert reasons(first) == {"over_cap": 150}
    assert [json.loads(extra)["text"] for extra in kept(first)["extra"]] == [
        f"Thing {n} is here." for n in range(50)
    ]
    drawn = folder.load({"t": ENTRY}, method=Flan(max_rows=50, sampling="random", inverted=False))
    assert reasons(drawn) == {"over_cap": 150}
    assert {*drawn["id"].drop_nulls()} != {*first["id"].drop_nulls()}
    dropped = first.filter(pl.col("drop_reason") == "over_cap").row(0, named=True)
    assert json.loads(dropped["evidence"]) == {"task": "t", "file": "t.jsonl", "line": 51}


@pytest.mark.parametrize(("rows", "cap"), [(90, 60), (60, 60), (61, 60), (10, 60)])
def test_templates_of_t0_have_equal_parts_of_the_rows_and_nothing_jumps(
    tmp_path: Path, rows: int, cap: int
) -> None:
    texts = [(f"{n}: {{{{ text }}}} ||| {{{{ label }}}}", None) for n in range(7)]
    folder = Folder(tmp_path, t__jsonl=jsonl(labelled(rows)), t__yaml=templates(*texts))
    frame = folder.load({"t": {"data": "t.jsonl", "templates": "t.yaml"}}, method=T0(max_rows=cap))
    counts = kept(frame)["template"].value_counts()["count"].to_list()
    assert sum(counts) == min(rows, cap)
    assert max(counts) - min(counts) <= 1


def test_inverted_templates_give_the_label_and_ask_for_the_text(folder: Folder) -> None:
    rows = kept(folder.load({"t": ENTRY}))
    inverted = rows.filter(pl.col("format") == "zero_shot_inverted")
    assert 60 < len(inverted) < 140  # one of two templates
    for row in inverted.iter_rows(named=True):
        prompt, target = (turn["content"] for turn in row["messages"])
        assert (target, row["answer"], row["options"]) == (
            json.loads(row["extra"])["text"], target, None
        )  # fmt: skip
        assert prompt.endswith((" yes.", " no."))
    assert "zero_shot_inverted" not in kept(
        folder.load({"t": ENTRY}, method=Flan(inverted=False))
    )["format"]  # fmt: skip


def test_the_four_formats_have_equal_shares(tmp_path: Path) -> None:
    folder = Folder(tmp_path, t__jsonl=jsonl(labelled(1200)), p__jsonl=patterns(ASK))
    rows = kept(folder.load({"t": ENTRY}, method=FlanCollection()))
    counts = Counter(rows["format"])
    assert {*counts} == {
        "zero_shot", "zero_shot_options", "few_shot", "few_shot_options"
    }  # fmt: skip
    assert all(250 < count < 350 for count in counts.values())
    few = rows.filter(pl.col("format").str.starts_with("few"))
    assert {*few["num_shots"]} == {1, 2, 3, 4, 5}
    for row in few.iter_rows(named=True):
        prompt = row["messages"][0]["content"]
        *shots, query = prompt.split("\n\n\n")
        assert len(shots) == row["num_shots"]
        text = json.loads(row["extra"])["text"]
        assert query.startswith(text)
        assert not any(shot.startswith(text) for shot in shots), "its own example"
        assert len({*shots}) == len(shots)


def test_a_row_is_no_example_of_its_equal(tmp_path: Path) -> None:
    rows = [{"text": "Same.", "label": 0}, {"text": "Same.", "label": 1}, *labelled(2)]
    folder = Folder(tmp_path, t__jsonl=jsonl(rows), p__jsonl=patterns(ASK))
    frame = kept(folder.load({"t": ENTRY}, method=Flan(num_shots=9)))
    counts = {
        (json.loads(row["extra"])["text"], row["messages"][0]["content"].count("Same."))
        for row in frame.iter_rows(named=True)
    }
    assert counts == {("Same.", 1), ("Thing 0 is here.", 1), ("Thing 1 is here.", 1)}


def test_the_target_is_the_name_of_an_option_that_has_one(tmp_path: Path) -> None:
    folder = Folder(tmp_path, t__jsonl=jsonl(labelled(300)), p__jsonl=patterns(ASK))
    method = FlanCollection(few_shot=0, with_options=1)
    targets = {(t, "- no" in p) for p, t in turns(folder.load({"t": ENTRY}, method=method))}
    assert {t for t, is_plain in targets if is_plain} == {"no", "yes"}
    assert {t for t, is_plain in targets if not is_plain} == {"(A)", "(B)", "A", "B", "[A]", "[B]"}


def test_a_chain_of_thought_stands_before_the_answer() -> None:
    rows = kept(load(TASKS / "reasoning.yaml", method=FlanCollection(inversion_rate=0)))
    thought = rows.filter(pl.col("format").str.ends_with("cot"))
    assert len(thought) > 10
    for row in thought.iter_rows(named=True):
        fields = json.loads(row["extra"])
        target = row["messages"][1]["content"]
        assert target.startswith(fields["rationale"])
        assert target.endswith(f"{fields['answer']}.")
        if row["num_shots"]:
            assert row["messages"][0]["content"].count("nswer is ") >= row["num_shots"]


def test_a_budget_never_cuts_the_query(tmp_path: Path) -> None:
    rows = [{"text": f"{n} " + "long " * (300 * (n % 4)), "label": 1} for n in range(16)]
    folder = Folder(tmp_path, t__jsonl=jsonl(rows), p__jsonl=patterns(ASK))
    method = FlanCollection(few_shot=1, max_input=600)
    frame = folder.load({"t": ENTRY}, method=method)
    assert reasons(frame) == {"too_long": 8}
    for row in kept(frame).iter_rows(named=True):
        prompt = row["messages"][0]["content"]
        assert len(prompt) <= 4 * 600
        assert json.loads(row["extra"])["text"] in prompt
    exact = folder.load(
        {"t": ENTRY}, method=method, tokenizer=(str(TASKS.parent / "models/tinylm/tokenizer.json"),)
    )
    assert reasons(exact) == {"too_long": 8}


def test_held_out_rows_are_at_three_levels_and_share_nothing_with_training() -> None:
    held_out = HeldOut(clusters=("inference",), tasks=("moods",), rows=0.25)
    frame = load(TASKS / "tasks.yaml", held_out=held_out)
    splits = dict(frame.group_by("task").agg(pl.col("split").unique().sort()).rows())
    assert splits.pop("entailment") == ["held_out_cluster"]
    assert splits.pop("moods") == ["held_out_task"]
    assert {*map(tuple, splits.values())} == {("held_out_row", "train")}
    counts = frame.group_by("task").agg((pl.col("split") == "held_out_row").sum(), n=pl.len())
    assert all(held in (0, n // 4) for _, held, n in counts.rows())
    few = load(TASKS / "tasks.yaml", held_out=held_out, method=Flan(num_shots=3))
    of_topics = few.filter((pl.col("split") == "held_out_row") & (pl.col("task") == "topics"))
    held = {json.loads(extra)["text"] for extra in of_topics["extra"]}
    assert len(held) == 5
    for prompt, _ in turns(few.filter(pl.col("split") == "train")):
        assert not any(text in shot for shot in prompt.split("\n\n\n")[:-1] for text in held)


def test_all_rows_of_a_text_are_on_one_side(tmp_path: Path) -> None:
    rows = [{"text": f"Text {n % 40}", "label": n % 2, "number": n} for n in range(120)]
    entry = {"data": "t.jsonl", "text": "text", "labels": {"a": ["a?", "is it a?"], "b": "b?"}}
    folder = Folder(tmp_path, t__jsonl=jsonl(rows))
    frame = folder.load({"t": entry}, method=MetaTuning(), held_out=HeldOut(rows=0.3))
    sides = frame.group_by(pl.col("extra").str.json_path_match("$.text")).agg(
        pl.col("split").drop_nulls().n_unique()
    )
    assert {*sides["split"]} == {1}
    assert {*frame["split"].drop_nulls()} == {"train", "held_out_row"}


def test_each_text_meets_each_description_once(tmp_path: Path) -> None:
    entry = {
        "data": "t.jsonl",
        "text": ["text", "more"],
        "labels": {"a": ["a?", "is it a?"], "b": "b?"},
    }
    rows = [{"text": f"T{n}", "more": "m", "label": "ab"[n % 2]} for n in range(6)]
    folder = Folder(tmp_path, t__jsonl=jsonl([*rows, {"text": "T9", "label": "a"}]))
    frame = folder.load({"t": entry}, method=MetaTuning())
    assert reasons(frame) == {"unresolved_field": 1}
    by_template = {(r["template"], r["answer"]) for r in kept(frame).iter_rows(named=True)}
    assert len(kept(frame)) == 18
    assert len(by_template) == 6
    for row in kept(frame).iter_rows(named=True):
        label = json.loads(row["extra"])["label"]
        assert row["answer"] == ("Yes" if row["template"].startswith(label) else "No")


def test_the_five_encodings_show_what_their_names_say() -> None:
    frame = kept(load(*NATURAL, method=NaturalInstructions(), seed=1))
    assert {*frame["format"]} == {encoding.name for encoding in ENCODINGS}
    for row in frame.iter_rows(named=True):
        prompt = row["messages"][0]["content"]
        task = json.loads(next(p for p in NATURAL if p.stem == row["task"]).read_text())
        encoding = next(e for e in ENCODINGS if e.name == row["format"])
        definition = " ".join(task["Definition"])
        assert (definition in prompt) is encoding.definition
        shown = [e["input"] in prompt for e in task["Positive Examples"]]
        assert sum(shown) == encoding.positive
        assert sum(e["input"] in prompt for e in task["Negative Examples"]) == encoding.negative
        assert (task["Positive Examples"][0]["explanation"] in prompt) is encoding.explained
        assert json.loads(row["extra"])["input"] in prompt
        assert row["answer"] in json.loads(row["extra"])["output"]
        assert row["num_shots"] == encoding.positive + encoding.negative


def test_examples_give_way_to_a_long_query(tmp_path: Path) -> None:
    task = json.loads(NATURAL[0].read_text())
    task["Instances"] = [
        {"id": str(n), "input": f"{n} " + "x" * 100 * n + ".", "output": ["y"]} for n in range(40)
    ]
    path = tmp_path / "task.json"
    path.write_text(json.dumps(task))
    frame = load(path, method=NaturalInstructions(max_input=400))
    assert reasons(frame).keys() == {"too_long"}
    rows = [row for row in kept(frame).iter_rows(named=True) if row["format"] == "positive"]
    for row in kept(frame).iter_rows(named=True):
        assert json.loads(row["extra"])["input"] in row["messages"][0]["content"]
    assert {row["num_shots"] for row in rows} <= {0, 1, 2}
    positions = frame.with_row_index().filter(pl.col("drop_reason").is_not_null())
    lines = [json.loads(e)["line"] for e in positions["evidence"]]
    assert lines == [1] * len(lines)  # the file is one line


def test_feedback_of_all_kinds_is_on_one_scale(tmp_path: Path) -> None:
    rows = kept(load(TASKS / "feedback.yaml", method=Feedback()))
    assert rows["feedback"].is_between(0, 1).all()
    order = rows.select(
        pl.corr("feedback", pl.col("extra").str.json_path_match("$.stars").cast(int))
    )
    assert order.item() > 0.9
    scales: dict[str, Any] = {"stars": (1, 5), "rank": (3, 1), "word": ("bad", "fair", "good")}
    assert unified({"stars": 1, "rank": 3, "word": "bad"}, scales) == 0
    assert unified({"stars": 5, "rank": 1, "word": "good"}, scales) == 1
    assert unified({"stars": None, "word": "fair"}, scales) == 0.5
    assert unified({"stars": float("nan"), "rank": ""}, scales) is None
    for wrong in ({"stars": 6}, {"word": "great"}, {"rank": "first"}, {"stars": [1]}):
        with pytest.raises(InvalidRow):
            unified(wrong, scales)


@settings(max_examples=20)
@given(count=st.integers(1, 60), seed=st.integers())
def test_a_sample_is_a_permutation(count: int, seed: int) -> None:
    assert sorted(Draws(seed, b"row").sample(count, "x")) == list(range(count))


def test_origins_have_the_license_of_the_task(tmp_path: Path) -> None:
    folder = Folder(tmp_path, a__jsonl=jsonl(labelled(3)), p__jsonl=patterns(ASK))
    folder.write("b.jsonl", jsonl(labelled(5)))
    entry = {**ENTRY, "template_set": "t"}
    frame = folder.load(
        {"a": {**entry, "data": "a.jsonl", "license": "MIT"}, "b": {**entry, "data": "b.jsonl"}}
    )
    assert reasons(frame) == {"duplicate": 3}
    licenses = [sorted(o["license"] for o in row) for row in kept(frame)["origins"]]
    assert licenses == [["CC0-1.0", "MIT"]] * 3 + [["CC0-1.0"]] * 2
    assert [o["index"] for o in frame["origins"][0]] == [0, 3]


BAD_ROWS = [
    ("", "[]", "a row must be an object"),
    ("", "7", "a row must be an object"),
    ("", '{"text": ', "JSON"),
    ("", '{"text": "\\ud800", "label": 0}', "surrogate"),
    ("", '{"text": ' + "[" * 3000 + "]" * 3000 + ', "label": 0}', ""),
    ("empty_target", '{"text": "x"}', ""),
    ("empty_target", '{"text": "x", "label": NaN}', ""),
    ("unresolved_field", '{"label": 0}', ""),
    ("unresolved_field", '{"text": {"a": 1}, "label": 0}', ""),
    ("unresolved_field", '{"text": null, "label": 0}', ""),
    ("", '{"text": "\u0416\u8336 \u0646\u0639\u0645", "label": 0}', None),
    ("", '{"text": "' + "long " * 10_000 + '", "label": 0}', None),
    ("", '{"text": ["a", 1], "label": 0, "messages": [{"role": "tool"}]}', None),
]


def test_bad_rows_cost_themselves_and_are_named(tmp_path: Path) -> None:
    """Each is kept whole, dropped with a reason, or failed with its line."""
    lines = [row for _, row, _ in BAD_ROWS]
    folder = Folder(tmp_path, t__jsonl="\n".join(lines) + "\n", p__jsonl=patterns(ASK))
    frame = folder.load({"t": ENTRY})
    assert len(frame) == len(BAD_ROWS)
    for line, (row, (reason, _, error)) in enumerate(
        zip(frame.iter_rows(named=True), BAD_ROWS, strict=True), 1
    ):
        if reason:
            assert row["drop_reason"] == reason
            assert json.loads(row["evidence"])["line"] == line
        elif error is None:
            assert (row["drop_reason"], row["error"]) == (None, None)
        else:
            assert error in row["error"]
            assert (row["file"], row["line"]) == ("t.jsonl", line)


def test_a_broken_instance_costs_what_follows_it_and_is_named(tmp_path: Path) -> None:
    text = NATURAL[0].read_text()
    place = text.index('"input": "knife"')
    path = tmp_path / "task.json"
    path.write_text(text[:place] + '"input": knife' + text[place + 16 :])
    frame = load(path, method=NaturalInstructions())
    assert len(kept(frame)) == 2
    (row,) = frame.filter(pl.col("error").is_not_null()).iter_rows(named=True)
    assert "JSON" in row["error"]
    assert abs(row["line"] - text[:place].count("\n")) <= 3


def test_accepted_rows_are_dropped_as_such(tmp_path: Path) -> None:
    folder = Folder(tmp_path, t__jsonl=jsonl([*labelled(3), []]), p__jsonl=patterns(ASK))
    failed = folder.load({"t": ENTRY}).filter(pl.col("error").is_not_null())
    row = failed.select("file", "line", "error").row(0, named=True)
    accepted = folder.write("accepted.jsonl", jsonl([row]))
    assert reasons(folder.load({"t": ENTRY}, accepted=(str(accepted),))) == {"accepted": 1}


def test_labels_of_own_options_are_not_their_places(folder: Folder) -> None:
    rows = [
        {"q": f"Which {answer}?", "choices": {"text": ["a", "b", "c"], "label": labels}, "key": key}
        for labels, key, answer in (
            (["1", "2", "3"], "1", "a"),
            ([1, 2, 3], 3, "c"),
            (["A", "B", "C"], "B", "b"),
            (["B", "C", "D"], "B", "a"),
        )
    ]
    folder.write("d.jsonl", jsonl(rows))
    folder.write("t.jsonl", patterns(("{q}\n{options_}", "{answer}")))
    entry = {"data": "d.jsonl", "templates": "t.jsonl", "options": "choices", "answer": "key"}
    assert folder.load({"t": entry})["answer"].to_list() == ["a", "c", "b", "a"]


def test_a_broken_example_costs_no_other_row(folder: Folder) -> None:
    rows = [{"q": f"Thing {n}?", "own": ["no", "yes"], "label": 0} for n in range(8)]
    rows[3]["own"] = None
    folder.write("d.jsonl", jsonl(rows))
    folder.write("t.jsonl", patterns(("{q}\n{options_}", "{answer}")))
    entry = {"data": "d.jsonl", "templates": "t.jsonl", "options": "own"}
    frame = folder.load({"t": entry}, method=Flan(num_shots=6))
    assert [n for n, error in enumerate(frame["error"]) if error] == [3]


@pytest.mark.parametrize("method", [FlanCollection(few_shot=1), Flan(num_shots=2)])
def test_an_answer_that_is_no_text_costs_itself(folder: Folder, method: Any) -> None:
    rows = [{"q": f"Thing {n}?", "answer": f"{n}" * 900} for n in range(4)]
    rows[2]["answer"] += "\ud800"
    folder.write("d.jsonl", jsonl(rows))
    folder.write("t.jsonl", patterns(("{q}", "{answer}")))
    frame = folder.load({"t": {"data": "d.jsonl", "templates": "t.jsonl"}}, method=method)
    assert [n for n, error in enumerate(frame["error"]) if error] == [2]


def test_a_number_in_braces_is_no_field(folder: Folder) -> None:
    folder.write("d.jsonl", jsonl([{"q": "So?", "answer": "Yes."}]))
    folder.write("t.jsonl", patterns(("{0} {q}", "{answer}"), ("{q}", "{answer}")))
    entry = {"t": {"data": "d.jsonl", "templates": "t.jsonl"}}
    with pytest.raises(UserError, match="faults"):
        check(folder.listed(**entry))
    assert folder.load(entry, lint="report")["template"].to_list() == ["t/1"]


def test_held_out_rows_of_t0_are_under_all_templates(folder: Folder) -> None:
    folder.write("d.jsonl", jsonl([{"q": f"Q{n}", "answer": "x"} for n in range(80)]))
    texts = [(f"{{{{ q }}}} {n} ||| {{{{ answer }}}}", None) for n in range(4)]
    folder.write("t.yaml", templates(*texts))
    entry = {"t": {"data": "d.jsonl", "templates": "t.yaml"}}
    frame = folder.load(entry, method=T0(), held_out=HeldOut(rows=0.5))
    held = Counter(frame.filter(pl.col("split") == "held_out_row")["template"])
    assert held.total() == 40
    assert len(held) == 4


def test_a_row_is_no_example_of_one_that_differs_in_its_number_alone(folder: Folder) -> None:
    rows = [{"idx": n, "text": "Same.", "label": n % 2} for n in range(6)]
    folder.write("d.jsonl", jsonl([*rows, {"idx": 6, "text": "Other.", "label": 1}]))
    folder.write("t.jsonl", patterns(ASK, INVERTED))
    entry = {"data": "d.jsonl", "templates": "t.jsonl", "options": [*LABELS]}
    frame = folder.load({"t": entry}, method=Flan(num_shots=3))
    same = kept(frame).filter(~pl.col("extra").str.contains("Other"))
    assert len(same)
    for messages in same["messages"]:
        assert "".join(turn["content"] for turn in messages).count("Same.") == 1


def test_an_answer_without_a_question_is_no_no(folder: Folder) -> None:
    folder.write("d.jsonl", jsonl([{"q": "Tea.", "own": ["fine", "awful"], "label": 0}]))
    labels = {"good": "Is it good?", "bad": "Is it bad?"}
    entry = {"data": "d.jsonl", "options": "own", "labels": labels, "text": "q"}
    frame = folder.load({"t": entry}, method=MetaTuning())
    assert frame["drop_reason"].to_list() == ["answer_not_in_options"]


def test_no_instance_is_its_own_example(folder: Folder) -> None:
    content = {
        "Definition": ["Do it."],
        "Positive Examples": [{"input": "Cats", "output": "KEY"}, {"input": "Dogs", "output": "b"}],
        "Negative Examples": [{"input": "Cats", "output": "KEY"}],
        "Instances": [{"input": "Cats", "output": ["KEY"]}],
    }
    path = folder.write("task1_x.json", json.dumps(content))
    for seed in range(12):
        frame = load(path, method=NaturalInstructions(), seed=seed)
        assert "KEY" not in turns(frame)[0][0]


def test_rows_that_differ_in_their_numbers_alone_are_on_one_side(folder: Folder) -> None:
    rows = [{"idx": n, "text": f"Thing {n // 2}.", "label": n // 2 % 2} for n in range(80)]
    folder.write("d.jsonl", jsonl(rows))
    folder.write("t.jsonl", patterns(*((f"{{text}} {n}\n{{options_}}", "{answer}") for n in "abc")))
    folder.write(
        "t.yaml", templates(*((f"{{{{ text }}}} {n} ||| {{{{ label }}}}", None) for n in "ab"))
    )
    flan = {"data": "d.jsonl", "templates": "t.jsonl", "options": [*LABELS]}
    t0 = {"data": "d.jsonl", "templates": "t.yaml", "answer": "label"}
    for entry, method in ((flan, Flan()), (t0, T0())):
        frame = kept(folder.load({"t": entry}, method=method, held_out=HeldOut(rows=0.5)))
        sides = {
            split: {json.loads(extra)["text"] for extra in rows["extra"]}
            for (split,), rows in frame.group_by("split")
        }
        assert sides["train"].isdisjoint(sides["held_out_row"])


def test_a_first_pattern_that_cannot_be_filled_says_what_is_asked_for(folder: Folder) -> None:
    folder.write("d.jsonl", jsonl(labelled(30)))
    folder.write("t.jsonl", patterns(("{text} {x", "{answer}"), INVERTED, ASK))
    entry = {"data": "d.jsonl", "templates": "t.jsonl", "options": [*LABELS]}
    frame = kept(folder.load({"t": entry}, lint="report"))
    formats = dict(frame.select("template", "format").unique().iter_rows())
    assert formats == {"t/1": "zero_shot_inverted", "t/2": "zero_shot_options"}
    folder.write("t.jsonl", patterns(("{text} {x", "{answer}"), INVERTED))
    assert {*kept(folder.load({"t": entry}, lint="report"))["template"]} == {"t/1"}
    with pytest.raises(UserError, match="but inverted ones"):
        folder.load({"t": entry}, lint="report", method=Flan(inverted=False))


def test_a_truth_value_is_on_no_scale_of_numbers() -> None:
    assert unified({"ok": True}, {"ok": (0, 1)}) == 1
    with pytest.raises(InvalidRow):
        unified({"ok": True}, {"ok": (1, 5)})
