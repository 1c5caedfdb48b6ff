"""Requests that fail for good, keys, and replays, through whole runs of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from pipeline.context import Context
from pipeline.errors import Exit, RecipeErrors, UserError
from pipeline.execution.actual_usage import comparison
from pipeline.execution.backends import StageCall
from pipeline.execution.progress import LineProgress
from pipeline.execution.runner import Runner
from pipeline.execution.workers import WorkerPool
from pipeline.models import LanguageModel
from pipeline.models.engines.registry import close_engines
from pipeline.models.journal.journal import Journal
from pipeline.recipe.discovery import find
from pipeline.recipe.recipe import Recipe
from pipeline.store.store import Store
from tests.support.running import artifact, called, command, contents, counts, pool, run
from tests.support.serving import NAME, FakeServer, listening

ROWS = 10
SECRET = "sk-a-key-that-nobody-may-see-42"
TEXT = """\
name: failing
models:
  m: {{engine: {engine}, model: {name}, base_url: "http://127.0.0.1:{port}/v1", {more}}}
stages:
  a: {{uses: tests.support.toys.load, with: {{path: rows.txt}}}}
  new: {{uses: tests.support.asking.respond, needs: a, with: {{model: m}}}}
  rated: {{uses: tests.support.asking.rate, needs: a, with: {{model: m, tokens: 3}}}}
"""


@pytest.fixture
def server() -> Iterator[tuple[FakeServer, int]]:
    tiny = FakeServer(key=SECRET)
    with listening(tiny) as port:
        yield tiny, port
        close_engines()


def recipe(folder: Path, port: int, engine: str = "openai", more: str = "") -> Recipe:
    pool(folder / "rows.txt", ROWS)
    path = folder / f"{engine}.yaml"
    path.write_text(TEXT.format(engine=engine, name=NAME, port=port, more=more))
    return Recipe.load(str(path))


def test_failed_rows_are_reported_and_retried(
    tmp_path: Path, server: tuple[FakeServer, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 4, the other rows go on, the next run asks only what failed, a replay agrees."""
    tiny, port = server
    monkeypatch.setenv("TINY_KEY", SECRET)
    key = "api_key_env: TINY_KEY"
    wired, store = recipe(tmp_path, port, more=key), tmp_path / "store"
    tiny.refuse = ("question 3", "question 7")
    assert run(wired, store) is Exit.ROWS_FAILED
    by_step = counts(wired, store)
    assert by_step["new"] == (0, ROWS, ROWS - 2, {}, 2)
    assert by_step["rated"] == (ROWS, 0, ROWS - 2, {}, 2)
    reasons = artifact(wired, store, "rated").read("failed")["error"].to_list()
    assert all("the server answered 400: refused" in reason for reason in reasons)
    tiny.refuse = ()
    before = tiny.answered.total()
    again = Runner(wired, Store(store), LineProgress(3, lambda text: None))
    assert again.run() is Exit.DONE
    assert tiny.answered.total() - before == 4
    compared = comparison(again.expected, again.used)
    assert len(compared) == 2
    assert all("2 requests (estimate +0%)" in line for line in compared), "of what is tried again"
    assert counts(wired, store)["rated"] == (ROWS, 0, ROWS, {}, 0)
    free = tmp_path / "free"
    run(wired, free)
    assert contents(store, wired) == contents(free, wired)

    other = tmp_path / "other"
    for call in (("export", store), ("import", other)):
        file = str(tmp_path / "journal.jsonl")
        assert called("journal", call[0], file, "--store", str(call[1])).returncode == Exit.DONE
    sent = tiny.answered.total()
    replayed = recipe(tmp_path, port, engine="replay")
    assert run(replayed, other) is Exit.DONE
    assert contents(other, replayed) == contents(store, wired)
    assert tiny.answered.total() == sent


def test_no_key_in_any_file_or_output(tmp_path: Path, server: tuple[FakeServer, int]) -> None:
    """The server repeats the key in its errors, as some do."""
    tiny, port = server
    tiny.refuse = ("question 3",)
    recipe(tmp_path, port, more="api_key_env: TINY_KEY")
    call = (str(tmp_path / "openai.yaml"), "--store", str(tmp_path / "store"))
    outputs = [command("run", *call, TINY_KEY=key) for key in (SECRET, "sk-wrong-" + SECRET)]
    assert [done.returncode for done in outputs] == [Exit.ROWS_FAILED, Exit.MISTAKE]
    outputs += [called(verb, *call) for verb in ("run", "plan", "status")]
    outputs += [called("cat", call[0], "new", "--failed", *call[1:])]
    outputs += [called("journal", "stats", "--json", *call[1:])]
    assert "TINY_KEY is not set" in outputs[2].stderr
    assert "[key]" in outputs[5].stdout, "the error is shown, without the key"
    assert Journal(tmp_path / "store/journal").count() == 2 * (ROWS - 1)
    shown = "".join(done.stdout + done.stderr for done in outputs)
    held = b"".join(p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file())
    assert SECRET not in shown
    assert SECRET.encode() not in held


