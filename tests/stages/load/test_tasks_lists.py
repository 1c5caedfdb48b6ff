"""load.tasks: lists of tasks, template files and what the linter says of them."""

from __future__ import annotations

import json
import random
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RecipeErrors, UserError
from pipeline.execution.plan import check as check_plan
from pipeline.execution.plan import plan
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from stages.load.tasks import tasks
from stages.load.tasks.flan import Feedback, Flan, FlanCollection
from stages.load.tasks.holding_out import HeldOut
from stages.load.tasks.lint import lint_jinja, lint_pattern
from stages.load.tasks.meta_tuning import MetaTuning
from stages.load.tasks.natural_instructions import NaturalInstructions
from stages.load.tasks.rendering import Template
from stages.load.tasks.t0 import T0
from stages.load.tasks.template_files import JinjaSource, PatternSource, read_patterns
from tests.conftest import ROOT
from tests.support.labelled import (
    LABELS,
    LICENSED,
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
from tests.support.options import options_of
from tests.support.rows import json_lines

FLAN_V1 = ROOT / "tests/golden/flan_v1_templates.jsonl.gz"
ASK = ("{text} Is it so?\n\n{options_}", "{answer}")
ROWS = [{"text": f"Thing {n}.", "label": n % 2} for n in range(20)]
ENTRY = {"data": "t.jsonl", "templates": "p.jsonl", "options": [*LABELS]}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, t__jsonl=jsonl(ROWS), p__jsonl=patterns(ASK))


def refused(folder: Folder, entries: dict[str, Any], **options: Any) -> str:
    """What the check says of a list."""
    path = folder.listed(**entries)
    with pytest.raises(UserError) as caught:
        check(path, **options)
    return f"{caught.value.option if hasattr(caught.value, 'option') else ''} {caught.value}"


def published_patterns() -> list[PatternSource]:
    tasks = dict.fromkeys(row["task"] for row in json_lines(FLAN_V1))
    return [source for task in tasks for source in read_patterns(FLAN_V1, task)]


def test_the_linter_finds_the_nine_published_patterns_that_lost_a_backslash() -> None:
    sources = published_patterns()
    assert len(sources) == 610
    findings = [finding for source in sources for finding in lint_pattern(source)]
    assert {finding.kind for finding in findings} == {"glued"}
    names = [finding.template.name for finding in findings]
    assert names == [f"{task}/{n}" for task in ("rte", "anli", "cb") for n in (5, 6, 7)]
    assert [finding.template.line for finding in findings] == [
        6,
        7,
        8,
        396,
        397,
        398,
        496,
        497,
        498,
    ]


def test_flans_python_file_says_the_same_as_its_rows(tmp_path: Path) -> None:
    sets: dict[str, list[tuple[str, str]]] = {}
    for source in published_patterns():
        sets.setdefault(source.template.name.partition("/")[0], []).append(source[1:])
    lines = "\n".join(
        f"    {task!r}: [\n" + "".join(f"        ({a!r}\n         '', {b!r}),\n" for a, b in pairs)
        + "    ],"
        for task, pairs in sets.items()
    )  # fmt: skip
    path = tmp_path / "templates.py"
    path.write_text(f"import os\nos.abort()  # never run\nPATTERNS = {{\n{lines}\n}}\n")
    for task, pairs in sets.items():
        read = read_patterns(path, task)
        assert [source[1:] for source in read] == pairs
        text = path.read_text().splitlines()
        assert all(text[s.template.line - 1].lstrip().startswith("(") for s in read)


@pytest.mark.parametrize(
    ("prompt", "kinds"),
    [
        ("{text} Yes?", []), ("{{text}} is literal: {text}", []), ("{text", ["brace"]),
        ("text} {x}", ["brace"]), ("{}", ["brace"]), ("{a b}", ["brace"]), ("{a.b}", ["brace"]),
        ("{a!r}", ["brace"]), ("{a:>9}", ["brace"]), ("{a[0]}", ["brace"]),
        ("{text}n\n", ["glued"]), ("{text}t{x}", ["glued"]), ("{text}n", ["glued"]),
        ("{text}no", []), ("{text}'s", []), ("a ||| b", ["separator"]),
    ],
)  # fmt: skip
def test_faults_of_patterns(prompt: str, kinds: list[str]) -> None:
    template = Template("t/0", "t.jsonl", 4)
    for source in (PatternSource(template, prompt, "x"), PatternSource(template, "x", prompt)):
        findings = list(lint_pattern(source))
        assert [finding.kind for finding in findings] == kinds
        assert all(str(finding).startswith("t/0 (t.jsonl:4): ") for finding in findings)


