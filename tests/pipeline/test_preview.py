"""`--limit N`: the first rows go through the stages that ask a model, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution.snapshot import Snapshot
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal
from pipeline.recipe.preview import preview
from pipeline.recipe.recipe import Recipe
from pipeline.releases.collect import collect
from pipeline.releases.create import create
from pipeline.store.store import Store
from tests.pipeline.test_flips import answer
from tests.support.cli import call
from tests.support.running import contents, counts, planned_steps, pool, run, states, toys
from tests.support.serving import NAME, FakeServer, listening

RECIPE = """\
name: looked
models: {{m: {{engine: openai, model: {name}, base_url: "http://127.0.0.1:{port}/v1"}}}}
stages:
  a: {{uses: load.records, with: {{path: a.jsonl, source: a, license: MIT}}}}
  b: {{uses: load.records, with: {{path: b.jsonl, source: b, license: MIT}}}}
  all: {{uses: load.concat, needs: [a, b]}}
  unique: {{uses: dedup.exact, needs: all}}
  rated: {{uses: tests.support.asking.rate, needs: unique, with: {{model: m}}}}
  tagged: {{uses: tag.surface, needs: unique}}
  joined: {{uses: load.join, needs: [tagged, rated]}}
  new: {{uses: generate.respond, needs: unique, with: {{models: [m]}}}}
  out: {{uses: export.jsonl, needs: joined}}
  trained: {{uses: tests.support.toys.train, needs: new}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeServer, int]]:
    opened = FakeServer(answer)
    with listening(opened) as port:
        yield opened, port
    close_engines()