def test_a_missing_key_is_told_before_anything_is_paid(
    tmp_path: Path, server: tuple[FakeServer, int], caplog: pytest.LogCaptureFixture
) -> None:
    """It is no mistake yet: the journal may answer everything."""
    _, port = server
    recipe(tmp_path, port, more="api_key_env: TINY_KEY, api: {headers: {X-Tenant: TINY_TENANT}}")
    call = (str(tmp_path / "openai.yaml"), "--store", str(tmp_path / "store"))
    done = called("plan", *call)
    assert done.returncode == Exit.DONE
    for variable in ("TINY_KEY", "TINY_TENANT"):
        note = f"the environment variable {variable} is not set: requests of new, rated that the"
        assert note in done.stderr
    set_now = called("plan", *call, TINY_KEY=SECRET, TINY_TENANT="a tenant of ours")
    assert "is not set" not in set_now.stderr
    with pytest.raises(UserError):
        run(Recipe.load(call[0]), tmp_path / "store")
    assert "TINY_KEY is not set" in caplog.records[0].getMessage()


def test_a_key_itself_is_no_name_of_a_variable(tmp_path: Path) -> None:
    pool(tmp_path / "rows.txt", 2)
    text = TEXT.format(engine="openai", name=NAME, port=9, more=f"api_key_env: {SECRET}")
    (tmp_path / "openai.yaml").write_text(text)
    done = called("plan", str(tmp_path / "openai.yaml"), "--store", str(tmp_path / "store"))
    assert done.returncode == Exit.MISTAKE
    assert "NAME of an environment variable" in done.stderr
    assert SECRET not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"engine": "openai", "model": "m"}, "got neither"),
        (
            {"engine": "openai", "model": "m", "base_url": "http://h", "serve": True},
            "got base_url and serve",
        ),
        ({"engine": "vllm", "model": "m", "serve": True}, "engine vllm, got serve: true"),
        ({"model": "m", "engine_options": {"quantization": "fp8"}}, "must be empty"),
        ({"engine": "openai", "model": "m", "base_url": "http://h", "api_key": "x"}, "api_key"),
        ({"engine": "openai", "model": "m", "base_url": "http://u:p@h"}, "from the environment"),
        ({"engine": "openai", "model": "m", "base_url": "http://h?key=p"}, "from the environment"),
        ({"engine": "vllm", "model": "m", "engine_options": {"hf_token": "p"}}, "HF_TOKEN"),
        ({"engine": "openai", "model": "m", "base_url": "h", "limits": {"tries": 3}}, "tries"),
        ({"engine": "vllm", "model": "m", "limits": {"timeout": 0.0}}, "must be above 0, got 0.0"),
        (
            {"engine": "openai", "model": "m", "base_url": "http://h", "chat_template": "x.jinja"},
            "needs a tokenizer",
        ),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_runs(
    tmp_path: Path, model: dict[str, object], message: str
) -> None:
    pool(tmp_path / "rows.txt", 2)
    stages = {
        "a": {"uses": "tests.support.toys.load", "with": {"path": str(tmp_path / "rows.txt")}}
    }
    with pytest.raises(RecipeErrors, match=message):
        Recipe.of("wrong", stages, {"m": model})


def test_a_served_model_gets_all_rows_at_once() -> None:
    """Chunks are for what is durable only when a chunk is done."""
    rows = pl.DataFrame({"id": [str(i) for i in range(500)]})
    for engine, chunks in (("replay", 1), ("transformers", 2)):
        seen: list[int] = []
        stage = replace(
            find("tests.support.asking.rate"),
            function=lambda ctx, rows, seen=seen, **_: seen.append(len(rows)),
        )
        options = SimpleNamespace(model=LanguageModel("m", engine), tokens=1)  # type: ignore[arg-type]
        call = StageCall(stage, options, {}, Path())
        list(WorkerPool().run(call, [rows], len(rows), Context(Path(), Path(), Path())))
        assert sum(seen) == 500
        assert min(len(seen), 2) == chunks