@pytest.mark.parametrize(
    ("jinja", "kinds"),
    [
        ("{{ a }} ||| {{ b }}", []),
        ("{% if a %}{{ a }} ||| b{% else %}c ||| d{% endif %}", []),
        ("{% if a %}{{ a }} ||| b{% elif c %}x{% endif %}", []),
        ("{{ a }}", ["separator"]),
        ("{{ a }} ||| b ||| c", ["separator"]),
        ("{% for x in a %}||| {{ x }}{% endfor %}", ["separator"]),
        ("{% if a %}||| {% endif %} x ||| y", ["separator"]),
        ("{a} ||| {{ b }}", ["brace"]),
        ("{{ a }} ||| b }}", ["brace"]),
        ('Write {"key": 1} ||| {{ b }}', []),
        ("{{ a }}n\n ||| {{ b }}", ["glued"]),
        ("{{ a ||| {{ b }}", ["syntax"]),
        ("{{ a | nosuch }} ||| b", ["syntax"]),
        ("{% if a %} ||| b", ["syntax"]),
    ],
)
def test_faults_of_jinja(jinja: str, kinds: list[str]) -> None:
    source = JinjaSource(Template("n", "t.yaml", 3), jinja, None, True)
    assert [finding.kind for finding in lint_jinja(source)] == kinds


def test_faults_are_refused_with_template_and_line_or_reported(folder: Folder) -> None:
    folder.write("p.jsonl", patterns(ASK, ("{text}n\nSo?", "{answer}"), ("{text", "{answer}")))
    message = refused(folder, {"t": ENTRY})
    assert "templates must be free of faults, got 2" in message
    assert re.search(r"t/1 \(p.jsonl:2\): '}n' may be a line break", message)
    assert re.search(r"t/2 \(p.jsonl:3\): a brace is left", message)
    path = folder.listed(t=ENTRY)
    check(path, lint="report")
    rows = kept(load(path, lint="report"))
    assert {*rows["template"]} == {"t/0", "t/1"}, "what cannot be rendered is left out"
    shown = find("load.tasks").preview(options_of(tasks, path=(path,), method=Flan()))
    assert shown[0] == "t (t): 2 templates"
    assert "(p.jsonl:3)" in "\n".join(shown)


def test_fields_and_answers_that_no_row_has_are_faults(folder: Folder) -> None:
    folder.write("p.jsonl", patterns(ASK, ("{body} So?", "{answer}")))
    assert "t/1 (p.jsonl:2): no row has what it names (body)" in refused(folder, {"t": ENTRY})
    folder.write("p.jsonl", patterns(ASK))
    folder.write("t.jsonl", jsonl([{**row, "label": "perhaps"} for row in ROWS]))
    assert "of no row is the answer among the options" in refused(folder, {"t": ENTRY})
    folder.write("t.yaml", templates(("{{ text }} ||| {{ answer_choices[label] }}!", "no ||| yes")))
    folder.write("t.jsonl", jsonl(ROWS))
    entry = {"data": "t.jsonl", "templates": "t.yaml"}
    assert "of no row is the answer" in refused(folder, {"t": entry}, method=T0())


def test_promptsources_templates_do_what_they_do_there(tmp_path: Path) -> None:
    rows = [{"text": f"a ||| {n}", "label": n % 2, "list": ["x", "y", "y"]} for n in range(40)]
    source = (
        "{% if label == 1 %}{{ ['One', 'Two'] | choice }}: {{ text }} {{ list | most_frequent }} "
        "{{ zip(list, list) | list | length }} {{ text | highlight }}\n|||\n "
        "{{ answer_choices[label] }} {% endif %}"
    )
    choices = "{{ ['no', 'yes'] | join(' ||| ') }}"
    folder = Folder(tmp_path, t__jsonl=jsonl(rows), t__yaml=templates((source, choices)))
    frame = folder.load({"t": {"data": "t.jsonl", "templates": "t.yaml"}}, method=T0())
    assert reasons(frame) == {"not_applicable": 20}
    prompts = {prompt for prompt, _ in turns(frame)}
    assert {target for _, target in turns(frame)} == {"yes"}
    pattern = r"(One|Two): (a \|\|\| \d+) \['y'\] 3 \2"
    assert {re.fullmatch(pattern, prompt)[1] for prompt in prompts} == {"One", "Two"}  # type: ignore[index]


