"""Damaged files of a store: named with what is wrong and what to do, never served, no traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.models.journal.journal import Journal, JournalEntry
from pipeline.recipe.recipe import Recipe
from pipeline.store.hashing import encode
from pipeline.store.row_cache import KEY, RowCache
from tests.support.cli import Done, call
from tests.support.running import contents, pool, run, toys

SMALL = """\
name: small
stages:
  a: {uses: toy.load, with: {path: rows.txt}}
  sized: {uses: toy.length, needs: a}
  brief: {uses: toy.at_most, needs: sized, with: {maximum: 20}}
  out: {uses: toy.export, needs: brief}
"""
VERBS = (
    ("plan",), ("status", "--json"), ("why", "out"), ("explain", "0"), ("cat", "brief"),
    ("cat", "brief", "--dropped"), ("run", "--workers", "1"),
)  # fmt: skip
STRANGE: tuple[Any, ...] = (None, True, -1, 3, 1e300, "", "x", [], [1], {}, {"a": None}, 2**70)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, and a store in which it has run and which has a journal."""
    folder = tmp_path_factory.mktemp("sound")
    pool(folder / "rows.txt", 40)
    (folder / "small.yaml").write_text(toys(SMALL))
    run(Recipe.load(str(folder / "small.yaml")), folder / "store")
    fill(Journal(folder / "store" / "journal"), 30)
    return folder


def fill(journal: Journal, count: int) -> None:
    entries = []
    for i in range(count):
        request = encode({"model": {"weights": {"id": "m"}}, "prompt": f"question {i}" * 40})
        key = blake2b(request, digest_size=16).hexdigest()
        response = {"text": f"answer {i}" * 40, "finish_reason": "stop", "usage": {}}
        entries.append(JournalEntry(key, request.decode(), response))
    journal.put_many(entries)
    journal.close()


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound / "store", tmp_path / "store")
    return tmp_path / "store"


def refused_or_done(done: Done) -> None:
    assert "Traceback" not in done.stderr, done.stderr
    assert done.code in (0, 2, 3), done.stderr
    if done.code == 2:
        assert "error: " in done.stderr


def every_verb(sound: Path, store: Path) -> list[Done]:
    """All verbs on the recipe; each ends well or with an error for its user."""
    results = []
    for verb, *words in VERBS:
        done = call(verb, str(sound / "small.yaml"), *words, "--store", str(store))
        refused_or_done(done)
        results.append(done)
    return results


def replaced(value: Any, random_state: random.Random) -> Any:
    """A JSON value with one part replaced, removed or renamed."""
    if not isinstance(value, dict | list) or not value or random_state.random() < 0.15:
        return random_state.choice(STRANGE)
    if isinstance(value, list):
        i = random_state.randrange(len(value))
        return [*value[:i], replaced(value[i], random_state), *value[i + 1 :]]
    key = random_state.choice(list(value))
    action = random_state.random()
    if action < 0.25:
        return {k: v for k, v in value.items() if k != key}
    if action < 0.35:
        return {k[1:] if k == key else k: v for k, v in value.items()}
    return {**value, key: replaced(value[key], random_state)}


def changed_bytes(content: bytes, random_state: random.Random) -> bytes:
    """A file cut, emptied, or with bits flipped or a block of zeros, as disks and copies do."""
    i = random_state.randrange(len(content))
    flipped = bytes([content[i] ^ (1 << random_state.randrange(8))])
    return random_state.choice(
        (
            content[:i],
            b"",
            content[:i] + flipped + content[i + 1 :],
            content[:i] + flipped + content[i + 1 :],
            content[:i] + bytes(len(content[i : i + 512])) + content[i + 512 :],
            content + content[:i],
        )
    )


