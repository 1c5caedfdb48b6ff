"""The shipped recipe as it is wired, on fewer rows: accounting, kills, order, the journal.

Everything is real: the language model writes, the trainer trains. Only the numbers
are small (`SMALL`), so that the whole way of a row takes less than a minute.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import Exit
from pipeline.execution.snapshot import Snapshot
from pipeline.models.journal.journal import Journal, journal_in
from pipeline.recipe.recipe import Recipe
from pipeline.stage import ROOT
from pipeline.store.parquet import read_frame
from pipeline.store.store import Store
from tests.support.journals import max_answers
from tests.support.running import command, run, started, timed

SMALL = {
    "invented.with.num_rows": 6,
    "invented.with.max_requests": 8,
    "invented.with.requests_per_round": 4,
    "invented.with.method.max_tokens": 64,
    "invented.with.method.instances.max_tokens": 40,
    "reversed.with.method.max_passages": 8,
    "reversed.with.method.passage_characters": [200, 300],
    "reversed.with.max_tokens": 40,
    "sample.with.budget": 24,
    "chosen.with.budget": 12,
    "trained.with.max_steps": 2,
    "trained.with.max_length": 128,
    "verdict.with.num_seeds": 2,
    "verdict.with.num_tokens": 256,
    "verdict.with.max_length": 128,
    "verdict.with.gradient_accumulation_steps": 1,
}
WRITING = ("invented", "reversed")
KNOWN_BY = {"near_duplicate": "twin", "too_similar": "twin", "contaminated": "id"}
"""Reasons for which another row or item is to blame, and where evidence names it."""


@pytest.fixture(scope="session")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments that make the quickstart small; its held-out set has 8 rows."""
    heldout = tmp_path_factory.mktemp("heldout") / "heldout.jsonl"
    lines = (ROOT / "data/samples/user_oriented_252.jsonl").read_text("utf-8").splitlines()
    heldout.write_text("\n".join(lines[:8]) + "\n", "utf-8")
    settings = {**SMALL, "heldout.with.path": heldout}
    return [f"stages.{path}={value}" for path, value in settings.items()]


def arguments(overrides: Sequence[str], store: Path, *targets: str) -> list[str]:
    sets = [word for override in overrides for word in ("--set", override)]
    return ["quickstart", *targets, "--store", str(store), *sets]