@pytest.fixture
def recipe(tmp_path: Path, server: tuple[FakeServer, int]) -> Recipe:
    for source in "ab":
        lines = [{"prompt": f"{source} {i}?", "completion": f"It is {i}."} for i in range(9)]
        (tmp_path / f"{source}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "looked.yaml").write_text(RECIPE.format(name=NAME, port=server[1]))
    return Recipe.load(str(tmp_path / "looked.yaml"))


def sent(server: tuple[FakeServer, int], since: int) -> list[str]:
    return [json.loads(body)["messages"][-1]["content"] for body in server[0].requests[since:]]


def test_only_the_first_rows_are_asked_about_and_the_journal_answers_them_later(
    recipe: Recipe, tmp_path: Path, server: tuple[FakeServer, int]
) -> None:
    store, start = tmp_path / "store", len(server[0].requests)
    limited = preview(recipe, 4)
    assert run(limited, store) is Exit.DONE
    first = sorted(sent(server, start))
    assert first == sorted(["a 0?", "a 1?", "b 0?", "b 1?"] * 2), "the first rows of each source"
    shown = Snapshot.of_recipe(limited, Store(store))
    kept = {name: len(shown.rows(name)) for name in ("unique", "rated", "joined", "new", "out")}
    assert kept == {"unique": 18, "rated": 4, "joined": 4, "new": 4, "out": 4}
    assert "trained" not in states(limited, store), "what makes files alone is left out"
    for name in ("rated", "joined", "new", "out"):
        artifact = shown.stages[name].artifact
        assert artifact is not None
        assert artifact.manifest["parts"]["limit"] == 4

    now = states(recipe, store)
    assert {n for n, state in now.items() if state == "cached"} == {
        "a",
        "b",
        "all",
        "unique",
        "tagged",
    }
    assert Snapshot.of_recipe(recipe, Store(store)).stages["rated"].artifact is None
    before = len(server[0].requests)
    assert run(recipe, store) is Exit.DONE
    assert len(sent(server, before)) == 2 * (18 - 4)
    assert set(states(limited, store).values()) == {"cached"}, "and the preview is as it was"
    fresh = tmp_path / "fresh"
    run(recipe, fresh)
    assert contents(fresh, recipe) == contents(store, recipe)
    assert counts(recipe, store) == counts(recipe, fresh)
    before = len(server[0].requests)
    run(preview(recipe, 9), store)
    assert sent(server, before) == []


def test_a_preview_after_a_run_replaces_nothing(recipe: Recipe, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(recipe, store)
    before = contents(store, recipe)
    run(preview(recipe, 3), store)
    assert contents(store, recipe) == before
    assert set(states(recipe, store).values()) == {"cached"}
    larger = preview(recipe, 5)
    assert states(larger, store)["rated"] == "missing", "each limit has its own"


def test_a_preview_is_never_released(recipe: Recipe, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run(preview(recipe, 3), store.root)
    with pytest.raises(UserError, match="a preview of 3 rows cannot be released"):
        create(preview(recipe, 3), store)
    with pytest.raises(UserError, match="must run before a release"):
        create(recipe, store)


def test_a_limit_beyond_the_rows_changes_no_row(recipe: Recipe, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(preview(recipe, 99), store)
    assert len(Snapshot.of_recipe(preview(recipe, 99), Store(store)).rows("rated")) == 18
    assert states(recipe, store)["rated"] == "missing"


def test_a_stage_that_counts_its_rows_makes_at_most_the_limit() -> None:
    seeds = "data/seeds/self_instruct_seed_tasks.jsonl"
    wired = Recipe.of(
        "sized",
        {
            "seeds": {
                "uses": "load.records",
                "with": {"path": seeds, "source": "s", "license": "Apache-2.0"},
            },
            "made": {
                "uses": "generate.self_instruct",
                "needs": "seeds",
                "with": {"model": "m", "num_rows": 900, "max_requests": 3},
            },
            "read": {"uses": "generate.taxonomy", "with": {"model": "m", "method": "curriculum"}},
        },
        {"m": {"engine": "openai", "model": "x", "base_url": "http://127.0.0.1:9/v1"}},
    )
    limited = preview(wired, 5).steps
    options: Any = limited["made"].options
    assert (options.num_rows, options.max_requests) == (5, 3)
    assert limited["made"].limited_edge is None, "all seeds are shown"
    assert limited["read"].options.method.num_rows == 5
    assert wired.step("made").options.num_rows == 900


def test_the_verbs_look_at_a_preview(recipe: Recipe, tmp_path: Path) -> None:
    path, at = str(tmp_path / "looked.yaml"), ("--store", str(tmp_path / "store"))
    run(recipe, tmp_path / "store", "unique")
    planned = json.loads(call("plan", path, *at, "--limit", "4", "--json").stdout)
    asked = {s["name"]: s["expected"]["requests"] for s in planned["stages"]}
    assert (asked["rated"], asked["new"]) == (4, 4)
    assert planned["total"]["at_most"]["requests"] >= 8
    done = call("run", path, *at, "--limit", "4")
    assert done.code == 0
    assert "a preview of 4 rows, which no release has" in done.stderr
    assert "--limit 4" in done.stderr, "the hint can be pasted"
    shown = json.loads(call("status", path, *at, "--limit", "4", "--json").stdout)
    by_name = {s["name"]: s for s in shown["stages"]}
    assert (by_name["rated"]["state"], by_name["rated"]["kept"]) == ("cached", 4)
    lines = call("cat", path, "rated", *at, "--limit", "4").stdout.splitlines()
    assert len(lines) == 4
    record = json.loads(lines[0])["id"]
    assert "rated" in call("explain", path, record, *at, "--limit", "4").stdout
    assert "4 of 4" in call("sample", path, "rated", "-n", "9", *at, "--limit", "4").stdout
    assert "nothing changed" in call("why", path, "rated", *at, "--limit", "4").stdout
    none = call("cat", path, "rated", *at)
    assert (none.code, "has not run yet" in none.stderr) == (2, True)
    wrong = call("run", path, *at, "--limit", "0")
    assert wrong.code == 2
    assert call("cat", "looked@1.0", "rated", *at, "--limit", "4").code == 2


def test_garbage_collection_takes_previews_that_are_old(recipe: Recipe, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run(recipe, store.root)
    whole = {path.name for path in (store.root / "artifacts").iterdir()}
    run(preview(recipe, 4), store.root)
    collect(store, keep_days=0, delete=True)
    assert {path.name for path in (store.root / "artifacts").iterdir()} == whole
    assert set(states(recipe, store.root).values()) == {"cached"}
    assert states(preview(recipe, 4), store.root)["rated"] in ("missing", "stale")


def test_rows_of_a_preview_are_remembered_where_no_journal_is(tmp_path: Path) -> None:
    """A stage that only scores: its rows are in the row cache, whoever asked for them."""
    pool(tmp_path / "rows.txt", 40)
    (tmp_path / "r.yaml").write_text(
        toys("""\
name: scored
models: {m: {engine: transformers, model: nowhere, id: m1}}
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  judged: {uses: toy.judge, needs: a, with: {model: m}}
""")
    )
    wired, store = Recipe.load(str(tmp_path / "r.yaml")), tmp_path / "store"
    run(preview(wired, 10), store)
    run(wired, store)
    artifact = planned_steps(wired, store)["judged"].artifact
    assert artifact is not None
    assert (artifact.kept, artifact.manifest["computed"]) == (40, 30)
    assert not (store / "journal").exists() or Journal(store / "journal").count() == 0