@pytest.mark.parametrize("count", [6, pytest.param(24, marks=pytest.mark.proof)])
def test_damaged_json_of_a_store(sound: Path, store: Path, count: int) -> None:
    """Whatever is changed in a manifest or an index: a word, then the same artifacts again."""
    wired = Recipe.load(str(sound / "small.yaml"))
    before = contents(store, wired)
    random_state = random.Random(0)
    files = sorted(path for path in store.rglob("*") if path.suffix == ".json")
    files += sorted((store / "code").iterdir())
    for number in range(count):
        path = random_state.choice(files)
        content = path.read_bytes()
        if number % 2:
            path.write_bytes(changed_bytes(content, random_state))
        else:
            path.write_text(json.dumps(replaced(json.loads(content), random_state)))
        results = every_verb(sound, store)
        if results[-1].code:  # what is recorded of the code is never guessed
            assert "code" in results[-1].stderr
            assert results[-1].code in (2, 3)
        shutil.rmtree(store)
        shutil.copytree(sound / "store", store)
    assert contents(store, wired) == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: {k: v for k, v in m.items() if k != "counts"}, "counts: Field required"),
        (lambda m: {**m, "columns": None}, "columns: Input should be a valid dictionary"),
        (lambda m: {**m, "fingerprint": "0" * 32}, "its fingerprint must be the name of its"),
        (lambda m: {**m, "parts": {}}, "its fingerprint is not that of its parts"),
        (lambda m: {**m, "columns": {}}, "its digest is not that of its columns and files"),
        (lambda m: {**m, "counts": {**m["counts"], "kept": 7}}, "its counts do not add up"),
        (lambda m: [], "its content: Input should be a valid dictionary"),
        (lambda m: {**m, "checksum": "0" * 32}, "its checksum is not that of its content"),
        (lambda m: {**m, "checksun": "0" * 32}, "no manifest has 'checksun'"),
    ],
)
def test_a_damaged_manifest_is_named_and_its_artifact_made_again(
    sound: Path, store: Path, change: Callable[[Any], Any], problem: str
) -> None:
    recipe = str(sound / "small.yaml")
    wired = Recipe.load(recipe)
    before = contents(store, wired)
    ref = json.loads((store / "refs/small/sized.json").read_text())
    path = store / "artifacts" / ref[-1] / "manifest.json"
    earlier = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    path.write_text(json.dumps(change(earlier)))
    done = call("plan", recipe, "--store", str(store))
    assert done.code == 0
    assert f"warning: {path} is damaged: {problem}" in done.stderr
    assert "its artifact counts as missing, and `run` computes it again" in done.stderr
    assert call("run", recipe, "--store", str(store), "--workers", "1").code == 0
    assert contents(store, wired) == before


def test_damaged_rows_of_an_artifact_are_an_error_with_the_next_command(
    sound: Path, store: Path
) -> None:
    recipe = str(sound / "small.yaml")
    ref = json.loads((store / "refs/small/sized.json").read_text())
    path = store / "artifacts" / ref[-1] / "kept.parquet"
    path.write_bytes(bytes(path.stat().st_size))
    done = call("cat", recipe, "brief", "--store", str(store))
    assert done.code == 2
    assert f"{path}: the file is damaged" in done.stderr
    assert f"try: rm -r {path.parent}, then run again" in done.stderr
    random_state = random.Random(1)
    sound_bytes = (sound / "store" / path.relative_to(store)).read_bytes()
    for _ in range(8):
        path.write_bytes(changed_bytes(sound_bytes, random_state))
        for verb in ("cat", "run"):
            words = ["brief"] if verb == "cat" else []
            refused_or_done(call(verb, recipe, *words, "--store", str(store)))


def test_a_damaged_record_of_code_is_not_taken_for_no_record(sound: Path, store: Path) -> None:
    (path,) = (store / "code").glob("*.length@1")
    path.write_text('{"a": 1}')
    for verb in ("plan", "run"):
        done = call(verb, str(sound / "small.yaml"), "--store", str(store))
        assert done.code == 2
        assert f"{path}: the file is damaged" in done.stderr
        assert f"try: rm {path}" in done.stderr


def test_no_flipped_bit_of_the_row_cache_is_ever_served(tmp_path: Path) -> None:
    """Every byte of a chunk in turn: the chunk is given up as a whole, the others are read."""
    random_state = random.Random(2)
    rows = pl.DataFrame({KEY: ["a", "b"], "x": [1.5, 2.5], "text": ["one", "two"]})
    cache = RowCache(tmp_path)
    cache.add(rows)
    cache.add(rows.with_columns(pl.Series(KEY, ["c", "d"])))
    path, _ = sorted(tmp_path.iterdir())
    keys = pl.Series(["a", "b", "c", "d"])
    expected = RowCache(tmp_path).rows(keys)
    content = path.read_bytes()
    for i in range(len(content)):
        flipped = content[i] ^ (1 << random_state.randrange(8))
        path.write_bytes(content[:i] + bytes([flipped]) + content[i + 1 :])
        assert RowCache(tmp_path).knows(keys).sum() == 2
        assert not path.exists()
        path.write_bytes(content)
    for _ in range(100):
        path.write_bytes(changed_bytes(content, random_state))
        cache = RowCache(tmp_path)
        assert len(cache) == 2 or cache.rows(keys).equals(expected)