@pytest.fixture(scope="session")
def undisturbed(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one run from beginning to end."""
    store = tmp_path_factory.mktemp("undisturbed")
    done = command("run", *arguments(overrides, store), timeout=400)
    assert done.returncode == 0, done.stderr
    assert "Did choosing help?" in done.stdout
    return store


def status(overrides: list[str], store: Path) -> dict[str, Any]:
    done = command("status", *arguments(overrides, store), "--json")
    assert done.returncode == 0, done.stderr
    return {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}


@pytest.mark.proof
def test_it_ends_with_a_report_page(
    overrides: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    done = command("report", *arguments(overrides, undisturbed), "-o", str(page))
    assert done.returncode == 0, done.stderr
    html = page.read_text("utf-8")
    shown = [int(n) for n in re.findall(r'data-field="kept" data-value="(\d+)"', html)]
    assert shown == [stage["kept"] for stage in status(overrides, undisturbed).values()]
    assert re.search("(Better than|Worse than|Indistinguishable from) random", html)
    assert 'id="map"' in html


def shards(overrides: list[str], store: Path) -> dict[str, str]:
    """sha256 of every file that `export.parquet` made."""
    built = Snapshot.of_recipe(Recipe.load("quickstart", overrides), Store(store))
    files = built.artifacts["shards"].manifest["files"]
    return {n: f["sha256"] for n, f in files.items() if n.startswith("files/")}


@pytest.mark.proof
def test_every_row_is_accounted_for(overrides: list[str], undisturbed: Path) -> None:
    stages = status(overrides, undisturbed)
    for stage in stages.values():
        dropped = sum(stage["dropped"].values())
        ended = stage["kept"] + dropped + stage["failed"]
        assert stage["rows_in"] + stage["created"] == ended, stage["name"]
        assert stage["state"] == "cached"
    assert stages["invented"]["created"] > 0
    assert stages["reversed"]["kept"] > 0


@pytest.mark.proof
def test_every_dropped_row_has_a_reason_and_names_its_cause(
    overrides: list[str], undisturbed: Path
) -> None:
    recipe, store = Recipe.load("quickstart", overrides), Store(undisturbed)
    built = Snapshot.of_recipe(recipe, store)
    seen = set()
    views = {name: stage.view for name, stage in built.stages.items() if stage.view}
    for name, view in views.items():
        gone = built.rows(name, "dropped")
        if not len(gone):
            continue
        assert gone["drop_reason"].null_count() == 0
        seen |= set(gone["drop_reason"])
        inputs = [views[s] for names in recipe.steps[name].needs.values() for s in names]
        ids = {i for v in inputs for i in v.read(["id"])["id"]} | set(view.read(["id"])["id"])
        for reason, key in KNOWN_BY.items():
            blamed = gone.filter(pl.col("drop_reason") == reason)["evidence"]
            assert all(json.loads(evidence)[key] in ids for evidence in blamed)
    assert {"not_selected", "too_similar", "no_answer"} & seen


@pytest.mark.proof
def test_a_second_run_has_nothing_to_do(overrides: list[str], undisturbed: Path) -> None:
    done, seconds = timed("run", *arguments(overrides, undisturbed))
    assert done.returncode == 0
    assert done.stderr == ""
    assert seconds < 5


@pytest.mark.proof
def test_created_rows_name_answers_of_the_journal(overrides: list[str], undisturbed: Path) -> None:
    built = Snapshot.of_recipe(Recipe.load("quickstart", overrides), Store(undisturbed))
    journal = Journal(undisturbed / "journal")
    for name in WRITING:
        keys = [key for row in built.rows(name)["journal"] for key in row]
        assert keys
        assert set(journal.get_many(keys)) == set(keys)
    assert max_answers(journal) == 1


@pytest.mark.proof
def test_the_shards_load_and_hold_what_was_chosen(overrides: list[str], undisturbed: Path) -> None:
    import datasets

    recipe, store = Recipe.load("quickstart", overrides), Store(undisturbed)
    built = Snapshot.of_recipe(recipe, store)
    folder = built.artifacts["shards"].files
    loaded = datasets.load_dataset(str(folder), cache_dir=str(undisturbed / "hf"))["train"]
    assert loaded.column_names[0] == "messages"
    kept = built.rows("shards")
    assert loaded["id"] == kept["id"].to_list()
    plain = [
        [{name: turn[name] for name in ("role", "content")} for turn in messages]
        for messages in kept["messages"].to_list()
    ]
    assert loaded["messages"] == plain


def killed(overrides: list[str], store: Path, during: str, moment: float | None) -> str:
    """Start a run and kill it `moment` seconds into a stage; the stage that was running then.

    None: as soon as it has made another answer durable. If the stage is done already, it is
    the first one behind it that is killed.
    """
    names = list(Recipe.load("quickstart").steps)
    process = started("run", *arguments(overrides, store))
    assert process.stderr is not None
    running = ""
    for line in process.stderr:
        running = _begun(line) or running
        if running and names.index(running) >= names.index(during):
            break
    before = durable(store)
    while moment is None and durable(store) == before and process.poll() is None:
        time.sleep(0.02)
    time.sleep(moment or 0)
    process.send_signal(signal.SIGKILL)
    last = ""
    for line in process.stderr:
        running, last = _begun(line) or running, last + line
    assert process.wait(30) == -signal.SIGKILL, f"the run had ended before: {last[-500:]}"
    return running


def durable(store: Path) -> int:
    """How many answers are in the journal."""
    journal = journal_in(store)
    return journal.count() if journal else 0


def _begun(line: str) -> str | None:
    """The stage whose beginning a line of the log tells."""
    begun = re.fullmatch(r"\[ *\d+/\d+\] (\w+) \([\w., -]+\)\n", line)
    return begun[1] if begun else None


def resumed_equals(
    overrides: list[str],
    undisturbed: Path,
    store: Path,
    kills: Sequence[tuple[str, float | None]],
    *targets: str,
) -> list[str]:
    """Kill and resume, then run to the end and compare; the stages in which it was killed.

    targets: where the last run ends, if not with the recipe.
    """
    hit = [killed(overrides, store, during, moment) for during, moment in kills]
    done = command("run", *arguments(overrides, store, *targets), timeout=400)
    assert done.returncode == 0, done.stderr
    assert shards(overrides, store) == shards(overrides, undisturbed)
    most = max_answers(Journal(store / "journal"))
    assert most == 1, "a request with a durable answer was sent again"
    assert durable(store) == durable(undisturbed)
    return hit


@pytest.mark.proof
def test_a_kill_amid_answers_changes_nothing(
    overrides: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Moments of all other stages are those of `test_twenty_kills`."""
    hit = resumed_equals(overrides, undisturbed, tmp_path, [("invented", None)], "shards")
    assert set(hit) <= set(WRITING)


@pytest.mark.proof
def test_twenty_kills_change_nothing(
    overrides: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    chance = random.Random(1)
    stages = ["gpt3", *["invented"] * 5, *["reversed"] * 4, "unique", "clean", *["scored"] * 3]
    stages += ["vectors", "trained", "trained", "verdict", "verdict"]
    # Late stages are short once what came before a kill is remembered.
    late = ("trained", "verdict")
    kills = [(stage, chance.uniform(0, 0.8 if stage in late else 3)) for stage in stages]
    hit = resumed_equals(overrides, undisturbed, tmp_path, kills)
    assert len(hit) == 20
    assert sum(stage in WRITING for stage in hit) >= 5


CURATE = {
    "pool": {"uses": "load.records", "with": {"source": "pool", "license": "Apache-2.0"}},
    "unique": {"uses": "dedup.minhash", "needs": "pool"},
    "novel": {"uses": "dedup.novelty", "needs": "unique"},
    "tagged": {"uses": "tag.surface", "needs": "novel"},
    "vectors": {"uses": "embed.text", "needs": "tagged", "with": {"embedder": "potion"}},
    "chosen": {"uses": "select.clusters", "needs": "vectors", "with": {"budget": 80}},
    "shards": {"uses": "export.parquet", "needs": "chosen"},
}
MODELS = {"potion": {"engine": "sentence-transformers", "model": "data/models/potion-base-4m"}}


def curated(
    folder: Path, pool: Path, workers: int = 1, rows_per_shard: int = 50_000
) -> tuple[dict[str, str], pl.DataFrame]:
    """Digests and rows of the shards that a curation without a language model gives."""
    stages = json.loads(json.dumps(CURATE))
    stages["pool"]["with"]["path"] = str(pool)
    stages["shards"]["with"] = {"rows_per_shard": rows_per_shard}
    folder.mkdir(exist_ok=True)
    recipe = folder / "curate.yaml"
    recipe.write_text(json.dumps({"name": "curate", "models": MODELS, "stages": stages}))
    wired, store = Recipe.load(str(recipe)), folder / "store"
    assert run(wired, store, workers=workers) == Exit.DONE
    built = Snapshot.of_recipe(wired, Store(store))
    files = built.artifacts["shards"].manifest["files"]
    paths = sorted((built.artifacts["shards"].files / "data").glob("*.parquet"))
    digests = {n: f["sha256"] for n, f in files.items() if n.startswith("files/")}
    return digests, read_frame(paths)


def test_workers_order_and_shard_size_do_not_matter(tmp_path: Path) -> None:
    source = ROOT / "data/samples/selfbehave.jsonl.gz"
    lines = gzip.decompress(source.read_bytes()).splitlines()[:200]
    plain, shuffled = tmp_path / "plain.jsonl", tmp_path / "shuffled.jsonl"
    plain.write_bytes(b"\n".join(lines) + b"\n")
    random.Random(3).shuffle(lines)
    shuffled.write_bytes(b"\n".join(lines) + b"\n")
    digests, kept = curated(tmp_path / "plain", plain)
    assert len(kept) > 70
    assert curated(tmp_path / "workers", plain, workers=2)[0] == digests
    assert curated(tmp_path / "shuffled", shuffled)[0] == digests
    assert curated(tmp_path / "shards", plain, rows_per_shard=30)[1].equals(kept)