def test_choices_may_be_a_list_as_in_older_files(folder: Folder) -> None:
    source = "templates: {k: !Template {jinja: '{{ text }} ||| {{ answer_choices[label] }}', "
    folder.write("t.yaml", source + "answer_choices: [A, B]}}")
    frame = folder.load({"t": {"data": "t.jsonl", "templates": "t.yaml"}}, method=T0())
    assert {*map(tuple, kept(frame)["options"])} == {("A", "B")}
    assert {*kept(frame)["template"]} == {"k"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x", "label": -1}, "answer_not_in_options"),
        ({"text": "x", "label": 2}, "answer_not_in_options"),
        ({"label": 1}, "unresolved_field"),
        ({"text": None, "label": 1}, "unresolved_field"),
        ({"text": "x"}, "unresolved_field"),
        ({"text": "", "label": 1}, "empty_prompt"),
    ],
)
def test_what_a_row_lacks_is_no_text_in_jinja(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    source = ("{{ text }} ||| {{ answer_choices[label] }}", "no ||| yes")
    folder = Folder(tmp_path, t__jsonl=jsonl([row]), t__yaml=templates(source))
    entry = {"data": "t.jsonl", "templates": "t.yaml"}
    assert reasons(folder.load({"t": entry}, method=T0())) == {reason: 1}


def test_a_template_can_neither_reach_out_nor_stop_the_run(tmp_path: Path) -> None:
    escape = "{{ ''.__class__.__mro__ }} ||| x"
    broken = "{{ 1 / 0 }} ||| x"
    folder = Folder(
        tmp_path, t__jsonl=jsonl(ROWS), t__yaml=templates((escape, None), (broken, None))
    )
    entry = {"data": "t.jsonl", "templates": "t.yaml"}
    frame = folder.load({"t": entry}, method=T0(), lint="report")
    assert kept(frame).is_empty()
    assert {error[:30] for error in frame["error"].drop_nulls()} == {
        "template 'n1' cannot be render", "template 'n0' cannot be render"
    }  # fmt: skip
    reserved = Folder(
        tmp_path, t__jsonl=jsonl([{"answer_choices": 1}]), t__yaml=templates(("a ||| b", None))
    )
    (error,) = reserved.load({"t": entry}, method=T0())["error"]
    assert "must not have a field 'answer_choices'" in error


@pytest.mark.parametrize(
    ("entry", "method", "words"),
    [
        ({"data": "none.jsonl"}, Flan(), "list.yaml:3: task 't': data there is no file"),
        ({"data": "t.jsonl", "templates": "p.jsonl", "optons": []}, Flan(), "optons"),
        ({"templates": "p.jsonl"}, Flan(), "data"),
        ({"data": "t.jsonl"}, Flan(), "must have templates with method: flan"),
        ({**ENTRY, "template_set": "u"}, Flan(), "p.jsonl has no templates of 'u'"),
        (ENTRY, T0(), "must have templates of promptsource (.yaml)"),
        ({**ENTRY, "templates": "t.yaml"}, FlanCollection(), "must have patterns"),
        (ENTRY, MetaTuning(), "must have labels and text"),
        (ENTRY, Feedback(), "must have feedback"),
        ({**ENTRY, "feedback": {"x": [1, 1]}}, Feedback(), "different values on the scale of x"),
        ({**ENTRY, "options": {"columns": ["A"]}}, Flan(), "{fields: [A, B]}"),
        ({**ENTRY, "data": "empty.jsonl"}, Flan(), "has no row in empty.jsonl"),
    ],
)  # fmt: skip
def test_mistakes_in_a_list_are_told_with_their_line(
    folder: Folder, entry: dict[str, Any], method: Any, words: str
) -> None:
    folder.write("empty.jsonl", "")
    folder.write("t.yaml", templates(("{{ text }} ||| {{ label }}", None)))
    message = refused(folder, {"t": entry}, method=method)
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "must be a mapping with the key `tasks`"),
        ("task: {}", "must be a mapping with the key `tasks`"),
        ("tasks: {}", "must be a mapping with the key `tasks`"),
        ("tasks: {t: 7}", "task 't' must be a mapping, got 7"),
        ("tasks: {t: {data: t.jsonl}, t: {data: t.jsonl}}", "duplicate key 't'"),
        ("tasks: [", "not valid YAML"),
        ("tasks: {t: {data: 7}}", "data must be"),
        ("x: 1\ntasks: {t: {data: t.jsonl}}", "unknown key 'x'"),
    ],
)
def test_lists_that_are_none(folder: Folder, text: str, words: str) -> None:
    path = folder.write("list.yaml", text)
    with pytest.raises(UserError, match=re.escape(words)):
        check(path)


