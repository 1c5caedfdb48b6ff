"""One flipped bit anywhere in a store: never served in silence, and found by who reads all."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.models.engines.registry import close_engines
from pipeline.recipe.recipe import Recipe
from pipeline.releases.create import create
from pipeline.releases.verify import verify_store
from pipeline.store.store import Store
from tests.support.cli import Done, call
from tests.support.running import pool, toys
from tests.support.serving import NAME, FakeServer, HttpMessage, http_response, listening

RECIPE = """\
name: small
models:
  m: {{engine: openai, model: {name}, base_url: "http://127.0.0.1:{port}/v1"}}
  t: {{engine: transformers, model: "", from: trained}}
stages:
  a:       {{uses: toy.load, with: {{path: rows.txt}}}}
  sized:   {{uses: toy.length, needs: a}}
  brief:   {{uses: toy.at_most, needs: sized, with: {{maximum: 20}}}}
  new:     {{uses: tests.support.asking.respond, needs: brief, with: {{model: m}}}}
  rated:   {{uses: tests.support.asking.rate, needs: new, with: {{model: m}}}}
  trained: {{uses: toy.train, needs: rated}}
  applied: {{uses: toy.apply, needs: rated, with: {{model: t}}}}
  shards:  {{uses: export.parquet, needs: applied}}
  sizes:   {{uses: toy.sizes, needs: shards}}
"""
LESS = ("--set", "stages.brief.with.maximum=15")
"""Reads what is behind `brief` again, and computes what follows."""
Expected = dict[tuple[str, ...], object]
"""By the words of a command: what it gives."""
REFUSED = (2, 3)
ROWS_FAILED = 4


async def answer(request: HttpMessage) -> bytes:
    """An answer that depends on the question: one in the wrong place would show."""
    text = hashlib.sha256(str(json.loads(request.body)["messages"]).encode()).hexdigest()[:12]
    body = {
        "choices": [{"message": {"content": f"about {text}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    return http_response("200 OK", json.dumps(body).encode())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a recipe and a store in which it has run, with every kind of file."""
    folder = tmp_path_factory.mktemp("sound")
    rows = pool(folder / "rows.txt", 30)
    rows.write_text(rows.read_text() + "a line without a tab\n")
    with listening(FakeServer(answer)) as port:
        (folder / "small.yaml").write_text(toys(RECIPE.format(name=NAME, port=port)))
        assert ran(folder, folder / "store").code == ROWS_FAILED
        create(Recipe.load(str(folder / "small.yaml")), Store(folder / "store"))
        # So that the files are cached as unchanged, and everything of the journal is in one file.
        assert ran(folder, folder / "store").code == ROWS_FAILED
        with sqlite3.connect(folder / "store/journal/journal.sqlite") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        yield folder
    close_engines()


def ran(sound: Path, store: Path, *words: str) -> Done:
    return call("run", str(sound / "small.yaml"), "--store", str(store), "--workers", "1", *words)


def shards(sound: Path, store: Path, *words: str) -> dict[str, str]:
    """sha256 of what the recipe gives, by path: the files that a user takes."""
    recipe = Recipe.load(str(sound / "small.yaml"), [w for w in words if w != "--set"])
    hashes = {}
    for name in ("shards", "sizes"):
        latest = Store(store).latest(recipe.name, name)
        assert latest
        for path in sorted(p for p in latest.files.rglob("*") if p.is_file()):
            hashes[f"{name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


@pytest.fixture(scope="module")
def expected(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """What the sound store gives: the shards of both recipes, and what is shown of its rows."""
    store = tmp_path_factory.mktemp("copy") / "store"
    shutil.copytree(sound / "store", store)
    results: Expected = {(): shards(sound, store)}
    for words in SHOWN:
        results[words] = shown(sound, store, *words).stdout
    assert ran(sound, store, *LESS).code == ROWS_FAILED
    results[LESS] = shards(sound, store, *LESS)
    assert results[LESS] != results[()]
    return results


SHOWN = (("cat", "applied"), ("cat", "brief", "--dropped"), ("cat", "a", "--failed"))


def shown(sound: Path, store: Path, verb: str, *words: str) -> Done:
    return call(verb, str(sound / "small.yaml"), *words, "--store", str(store))


def flipped(store: Path, rng: random.Random) -> Path:
    """A file of the store, drawn by name, so that small ones count, with one bit flipped."""
    path = rng.choice(sorted(p for p in store.rglob("*") if p.is_file() and p.stat().st_size))
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return path


def flips(sound: Path, folder: Path, count: int, seed: int) -> Iterator[tuple[Path, Path]]:
    """Copies of the store, each with one bit flipped in a file; the lock holds nothing."""
    rng = random.Random(seed)
    for number in range(count):
        store = folder / str(number)
        shutil.copytree(sound / "store", store)
        (store / "lock").unlink()
        yield store, flipped(store, rng)
        shutil.rmtree(store)


def assert_not_served(sound: Path, store: Path, path: Path, expected: Expected) -> None:
    """Whoever reads the store gives what the sound one gives, or an error for its user."""
    place = path.relative_to(store)
    for words in SHOWN:
        done = shown(sound, store, *words)
        assert "Traceback" not in done.stderr, (place, words, done.stderr)
        assert done.code in REFUSED or done.stdout == expected[words], (place, words)
    if place.parts[0] not in ("artifacts", "releases"):  # what stands behind the artifacts is read
        shutil.rmtree(store / "artifacts")
    changes: tuple[tuple[str, ...], ...] = ((), LESS)
    for words in changes:
        done = ran(sound, store, *words)
        assert "Traceback" not in done.stderr, (place, words, done.stderr)
        if done.code in REFUSED:
            assert "error: " in done.stderr, (place, words, done.stderr)
        else:
            assert done.code == ROWS_FAILED, (place, words, done.stderr)
            assert shards(sound, store, *words) == expected[words], (place, words)


def assert_seen(store: Path, path: Path) -> None:
    """Who reads the whole store names the file, and `verify` where it is one of the release."""
    place = path.relative_to(store)
    damages = [str(damage) for part in verify_store(Store(store)) for damage in part.damages]
    if place.parts[0] not in ("journal", "refs", "code"):  # they have parts that say nothing
        assert any(str(path) in damage for damage in damages), (place, damages)
    if place.parts[0] in ("artifacts", "releases"):
        done = call("verify", "small@1.0", "--store", str(store))
        assert done.code == 2, place
        assert str(path) in done.stdout + done.stderr, (place, done)


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        (5, 0),
        pytest.param(120, 1, marks=pytest.mark.proof),
        pytest.param(320, 2, marks=pytest.mark.proof_long),
    ],
)
def test_no_flipped_bit_is_served(
    sound: Path,
    tmp_path: Path,
    expected: dict[tuple[str, ...], object],
    count: int,
    seed: int,
) -> None:
    for store, path in flips(sound, tmp_path, count, seed):
        assert_seen(store, path)
        assert_not_served(sound, store, path, expected)


def test_a_sound_store_is_sound(sound: Path) -> None:
    done = call("verify", "small@1.0", "--store", str(sound / "store"))
    assert (done.code, done.stderr) == (0, "")
    assert "9 artifacts" in done.stdout
    assert "every byte is as it was written" in done.stdout
    deep = call("doctor", "--deep", "--store", str(sound / "store"))
    for part in ("9 artifacts", "1 release", "answers in the journal", "chunks of cached rows"):
        assert f"{part} (" in deep.stdout, deep.stdout
