"""Seeded mutations of recipes and of command lines: exit codes as documented, never a traceback.

The whole run in this process; a share of them as commands, which must end in the same way.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import pytest

from pipeline.errors import Exit
from pipeline.models.journal.journal import Journal, JournalEntry
from pipeline.stage import ROOT
from pipeline.store.hashing import encode
from tests.support.cli import Done, call
from tests.support.recipe_mutations import VALUES, mutated_call, mutated_recipe
from tests.support.running import command, pool, toys

TOYS = toys("""\
name: toys
budget: {requests: 100}
models: {m: {engine: transformers, model: nowhere, id: m1}}
profiles:
  tiny: {stages.brief.with.maximum: 3, stages.a.with: {path: rows.txt}}
stages:
  a: {uses: toy.load, with: {path: rows.txt, source: b}}
  sized: {uses: toy.length, needs: a, as: {length: size}}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 20, column: size}}
  kind: {uses: toy.typed, needs: brief, with: {ratio: 0.25, names: [a, b], flag: true}}
  new: {uses: toy.invent, needs: kind, with: {model: m, count: 4}}
  out: {uses: toy.export, needs: [kind]}
""")
SHIPPED = sorted((ROOT / "pipeline" / "recipes").glob("*.yaml"))
SET = (
    "a.with.path", "brief.with.maximum", "kind.with.ratio", "kind.with.names", "kind", "x",
    "new.with.model", "a.uses", "a.needs", "sized.as",
)  # fmt: skip
EXPECTED = {Exit.DONE, Exit.MISTAKE, Exit.DRIFT, Exit.ROWS_FAILED, Exit.BUDGET}
SECONDS = 10.0


def ended_well(done: Done, words: Sequence[str]) -> None:
    assert "Traceback" not in done.stderr, (words, done.stderr[-3000:])
    assert done.code in EXPECTED, words
    assert done.seconds < SECONDS, words
    assert not any(c < " " and c not in "\n\t" for c in done.stdout + done.stderr), words
    if done.code == Exit.MISTAKE:
        assert done.stderr, words


def recipe_calls(folder: Path, seed: int, number: int) -> list[list[str]]:
    """Verbs on mutated recipes, written into the folder."""
    pool(folder / "rows.txt", 12)
    calls = []
    for i in range(number):
        random_state = random.Random(f"{seed} {i}")
        is_toy = random_state.random() < 0.7
        text = TOYS if is_toy else random_state.choice(SHIPPED).read_text()
        path = folder / f"{i}.yaml"
        mutated = mutated_recipe(text, random_state)
        path.write_bytes(mutated.encode("utf-8", "surrogatepass"))
        words = ["plan", str(path), "--store", str(folder / f"store-{i}")]
        if is_toy and random_state.random() < 0.7:
            words = ["run", *words[1:], "--workers", "1"]
        if is_toy and random_state.random() < 0.15:
            words += ["--profile", "tiny"]
        if is_toy and random_state.random() < 0.25:
            value = random_state.choice(VALUES)
            words += ["--set", f"stages.{random_state.choice(SET)}={value}"]
        calls.append(words)
    return calls


def check_recipes(folder: Path, seed: int, number: int) -> Counter[int]:
    codes: Counter[int] = Counter()
    for words in recipe_calls(folder, seed, number):
        done = call(*words)
        ended_well(done, words)
        codes[done.code] += 1
        shutil.rmtree(words[3], ignore_errors=True)
    return codes


def test_mutated_recipes(tmp_path: Path) -> None:
    codes = check_recipes(tmp_path, 0, 40)
    assert codes[Exit.MISTAKE] > 20
    assert codes[Exit.DONE] > 1


@pytest.mark.proof
def test_six_hundred_mutated_recipes(tmp_path: Path) -> None:
    codes = check_recipes(tmp_path, 1, 600)
    assert codes[Exit.MISTAKE] > 300
    assert codes[Exit.DONE] > 30


LONG = """\
name: {name}
models:
  w: {{engine: transformers, model: {model}}}
  e: {{engine: sentence-transformers, model: {model}}}
stages:
  ? {stage}
  : {{uses: {uses}, with: {{path: {path}, source: s, license: l}}}}
  vectors: {{uses: embed.text, needs: {stage}, with: {{embedder: e}}}}