def test_a_mistake_in_a_list_is_told_with_its_line_and_that_of_the_recipe(
    folder: Folder, tmp_path: Path
) -> None:
    path = folder.listed(a={"data": "t.jsonl"})
    steps = {"t": {"uses": "load.tasks", "with": {"path": path, **LICENSED}}}
    recipe = Recipe.of("r", steps, {})
    with pytest.raises(RecipeErrors, match=r"list.yaml:2: task 'a' must have templates"):
        check_plan(plan(recipe, Store(tmp_path / "store")))


def test_several_mistakes_are_told_together(folder: Folder) -> None:
    message = refused(folder, {"a": {"data": "no.jsonl"}, "b": {"data": "t.jsonl", "clutser": "x"}})
    assert "no.jsonl" in message
    assert "clutser" in message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.jsonl", '{"task": "t", "input_pattern": "x"}\n', "p.jsonl:1: a template must have"),
        ("p.jsonl", "{\n", "p.jsonl:1: a template must have"),
        ("p.py", "PATTERN = {}", "has no dictionary PATTERNS"),
        ("p.py", "PATTERNS = {'t': [(f(), 'x')]}", "p.py:1: PATTERNS must be lists"),
        ("p.py", "PATTERNS = {'t': [(1, 'x')]}", "p.py:1: PATTERNS must be lists"),
        ("p.py", "PATTERNS = {", "cannot be read as Python"),
        ("p.yaml", "templates: [", "not valid YAML"),
        ("p.yaml", "a: 1", "has no mapping `templates`"),
        ("p.yaml", "templates: {k: !Template {jinja: 7}}", "p.yaml:1: template k must have"),
        ("p.yaml", "templates: {k: !!python/object:os.system {}}", "not valid YAML"),
    ],
)
def test_template_files_that_are_none(folder: Folder, name: str, text: str, words: str) -> None:
    folder.write(name, text)
    method = T0() if name.endswith("yaml") else Flan()
    assert words in refused(folder, {"t": {**ENTRY, "templates": name}}, method=method)


def test_a_file_that_is_no_task_of_natural_instructions(tmp_path: Path) -> None:
    for text in ("[]", "{}", '{"Definition": ["x"]}', "", '{"Definition": "x", "Instances": 7}'):
        path = tmp_path / "task.json"
        path.write_text(text)
        with pytest.raises(UserError, match=r"task.json must be a task of Natural Instructions"):
            check(path, method=NaturalInstructions())


@pytest.mark.parametrize("field", ["Definition", "Positive Examples", "Categories"])
def test_a_file_of_natural_instructions_with_a_lone_surrogate(tmp_path: Path, field: str) -> None:
    path = tmp_path / "task.json"
    task = {"Definition": ["Add."], "Instances": [{"input": "1 and 2", "output": ["3"]}]}
    broken = [{"input": "\ud800", "output": "x"}] if field == "Positive Examples" else ["\ud800"]
    path.write_text(json.dumps({**task, field: broken}))
    with pytest.raises(UserError, match=r"task.json must hold texts, it has a lone surrogate"):
        check(path, method=NaturalInstructions())


def test_no_data_set_is_on_both_sides_of_a_hold_out(folder: Folder) -> None:
    folder.write("u.jsonl", jsonl([{**row, "text": row["text"] + "!"} for row in ROWS]))
    entry = {**ENTRY, "template_set": "t"}
    entries = {
        "a": {**entry, "cluster": "one", "dataset": "same"},
        "b": {**entry, "cluster": "two", "data": "u.jsonl", "dataset": "same"},
        "c": {**entry, "cluster": "three"},  # the file of a
        "d": {**entry, "cluster": "three", "data": "u.jsonl", "template_set": "t"},
    }
    held_out = HeldOut(clusters=("one",))
    message = refused(folder, entries, held_out=held_out)
    assert "must leave no data set on both sides, got 'b'" in message
    assert "and 1 more" in message
    dropped = folder.load(entries, held_out=HeldOut(clusters=("one",), shared="drop"))
    assert reasons(dropped) == {"shared_dataset": 40}
    sides = dict(kept(dropped).group_by("task").agg("split").rows())
    assert sides["a"] == ["held_out_cluster"] * 20
    assert {*sides} == {"a", "d"}


