"""`run --partial`: what came before the budget was reached is usable, and nothing is lost by it."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Exit, UserError
from pipeline.execution.plan import plan
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.execution.snapshot import Snapshot
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.store.store import Store
from tests.pipeline.test_flips import answer
from tests.support.cli import call
from tests.support.journals import max_answers
from tests.support.running import contents, counts, pool, run, started, states
from tests.support.serving import NAME, FakeServer, HttpMessage, http_response, listening

RECIPE = """\
name: parts
models: {{m: {{engine: openai, model: {name}, base_url: "http://127.0.0.1:{port}/v1"}}}}
stages:
  a: {{uses: tests.support.toys.load, with: {{path: rows.txt}}}}
  rated: {{uses: tests.support.asking.rate, needs: a, with: {{model: m}}}}
  new: {{uses: tests.support.asking.respond, needs: rated, with: {{model: m}}}}
  judged:
    uses: score.judge
    needs: a
    with: {{model: m, method: {{name: rating, aspects: [quality, accuracy]}}}}
  out: {{uses: export.jsonl, needs: judged}}
"""
ROWS = 14


async def mark_or_text(request: HttpMessage) -> bytes:
    """A judge whose first answer cannot always be read, so that it is asked again."""
    messages = json.loads(request.body)["messages"]
    chance = random.Random(str(messages)).random()
    content = "I will not say" if "Rat" in str(messages) and chance < 0.4 else "4"
    body = {
        "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    return http_response("200 OK", json.dumps(body).encode())


@pytest.fixture(scope="module", params=[answer, mark_or_text], ids=["texts", "marks"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[FakeServer, int]]:
    opened = FakeServer(request.param)
    with listening(opened) as port:
        yield opened, port
    close_engines()


@pytest.fixture
def path(tmp_path: Path, server: tuple[FakeServer, int]) -> Path:
    pool(tmp_path / "rows.txt", ROWS)
    (tmp_path / "parts.yaml").write_text(RECIPE.format(name=NAME, port=server[1]))
    return tmp_path / "parts.yaml"


def wired(path: Path, requests: int | None = None) -> Recipe:
    return Recipe.load(str(path), [f"budget.requests={requests}"] if requests is not None else [])


def run_partly(recipe: Recipe, store: Path) -> tuple[Exit, Runner]:
    lines = LineProgress(len(recipe.steps), lambda text: None)
    runner = Runner(recipe, Store(store), lines, partial=True)
    return runner.run(()), runner


@pytest.fixture
def undisturbed(path: Path, tmp_path: Path) -> Path:
    run(wired(path), tmp_path / "undisturbed")
    return tmp_path / "undisturbed"


@pytest.mark.parametrize("requests", [0, 5, 20])
def test_what_came_is_usable_and_the_next_run_asks_the_rest(
    path: Path, tmp_path: Path, undisturbed: Path, requests: int
) -> None:
    store, recipe = tmp_path / "store", wired(path, requests)
    code, runner = run_partly(recipe, store)
    assert code is Exit.BUDGET
    assert list(runner.outputs.artifacts) == list(recipe.steps), "it went on to the end"
    shown = Snapshot.of_recipe(recipe, Store(store))
    rated = shown.rows("rated", "failed")
    assert len(rated) == max(0, ROWS - requests)
    assert all(error.startswith("not_asked: the budget of the run") for error in rated["error"])
    assert len(shown.rows("rated")) == min(ROWS, requests), "what came is usable"
    assert shown.stages["rated"].state == ("cached" if requests >= ROWS else "incomplete")
    for name, (read, created, kept, dropped, failed) in counts(recipe, store).items():
        assert read + created == kept + sum(dropped.values()) + failed, name
    assert "partial" in artifact_parts(shown, "out")
    if requests < ROWS:
        assert "partial" in artifact_parts(shown, "rated")
        assert "partial" in artifact_parts(shown, "new"), "also what is made from it"

    assert run(wired(path), store) in (Exit.DONE, Exit.ROWS_FAILED)
    assert contents(store, recipe) == contents(undisturbed, recipe)
    assert set(states(recipe, store).values()) == {"cached"}
    journals = [Journal(one / "journal") for one in (store, undisturbed)]
    assert max_answers(journals[0]) <= 1, "nothing was paid for twice"
    assert journals[0].count() == journals[1].count()


def artifact_parts(shown: Snapshot, name: str) -> dict[str, Any]:
    artifact = shown.stages[name].artifact
    assert artifact is not None
    return artifact.manifest["parts"]


def test_several_partial_runs_come_to_the_end(
    path: Path, tmp_path: Path, undisturbed: Path
) -> None:
    store, recipe, codes = tmp_path / "store", wired(path, 19), []
    while not codes or codes[-1] is Exit.BUDGET:
        codes.append(run_partly(recipe, store)[0])
        assert len(codes) < 12
    assert len(codes) > 2
    assert contents(store, recipe) == contents(undisturbed, recipe)


def test_a_partial_run_is_never_released(path: Path, tmp_path: Path) -> None:
    store, recipe = Store(tmp_path / "store"), wired(path, 20)
    run_partly(recipe, store.root)
    for one in (recipe, wired(path)):
        with pytest.raises(UserError, match="must run before a release"):
            create(one, store)
    (rated,) = [p for p in plan(wired(path, 3), store) if p.step.name == "judged"]
    assert rated.state == "incomplete"
    assert "were not sent before the budget was reached" in rated.causes[0]


@pytest.mark.proof
def test_a_partial_run_that_is_killed_changes_nothing(
    path: Path, tmp_path: Path, undisturbed: Path, server: tuple[FakeServer, int]
) -> None:
    store = tmp_path / "store"
    words = ["run", str(path), "--store", str(store), "--partial", "--set", "budget.requests=23"]
    for answers in (2, 9, 17):
        before = len(server[0].requests)
        process = started(*words)
        while process.poll() is None and len(server[0].requests) < before + answers:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was killed while it asked"
    run_partly(wired(path, 23), store)
    run(wired(path), store)
    assert contents(store, wired(path)) == contents(undisturbed, wired(path))
    assert max_answers(Journal(store / "journal")) <= 1


def test_the_command_line_says_what_was_not_asked(path: Path, tmp_path: Path) -> None:
    words = (str(path), "--store", str(tmp_path / "store"))
    limit = ("--set", "budget.requests=6")
    whole = call("run", *words, *limit)
    assert (whole.code, "--partial goes on with what came" in whole.stderr) == (5, True)
    done = call("run", *words, *limit, "--partial")
    assert done.code == Exit.BUDGET
    assert "the budget is reached: these requests were not sent (rated: 2" in done.stderr
    assert "the next run asks them" in done.stderr
    failed = call("cat", *words, "rated", "--failed").stdout.splitlines()
    assert len(failed) == 2
    assert all("not_asked" in line for line in failed)
    assert call("release", *words).code == 2


def test_the_limit_of_one_stage_leaves_the_others_whole(path: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    recipe = Recipe.load(str(path), ["stages.rated.budget={requests: 5}"])
    code, runner = run_partly(recipe, store)
    assert (code, runner.not_asked) == (Exit.BUDGET, {"rated": 9})
    parts = {n: a.manifest["parts"].get("partial") for n, a in runner.outputs.artifacts.items()}
    assert parts == {"a": None, "rated": "itself", "new": True, "judged": None, "out": None}


def test_a_partial_step_behind_a_partial_one_goes_on(path: Path, tmp_path: Path) -> None:
    """What came in stays a part of the rows, and all of it is asked in the end."""
    store = tmp_path / "store"
    kept = []
    for own in (1, 99):
        budgets = [f"stages.rated.budget.requests={4 if own == 1 else 0}"]
        budgets += [f"stages.new.budget.requests={own}", "stages.rated.with.tokens=3"]
        code, runner = run_partly(Recipe.load(str(path), budgets), store)
        assert code is Exit.BUDGET
        counted = runner.outputs.artifacts["new"].manifest["counts"]
        kept.append((counted["kept"], counted["failed"]))
    assert kept == [(1, 3), (4, 0)]