"""
RIGHT = {
    "name": "n", "model": "data/models/tinylm", "stage": "a", "uses": "load.records",
    "path": "data/seeds/self_instruct_seed_tasks.jsonl",
}  # fmt: skip


@pytest.mark.parametrize("value", ["x" * 5000, "/".join(["d"] * 2500), "x" * 300 + ".yaml"])
@pytest.mark.parametrize("key", RIGHT)
def test_names_of_five_thousand_characters(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(LONG.format(**{**RIGHT, key: value}))
    words = ["plan", str(path), "--store", str(tmp_path / "store")]
    done = call(*words)
    ended_well(done, words)
    # A model is not looked for before what it works on is there.
    assert done.code == (Exit.DONE if key == "model" else Exit.MISTAKE)


def test_an_edge_needs_an_input(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("name: x\nstages: {v: {uses: select.random, needs: [], with: {budget: 3}}}\n")
    done = call("plan", str(path), "--store", str(tmp_path / "store"))
    assert done.code == Exit.MISTAKE
    assert "select.random needs an input for 'rows'" in done.stderr


CALLS = (
    "run r.yaml --store s", "run r.yaml brief --store s2 --workers 1",
    "plan r.yaml --store s --json", "plan r.yaml --profile tiny --store s",
    "status r.yaml --store s", "status r.yaml --store s --json", "why r.yaml out --store s",
    "explain r.yaml 0 --store s", "cat r.yaml kind --store s",
    "cat r.yaml brief --dropped --store s", "cat r.yaml sized --failed --store s -o x.jsonl",
    "stages", "stages load.records --json", "journal stats --store s", "journal verify --store s",
    "journal export y.jsonl --store s", "journal import j.jsonl --store s3",
    "journal stats --store s --json", "run r.yaml --set stages.brief.with.maximum=3 --store s",
    "release r.yaml --store s", "releases --store s", "verify toys --store s --json",
    "diff r.yaml --store s", "gc --store s", "sample r.yaml brief --store s -n 2",
    "report r.yaml -o p.html --store s", "refresh r.yaml --store s", "plan r.yaml --show --store s",
    "run r.yaml --limit 2 --store s", "schedule r.yaml --weekly", "stages score.judge --prompts",
)  # fmt: skip
WORDS = (
    "r.yaml", "quickstart", "nope", "run", "plan", "status", "why", "explain", "cat", "stages",
    "release", "diff", "sample", "refresh", "publish", "toys@1.0", "--limit", "--partial", "--to",
    "journal", "stats", "verify", "export", "import", "--store", "--set", "--profile", "tiny",
    "--json", "--dropped", "--failed", "-o", "--workers", "0", "-1", "1", "9" * 21, "x.jsonl",
    "x.parquet", "x.jsonl.gz", "a", "sized", "brief", "out", "--help", "--version", "", "-", "--",
    "-x", "--nope", "plain", "empty", "fifo", "loop", "link", "dangling", "x" * 5000,
    "/".join(["d"] * 2500), "a" * 300, "\udcff", "\x1b[31m", "\u202e", "é", "[", "*", "**", "..",
    ".", "s", "bin.jsonl", "j.jsonl", "stages.a.with.path=rows.txt",
    "stages.brief.with.maximum=9", "a=b", "=", "stages.a.with.source=2024-13-45", "stages.=1",
    "budget.requests=" + "9" * 5000, "--accept-code", "load.records", "score.loss",
    "tests.support.toys.load", "f", "deadbeef", "stages/x", "%s", "{}",
)  # fmt: skip


def prepare(folder: Path) -> None:
    """A recipe that has run, a journal, and paths that are not what they should be."""
    pool(folder / "rows.txt", 12)
    (folder / "r.yaml").write_text(TOYS)
    (folder / "empty").mkdir()
    (folder / "plain").write_text("x\n")
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to("s")
    (folder / "dangling").symlink_to("nowhere/x")
    (folder / "bin.jsonl").write_bytes(bytes(range(256)) * 10)
    assert call("run", str(folder / "r.yaml"), "--store", str(folder / "s")).code == Exit.DONE
    request = encode({"model": {"weights": {"id": "m"}}, "prompt": "x"})
    key = blake2b(request, digest_size=16).hexdigest()
    response = {"text": "x", "finish_reason": "stop", "usage": {}}
    journal = Journal(folder / "s" / "journal")
    journal.put_many([JournalEntry(key, request.decode(), response)])
    journal.close()


def argument_calls(seed: int, number: int) -> list[list[str]]:
    calls = []
    for i in range(number):
        random_state = random.Random(f"{seed} {i}")
        calls.append(mutated_call(random_state.choice(CALLS).split(), WORDS, random_state))
    return calls


def check_arguments(
    folder: Path, seed: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> Counter[int]:
    inside = folder / "a" / "b"  # mutated paths may lead upwards
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    prepare(inside)
    codes: Counter[int] = Counter()
    for words in argument_calls(seed, number):
        done = call(*words)
        ended_well(done, words)
        codes[done.code] += 1
    return codes


def test_mutated_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = check_arguments(tmp_path, 0, 100, monkeypatch)
    assert codes[Exit.MISTAKE] > 50
    assert codes[Exit.DONE] > 5


@pytest.mark.proof
def test_three_hundred_mutated_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = check_arguments(tmp_path, 1, 300, monkeypatch)
    assert codes[Exit.MISTAKE] > 150
    assert codes[Exit.DONE] > 15


def check_commands(folder: Path, number: int) -> None:
    for words in recipe_calls(folder, 2, number):
        inside = call(*words)
        shutil.rmtree(words[3], ignore_errors=True)
        if not any("\0" in word for word in words):
            done = command(*words)
            assert "Traceback" not in done.stderr
            assert done.returncode == inside.code, words


@pytest.mark.proof
def test_as_a_command_it_ends_in_the_same_way(tmp_path: Path) -> None:
    check_commands(tmp_path, 10)


@pytest.mark.proof_long
def test_a_hundred_recipes_as_commands(tmp_path: Path) -> None:
    check_commands(tmp_path, 100)


@pytest.mark.proof_long
def test_a_hundred_command_lines_as_commands(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    prepare(inside)
    for words in argument_calls(2, 100):
        if not any("\0" in word for word in words):
            done = command(*words, folder=inside, PYTHONPATH=str(ROOT))
            assert "Traceback" not in done.stderr, (words, done.stderr)
            assert done.returncode in EXPECTED, words