def test_a_copy_of_a_held_out_data_set_is_not_trained_on(folder: Folder) -> None:
    copied = [{"premise": f" thing  {n}.", "label": n % 2} for n in range(6)]
    others = [{"premise": f"Another {n}.", "label": n % 2} for n in range(9)]
    folder.write("u.jsonl", jsonl(copied + others))
    folder.write("q.jsonl", patterns(("{premise} Is it so?\n\n{options_}", "{answer}")))
    entries = {
        "a": {**ENTRY, "template_set": "t", "cluster": "one"},
        "b": {**ENTRY, "data": "u.jsonl", "templates": "q.jsonl", "template_set": "t"},
    }
    rows = folder.load(entries, held_out=HeldOut(clusters=("one",)))
    assert reasons(rows) == {"held_out_text": 6}
    assert dict(kept(rows)["split"].value_counts().rows()) == {"held_out_cluster": 20, "train": 9}
    assert reasons(folder.load(entries)) == {}


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (HeldOut(clusters=("on",)), "held_out.clusters must be clusters of the tasks, got 'on'"),
        (HeldOut(tasks=("b",)), "held_out.tasks must be tasks of the tasks, got 'b'"),
        (HeldOut(tasks=("a",)), "must leave a task to train on"),
    ],
)
def test_hold_outs_of_what_is_not_there(folder: Folder, held_out: HeldOut, words: str) -> None:
    entry = {**ENTRY, "template_set": "t", "cluster": "one"}
    assert words in refused(folder, {"a": entry}, held_out=held_out)


def test_rows_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    import polars as pl

    folder = Folder(tmp_path, p__jsonl=patterns(ASK))
    frame = pl.DataFrame(ROWS)
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    folder.write("t.json", json.dumps(ROWS))
    folder.write("t.jsonl", jsonl(ROWS))
    results = [
        {*turns(folder.load({"t": {**ENTRY, "data": f"t.{kind}"}}, method=Flan()))}
        for kind in ("parquet", "csv", "tsv", "json", "jsonl")
    ]
    assert len(results[0]) == 20
    assert all(result == results[0] for result in results)
    both = folder.load({"t": {**ENTRY, "data": ["t.json", "t.jsonl"]}})
    assert reasons(both) == {"duplicate": 20}


def test_files_that_a_list_names_count_by_content(folder: Folder, tmp_path: Path) -> None:
    path = folder.listed(t=ENTRY)

    def fingerprint() -> str:
        steps = {"t": {"uses": "load.tasks", "with": {"path": path, **LICENSED}}}
        (planned,) = plan(Recipe.of("r", steps, {}), Store(tmp_path / "store"))
        return str(planned.fingerprint)

    seen = {fingerprint(), fingerprint()}
    assert len(seen) == 1
    folder.write("t.jsonl", jsonl(ROWS[:-1]))
    seen.add(fingerprint())
    folder.write("p.jsonl", patterns(("{text}", "{answer}")))
    seen.add(fingerprint())
    assert len(seen) == 3


def test_the_lists_that_are_shipped_have_no_faults() -> None:
    methods: dict[str, Any] = {
        "tasks": Flan(), "reasoning": FlanCollection(), "dialogues": FlanCollection(),
        "feedback": Feedback(), "questions": MetaTuning(), "promptsource": T0(),
    }  # fmt: skip
    assert {path.stem for path in TASKS.glob("*.yaml")} == {*methods}
    for name, method in methods.items():
        check(TASKS / f"{name}.yaml", method=method)
    check(*sorted(TASKS.glob("natural/*.json")), method=NaturalInstructions())


DAMAGE = (
    '"', "{", "}", "[", "]", ",", ":", "\n", "\0", "|||", "{{", "}}", "%}", "null", "-1", "1e999",
    "\\ud800", "!", "&a ", "*a ", "- ", "7", "\t",
)  # fmt: skip


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 60), marks=pytest.mark.proof)])
def test_damaged_files_are_told_or_cost_their_rows(tmp_path: Path, seeds: range) -> None:
    """Lists, templates and rows with broken characters: a user's error, or rows that add up."""
    cases: list[tuple[str, Any, list[str]]] = [
        ("tasks.yaml", Flan(num_shots=1), ["reviews.jsonl", "moods.csv", "patterns.jsonl"]),
        ("promptsource.yaml", T0(), ["promptsource/science.yaml", "entailment.jsonl"]),
        ("questions.yaml", MetaTuning(), ["moods.csv", "topics.jsonl"]),
        ("feedback.yaml", Feedback(), ["ratings.jsonl"]),
        ("natural/task02_opposites.json", NaturalInstructions(), []),
    ]
    for seed in seeds:
        rng = random.Random(seed)
        name, method, others = rng.choice(cases)
        folder = tmp_path / str(seed)
        shutil.copytree(TASKS, folder)
        path = folder / rng.choice([name, *others])
        text = path.read_text("utf-8")
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(DAMAGE) + text[place + rng.choice([0, 0, 1, 9]) :]
        path.write_text(text, "utf-8")
        for lint in ("refuse", "report"):
            with suppress(UserError):
                check(folder / name, method=method, lint=lint)
                load(folder / name, method=method, lint=lint)