def test_damaged_cached_rows_are_computed_again_with_a_word(sound: Path, store: Path) -> None:
    recipe = str(sound / "small.yaml")
    wired = Recipe.load(recipe)
    before = contents(store, wired)
    chunks = sorted((store / "memo").rglob("*.parquet"))
    assert chunks
    for chunk in chunks:
        content = chunk.read_bytes()
        chunk.write_bytes(content[:40] + bytes([content[40] ^ 4]) + content[41:])
    shutil.rmtree(store / "artifacts")
    done = call("run", recipe, "--store", str(store), "--workers", "1")
    assert done.code == 0
    for chunk in chunks:
        assert f"warning: {chunk} is damaged" in done.stderr
    assert "its rows are computed again" in done.stderr
    assert contents(store, wired) == before


@pytest.mark.parametrize("count", [20, pytest.param(80, marks=pytest.mark.proof)])
def test_a_damaged_journal(sound: Path, store: Path, tmp_path: Path, count: int) -> None:
    file = store / "journal" / "journal.sqlite"
    with sqlite3.connect(file) as connection:  # everything into the one file
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = file.read_bytes()
    random_state = random.Random(3)
    at = ["--store", str(store)]
    seen = set()
    for _ in range(count):
        for other in file.parent.iterdir():
            other.unlink()
        file.write_bytes(changed_bytes(content, random_state))
        for words in (["stats"], ["verify"], ["export", str(tmp_path / "out.jsonl")]):
            done = call("journal", *words, *at)
            refused_or_done(done)
            seen |= {done.code}
            if done.code:
                assert "try: " in done.stderr
    assert seen == {0, 2}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("response", "[]"), ("response", "{"), ("response", '{"text": 3}'), ("response", "\udcff"),
        ("request", "{"), ("request", "[]"), ("request", '{"model": 3}'),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_read(store: Path, column: str, value: str, tmp_path: Path) -> None:
    with sqlite3.connect(store / "journal" / "journal.sqlite") as connection:
        text = value.encode("utf-8", "surrogateescape")
        query = f"UPDATE responses SET {column} = CAST(? AS TEXT) WHERE rowid = 3"
        connection.execute(query, [text])
    connection.close()
    for words in (["stats"], ["verify"]):
        done = call("journal", *words, "--store", str(store))
        assert done.code == 2, words
        assert "Traceback" not in done.stderr
        assert "try: restore a copy of it" in done.stderr
    refused_or_done(call("journal", "export", str(tmp_path / "j.jsonl"), "--store", str(store)))


def odd(folder: Path) -> dict[str, Path]:
    """Paths that are no folder, by what they are; a device only where one can be made."""
    (folder / "file").write_text("text\n")
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere/at/all")
    paths = {name: folder / name for name in ("file", "fifo", "loop", "dangling")}
    try:
        os.mknod(folder / "device", 0o20666, os.makedev(1, 3))
        paths["device"] = folder / "device"
    except PermissionError:
        pass
    return {**paths, "below a file": folder / "file" / "x", "long": folder / ("x" * 5000)}


JOURNAL_CALLS = (
    ("journal", "stats"), ("journal", "verify"), ("journal", "export", "out.jsonl")
)  # fmt: skip


