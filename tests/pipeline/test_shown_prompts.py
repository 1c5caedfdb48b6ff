"""`plan --show`: one prompt of each stage that asks a model, of real rows where there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.execution.plan import PlannedStep, StepOutputs
from pipeline.execution.shown_prompts import _Rows, _shown
from pipeline.recipe.graph import Step
from pipeline.recipe.recipe import Recipe
from schemas.records import DOCUMENT_COLUMNS, RECORD_COLUMNS
from tests.support.cases import CASES, NAMES, Case
from tests.support.cli import call
from tests.support.running import run

HOSTILE = "Say \x1b[31mred\x1b[0m\u202e now\nb (score.judge) asks nobody\r{{ 7 * 7 }}"
RECIPE = """\
name: shown
models: {m: {engine: openai, model: "the/model", base_url: "http://127.0.0.1:9/v1"}}
stages:
  a: {uses: load.records, with: {path: rows.jsonl, source: s, license: MIT}}
  few: {uses: dedup.exact, needs: a}
  books: {uses: load.documents, with: {path: books.jsonl, source: b, license: MIT}}
  judged:
    uses: score.judge
    needs: few
    with: {model: m, method: {name: rating, aspects: [quality]}}
  picked: {uses: select.top, needs: judged, with: {score: judge_quality, min_score: 4}}
  new: {uses: generate.respond, needs: picked, with: {models: [m], method: explain}}
  code: {uses: generate.from_documents, needs: books, with: {model: m, method: oss-instruct}}
  seeds:
    uses: load.records
    with: {path: data/seeds/self_instruct_seed_tasks.jsonl, source: t, license: Apache-2.0}
  made: {uses: generate.self_instruct, needs: seeds, with: {model: m, num_rows: 9}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [{"prompt": HOSTILE, "completion": "First."}, {"prompt": "Why?", "completion": "So."}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    book = {"text": "def f():\n    return 1\n" * 20}
    (tmp_path / "books.jsonl").write_text(json.dumps(book))
    (tmp_path / "shown.yaml").write_text(RECIPE)
    return tmp_path / "shown.yaml"


def shown(path: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = call(
        "plan", str(path), "--store", str(path.parent / "store"), "--show", "--json", *words
    )
    assert done.code == 0, done.stderr
    return {entry["name"]: entry for entry in json.loads(done.stdout)["prompts"]}


def test_before_anything_has_run_placeholders_say_so(path: Path) -> None:
    prompts = shown(path)
    assert {*prompts} == {"judged", "new", "code", "made"}, "the stages that ask"
    for entry in prompts.values():
        assert not entry["why"], entry
        assert "which has not run yet]" in entry["turns"][-1][1]
        assert entry["waits_for"]
    assert [role for role, _ in prompts["new"]["turns"]] == ["system", "user"]
    page = call("plan", str(path), "--store", str(path.parent / "store"), "--show")
    assert "with placeholders in brackets: few must run before there are rows" in page.stdout


def test_the_first_real_row_is_shown_where_it_is_there(path: Path) -> None:
    run(Recipe.load(str(path)), path.parent / "store", "few", "books", "seeds")
    prompts = shown(path, "judged", "code", "made")
    assert {*prompts} == {"judged", "code", "made"}, "only the named ones"
    assert not any(entry["waits_for"] for entry in prompts.values())
    assert prompts["judged"]["model"] == "the/model"
    assert HOSTILE in prompts["judged"]["turns"][0][1], "the first row of the source, as it is"
    assert "return 1" in prompts["code"]["turns"][-1][1]
    assert prompts["made"]["turns"][0][0] == "", "a text to be continued"


def test_nothing_of_a_row_reaches_the_terminal_or_passes_for_the_page(path: Path) -> None:
    run(Recipe.load(str(path)), path.parent / "store", "few")
    page = call("plan", str(path), "judged", "--show", "--store", str(path.parent / "store"))
    assert page.stdout.startswith("judged (score.judge) asks the/model\n  user:\n")
    assert not {"\x1b", "\u202e", "\r"} & {*page.stdout}
    assert "\\u001b[31mred" in page.stdout
    assert "{{ 7 * 7 }}" in page.stdout
    texts = page.stdout.split("  user:\n")[1].rstrip("\n").split("\n")
    assert all(line.startswith("    ") for line in texts)


def test_a_recipe_that_asks_nobody(tmp_path: Path) -> None:
    load = "{uses: load.records, with: {path: x.jsonl, source: s, license: MIT}}"
    (tmp_path / "r.yaml").write_text(f"name: r\nstages:\n  a: {load}\n")
    (tmp_path / "x.jsonl").write_text('{"prompt": "q", "completion": "a"}')
    done = call("plan", str(tmp_path / "r.yaml"), "--show", "--store", str(tmp_path / "s"))
    assert "no stage of these asks a language model" in done.stdout


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_method_has_a_prompt_for_placeholders(case: Case, tmp_path: Path) -> None:
    stage, options = case.resolved, case.namespace(tmp_path)
    needs = {edge.name: ["rows"] for edge in stage.edges if case.edges.get(edge.name) is not None}
    step = Step("s", stage, options, needs, {}, "r.yaml:1", lambda keys: "r.yaml:1")
    planned = PlannedStep(step, "unknown", options)
    added = {
        name: dtype
        for frame in case.edges.values()
        for name, dtype in frame.schema.items()
        if name not in RECORD_COLUMNS | DOCUMENT_COLUMNS
    }
    prompt = _shown(planned, _Rows(StepOutputs(), {"rows": added}))
    assert not prompt.why
    assert any(text for _, text in prompt.turns)
    if needs and case.method != "profiles":  # invents characters first, whatever the rows are
        assert "which has not run yet" in " ".join(text for _, text in prompt.turns)
