"""Recipes whose models ask in a provider's batches: exit code 6, what waits, and refreshes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import Exit
from pipeline.models.engines import batches
from pipeline.models.engines.registry import close_engines
from pipeline.releases.refresh_log import read_log
from pipeline.store.releases import versions
from pipeline.store.store import Store
from tests.support.cli import Done, call
from tests.support.running import pool
from tests.support.servers.batches import BatchBehaviour, BatchServer, batching
from tests.support.teacher import teacher

RECIPE = """\
name: batched
models:
  m:
    {{engine: openai, model: plain, base_url: "http://127.0.0.1:{port}/v1", batch: {{wait: false}}}}
prices: {{m: {{prompt: 3, completion: 15}}}}
stages:
  a: {{uses: tests.support.toys.load, with: {{path: rows.txt}}}}
  rated: {{uses: tests.support.asking.rate, needs: a, with: {{model: m}}}}
  other: {{uses: tests.support.asking.respond, needs: a, with: {{model: m, tokens: 9}}}}
  judged:
    uses: tests.support.asking.rate
    needs: rated
    as: {{words: more}}
    with: {{model: m, tokens: 5}}
  out: {{uses: export.jsonl, needs: judged}}
"""
ROWS = 7


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FIRST_POLL", 0.002)


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with batching(teacher, BatchBehaviour(questions=2)) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path, server: BatchServer) -> Path:
    pool(tmp_path / "rows.txt", ROWS)
    (tmp_path / "batched.yaml").write_text(RECIPE.format(port=server.port))
    return tmp_path / "batched.yaml"


def verb(path: Path, name: str, *words: str) -> Done:
    close_engines()
    store = path.parent / "store"
    return call(name, str(path), "--store", str(store), *words)


def rows(path: Path, store: str) -> bytes:
    files = sorted((path.parent / store).glob("**/files/**/*.jsonl*"))
    assert files
    return b"".join(file.read_bytes() for file in files)


def test_a_run_that_waits_ends_with_6_and_the_next_ones_go_on(
    path: Path, server: BatchServer
) -> None:
    first = verb(path, "run")
    assert first.code == Exit.WAITING, first.stderr
    assert "Traceback" not in first.stderr
    assert server.submissions == 2, "stages that do not need one another submit together"
    assert "rated: waiting for batch batch_0" in first.stderr
    assert "other: waiting for batch batch_1" in first.stderr
    assert f"0 of {ROWS} answered, submitted" in first.stderr
    assert f"run {path}" in first.stderr
    shown = [line.split() for line in first.stdout.splitlines()]
    assert [words[-1] for words in shown if words and words[0] == "rated"] == ["waiting"]

    status = verb(path, "status")
    assert f"rated waits for batch batch_0: 0 of {ROWS} answered" in status.stdout
    entries = {s["name"]: s for s in json.loads(verb(path, "status", "--json").stdout)["stages"]}
    assert [one["batch"] for one in entries["rated"]["waiting"]] == ["batch_0"]
    assert entries["judged"]["waiting"] == []
    plan = " ".join(verb(path, "plan").stdout.split())
    assert "waits for batch batch_0" in plan
    listed = call("journal", "batches", "--store", str(path.parent / "store"))
    assert "other: batch batch_1" in listed.stdout
    assert "2 under way" in listed.stdout

    second = verb(path, "run")
    assert second.code == Exit.WAITING
    assert "judged: waiting for batch batch_2" in second.stderr
    assert "requests of other" in second.stderr
    assert verb(path, "run").code == Exit.WAITING, "it is not answered yet"
    last = verb(path, "run")
    assert last.code == Exit.DONE, last.stderr
    assert server.submissions == 3
    assert set(server.billed.values()) == {1}
    paid = json.loads(verb(path, "status", "--json").stdout)["costs"]
    assert sum(cost["money"] for cost in paid) == pytest.approx(server.money, rel=0.01)
    assert all(cost["in_flight"] is None for cost in paid)

    single = call("run", str(path), "--store", str(path.parent / "single"),
                  "--set", "models.m.batch=false")  # fmt: skip
    assert single.code == Exit.DONE, single.stderr
    assert rows(path, "single") == rows(path, "store")


def test_a_preview_asks_one_by_one(path: Path, server: BatchServer) -> None:
    done = verb(path, "run", "--limit", "2")
    assert done.code == Exit.DONE, done.stderr
    assert server.submissions == 0
    assert server.single_bill.money
    verb(path, "run")
    assert len(server.batches["batch_0"].requests) == ROWS - 2, "the journal has the others"


def test_a_plan_has_the_prices_of_batches(path: Path) -> None:
    assert verb(path, "run", "a").code == Exit.DONE
    batch, single = (
        json.loads(verb(path, "plan", "--json", *words).stdout)["total"]["expected"]["money"]
        for words in ((), ("--set", "models.m.batch=false"))
    )
    assert batch == pytest.approx(single / 2)


def test_a_batch_that_is_given_up_is_asked_again(path: Path, server: BatchServer) -> None:
    verb(path, "run", "rated")
    store = str(path.parent / "store")
    wrong = call("journal", "batches", "--forget", "batch_9", "--store", store)
    assert wrong.code == Exit.MISTAKE
    assert "(batch_0)" in wrong.stderr
    forgotten = call("journal", "batches", "--forget", "batch_0", "--store", store)
    assert "batch batch_0 is given up" in forgotten.stdout
    assert verb(path, "run", "rated").code == Exit.WAITING
    assert server.submissions == 2


def test_a_refresh_that_waits_releases_nothing_yet(path: Path, server: BatchServer) -> None:
    store = Store(path.parent / "store")
    for _ in range(3):
        done = verb(path, "refresh", "--workers", "1")
        assert done.code == Exit.WAITING, done.stdout + done.stderr
        assert "waiting for batches: nothing was released yet" in done.stdout
        assert "exit code 6" in done.stdout
        assert len(done.stdout.splitlines()) <= 10
        assert read_log(store)[-1]["code"] == Exit.WAITING
        assert versions(store, "batched") == []
    done = verb(path, "refresh", "--workers", "1")
    assert (done.code, "released" in done.stdout) == (Exit.DONE, True), done.stdout
    assert versions(store, "batched") == ["1.0"]
    assert set(server.billed.values()) == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{poll: 0s}", "batch.poll must be above 0"),
        ("{wait: soon}", 'must be a duration such as "90s"'),
        ("{max_requests: 0}", "must be at least 1, got 0"),
        ("{every: day}", "batch has no option 'every'"),
    ],
)
def test_options_that_are_wrong(path: Path, options: str, message: str) -> None:
    path.write_text(path.read_text().replace("{wait: false}", options))
    done = verb(path, "run")
    assert done.code == Exit.MISTAKE
    assert message in done.stderr, done.stderr


def test_only_a_provider_has_batches(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("engine: openai", "engine: openai, api: {provider: gemini}"))
    assert "batch must be left out for gemini" in verb(path, "run").stderr
    path.write_text(text.replace("engine: openai", "engine: openai, api: {stream: true}"))
    assert "a batch does not stream" in verb(path, "run").stderr