def test_stores_at_odd_paths_are_refused(sound: Path, tmp_path: Path) -> None:
    shutil.copy(sound / "rows.txt", tmp_path)
    recipe = str(sound / "small.yaml")
    export = tmp_path / "j.jsonl"
    assert call("journal", "export", str(export), "--store", str(sound / "store")).code == 0
    calls = [(verb, recipe, *words) for verb, *words in VERBS]
    calls += [*JOURNAL_CALLS, ("journal", "import", str(export))]
    paths = odd(tmp_path)
    for name, path in paths.items():
        for words in calls:
            done = call(*words, "--store", str(path))
            assert done.code == 2, (name, words)
            assert "Traceback" not in done.stderr
            shown = done.stdout + done.stderr
            assert "the store must be a folder" in shown, (name, words)
    done = call("doctor", "--store", str(paths["loop"]))
    assert "NO  " + str(paths["loop"]) in done.stdout
    assert (tmp_path / "file").read_text() == "text\n"


def test_no_store_and_no_output_is_named_by_an_empty_text(sound: Path, tmp_path: Path) -> None:
    recipe = str(sound / "small.yaml")
    for verb, *words in VERBS:
        done = call(verb, recipe, *words, "--store", "")
        assert done.code == 2
        assert "DIR must be a folder, got ''" in done.stderr
    done = call("cat", recipe, "brief", "--store", str(sound / "store"), "-o", "")
    assert done.code == 2
    assert "the output must end in" in done.stderr


def test_rows_and_pages_are_written_to_regular_files(sound: Path, tmp_path: Path) -> None:
    recipe, store = str(sound / "small.yaml"), str(sound / "store")
    for name, target in (("rows.jsonl", "rows"), ("page.html", "page")):
        os.mkfifo(tmp_path / name)
        (tmp_path / f"dangling-{name}").symlink_to("nowhere")
        (tmp_path / f"device-{name}").symlink_to("/dev/full")
        for start in ("", "dangling-", "device-"):
            output = str(tmp_path / (start + name))
            verb = ["cat", recipe, "brief"] if target == "rows" else ["report", recipe]
            done = call(*verb, "--store", store, "-o", output)
            assert done.code == 2, output
            assert "must be a regular file" in done.stderr, output


@pytest.mark.parametrize("part", ["artifacts", "journal", "lock", "digests.json", "refs", "memo"])
def test_parts_of_a_store_that_are_something_else(sound: Path, tmp_path: Path, part: str) -> None:
    store = tmp_path / "store"
    store.mkdir()
    os.mkfifo(store / part)
    for words in (("run", str(sound / "small.yaml")), ("status", str(sound / "small.yaml"))):
        done = call(*words, "--store", str(store))
        assert done.code == 2
        assert f"{store / part}: {part} of a store must be a" in done.stderr
        assert "got a FIFO" in done.stderr


def test_a_link_to_a_store_is_followed(sound: Path, store: Path) -> None:
    link = store.with_name("link")
    link.symlink_to(store.name)
    done = call("run", str(sound / "small.yaml"), "--store", str(link))
    assert (done.code, "computed" in done.stderr) == (0, False)
    assert not call("cat", str(sound / "small.yaml"), "a", "--store", str(link)).code


def test_an_export_replaces_nothing_but_exports(sound: Path, tmp_path: Path) -> None:
    at = ["--store", str(sound / "store")]
    paths = odd(tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: precious\n")
    (tmp_path / "bytes.jsonl").write_bytes(bytes(range(256)))
    (tmp_path / "other.jsonl").write_text('{"key": 1, "text": "a row"}\n')
    (tmp_path / "other.jsonl.gz").write_text('{"key": 1, "text": "a row"}\n')
    names = ("recipe.yaml", "bytes.jsonl", "other.jsonl", "other.jsonl.gz", "", ".")
    kept = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for path in [*paths.values(), *(tmp_path / name for name in names)]:
        done = call("journal", "export", str(path), *at)
        assert done.code == 2, path
        assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in kept} == kept
    assert call("journal", "export", "", *at).code == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    for name in ("j.jsonl", "j.jsonl.gz"):
        for _ in range(2):
            assert call("journal", "export", str(tmp_path / name), *at).code == 0
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to("empty.jsonl")
    assert call("journal", "export", str(tmp_path / "link.jsonl"), *at).code == 0
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "empty.jsonl").read_bytes() == (tmp_path / "j.jsonl").read_bytes()


def test_an_import_reads_regular_files_alone(sound: Path, tmp_path: Path) -> None:
    for path in odd(tmp_path).values():
        done = call("journal", "import", str(path), "--store", str(tmp_path / "new"))
        assert done.code == 2, path
        assert "Traceback" not in done.stderr
